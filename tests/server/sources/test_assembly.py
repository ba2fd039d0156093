"""Frames that fill up: how large they get, what is counted, and how long their data stay."""

import os

import pytest

from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.frame_codec import decode_frame, encode_frame
from lit_storage_proto.frames import Chunk, Summary
from lit_storage_proto.limits import KIB, MAX_FRAME_BYTES, MIB
from lit_storage_server.sources.assembly import MAX_CHUNK_BYTES, Assembly

FULL = 64 * KIB


@pytest.fixture
def assembly():
    return Assembly(FULL)


def a_file(path, size=0):
    return Entry(path, Kind.FILE, size, 0o644, 1, version=b"v" * 32)


def chunk(size, number=0, offset=0):
    data = bytes(size)
    return Chunk(number, offset, chunk_digest(data), data)


def put_pack(assembly, directory, files):
    """Put files into one pack, as whoever reads them does."""
    pack = assembly.open_pack(directory)
    for name, data in files.items():
        assembly.buffer[assembly.position : assembly.position + len(data)] = data
        assembly.position += len(data)
        pack.names.append(name)
        pack.sizes.append(len(data))
        pack.modes.append(0o644)
        pack.mtimes_ns.append(1)
    return list(assembly.close_pack(pack))


def shape(frame):
    return len(frame.entries), len(frame.chunks), len(frame.packs)


def test_nothing_but_a_summary(assembly):
    """The frames of nothing are one with a summary that counts nothing."""
    (frame,) = assembly.finish()
    assert (shape(frame), frame.summary) == ((0, 0, 0), Summary())


def test_small_things_share_a_frame(assembly):
    """Entries, chunks and packs wait for each other, and the summary goes with them."""
    assert list(assembly.put_entry(a_file("a", 3))) == []
    assert list(assembly.put_chunk(chunk(3))) == []
    assert put_pack(assembly, 0, {"b": b"bb", "c": b""}) == []
    assert list(assembly.put_entry(Entry("d", Kind.SKIPPED))) == []
    (frame,) = assembly.finish()
    assert shape(frame) == (2, 1, 1)
    assert frame.summary == Summary(entries=2, chunks=1, bytes=5, skipped=1, packs=1, packed_files=2)
    assert decode_frame(encode_frame(frame)).packs[0].names == b"b/c"


def test_numbers_of_entries(assembly):
    """Entries are numbered from 0, through all frames; packed files have no number."""
    numbers = []
    for name in "abc":
        list(assembly.put_entry(a_file(name)))
        numbers.append(assembly.last_entry)
        put_pack(assembly, 0, {"x": b"x"})
        list(assembly.flush())
    assert numbers == [0, 1, 2]


def test_a_full_chunk_goes_at_once(assembly):
    """A chunk as large as the capacity fills a frame, with what waits before it, so it may be a view."""
    list(assembly.put_entry(a_file("a", FULL)))
    (frame,) = assembly.put_chunk(chunk(assembly.capacity))
    assert shape(frame) == (1, 1, 0)
    assert list(assembly.flush()) == []


def test_a_descriptor_goes_at_once(assembly):
    """A chunk that stands for a descriptor ends its frame, since one message carries one descriptor."""
    list(assembly.put_entry(a_file("a", MIB)))
    (frame,) = assembly.put_chunk(Chunk(0, 0, descriptor_bytes=MIB))
    assert (shape(frame), list(assembly.flush())) == ((1, 1, 0), [])
    assert next(assembly.finish()).summary.bytes == MIB


def test_a_hole_waits(assembly):
    """A hole takes no room in a frame, however long it is, and counts as bytes."""
    assert list(assembly.put_chunk(Chunk(0, 0, hole=2**40))) == []
    assert next(assembly.finish()).summary.bytes == 2**40


@pytest.mark.parametrize("full_bytes", [1, 1000, FULL, 512 * KIB, MIB, 64 * MIB])
def test_capacity(full_bytes):
    """What fills a frame is what was asked for, as far as a frame can hold it."""
    assembly = Assembly(full_bytes)
    assert assembly.capacity == min(full_bytes, MAX_CHUNK_BYTES)
    assert 0 < assembly.pack_capacity <= assembly.capacity < len(assembly.buffer)


@pytest.mark.parametrize("full_bytes", [1, FULL, 512 * KIB, 64 * MIB])
def test_no_frame_is_too_large(full_bytes):
    """Whatever is put, in whatever order, each frame stays within 1 MiB."""
    assembly = Assembly(full_bytes)
    long = "ä" * 15_000
    frames = []
    for size in (1, assembly.capacity // 2, assembly.capacity, max(1, assembly.capacity - 1)):
        for path in ("a", long, "x" * 64_000):
            frames += assembly.put_entry(Entry(path, Kind.SYMLINK, link_target=long))
            frames += assembly.put_chunk(chunk(size))
    frames += assembly.finish()
    assert max(len(encode_frame(frame)) for frame in frames) <= MAX_FRAME_BYTES
    assert sum(len(frame.entries) for frame in frames) == sum(len(frame.chunks) for frame in frames) == 12


@pytest.mark.parametrize("full_bytes", [512 * KIB, 64 * MIB])
def test_the_largest_pack_fits_in_a_frame(full_bytes):
    """As many files as a pack may hold, with the longest names and as many bytes as it may hold."""
    assembly = Assembly(full_bytes)
    list(assembly.put_entry(a_file("a")))
    size, more = divmod(assembly.pack_capacity, assembly.most_packed)
    files = {
        f"{number:04}{'n' * 251}": bytes(size + (number < more)) for number in range(assembly.most_packed)
    }
    frames = [*put_pack(assembly, 0, files), *assembly.finish()]
    assert max(len(encode_frame(frame)) for frame in frames) <= MAX_FRAME_BYTES
    assert sum(len(pack.data) for frame in frames for pack in frame.packs) == assembly.pack_capacity


def test_an_empty_pack_is_not_sent(assembly):
    """A directory without files has no pack."""
    assert put_pack(assembly, 0, {}) == []
    assert next(assembly.finish()).summary == Summary()


def test_a_pack(assembly):
    """Names are joined by "/", and the digest is of all bytes one after the other."""
    put_pack(assembly, 3, {"a": b"one", "\udcff": b"", "c": b"two"})
    (pack,) = next(assembly.finish()).packs
    assert (pack.directory, pack.names, bytes(pack.data)) == (3, b"a/\xff/c", b"onetwo")
    assert (list(pack.sizes), pack.digest) == ([3, 0, 3], chunk_digest(b"onetwo"))


def test_data_of_packs_stay_until_the_next_frame(assembly):
    """All packs of a frame keep their bytes until the next is asked for, also those that make it full."""
    content = [os.urandom(FULL // 3) for _ in range(9)]
    received = []

    def take(frames):
        received.extend(bytes(pack.data) for frame in frames for pack in frame.packs)

    for number, data in enumerate(content):
        if assembly.position + len(data) > assembly.pack_capacity:
            take(assembly.flush())
            assert assembly.position == 0
        take(put_pack(assembly, number, {"f": data}))
    take(assembly.finish())
    assert received == content


def test_a_pack_that_does_not_fit_beside_what_waits():
    """What waited goes first, and the pack whose bytes are in the buffer already stays whole."""
    assembly = Assembly(64 * MIB)
    list(assembly.put_entry(Entry("x" * 60_000, Kind.DIRECTORY)))
    while assembly._held + assembly.pack_capacity < MAX_FRAME_BYTES:
        assert list(assembly.put_entry(Entry("y" * 60_000, Kind.DIRECTORY))) == []
    data = os.urandom(assembly.pack_capacity)
    before, *after = [*put_pack(assembly, 0, {"f": data}), *assembly.finish()]
    assert (len(before.entries) > 1, shape(before)[1:]) == (True, (0, 0))
    assert [bytes(pack.data) for frame in after for pack in frame.packs] == [data]


def test_rounds(assembly):
    """Frames carry the round that was set when they were put."""
    list(assembly.put_entry(a_file("a")))
    (first,) = assembly.flush()
    assembly.round = 1
    list(assembly.put_entry(Entry("a", Kind.REMOVED)))
    (second,) = assembly.finish()
    assert (first.round, second.round) == (0, 1)


def test_unsettled(assembly):
    """What is unsettled is in the summary, which then has a frame of its own."""
    list(assembly.put_entry(a_file("a")))
    first, second = assembly.finish(("a", "b"), 7)
    assert (shape(first), shape(second)) == ((1, 0, 0), (0, 0, 0))
    assert (second.summary.unsettled, second.summary.unsettled_count) == (("a", "b"), 7)


def test_a_summary_after_much():
    """A summary does not make a frame too large that is nearly full."""
    assembly = Assembly(64 * MIB)
    list(assembly.put_chunk(chunk(MAX_FRAME_BYTES // 2)))
    frames = list(assembly.finish())
    assert [frame.summary is not None for frame in frames] == [False, True]
