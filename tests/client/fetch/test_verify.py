import pytest

from lit_storage_client.fetch.verify import Verifier
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError, ProtocolViolation
from lit_storage_proto.frames import Chunk, Summary


def chunk(offset, data, number=0):
    return Chunk(number, offset, chunk_digest(data), data)


@pytest.fixture
def verifier():
    """It waits for a file of ten bytes, which is entry 0."""
    verifier = Verifier()
    verifier.announce(Entry("f", Kind.FILE, 10))
    return verifier


def test_whole_file(verifier):
    """Chunks from 0 to the size make a file whole."""
    assert not verifier.accept(chunk(0, b"12345")).whole
    assert verifier.accept(chunk(5, b"67890")).whole
    verifier.finish(Summary(1, 2, 10, 0))


@pytest.mark.parametrize("offset", [4, 6, 2**64 - 1])
def test_gap_or_overlap(verifier, offset):
    """A chunk that does not begin where the last one ended is refused."""
    verifier.accept(chunk(0, b"12345"))
    with pytest.raises(ProtocolViolation, match="due"):
        verifier.accept(chunk(offset, b"6789"))


def test_more_than_the_size(verifier):
    """A chunk that leads beyond the size is refused."""
    with pytest.raises(ProtocolViolation):
        verifier.accept(chunk(0, b"12345678901"))


def test_empty_chunk(verifier):
    """An empty chunk brings nothing forward and is refused."""
    with pytest.raises(ProtocolViolation):
        verifier.accept(chunk(0, b""))


def test_chunk_after_the_last(verifier):
    """A file that is whole takes no chunk."""
    verifier.accept(chunk(0, b"1234567890"))
    with pytest.raises(ProtocolViolation, match="waits for none"):
        verifier.accept(chunk(0, b"1234567890"))


@pytest.mark.parametrize("number", [1, 2, 99])
def test_chunk_of_what_has_no_bytes(verifier, number):
    """A chunk of an empty file, a directory, or an entry that never came is refused."""
    verifier.announce(Entry("empty", Kind.FILE))
    verifier.announce(Entry("d", Kind.DIRECTORY))
    with pytest.raises(ProtocolViolation):
        verifier.accept(chunk(0, b"1", number))


def test_damaged_bytes(verifier):
    """Bytes that do not match their digest are refused, and the file is named."""
    with pytest.raises(IntegrityError, match="'f'"):
        verifier.accept(Chunk(0, 0, chunk_digest(b"other"), b"12345"))


@pytest.mark.parametrize("digest", [b"", b"\0" * 16])
def test_missing_digest(verifier, digest):
    """A chunk without its digest is refused."""
    with pytest.raises(IntegrityError):
        verifier.accept(Chunk(0, 0, digest, b"12345"))


def test_missing_bytes(verifier):
    """A summary does not make a file whole whose bytes are missing."""
    verifier.accept(chunk(0, b"12345"))
    with pytest.raises(IntegrityError, match="byte 5 of 10"):
        verifier.finish(Summary(1, 1, 5, 0))


def test_missing_summary(verifier):
    """Without a summary a tree is not whole, though all its bytes came."""
    verifier.accept(chunk(0, b"1234567890"))
    with pytest.raises(IntegrityError, match="summary"):
        verifier.finish(None)


@pytest.mark.parametrize("counts", [(2, 1, 10, 0), (1, 2, 10, 0), (1, 1, 11, 0), (1, 1, 10, 1)])
def test_summary_that_counts_otherwise(verifier, counts):
    """Each count of the summary must be what came."""
    verifier.accept(chunk(0, b"1234567890"))
    with pytest.raises(IntegrityError):
        verifier.finish(Summary(*counts))


def test_tree_of_nothing():
    """A tree without even a root is not whole."""
    with pytest.raises(IntegrityError):
        Verifier().finish(Summary())


def test_files_may_be_interleaved(verifier):
    """Chunks of two files may come in turn."""
    verifier.announce(Entry("g", Kind.FILE, 2))
    for offset, data, number in [(0, b"12345", 0), (0, b"1", 1), (5, b"67890", 0), (1, b"2", 1)]:
        verifier.accept(chunk(offset, data, number))
    verifier.finish(Summary(2, 4, 12, 0))
