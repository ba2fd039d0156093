"""Walking a tree: every entry once, directories first, nothing followed, nothing left open."""

import os
import socket
import time

import pytest

from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import AccessDenied, SourceChanged
from lit_storage_server.sources.shares import Shares
from lit_storage_server.sources.walk import HELD_DIRECTORIES, version_of, walk

FILE, DIRECTORY, SYMLINK, SKIPPED = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.SKIPPED


@pytest.fixture
def shares(root):
    shares = Shares(str(root), name="train")
    yield shares
    shares.close()


def entries(shares, path="", **options):
    with shares.open(path) as opened:
        return [found.entry for found in walk(opened, **options)]


def kinds(shares, path="", **options):
    return {entry.path: entry.kind for entry in entries(shares, path, **options)}


def test_every_kind(shares, root):
    """Files, directories and links are what they are; a FIFO or socket is skipped but named."""
    (root / "t/empty").mkdir(parents=True)
    (root / "t/file").write_text("abc")
    (root / "t/link").symlink_to("file")
    os.mkfifo(root / "t/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "t/socket"))
        assert kinds(shares, "t") == {
            "": DIRECTORY,
            "empty": DIRECTORY,
            "file": FILE,
            "link": SYMLINK,
            "fifo": SKIPPED,
            "socket": SKIPPED,
        }


def test_single_file(shares, root):
    """A file is one entry with an empty path."""
    (root / "file").write_text("abc")
    assert [(e.path, e.kind, e.size) for e in entries(shares, "file")] == [("", FILE, 3)]


def test_directories_come_before_what_they_hold(shares, root):
    """A parent's entry is always earlier."""
    for name in ("a/b/c", "a/d", "e/f"):
        (root / name).mkdir(parents=True)
        (root / name / "file").touch()
    seen = set()
    for entry in entries(shares):
        assert not entry.path or os.path.dirname(entry.path) in seen
        seen.add(entry.path)
    assert len(seen) == 10


def test_reserved_names_of_the_storage_root(shares, root):
    """The walk of the storage root leaves the reserved names out, deeper ones stay."""
    for name in ("@other/x", ".staging/1", "a/@x", "a/.staging"):
        (root / name).mkdir(parents=True)
    assert set(kinds(shares)) == {"", "a", "a/@x", "a/.staging"}


@pytest.mark.parametrize(
    ("link", "target", "text"),
    [
        ("last", "{tree}/epoch", "epoch"),
        ("a/last", "{tree}/epoch", "../epoch"),
        ("a/b/last", "{tree}/a/x", "../x"),
        ("a/last", "{tree}//./a/b/..", "b/.."),
        ("a/top", "{tree}/", ".."),
        ("top", "{tree}", "."),
        ("last", "{tree}/missing", "missing"),
        ("last", "{real}/epoch", "epoch"),
        ("last", "{tree}/../tree/epoch", None),
        ("last", "{tree}-beside/epoch", None),
        ("last", "{tree}/../beside", None),
        ("last", "/etc", None),
    ],
)
@pytest.mark.parametrize("asked", ["tree", "link", "{tree}", "{declared}"])
def test_absolute_links(shares, root, tmp_path, link, target, text, asked):
    """One that points into the tree, by the tree's name or by where it lies, is kept as a relative one."""
    (root / "tree/a/b").mkdir(parents=True)
    (root / "link").symlink_to("tree")
    (tmp_path / "declared").symlink_to(root / "tree")
    shares.declare(str(tmp_path / "declared"))
    names = {"tree": root / "tree", "declared": tmp_path / "declared"}
    path = asked.format(**names)
    tree = path if path.startswith("/") else root / path
    (root / "tree" / link).symlink_to(target.format(tree=tree, real=root / "tree"))
    (entry,) = [entry for entry in entries(shares, path) if entry.path == link]
    assert (entry.link_target, entry.kind) == (text or "", SKIPPED if text is None else SYMLINK)


def test_absolute_link_to_a_reserved_name(shares, root):
    """In a copy of the whole storage root a link to what is no part of it is left out."""
    (root / "link").symlink_to(root / "@other/x")
    (root / "staging").symlink_to(root / ".staging")
    assert kinds(shares) == {"": DIRECTORY, "link": SKIPPED, "staging": SKIPPED}


@pytest.mark.parametrize(
    ("link", "target", "kind"),
    [
        ("l", "a", SYMLINK),
        ("a/l", "../a/b", SYMLINK),
        ("a/l", "..", SYMLINK),
        ("l", "missing", SYMLINK),
        ("l", "..", SKIPPED),
        ("a/l", "../../t/a", SKIPPED),
        ("l", "/etc", SKIPPED),
    ],
)
def test_links(shares, root, link, target, kind):
    """A link is kept where it means, to the letter, something in the tree; one that leaves is skipped."""
    (root / "t/a").mkdir(parents=True)
    (root / "t" / link).symlink_to(target)
    found = {entry.path: entry for entry in entries(shares, "t")}[link]
    assert (found.kind, found.link_target) == (kind, target if kind is SYMLINK else "")


def test_link_to_a_reserved_name_is_skipped(shares, root):
    """In the storage root a link to what is not shared is skipped."""
    (root / "l").symlink_to("@other/x")
    assert kinds(shares)["l"] is SKIPPED


def test_link_to_a_directory_is_not_entered(shares, root):
    """A link to a directory is one entry."""
    (root / "a/b").mkdir(parents=True)
    (root / "l").symlink_to("a")
    assert set(kinds(shares)) == {"", "a", "a/b", "l"}


def test_direct_children(shares, root):
    """With recursive=False only the directory and its children are named."""
    (root / "a/b").mkdir(parents=True)
    (root / "file").touch()
    assert kinds(shares, recursive=False) == {"": DIRECTORY, "a": DIRECTORY, "file": FILE}


def test_set_id_bits_are_left_out(shares, root):
    """The mode of an entry has permission bits only."""
    (root / "file").touch()
    (root / "file").chmod(0o6754)
    assert {e.path: e.mode for e in entries(shares)}["file"] == 0o754


def test_version_follows_the_content(root):
    """The version changes with size, times and identity of a file, also where its time is set back."""
    file = root / "file"
    file.write_text("abc")
    status = file.stat()
    file.read_text()
    assert version_of(file.stat()) == version_of(status)
    wait_for_another_time(root)
    file.write_text("abd")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert version_of(file.stat()) != version_of(status)


def wait_for_another_time(root):
    """Wait until the clock of the file system has gone on."""
    probe = root / "probe"
    probe.touch()
    first, end = probe.stat().st_ctime_ns, time.monotonic() + 10
    while probe.stat().st_ctime_ns == first and time.monotonic() < end:
        probe.touch()


@pytest.mark.slow
def test_deep_tree_takes_few_descriptors(shares, root):
    """A tree 600 deep, where each level has more to come, is walked within the limit of descriptors."""
    fd = os.open(root, os.O_PATH)
    for _ in range(600):
        os.mkdir("d", dir_fd=fd)
        os.mkdir("e", dir_fd=fd)
        below = os.open("d", os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before, most, count = len(os.listdir("/proc/self/fd")), 0, 0
    with shares.open("") as opened:
        for _ in walk(opened):
            count += 1
            most = max(most, len(os.listdir("/proc/self/fd")) - before)
    assert (count, most <= HELD_DIRECTORIES + 4) == (1201, True)


def test_names_that_are_not_utf8_and_long_ones(shares, root):
    """Names of 255 bytes and names that are not UTF-8 are found."""
    names = {"n" * 255, os.fsdecode(b"\xff\xfe"), "ä\n"}
    for name in names:
        (root / name).touch()
    assert set(kinds(shares)) == names | {""}


@pytest.mark.root
def test_unreadable_directory_is_named(shares, root):
    """A directory that cannot be read fails the walk, and is named from the share's root."""
    (root / "t/closed").mkdir(parents=True)
    (root / "t/closed").chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(AccessDenied, match="'t/closed'"):
            entries(shares, "t")
    finally:
        os.seteuid(0)


def test_vanished_directory_is_left_out(shares, root):
    """A directory that goes before the walk comes to it is left out."""
    (root / "a").mkdir()
    with shares.open("") as opened:
        found = walk(opened)
        next(found)
        (root / "file").touch()
        assert next(found).entry.path == "file"
        (root / "a").rmdir()
        assert list(found) == []


def test_replaced_directory_is_an_error(shares, root):
    """A directory that a link takes the place of is not followed: the walk says that it changed."""
    (root / "a").mkdir()
    (root / "file").touch()
    with shares.open("") as opened:
        found = walk(opened)
        next(found)
        next(found)
        (root / "a").rmdir()
        (root / "a").symlink_to("/etc")
        with pytest.raises(SourceChanged, match="'a'"):
            list(found)


def test_directory_replaced_while_it_was_let_go(shares, root, monkeypatch):
    """A directory that is opened again to go on in it must be the one that was scanned."""
    monkeypatch.setattr("lit_storage_server.sources.walk.HELD_DIRECTORIES", 1)
    for name in ("a/c/e", "a/c/f", "a/d/e", "a/d/f", "b/c/e", "b/c/f", "b/d/e", "b/d/f"):
        (root / name).mkdir(parents=True)
    with shares.open("") as opened:
        found = walk(opened)
        deep = next(item.path for item in found if item.path.count("/") == 2)
        above = deep.partition("/")[0]
        (root / above).rename(root / "elsewhere")
        for name in ("c", "d"):
            (root / above / name).mkdir(parents=True)
        with pytest.raises(SourceChanged, match=f"'{above}/"):
            list(found)


def test_an_abandoned_walk_closes_all(shares, root):
    """A walk that is not finished leaves no descriptor open."""
    (root / "a/b/c/d").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    with shares.open("") as opened:
        found = walk(opened)
        for _ in range(3):
            next(found)
        found.close()
    assert len(os.listdir("/proc/self/fd")) <= before  # others may close theirs meanwhile
