"""A disk that fails under a copy: the target is the old tree or the new one, and the next get goes well."""

import errno
import os
import time

import pytest

FAILURES = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE]
WRITING = [
    "mkdir",
    "create",
    "write",
    "flush",
    "chmod",
    "utimens",
    "symlink",
    "rename",
    "fsyncdir",
    "readdir",
]
URI = "lit://@origin/tree"


class Target:
    """A target on a failing disk, of a tree that changes with each round."""

    def __init__(self, failing, tree, get, snapshot, left):
        self.failing, self.get, self.snapshot, self.left = failing, get, snapshot, left
        self.place, self.path = failing.place, f"{failing.place}/to"
        self.tree, self.round = tree, 0
        self.change()
        assert "error" not in self.again()

    def change(self):
        """Let the origin have another version of the tree."""
        self.round += 1
        for name, size in (("file", 1000), ("large", 700_000), ("sub/file", 10)):
            with open(f"{self.tree}/{name}", "w") as file:
                file.write(f"{self.round} {name} " + "." * size)

    def again(self, uri=URI, **options):
        return self.get(uri, to=self.path, **{"local_copy": False, "durable": True, **options})

    def now(self):
        there = f"{self.failing.backing}/to"
        return self.snapshot(there) if os.path.lexists(there) else None

    def during(self, *operations, absent=False, **how_it_fails):
        """Get while calls fail; return how the get ended, and how many calls did fail."""
        if absent:
            os.rename(f"{self.failing.backing}/to", f"{self.failing.backing}/before-{self.round}")
        self.before = self.now()
        self.change()
        if operations:
            self.failing.fails(*operations, **how_it_fails)
        how = self.again()
        return how, self.failing.lift()

    def calls(self, operation):
        """Return how many such calls one get makes."""
        self.failing.lift()
        self.during()
        # The kernel asks more or less often what something is.
        return self.failing.seen[operation] // (2 if operation == "getattr" else 1)

    def is_whole(self):
        """Say whether the target is the old tree or the new one."""
        return self.now() in (self.before, self.snapshot(self.tree))

    def heals(self):
        """See that the next get goes well, and that nothing is left behind."""
        how = self.again()
        assert "error" not in how, how
        assert self.now() == self.snapshot(self.tree)
        assert self.left(self.place) == []


@pytest.fixture(scope="module")
def module_root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("root"))


@pytest.fixture
def root(module_root):
    return module_root


@pytest.fixture(scope="module")
def tree(start_forks, module_root):
    """A tree of one Work that lives as long as the module, for all of these get it again and again."""
    forks = start_forks()
    tree = forks("origin", root=module_root).next()["serves"] + "/tree"
    os.makedirs(f"{tree}/sub/empty")
    os.symlink("sub", f"{tree}/link")
    yield tree
    forks.close()


@pytest.fixture
def target(failing, tree, get, snapshot, left):
    return Target(failing, tree, get, snapshot, left)


def is_plain(how, number, path):
    """Say whether a get went well, or its error is the system's and names what it befell."""
    if "error" not in how:
        return True
    # The kernel makes a call again that ended with ESTALE, and so meets what the first one made.
    numbers = (number, errno.EEXIST) if number == errno.ESTALE else (number,)
    is_plain = "OSError" in how["error"] and "StorageError" not in how["error"]
    return is_plain and how["errno"] in numbers and str(how["filename"]).startswith(path)


def check(target, *operations, number=errno.EIO, **how_it_fails):
    """One get on a disk that fails, and the next on one that is well; say whether a call did fail."""
    how, failed = target.during(*operations, number=number, **how_it_fails)
    assert is_plain(how, number, target.path), how
    if (
        target.now() is None and not target.failing.flags
    ):  # the old one was moved aside, and then the disk failed
        assert target.again("lit://@origin/nothing")["error"][0] == "PathNotFound"
    assert target.is_whole()
    target.heals()
    return failed


@pytest.mark.slow
@pytest.mark.parametrize("number", FAILURES, ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", [*WRITING, "getattr"])
def test_a_call_fails(target, seed, operation, number):
    """Whichever call the disk fails until it is well again: one whole tree, a plain OSError, nothing left."""
    assert check(target, operation, number=number, after=seed.randrange(target.calls(operation)))


@pytest.mark.slow
@pytest.mark.parametrize("operation", WRITING)
def test_a_call_fails_once(target, seed, operation):
    """The same where a disk fails one call alone, so that what a get does about it goes well."""
    assert check(target, operation, after=seed.randrange(target.calls(operation)), times=1)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["tree", "/file", "large", "sub", "link"])
def test_a_call_that_is_made_again(target, path):
    """What is made and then said to be stale meets itself when the kernel tries again: no peer did that."""
    failed = [
        check(target, "getattr", number=errno.ESTALE, after=after, times=1, path=path) for after in range(8)
    ]
    assert all(failed[:3])


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["mkdir", "create", "write", "rename"])
def test_a_target_that_was_absent(target, operation):
    """A target that was absent is absent afterwards, or is the whole new tree."""
    assert check(target, operation, after=3 if operation == "rename" else 1, absent=True)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 1 << 60], ids=["once", "twice", "from then on"])
@pytest.mark.parametrize("after", [3, 4, 5, 6])
def test_a_rename_fails_where_names_cannot_be_exchanged(target, after, times):
    """An old tree that was moved aside is put back, if not by the get that failed then by the next one."""
    target.failing.refuse_flags()
    check(target, "rename", after=after, times=times)


@pytest.mark.soak
def test_any_call_fails(target, seed, soak_seconds, tally):
    """Whatever calls fail, from whenever on and for however long."""
    until = time.monotonic() + soak_seconds
    while time.monotonic() < until:
        (target.failing.refuse_flags, target.failing.allow_flags)[seed.random() < 0.5]()
        operations = seed.sample(
            [*WRITING, "getattr", "unlink", "rmdir", "fsync", "open"], seed.randrange(1, 4)
        )
        times = seed.choice([1, 2, 3, 1 << 60])
        failed = check(
            target, *operations, number=seed.choice(FAILURES), after=seed.randrange(60), times=times
        )
        tally["calls of a disk that failed"] += failed


@pytest.mark.slow
def test_a_note_that_is_cut_short(target):
    """The note of what is moved aside is whole before that is done, also where a write takes only a part."""
    target.failing.refuse_flags()
    target.failing.fails("write", how="tear", path="/swap")
    target.failing.fails("rename", after=5)
    target.during()
    assert target.now() is None
    assert target.again("lit://@origin/nothing")["error"][0] == "PathNotFound"
    assert target.now() == target.before


def test_writes_that_are_cut_short(target):
    """A disk that takes less than it was given makes no difference, as long as it goes on."""
    how, failed = target.during("write", how="tear")
    assert failed > 3
    assert "error" not in how
    target.heals()


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["unlink", "rmdir", "chmod"])
def test_what_was_replaced_cannot_be_removed(target, operation):
    """Where the disk fails once the new tree is in place, the get went well; the next one tidies up."""
    how, failed = target.during(operation, after=target.calls(operation) - 1)
    assert failed
    assert "error" not in how
    target.heals()


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["write", "mkdir", "rename", "flush"])
def test_a_target_that_hangs(target, fork, root, tmp_path, until, operation):
    """A get whose disk hangs keeps nobody else waiting, and ends well or as too late when it goes on."""
    target.before = target.now()
    target.change()
    target.failing.fails(operation, how="hang")
    child = fork("get", root=root, uri=URI, to=target.path, overwrite=True, local_copy=False, timeout=2.5)
    assert child.next() == {"ready": True}
    late = time.monotonic() + 3.0
    until(target.failing.met)
    assert "error" not in target.get(URI, to=f"{tmp_path}/elsewhere")
    time.sleep(max(0.0, late - time.monotonic()))
    assert target.failing.lift() > 0
    how = child.next()
    assert "error" not in how or how["error"][0] == "TransferTimeout", how
    assert target.is_whole()
    child.wait()
    target.heals()
