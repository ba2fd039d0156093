"""Too few descriptors or bytes of memory on one side: a typed error, no half tree, and then all is well."""

import errno
import os
import resource
import shutil

import pytest

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
    amounts = [0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 30, 60]
    child = fork(
        "short", root=root, uri=URI, to=handed.to, what="NOFILE", amounts=amounts, local_copy=local_copy
    )
    told = steps(child, handed, amounts)
    assert all(map(is_told, told)), [how for how in told if not is_told(how)]
    assert "error" in told[0]
    assert "error" not in told[-1]


def test_a_consumer_with_little_memory(handed, fork, root):
    """However little memory a consumer may take, it says so or does without, and the next get goes well."""
    amounts = [each * MIB for each in (2, 4, 8, 16, 32, 64, 512)]
    child = fork("short", root=root, uri=URI, to=handed.to, what="AS", amounts=amounts)
    told = steps(child, handed, amounts)
    assert all(is_told(how) or "MemoryError" in how["error"] for how in told), told


def test_a_server_with_few_descriptors(handed, origin, get, until):
    """However few descriptors a server has left, a get ends with a type, and the next one goes well."""
    (server,) = until(origin.children)
    before = resource.prlimit(server, resource.RLIMIT_NOFILE)
    told = []
    for amount in (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 40):
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
