"""Too few descriptors, threads or bytes of memory: a typed error, no half tree, and then all is well."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MIB = 1 << 20
URI = "lit://@origin/tree"
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class Handed:
    """A tree that is another one each time, from one Work to one place."""

    def __init__(self, origin, snapshot, left, place):
        self.tree, self.place, self.to = f"{origin.files}/tree", place, f"{place}/to"
        self.snapshot, self.left = snapshot, left
        self.change()

    def change(self):
        self.before = self.snapshot(self.to) if os.path.lexists(self.to) else None
        shutil.rmtree(self.tree, ignore_errors=True)
        for directory in range(12):
            os.makedirs(f"{self.tree}/{directory}/deeper")
            for number in range(12):
                with open(f"{self.tree}/{directory}/deeper/{number}", "wb") as file:
                    file.write(os.urandom(100))
        with open(f"{self.tree}/large", "wb") as file:
            file.write(os.urandom(12 * MIB))

    def is_whole(self):
        now = self.snapshot(self.to) if os.path.lexists(self.to) else None
        return now in (self.before, self.snapshot(self.tree))

    def is_new(self):
        return self.snapshot(self.to) == self.snapshot(self.tree)


@pytest.fixture
def handed(origin, snapshot, left, tmp_path):
    os.makedirs(tmp_path / "place")
    return Handed(origin, snapshot, left, str(tmp_path / "place"))


def is_told(how, numbers=SHORT):
    """Say whether a get went well, or its error is one of ours or says what was short."""
    return "error" not in how or "StorageError" in how["error"] or how["errno"] in numbers


def step(child, handed):
    """Let a consumer get once with less, and once as ever; return how the first one went."""
    handed.change()
    child.tell()
    how = child.next()
    assert "error" not in how or handed.is_whole(), how
    child.tell()
    assert "error" not in (then := child.next()), (how, then)
    assert handed.is_new()
    return how


def steps(child, handed, amounts):
    """Do so for each amount; nothing is left behind when the consumer has ended."""
    assert "error" not in child.next()
    told = [step(child, handed) for _ in amounts]
    assert child.rest() == [{"left": True}]
    child.wait()
    assert handed.left(handed.place) == []
    return told


@pytest.mark.parametrize("local_copy", [True, False], ids=["on this machine", "over the wire"])
def test_a_consumer_with_few_descriptors(handed, fork, root, local_copy):
    """However few descriptors a consumer has left, it says so, and the next get goes well."""
    amounts = [0, 1, 2, 3, 5, 8, 13, 60]
    child = fork(
        "short", root=root, uri=URI, to=handed.to, what="NOFILE", amounts=amounts, local_copy=local_copy
    )
    told = steps(child, handed, amounts)
    assert all(map(is_told, told)), [how for how in told if not is_told(how)]
    assert "error" in told[0]
    assert "error" not in told[-1]


def test_a_consumer_with_little_memory(handed, fork, root):
    """However little memory a consumer may take, it says so or does without, and the next get goes well."""
    amounts = [each * MIB for each in (2, 8, 32, 512)]
    child = fork("short", root=root, uri=URI, to=handed.to, what="AS", amounts=amounts)
    told = steps(child, handed, amounts)
    assert all(is_told(how) or "MemoryError" in how["error"] for how in told), told


def test_a_server_with_few_descriptors(handed, origin, get, until):
    """However few descriptors a server has left, a get ends with a type, and the next one goes well."""
    (server,) = until(origin.children)
    before = resource.prlimit(server, resource.RLIMIT_NOFILE)
    told = []
    for amount in (0, 1, 2, 4, 8, 13, 40):
        handed.change()
        in_use = max(map(int, os.listdir(f"/proc/{server}/fd")))
        resource.prlimit(server, resource.RLIMIT_NOFILE, (in_use + amount, before[1]))
        told.append(get(URI, to=handed.to, limits={"resume_seconds": 1.0, "connect_seconds": 1.0}))
        assert handed.is_whole()
        resource.prlimit(server, resource.RLIMIT_NOFILE, before)
        assert "error" not in (how := get(URI, to=handed.to)), (told[-1], how)
        assert handed.is_new()
    assert until(origin.children) == [server]
    assert handed.left(handed.place) == []
    assert all("error" not in how or "StorageError" in how["error"] for how in told), told


@pytest.mark.root
def test_a_consumer_with_few_threads(handed, fork, root, public_directory):
    """However few threads a consumer's user may still start, it says so or does without, and then goes on."""
    os.chmod(public_directory, 0o777)
    handed.place, handed.to = public_directory, f"{public_directory}/to"
    parents = [os.path.dirname(root), *(str(each) for each in Path(root).parents)]
    for parent in [each for each in parents if each.count("/") > 1]:
        os.chmod(parent, os.stat(parent).st_mode | 0o011)
    subprocess.run(["chmod", "-R", "a+rwX", root], check=True)
    os.chmod(f"{root}/token", 0o600)  # as it was, for one that others can read is refused
    amounts = [0, 1, 2, 3, 4, 6, 400]  # enough, also while another test runs as that user
    child = fork("short", root=root, uri=URI, to=handed.to, what="NPROC", amounts=amounts, user=65534)
    told = steps(child, handed, amounts)
    assert all(map(is_told, told)), [how for how in told if not is_told(how)]
    assert "error" not in told[-1]


def test_a_publisher_with_few_descriptors(tmp_path):
    """However few descriptors a Work has left when it ends, it ends, and warns of what is not published."""
    for amount in (0, 3, 9):
        command = [sys.executable, "-c", PUBLISHER, str(tmp_path / "root"), str(amount)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (amount, done.stderr)
        assert "left" in done.stdout
        assert "Traceback" not in done.stderr, (amount, done.stderr)
    command[-1] = "500"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


PUBLISHER = """
import os, resource, sys
import lit_storage
session = lit_storage.join("work", root=sys.argv[1], artifacts=f"file://{sys.argv[1]}/store")
with open(f"{session.storage_root}/file", "w") as file:
    file.write(sys.argv[2] * 1000)
session.declare(lit_storage.Path("lit://file"))
before = resource.getrlimit(resource.RLIMIT_NOFILE)
in_use = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + int(sys.argv[2]), before[1]))
try:
    session.close()
except OSError as error:  # ours are too
    print(error)
print("left")
"""
