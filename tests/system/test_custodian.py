"""Two machines that share a registry: what a Work left on one is read on the other, through its custodian."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import time

import pytest

from tests.processes import children_of

pytestmark = pytest.mark.slow

PROGRAM = os.path.join(sysconfig.get_path("scripts"), "lit-storage")
TOKEN = "some-token-of-tests"

WORK = """
import os, sys, time
import lit_storage
from lit_storage import Path
with lit_storage.join("train", limits=lit_storage.Limits(lease_seconds=5)) as session:
    path = Path("lit://out")
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "metrics").write_text("0.93")
    (path / "model").write_bytes(b"w" * 2_000_000)
    session.declare(path)
    print("declared", flush=True)
    sys.stdin.readline()
"""

READ = """
import lit_storage
from lit_storage import Path
with lit_storage.connect():
    path = Path("lit://@train/out")
    print(path.exists_remote(), (path / "none").exists_remote(), path.stat_remote().kind.name)
    path.get()
    print((path / "deep" / "metrics").read_text(), len((path / "model").read_bytes()))
"""


class Machine:
    """One machine: a root and an id of its own, in a registry that it shares."""

    def __init__(self, name, root, registry, stack):
        self.root = root
        self._stack = stack
        self.environment = {
            **os.environ,
            "LIT_STORAGE_ROOT": str(root),
            "LIT_STORAGE_MACHINE_ID": name,
            "LIT_STORAGE_REGISTRY": registry,
            "LIT_STORAGE_TOKEN": TOKEN,
        }

    def start(self, *command):
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=self.environment,
        )
        self._stack.callback(_end, process)
        return process

    def run(self, *command):
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=self.environment)

    def command(self, *arguments):
        self.root.mkdir(exist_ok=True)
        return self.run(PROGRAM, *arguments)

    def work(self, **environment):
        self.environment.update(environment)
        process = self.start(sys.executable, "-c", WORK)
        assert process.stdout.readline() == b"declared\n", process.communicate()
        return process

    def serve(self, *arguments):
        process = self.start(PROGRAM, "serve", "--name", "keeper", "--log-format", "json", *arguments)
        read_until(process, "serving")
        return process


def read_until(process, event, seconds=60):
    """Return the next line of a daemon's log of this event."""
    deadline, seen = time.monotonic() + seconds, []
    while select.select([process.stderr], [], [], max(0, deadline - time.monotonic()))[0]:
        line = process.stderr.readline()
        seen.append(line)
        with contextlib.suppress(ValueError):
            if json.loads(line)["event"] == event:
                return json.loads(line)
        assert line, seen
    raise AssertionError(f"no {event!r} in time: {seen}")


def _end(process):
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture
def machines(etcd, tmp_path):
    registry = etcd.new_url()
    with contextlib.ExitStack() as stack:
        yield [Machine(name, tmp_path / name, registry, stack) for name in ("a", "b")]


def test_a_killed_work_is_read_on_another_machine(machines, tmp_path):
    """The custodian publishes what it left, and hands it out to everything that reads."""
    here, there = machines
    work, daemon = here.work(), here.serve()
    work.send_signal(signal.SIGKILL)
    published = read_until(daemon, "published what a Work left")
    assert (published["work"], "problems" in published) == ("train", False)

    done = there.run(sys.executable, "-c", READ)
    assert (done.stdout, done.returncode) == ("True False DIRECTORY\n0.93 2000000\n", 0), done.stderr
    assert there.command("cat", "train:out/deep/metrics", "--offset", "2").stdout == "93"
    listed = json.loads(there.command("ls", "-r", "--json", "train:out").stdout)
    assert [entry["path"] for entry in listed] == ["deep", "deep/metrics", "model"]
    (version,) = json.loads(there.command("artifacts", "ls", "--json").stdout)
    assert (version["uri"], version["state"], version["files"]) == ("lit://@train/out", "unclean", 2)
    refused = there.command("artifacts", "rm", "train")
    assert (refused.returncode, "run this command there" in refused.stderr) == (1, True)
    (row,) = [
        row for row in json.loads(there.command("works", "--all", "--json").stdout) if row["name"] == "train"
    ]
    assert (row["state"], row["kept"]) == ("failed", ["out"])


LINKING = """
import os, sys
import lit_storage
from lit_storage import Path
cache = sys.argv[1]
os.makedirs(cache)
with open(f"{cache}/blob", "w") as file:
    file.write("weights")
with lit_storage.join("train", symlinks="follow", limits=lit_storage.Limits(lease_seconds=5)) as session:
    path = session.declare(Path("lit://out"))
    path.mkdir()
    os.symlink(f"{cache}/blob", path / "model")
    os.symlink("/etc/hostname", path / "leaves")
    session.declare(cache, persist=False)
    print("declared", flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_work_followed_is_read_on_another_machine(machines, tmp_path):
    """The custodian follows the links as the Work had set it, also into what that only shared."""
    here, there = machines
    work = here.start(sys.executable, "-c", LINKING, str(tmp_path / "cache"))
    assert work.stdout.readline() == b"declared\n", work.communicate()
    daemon = here.serve()
    work.send_signal(signal.SIGKILL)
    assert "problems" not in read_until(daemon, "published what a Work left")
    got = there.command("get", "train:out", str(tmp_path / "copy"), "--json")
    assert json.loads(got.stdout)["skipped"] == ["leaves"], got.stderr
    assert (tmp_path / "copy" / "model").read_text() == "weights"
    assert not (tmp_path / "copy" / "model").is_symlink()


def test_a_store_of_one_machine(machines, tmp_path):
    """What a Work that stopped put into a directory that only its machine has is read through it."""
    here, there = machines
    store = tmp_path / "a-disk"
    work = here.work(LIT_STORAGE_ARTIFACTS=f"file://{store}")
    work.communicate(b"\n", timeout=60)
    daemon = here.serve()
    done = there.run(sys.executable, "-c", READ)
    assert (done.stdout, done.returncode) == ("True False DIRECTORY\n0.93 2000000\n", 0), done.stderr
    transfer = read_until(daemon, "transfer")
    assert (transfer["path"], transfer["status"], transfer["bytes"]) == ("@train/out", "ok", 2000004)


def test_without_a_custodian(machines):
    """It is unknown elsewhere, and what to do is said; once a daemon runs there it is read."""
    here, there = machines
    here.work().communicate(b"\n", timeout=60)
    refused = there.command("cat", "train:out/deep/metrics")
    assert refused.returncode == 1
    assert (
        "on another machine (a), where no custodian runs: start 'lit-storage serve' on it" in refused.stderr
    )
    here.serve()
    assert there.command("cat", "train:out/deep/metrics").stdout == "0.93"


def test_a_work_that_lives_is_left_alone(machines):
    """Paused until its lease is over, it is alive: nothing is published in its place."""
    here, there = machines
    work, daemon = here.work(), here.serve()
    work.send_signal(signal.SIGSTOP)
    for child in children_of(work.pid):  # what keeps its lease
        os.kill(child, signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while any(
        row["endpoint"]
        for row in json.loads(there.command("works", "--json").stdout)
        if row["name"] == "train"
    ):
        assert time.monotonic() < deadline
    time.sleep(6)  # longer than a custodian takes from one look to the next
    assert not (here.root / "artifacts").exists()
    work.send_signal(signal.SIGKILL)
    read_until(daemon, "published what a Work left")


APP = """
import os, signal, sys, time
from lit_storage import App, Flow, Work

class Train(Work):
    def __init__(self):
        super().__init__()
        self.out = "lit://out"
    def run(self):
        os.makedirs(self.out)
        (self.out / "model").write_text("weights")
        print("written", flush=True)
        if sys.argv[1] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.train = Train()
    def run(self):
        self.train.run()

app = App(Pipeline())
"""


class TestBesideAnApp:
    """On one machine, with its own registry."""

    @pytest.fixture
    def machine(self, tmp_path):
        with contextlib.ExitStack() as stack:
            machine = Machine("a", tmp_path / "a", f"sqlite://{tmp_path}/a/registry.db", stack)
            (tmp_path / "app.py").write_text(APP)
            yield machine

    def versions(self, machine):
        return json.loads(machine.command("artifacts", "ls", "train", "--json").stdout)

    def test_the_app_publishes_for_its_own_works(self, machine, tmp_path):
        """A Work of an App that lives is left to it: there is one version, and the App's."""
        daemon = machine.serve()
        done = machine.command("run", str(tmp_path / "app.py"), "die")
        assert done.returncode == 1
        (version,) = self.versions(machine)
        assert (version["uri"], version["state"]) == ("lit://@train/out", "unclean")
        daemon.terminate()
        said = daemon.communicate(timeout=60)[1]
        assert b"published what a Work left" not in said

    def test_for_an_app_that_was_killed_the_custodian_does(self, machine, tmp_path):
        """With its App a Work ends, and nobody else is left to publish for it."""
        daemon = machine.serve()
        app = machine.start(PROGRAM, "run", str(tmp_path / "app.py"), "wait")
        assert app.stdout.readline() == b"written\n"
        app.kill()
        published = read_until(daemon, "published what a Work left")
        assert published["work"] == "train"
        assert machine.command("cat", "train:out/model").stdout == "weights"
        assert len(self.versions(machine)) == 1


@pytest.mark.parametrize("given", [True, False])
def test_a_root_that_was_moved(machines, given):
    """The custodian of the moved root hands out what the records of the former path mean."""
    here, there = machines
    if not given:
        for machine in machines:
            del machine.environment["LIT_STORAGE_MACHINE_ID"]
    work = here.work()
    work.communicate(b"\n", timeout=60)
    here.environment["LIT_STORAGE_ROOT"] = str(here.root.rename(here.root.with_name("new")))
    here.serve()
    for machine in (there, here):
        done = machine.run(sys.executable, "-c", READ)
        assert (done.stdout, done.returncode) == ("True False DIRECTORY\n0.93 2000000\n", 0), done.stderr


def test_a_root_that_was_moved_and_a_killed_work(machines):
    """Its note names the former path; it is published from where its files are now."""
    here, there = machines
    work = here.work()
    work.kill()
    work.communicate()
    here.environment["LIT_STORAGE_ROOT"] = str(here.root.rename(here.root.with_name("new")))
    published = read_until(here.serve(), "published what a Work left")
    assert (published["work"], "problems" in published) == ("train", False)
    done = there.run(sys.executable, "-c", READ)
    assert (done.stdout, done.returncode) == ("True False DIRECTORY\n0.93 2000000\n", 0), done.stderr


def test_a_copied_root_of_many_machines(machines):
    """It is a machine of its own: its custodian hands out nothing of the original."""
    here, there = machines
    for machine in machines:
        del machine.environment["LIT_STORAGE_MACHINE_ID"]
    here.work().communicate(b"\n", timeout=60)
    copy = here.root.with_name("copy")
    subprocess.run(["cp", "-a", here.root, copy], check=True)
    here.environment["LIT_STORAGE_ROOT"] = str(copy)
    here.serve()
    done = there.run(sys.executable, "-c", READ)
    assert "no custodian runs" in done.stderr
