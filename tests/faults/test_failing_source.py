"""A disk that fails under what a Work serves: the consumer hears of it, and its target stays the old tree."""

import errno
import os
import time

import pytest

pytestmark = pytest.mark.slow

MIB = 1 << 20
SHORT = {"progress_seconds": 2.0, "unary_seconds": 2.0}
HASTY = {"progress_seconds": 1.0, "unary_seconds": 1.0}  # of a consumer that waits for nothing but their end


class Source:
    """A tree on a failing disk, which a Work declared, and a consumer of it."""

    def __init__(self, failing, origin, get, snapshot, left, target):
        self.failing, self.origin, self.get = failing, origin, get
        self.snapshot, self.left, self.target = snapshot, left, target
        self.share, self.tree = f"{failing.backing}/share", f"{failing.backing}/share/tree"
        self.uri = f"lit://@origin/{failing.place}/share/tree"
        os.makedirs(f"{self.tree}/sub")
        for name, size in (("large", 3 * MIB), ("small", 1000), ("sub/other", 2000)):
            with open(f"{self.tree}/{name}", "wb") as file:
                file.write(os.urandom(size))
        assert "error" not in self.again()
        self.before = snapshot(target)

    def again(self, uri=None, **options):
        return self.get(uri or self.uri, to=self.target, **{"local_copy": False, **options})

    def change(self):
        """Have other bytes, which are not in a cache of the kernel."""
        with open(f"{self.tree}/large", "wb") as file:
            file.write(os.urandom(3 * MIB))

    def heals(self):
        """See that the next get goes well, and that nothing is left behind."""
        assert self.failing.lift() > 0
        how = self.again()
        assert "error" not in how, how
        assert self.snapshot(self.target) == self.snapshot(self.tree)
        assert self.left(os.path.dirname(self.target)) == []


@pytest.fixture
def source(failing, fork, root, get, snapshot, left, tmp_path):
    os.makedirs(f"{failing.backing}/share")
    share = f"{failing.place}/share"
    origin = fork("origin", root=root, declares=[f"lit://{share}"], **SHORT)
    origin.files = origin.next()["serves"]
    (tmp_path / "here").mkdir()
    return Source(failing, origin, get, snapshot, left, str(tmp_path / "here/to"))


@pytest.mark.parametrize("local_copy", [True, False], ids=["on this machine", "over the wire"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("operation", "path"),
    [("read", "large"), ("read", "small"), ("open", "large"), ("open", "sub/other"), ("getattr", "large"),
     ("readdir", "tree"), ("readdir", "sub"), ("getattr", "sub")],
)  # fmt: skip
def test_what_cannot_be_read(source, operation, path, number, local_copy):
    """A file or directory that the origin cannot read fails the get, and is named; the old tree stays."""
    source.change()
    source.failing.fails(operation, number=number, path=path)
    how = source.again(local_copy=local_copy)
    assert "error" in how
    assert {"StorageError", "OSError"} & set(how["error"]), how
    assert path.split("/")[0] in how["text"], how
    assert source.snapshot(source.target) == source.before
    source.heals()


@pytest.mark.parametrize("local_copy", [True, False], ids=["on this machine", "over the wire"])
def test_a_read_fails_in_mid_file(source, local_copy):
    """A disk that fails in the middle of a file is no end of the file."""
    source.change()
    source.failing.fails("read", path="large", after=4)
    how = source.again(local_copy=local_copy)
    assert "error" in how
    assert "large" in how["text"], how
    assert source.snapshot(source.target) == source.before
    source.heals()


def test_others_are_served_meanwhile(source):
    """A file that cannot be read keeps nobody from another one of the same disk."""
    source.failing.fails("read", "open", path="large")
    assert "error" not in source.again(f"{source.uri}/sub")
    source.failing.lift()


@pytest.mark.parametrize("operation", ["read", "open", "getattr", "readdir"])
def test_a_share_that_hangs(source, operation):
    """A share that hangs, as a mount of a server that is gone, is an error within the time for it."""
    source.change()
    source.failing.fails(operation, how="hang", path="tree")
    started = time.monotonic()
    how = source.again(limits=HASTY)
    assert how["error"][0] in ("TransferTimeout", "OriginUnavailable"), how
    assert time.monotonic() - started < 30
    assert source.snapshot(source.target) == source.before
    source.heals()


def test_others_are_served_while_a_share_hangs(source):
    """A share that hangs keeps nobody from what lies elsewhere."""
    with open(f"{source.origin.files}/elsewhere", "w") as file:
        file.write("elsewhere")
    source.failing.fails("read", "open", "getattr", how="hang", path="tree")
    for _ in range(3):
        assert source.again(limits=HASTY)["error"][0] in ("TransferTimeout", "OriginUnavailable")
    assert "error" not in source.again("lit://@origin/elsewhere")  # with the time that a busy machine takes
    source.failing.lift()


def test_a_work_ends_while_its_share_hangs(source):
    """A Work whose share hangs can be ended, and its name is free."""
    source.failing.fails("read", "open", "getattr", how="hang", path="tree")
    assert "error" in source.again(limits=HASTY)
    source.origin.kill()
    how = source.again("lit://@origin/elsewhere", limits=SHORT)
    assert how["error"][0] == "PathNotFound", how
    source.failing.lift()
