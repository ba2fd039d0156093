"""The bytes of one file as chunks: where they begin and end, holes, descriptors, and a file that shrinks."""

import os

import pytest

from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.limits import KIB, MIB
from lit_storage_server.sources.reader import Reader, ShortFileError

CHUNK = 16 * KIB
SIZE = 3 * CHUNK + 100


@pytest.fixture
def opened(tmp_path):
    """Open a file of the given content, or with data at offsets of an otherwise empty one."""
    fds = []

    def open_(content=b"", *, size=0, data_at=()):
        path = tmp_path / f"file{len(fds)}"
        path.write_bytes(content)
        if size:
            os.truncate(path, size)
            with open(path, "r+b") as file:
                for offset, data in data_at:
                    file.seek(offset)
                    file.write(data)
            if path.stat().st_blocks * 512 >= size:
                pytest.skip("this file system keeps no holes")
        fds.append(os.open(path, os.O_RDWR))
        return fds[-1]

    yield open_
    for fd in fds:
        os.close(fd)


def read(reader, fd, *spans, number=0):
    """Return what comes as (offset, content), with holes as how long they are."""
    found = []
    for chunk in reader.chunks(fd, number, os.fstat(fd), spans or [(0, os.fstat(fd).st_size)]):
        assert chunk.entry == number
        if chunk.hole or chunk.descriptor_bytes:
            assert not chunk.data
            assert not chunk.digest
            found.append((chunk.offset, chunk.hole or -chunk.descriptor_bytes))
        else:
            assert chunk.digest == chunk_digest(chunk.data)
            found.append((chunk.offset, bytes(chunk.data)))
    return found


def joined(found, size):
    """Put together what was read; each byte must have come exactly once, in order."""
    content = bytearray()
    for offset, data in found:
        assert offset == len(content)
        content += data if isinstance(data, bytes) else bytes(abs(data))
    assert len(content) == size
    return bytes(content)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, SIZE])
def test_chunks_of_a_file(opened, size):
    """All chunks but the last are full, and a file without bytes has none."""
    content = os.urandom(size)
    found = read(Reader(CHUNK, holes=False), opened(content))
    assert joined(found, size) == content
    assert [len(data) for _, data in found] == [CHUNK] * (size // CHUNK) + [size % CHUNK] * (size % CHUNK > 0)


@pytest.mark.parametrize(
    ("spans", "offsets"),
    [
        ([(0, 0)], []),
        ([(5, 5), (SIZE, SIZE)], []),
        ([(1, 3), (3, 5), (100, 101)], [1, 3, 100]),
        ([(CHUNK - 1, CHUNK + 1)], [CHUNK - 1]),
        ([(7, 2 * CHUNK + 8)], [7, CHUNK + 7, 2 * CHUNK + 7]),
        ([(SIZE - 1, SIZE)], [SIZE - 1]),
    ],
)
def test_spans(opened, spans, offsets):
    """Just the bytes of the spans come, each span in chunks of its own."""
    content = os.urandom(SIZE)
    found = read(Reader(CHUNK, holes=True), opened(content), *spans)
    assert [offset for offset, _ in found] == offsets
    assert b"".join(data for _, data in found) == b"".join(content[start:end] for start, end in spans)


def test_the_place_in_the_file_does_not_matter(opened):
    """Reading neither uses nor moves the offset of the descriptor."""
    fd = opened(b"0123456789")
    os.lseek(fd, 7, os.SEEK_SET)
    assert read(Reader(CHUNK, holes=False), fd) == [(0, b"0123456789")]
    assert os.lseek(fd, 0, os.SEEK_CUR) == 7


def test_a_full_chunk_is_overwritten_by_the_next(opened):
    """Full chunks share one buffer, and a smaller one stays as it is."""
    content = os.urandom(2 * CHUNK + 10)
    fd = opened(content)
    first, second, last = Reader(CHUNK, holes=False).chunks(fd, 0, os.fstat(fd), [(0, len(content))])
    assert bytes(first.data) == bytes(second.data) == content[CHUNK : 2 * CHUNK]
    assert (type(last.data), last.data) == (bytes, content[2 * CHUNK :])


def test_each_full_chunk_is_right_until_the_next(opened):
    """The last chunk that was asked for has the bytes of its digest; so it is with a second file."""
    reader = Reader(CHUNK, holes=False)
    for number in range(2):
        content = os.urandom(SIZE)
        assert joined(read(reader, opened(content), number=number), SIZE) == content


@pytest.mark.parametrize("left", [0, 1, CHUNK, CHUNK + 1, SIZE - 1])
def test_a_file_that_shrank_before(opened, left):
    """Where the file ends before the span, the whole chunks before that come, and then the error."""
    content = os.urandom(SIZE)
    fd = opened(content)
    status = os.fstat(fd)
    os.ftruncate(fd, left)
    chunks, found = Reader(CHUNK, holes=True).chunks(fd, 0, status, [(0, SIZE)]), []
    with pytest.raises(ShortFileError):
        found.extend((chunk.offset, bytes(chunk.data)) for chunk in chunks)
    whole = left // CHUNK * CHUNK
    assert joined(found, whole) == content[:whole]


def test_a_file_that_shrinks_while_it_is_read(opened):
    """The error comes at the first chunk that is not there any more."""
    fd = opened(os.urandom(SIZE))
    chunks = Reader(CHUNK, holes=False).chunks(fd, 0, os.fstat(fd), [(0, SIZE)])
    assert next(chunks).offset == 0
    os.ftruncate(fd, CHUNK + 5)
    with pytest.raises(ShortFileError):
        next(chunks)


def test_a_file_that_grows_is_read_to_the_end_of_the_span(opened):
    """What is added while it is read is not sent."""
    fd = opened(b"x" * SIZE)
    chunks = Reader(CHUNK, holes=False).chunks(fd, 0, os.fstat(fd), [(0, SIZE)])
    sizes = [next(chunks).size]
    os.pwrite(fd, b"more" * CHUNK, SIZE)
    assert sum(sizes + [chunk.size for chunk in chunks]) == SIZE


BLOCK = 64 * KIB  # no file system has larger ones by default


@pytest.mark.parametrize("data_at", [(), (0,), (BLOCK,), (7 * BLOCK,), (0, 7 * BLOCK), (BLOCK, 3 * BLOCK)])
def test_holes(opened, data_at):
    """Data and holes follow each other without gap, and each is what it says."""
    content = {offset: os.urandom(BLOCK) for offset in data_at}
    fd = opened(size=8 * BLOCK, data_at=content.items())
    found = read(Reader(CHUNK, holes=True), fd)
    assert joined(found, 8 * BLOCK) == os.pread(fd, 8 * BLOCK, 0)
    assert sum(size for _, size in found if isinstance(size, int)) == (8 - len(data_at)) * BLOCK


def test_holes_within_spans(opened):
    """A span that begins or ends in a hole has as much of it as it covers."""
    data = os.urandom(BLOCK)
    fd = opened(size=8 * BLOCK, data_at=[(3 * BLOCK, data)])
    spans = [(5, 10), (2 * BLOCK + 1, 3 * BLOCK + 1), (4 * BLOCK - 1, 4 * BLOCK + 2), (7 * BLOCK, 8 * BLOCK)]
    assert read(Reader(CHUNK, holes=True), fd, *spans) == [
        (5, 5),
        (2 * BLOCK + 1, BLOCK - 1),
        (3 * BLOCK, data[:1]),
        (4 * BLOCK - 1, data[-1:]),
        (4 * BLOCK, 2),
        (7 * BLOCK, BLOCK),
    ]


def test_without_holes_zeros_come(opened):
    """Who did not ask for holes gets their bytes."""
    found = read(Reader(CHUNK, holes=False), opened(size=8 * BLOCK))
    assert [data for _, data in found] == [bytes(CHUNK)] * (8 * BLOCK // CHUNK)


@pytest.mark.parametrize("left", [0, BLOCK, 3 * BLOCK, 8 * BLOCK - 1])
def test_a_file_with_holes_that_shrank(opened, left):
    """A hole at the end is none where the file ends before it, and what it was is not made up."""
    fd = opened(size=8 * BLOCK, data_at=[(BLOCK, b"x" * BLOCK)])
    status = os.fstat(fd)
    os.ftruncate(fd, left)
    ends = [0]
    with pytest.raises(ShortFileError):
        chunks = Reader(CHUNK, holes=True).chunks(fd, 0, status, [(0, 8 * BLOCK)])
        ends.extend(chunk.offset + chunk.size for chunk in chunks)
    assert max(ends) <= left


@pytest.fixture
def by_descriptor():
    reader = Reader(CHUNK, holes=True)
    reader.descriptors = True
    return reader


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 2 * MIB)], [(0, -2 * MIB)]),
        ([(0, MIB)], [(0, -MIB)]),
        ([(5, MIB + 4)], None),
        ([(5, MIB + 5)], [(5, -MIB)]),
        ([(0, MIB), (MIB + 7, 2 * MIB + 7)], [(0, -MIB), (MIB + 7, -MIB)]),
    ],
)
def test_descriptors(opened, by_descriptor, spans, expected):
    """A span of 1 MiB or more stands as one chunk for a descriptor; a smaller one is read."""
    fd = opened(os.urandom(2 * MIB + 7))
    found = read(by_descriptor, fd, *spans)
    if expected is None:
        assert b"".join(data for _, data in found) == os.pread(fd, MIB - 1, 5)
    else:
        assert found == expected


def test_descriptors_from_now_on(opened):
    """Where they can be passed from the middle of a file on, the rest of its span is passed."""
    reader = Reader(CHUNK, holes=False)
    fd = opened(os.urandom(2 * MIB))
    chunks = reader.chunks(fd, 0, os.fstat(fd), [(0, 2 * MIB)])
    assert next(chunks).size == CHUNK
    reader.descriptors = True
    assert [(c.offset, c.descriptor_bytes) for c in chunks] == [(CHUNK, 2 * MIB - CHUNK)]


def test_too_late_for_a_descriptor(opened):
    """What is left of a span and smaller than 1 MiB goes on in chunks."""
    reader = Reader(CHUNK, holes=False)
    content = os.urandom(MIB + 5)
    fd = opened(content)
    chunks = reader.chunks(fd, 0, os.fstat(fd), [(0, len(content))])
    found = [(0, bytes(next(chunks).data))]
    reader.descriptors = True
    found += [(chunk.offset, bytes(chunk.data)) for chunk in chunks]
    assert joined(found, len(content)) == content


def test_descriptors_of_files_with_holes(opened, by_descriptor):
    """A large span with holes is passed as a whole; in a small one zeros come for them."""
    fd = opened(size=2 * MIB, data_at=[(BLOCK, b"x")])
    assert read(by_descriptor, fd) == [(0, -2 * MIB)]
    assert joined(read(by_descriptor, fd, (0, 4 * BLOCK)), 4 * BLOCK) == os.pread(fd, 4 * BLOCK, 0)
