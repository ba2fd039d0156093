"""A daemon is killed at any moment, as origin and as custodian: the next one does what it did, whole."""

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import sysconfig
import threading
import time

import pytest

import lit_storage
import lit_storage_client.fetch  # noqa: F401
import lit_storage_client.peers.channels  # noqa: F401  # a get loads it, which takes longer than until the kill
from lit_storage import Path
from tests.waiting import within

PROGRAM = os.path.join(sysconfig.get_path("scripts"), "lit-storage")
wait_until = within(60, pause=0.1)

WORK = """
import sys
import lit_storage
from lit_storage import Path
root, store, version, parts = sys.argv[1:]
session = lit_storage.join("train", root=root, artifacts=store)
out = Path("lit://out")
out.mkdir(exist_ok=True)
for part in range(int(parts)):
    (out / str(part)).write_text(version * 200_000)
session.declare(out)
print("declared", flush=True)
sys.stdin.read()
"""
PARTS = 24


@contextlib.contextmanager
def started(*command, ready):
    """Run a program that has written `ready`; kill it in the end."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            seen = b""
            while ready not in seen:
                assert select.select([process.stdout], [], [], 60)[0], seen
                more = os.read(process.stdout.fileno(), 1 << 16)
                assert more, seen
                seen += more
            yield process
        finally:
            process.kill()


def daemon(root, *arguments):
    return started(PROGRAM, "serve", "--name", "keeper", "--root", root, *arguments, ready=b"serving")


def publish_for_a_killed_work(root, store, version, seconds, to):
    """Kill a Work, then the custodian that publishes for it, after so long; see what the next one does."""
    work = started(sys.executable, "-c", WORK, root, store, version, str(PARTS), ready=b"declared")
    with work as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with daemon(root) as first:
        time.sleep(seconds)
        first.send_signal(signal.SIGKILL)
        first.wait()
    with daemon(root), lit_storage.connect(root=root):
        out = Path("lit://@train/out")

        def arrived():
            try:
                out.get(to=to, overwrite=True)
            except lit_storage.PathNotFound:
                return False  # nothing was published for it yet
            texts = {(to / str(part)).read_text() for part in range(PARTS)}
            assert len(texts) == 1, "a tree of two versions"
            return texts == {version * 200_000}

        wait_until(arrived)


@pytest.mark.soak
def test_a_custodian_at_any_time(tmp_path, soak_seconds, tally):
    """One that is killed while it publishes leaves the version before or the new one; the next ends it."""
    deadline, number = time.monotonic() + soak_seconds, 0
    while time.monotonic() < deadline:
        number += 1
        publish_for_a_killed_work(
            f"{tmp_path}/root", f"file://{tmp_path}/store", f"{number:08}", random.random(), tmp_path / "to"
        )
        tally["kills"] += 2


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3])
def test_a_custodian_that_has_begun(tmp_path, seconds):
    """The same, soon after it started."""
    publish_for_a_killed_work(
        f"{tmp_path}/root", f"file://{tmp_path}/store", "version1", seconds, tmp_path / "to"
    )


TEXTS = {f"small-{number}": f"{number:16}" for number in range(300)} | {"large": "letters." * 8_000_000}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A directory to share, whose bytes go over the wire."""
    monkeypatch.setenv("LIT_STORAGE_LOCAL_COPY", "0")
    (tmp_path / "data").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "data" / name).write_text(text)
    return tmp_path / "data"


def texts_of(directory):
    return {name: (directory / name).read_text() for name in os.listdir(directory)}


def get_while_it_is_killed(data, seconds):
    """Kill a daemon from which somebody gets, after so long, and start it again."""
    root, to, share = f"{data}-root", data.parent / "to", ("--share", f"data={data}")
    ended = []

    def get():
        try:
            Path("lit://@keeper/data").get(to=to, overwrite=True, timeout=60)
        except (lit_storage.OriginUnavailable, lit_storage.PathNotFound) as error:
            ended.append(error)  # it was gone for longer than a restart takes, or before this had begun
        else:
            ended.append(None)

    with contextlib.ExitStack() as stack:
        first = stack.enter_context(daemon(root, *share))
        stack.enter_context(lit_storage.connect(root=root))
        thread = threading.Thread(target=get)
        thread.start()
        time.sleep(seconds)
        first.send_signal(signal.SIGKILL)
        first.wait()
        stack.enter_context(daemon(root, *share))
        thread.join(90)
        assert len(ended) == 1
        if ended != [None]:
            assert not to.exists() or texts_of(to) == TEXTS  # that of the time before
            Path("lit://@keeper/data").get(to=to, overwrite=True)
        assert texts_of(to) == TEXTS


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.3])
def test_a_daemon_that_sends(data, seconds):
    """A get whose daemon is killed goes on with the next one, or ends with an error and is done again."""
    get_while_it_is_killed(data, seconds)


@pytest.mark.soak
def test_a_daemon_at_any_time(data, soak_seconds, tally):
    """The same for as long as there is time."""
    deadline = time.monotonic() + soak_seconds
    while time.monotonic() < deadline:
        get_while_it_is_killed(data, random.uniform(0, 0.5))
        tally["kills"] += 1
