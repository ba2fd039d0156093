"""The content of one file, read without a copy."""

import dataclasses
import os

import pytest

from lit_storage_client.fetch.contents import contents
from lit_storage_proto.errors import IntegrityError, PathNotFound, ProtocolViolation
from lit_storage_proto.frames import Chunk, Frame
from lit_storage_proto.uri import Location


def read(remote, path):
    return b"".join(bytes(data) for data in contents(remote, Location("trainer", path)))


@pytest.fixture
def remote(trainer, remote_of):
    return remote_of(trainer.record)


@pytest.fixture
def lies(script, remote_of):
    """Read a file of a scripted peer that sends the given frames."""

    def run(*frames):
        script.frames = frames
        return read(remote_of(script.record), "x")

    return run


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_contents(remote, trainer, size):
    """They are the bytes of the file, however many."""
    data = os.urandom(size)
    with open(f"{trainer.root}/file-{size}", "wb") as file:
        file.write(data)
    assert read(remote, f"file-{size}") == data


def test_sparse_file(remote, trainer):
    """Holes are zeros."""
    with open(f"{trainer.root}/sparse", "wb") as file:
        file.truncate(2 << 20)
    assert read(remote, "sparse") == bytes(2 << 20)


def test_no_file(remote, trainer):
    """A directory has no content, and its files are not taken for it."""
    os.makedirs(f"{trainer.root}/directory", exist_ok=True)
    with pytest.raises(IsADirectoryError):
        read(remote, "directory")
    with pytest.raises(PathNotFound):
        read(remote, "absent")


def test_scripted(lies, frames_of, file_entry):
    """An honest script is read."""
    assert lies(*frames_of((file_entry("", b"abc"), b"abc"))) == b"abc"


def test_damaged(lies, frames_of, file_entry):
    """A chunk that does not match its digest is handed to nobody."""
    first, chunk, summary = frames_of((file_entry("", b"abc"), b"abc"))
    damaged = dataclasses.replace(chunk.chunks[0], data=b"abd")
    with pytest.raises(IntegrityError, match="damaged"):
        lies(first, Frame(chunks=[damaged]), summary)


def test_cut_short(lies, frames_of, file_entry):
    """A call that ends early is no end of the file."""
    with pytest.raises(IntegrityError):
        lies(*frames_of((file_entry("", b"abc"), b"abc"))[:2])


def test_more_than_a_file(lies, frames_of, file_entry):
    """A second file's bytes are not taken for more of the first one's."""
    two = [(file_entry("", b"abc"), b"abc"), (file_entry("y", b"def"), b"def")]
    with pytest.raises(ProtocolViolation, match="one file"):
        lies(*frames_of(*two))


def test_a_hole_was_not_asked_for(lies, frames_of, file_entry):
    """A chunk without bytes would go missing without a word."""
    first, _, summary = frames_of((file_entry("", b"abc"), b"abc"))
    with pytest.raises(ProtocolViolation):
        lies(first, Frame(chunks=[Chunk(0, 0, hole=3)]), summary)


def test_after_the_summary(lies, frames_of, file_entry):
    """The summary is the last word."""
    frames = frames_of((file_entry("", b"abc"), b"abc"))
    with pytest.raises(ProtocolViolation, match="summary"):
        lies(*frames, frames[1])
