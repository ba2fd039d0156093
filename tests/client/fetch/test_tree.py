"""Writing a staged tree: nothing that somebody else put there meanwhile is opened or followed."""

import errno
import os

import pytest

from lit_storage_client.fetch.tree import TreeWriter
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation


def directory(path):
    return Entry(path, Kind.DIRECTORY, mode=0o755)


def file(path, size):
    return Entry(path, Kind.FILE, size, 0o644)


@pytest.fixture
def staging(tmp_path):
    path = tmp_path / "staging"
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path):
    """A file and a directory that no copy may touch."""
    (tmp_path / "outside/d").mkdir(parents=True)
    (tmp_path / "outside/file").write_text("untouched")
    return tmp_path / "outside"


@pytest.fixture
def tree(staging):
    fd = os.open(staging, os.O_RDONLY)
    writer = TreeWriter(fd, "tree", "label")
    writer.make_directory(directory(""))
    yield writer
    writer.close()
    os.close(fd)


@pytest.mark.parametrize("planted", ["file", "link"])
@pytest.mark.parametrize("whole", [True, False])
def test_planted_name_is_not_opened(tree, staging, outside, planted, whole):
    """A file or link that has come to be under a name ends the copy, and what it means stays as it was."""
    if planted == "link":
        (staging / "tree/f").symlink_to(outside / "file")
    else:
        os.link(outside / "file", staging / "tree/f")
    with pytest.raises(ProtocolViolation, match="'f' twice"):
        if whole:
            tree.write_whole(file("f", 3), b"new")
        else:
            tree.write(file("f", 6), 0, b"new", new=True, last=False)
    assert (outside / "file").read_text() == "untouched"


def test_planted_directory_is_not_taken(tree, staging, outside):
    """A link in the place of a directory that is still to be made ends the copy."""
    (staging / "tree/d").symlink_to(outside / "d")
    with pytest.raises(ProtocolViolation):
        tree.make_directory(directory("d"))


def test_a_file_that_was_just_made(tree, staging):
    """What the kernel made, and made again after ESTALE, is nothing that a peer sent twice."""
    tree.write(file("f", 6), 0, b"new", new=True, last=False)
    tree.remove("f", ["f"])
    (staging / "tree/f").touch()
    with pytest.raises(OSError, match="label/f") as caught:
        tree.write_whole(file("f", 3), b"new")
    assert caught.value.errno == errno.ESTALE


def test_another_name_that_is_the_same(tree, staging, monkeypatch):
    """Where names differ that the file system takes for one, the peer is told of, whatever is there."""
    make = os.mkdir
    monkeypatch.setattr(os, "mkdir", lambda name, *args, **options: make(name.lower(), *args, **options))
    monkeypatch.setattr(os, "stat", lambda name, stat=os.stat, **options: stat(name.lower(), **options))
    tree.make_directory(directory("d"))
    with pytest.raises(ProtocolViolation, match="same on this file system"):
        tree.make_directory(directory("D"))


def test_replaced_directory_is_not_followed(tree, staging, outside):
    """A link that has taken the place of a directory is not followed: nothing is made where it leads."""
    tree.make_directory(directory("d"))
    (staging / "tree/d").rmdir()
    (staging / "tree/d").symlink_to(outside / "d")
    with pytest.raises(NotADirectoryError):
        tree.write_whole(file("d/f", 3), b"new")
    assert os.listdir(outside / "d") == []


def test_replaced_file_is_not_followed(tree, staging, outside):
    """A link that has taken the place of a half-written file is not followed when it is opened again."""
    tree.write(file("f", 18), 0, b"new", new=True, last=False)
    for number in range(20):  # more than stay open
        tree.write(file(f"other{number}", 9), 0, b"new", new=True, last=False)
    (staging / "tree/f").unlink()
    (staging / "tree/f").symlink_to(outside / "file")
    with pytest.raises(OSError, match="symbolic links"):
        tree.write(file("f", 18), 3, b"new", new=False, last=False)
    assert (outside / "file").read_text() == "untouched"
