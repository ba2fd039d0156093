"""Any one process of an app is killed or stands still: trees are whole, and no process stays."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from tests.waiting import within

APP = os.path.join(os.path.dirname(__file__), "killed_app.py")
MARK = "TEST_OF_KILLED_APPS"


class Running:
    """The app, and all processes that belong to it, which an environment variable tells."""

    def __init__(self, root, rounds):
        self.mark = uuid.uuid4().hex
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), MARK: self.mark}
        self.process = subprocess.Popen(
            [sys.executable, APP, str(rounds)],
            env={**environment, "LIT_STORAGE_ROOT": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self):
        """Return the ids of all that live, the App's own first."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
                if f"{MARK}={self.mark}".encode() in file.read():
                    found.append(int(pid))
        return sorted(found, key=lambda pid: pid != self.process.pid)

    def end(self):
        """End whatever is left, and return what it printed to stderr."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self.process.communicate(timeout=60)[1]


@pytest.fixture
def run(tmp_path):
    started = []

    def run(rounds):
        started.append(Running(tmp_path / "root", rounds))
        return started[-1]

    yield run
    for running in started:
        running.end()


def versions(tree):
    """Return which versions the files of a tree say they are of."""
    found = set()
    for part in os.listdir(tree):
        with open(f"{tree}/{part}") as file:
            found |= set(file.read().split())
    return found


def trouble_one(run, tmp_path, which, number, seconds):
    """Send a signal to one process after so long in the middle of the app; see what is to be true then."""
    app = run(100_000)
    assert app.process.stdout.readline() == "0\n"  # all of its processes are there
    time.sleep(seconds)
    pids = app.processes()
    victim = pids[int(which * len(pids))]
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, number)
    time.sleep(0.5)
    if number == signal.SIGSTOP:
        made = f"{tmp_path}/root/works/make/out/0"
        before = os.stat(made).st_mtime_ns
        os.kill(victim, signal.SIGCONT)
        within(60)(lambda: os.stat(made).st_mtime_ns > before)
    app.process.kill()  # if it is still there
    within(30)(lambda: app.processes() == [])
    copied = tmp_path / "root/works/look/@make/out"
    assert len(versions(copied)) == 1
    assert len(os.listdir(copied)) == 20
    again = run(2)
    assert again.process.wait(60) == 0, again.end()
    within(30)(lambda: again.processes() == [])
    assert versions(copied) == {"1"}
    staging = tmp_path / "root/works/look/.staging"
    assert not staging.exists() or os.listdir(staging) == []


@pytest.mark.slow
@pytest.mark.parametrize("which", [0.0, 0.4, 0.7])
def test_a_process_is_killed(run, tmp_path, seed, which):
    """Whichever process of an app is killed, and the App after it, nothing of them stays behind."""
    trouble_one(run, tmp_path, which, signal.SIGKILL, seed.uniform(0, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("which", [0.0, 0.6])
def test_a_process_stands_still(run, tmp_path, seed, which):
    """Whichever process of an app stands still for a moment, it goes on afterwards."""
    trouble_one(run, tmp_path, which, signal.SIGSTOP, seed.uniform(0, 0.5))


@pytest.mark.soak
def test_any_process_at_any_time(run, tmp_path, seed, soak_seconds, tally):
    """The same, at random, for as long as there is time."""
    until = time.monotonic() + soak_seconds
    while time.monotonic() < until:
        number = seed.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
        trouble_one(run, tmp_path, seed.random(), number, seed.uniform(0, 2))
        tally["kills"] += 2 if number == signal.SIGKILL else 1
