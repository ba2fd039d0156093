"""Bytes that were not announced, are not those of their digest, or do not fit together."""

import glob
import os

import pytest
import xxhash

from lit_storage_proto.errors import IntegrityError, ProtocolViolation
from lit_storage_proto.frames import Chunk, Frame
from tests.hostile.consumer.liar import ROOT, a_chunk, a_directory, a_file, a_link, a_pack, told
from tests.waiting import within

wait_until = within(10)

TEN = bytes(range(10))
HUGE = [10**15, 2**62, 2**63 - 1]
OFFSETS = {
    "a gap": [a_chunk(1, TEN[:4]), a_chunk(1, TEN[5:], 5)],
    "an overlap": [a_chunk(1, TEN[:6]), a_chunk(1, TEN[4:], 4)],
    "backwards": [a_chunk(1, TEN[5:], 5), a_chunk(1, TEN[:5])],
    "the same again": [a_chunk(1, TEN[:5]), a_chunk(1, TEN[:5])],
    "past the end": [a_chunk(1, TEN, 10)],
    "over the end": [a_chunk(1, TEN + b"x")],
    "over the end at last": [a_chunk(1, TEN[:9]), a_chunk(1, TEN, 9)],
    "far": [a_chunk(1, TEN, 2**62)],
    "as if negative": [a_chunk(1, TEN, 2**64 - 1)],
    "at 2^63": [a_chunk(1, TEN, 2**63)],
    "empty": [Chunk(1, 0)],
    "empty with a digest": [a_chunk(1, b"")],
    "empty at the end": [a_chunk(1, TEN), Chunk(1, 10)],
    "after the end": [a_chunk(1, TEN), a_chunk(1, TEN, 10)],
    "whole again": [a_chunk(1, TEN), a_chunk(1, TEN)],
    "a hole over the end": [Chunk(1, 0, hole=11)],
    "a hole without end": [Chunk(1, 0, hole=2**64 - 1)],
    "a hole that wraps": [a_chunk(1, TEN[:5]), Chunk(1, 5, hole=2**64 - 5)],
    "of the root": [a_chunk(0, TEN)],
    "of no entry": [a_chunk(99, TEN)],
    "of a number like -1": [a_chunk(2**64 - 1, TEN)],
    "by a descriptor": [Chunk(1, 0, descriptor_bytes=10)],
    "by a descriptor without end": [Chunk(1, 0, descriptor_bytes=2**64 - 1)],
    "too few": [a_chunk(1, TEN[:9])],
    "none": [],
}


@pytest.mark.parametrize("chunks", OFFSETS.values(), ids=OFFSETS)
def test_bytes_that_do_not_fit(liar, consumer, chunks):
    """Chunks of a file ascend from 0 to its size without gap or overlap; all else is refused."""
    liar.frames = told(ROOT, a_file("f", TEN), *chunks)
    consumer.refuse((ProtocolViolation, IntegrityError))


@pytest.mark.parametrize("chunks", OFFSETS.values(), ids=OFFSETS)
def test_bytes_of_a_round_that_do_not_fit(liar, consumer, chunks):
    """In a later round too."""
    told_first = [ROOT, a_file("f", TEN), a_chunk(1, TEN)]
    again = [Frame(entries=[a_file("f", TEN)], round=1)]
    moved = [
        Chunk(c.entry + 1 if c.entry == 1 else c.entry, *[getattr(c, n) for n in c.__slots__[1:]])
        for c in chunks
    ]
    liar.frames = told(*told_first, *again, *[Frame(chunks=[chunk], round=1) for chunk in moved])
    consumer.refuse((ProtocolViolation, IntegrityError))


BYTELESS = {"directory": a_directory("n"), "link": a_link("n", "f"), "empty file": a_file("n")}


@pytest.mark.parametrize("entry", BYTELESS.values(), ids=BYTELESS)
@pytest.mark.parametrize(
    "chunk", [a_chunk(1, TEN), Chunk(1, 0, hole=1), Chunk(1, 0)], ids=["data", "hole", "none"]
)
def test_bytes_of_what_has_none(liar, consumer, entry, chunk):
    """What is no file, or an empty one, has no bytes."""
    liar.frames = told(ROOT, entry, chunk)
    consumer.refuse(ProtocolViolation)


DIGESTS = {
    "none": b"",
    "zeros": bytes(16),
    "short": xxhash.xxh3_128_digest(TEN)[:8],
    "long": xxhash.xxh3_128_digest(TEN) + b"x",
    "of other bytes": xxhash.xxh3_128_digest(TEN[1:]),
    "of no bytes": xxhash.xxh3_128_digest(b""),
    "of another seed": xxhash.xxh3_128_digest(TEN, seed=1),
    "of another algorithm": xxhash.xxh3_64_digest(TEN),
    "of xxh64 twice": xxhash.xxh64_digest(TEN) * 2,
    "backwards": xxhash.xxh3_128_digest(TEN)[::-1],
    "half a megabyte": bytes(1 << 19),
}


@pytest.mark.parametrize("digest", DIGESTS.values(), ids=DIGESTS)
def test_wrong_digest(liar, consumer, digest):
    """Bytes whose digest is wrong, lacking, or of another algorithm are never written."""
    liar.frames = told(ROOT, a_file("f", TEN), Chunk(1, 0, digest, TEN))
    assert "damaged" in consumer.refuse(IntegrityError)


@pytest.mark.parametrize("digest", DIGESTS.values(), ids=DIGESTS)
def test_wrong_digest_of_a_pack(liar, consumer, digest):
    """So it is with packs."""
    liar.frames = told(ROOT, a_pack(["f"], [TEN], digest=digest))
    assert "damaged" in consumer.refuse(IntegrityError)


PACKS = {
    "more names": {"names": b"a/b/c"},
    "fewer names": {"names": b"a"},
    "no names": {"names": b""},
    "more sizes": {"sizes": [1, 1, 0]},
    "fewer sizes": {"sizes": [2]},
    "no sizes": {"sizes": []},
    "more modes": {"modes": [0o644] * 3},
    "no modes": {"modes": []},
    "fewer times": {"mtimes_ns": [0]},
    "no times": {"mtimes_ns": []},
    "sizes too large": {"sizes": [1, 2]},
    "sizes too small": {"sizes": [1, 0]},
    "sizes without end": {"sizes": [2**64 - 1, 1]},
    "sizes that wrap": {"sizes": [2**64 - 1, 3]},
    "a size like -1": {"sizes": [3, 2**64 - 1]},
    "set-user-id": {"modes": [0o4755, 0o644]},
    "a mode of 32 bits": {"modes": [0o644, 2**32 - 1]},
    "a device's mode": {"modes": [0o644, 0o020644]},
    "no bytes": {"data": b""},
    "more bytes": {"data": b"xyz"},
    "nothing at all": {"names": b"", "sizes": [], "modes": [], "mtimes_ns": [], "data": b""},
}


@pytest.mark.parametrize("fields", PACKS.values(), ids=PACKS)
def test_pack_whose_columns_differ(liar, consumer, fields):
    """A pack has as many sizes, modes and times as names, and bytes for just them."""
    liar.frames = told(ROOT, a_pack(["a", "b"], [b"x", b"y"], **fields))
    consumer.refuse((ProtocolViolation, IntegrityError))


@pytest.mark.parametrize("size", HUGE)
def test_huge_file_takes_no_room_before_its_bytes(liar, consumer, size):
    """A size of a petabyte or more is a promise: nothing is set aside for it."""
    room = []

    def frames(context):
        yield from told(ROOT, a_file("f", size=size), a_chunk(1, TEN))[:-1]
        wait_until(lambda: glob.glob(f"{consumer.root}/.staging/*/tree/f"))
        room.extend(map(os.stat, glob.glob(f"{consumer.root}/.staging/*/tree/f")))

    liar.frames = frames
    consumer.refuse(IntegrityError)
    assert room
    assert all(status.st_blocks * 512 < 1 << 20 and status.st_size < 1 << 20 for status in room)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_size_that_no_file_has(liar, consumer, size):
    """A size beyond that of any file is refused when it is announced."""
    liar.frames = told(ROOT, a_file("f", size=size))
    assert f"{size}" in consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("size", HUGE)
def test_huge_hole_takes_no_room(liar, consumer, size):
    """A hole of a petabyte takes no room; where the file system has no such files, its refusal is told."""
    liar.frames = told(ROOT, a_file("f", size=size), Chunk(1, 0, hole=size))
    try:
        consumer.get()
    except OSError:
        assert os.listdir(f"{consumer.root}/.staging") == []
        return
    status = os.stat(f"{consumer.target}/f")
    assert (status.st_size, status.st_blocks) == (size, 0)


def test_many_huge_files(liar, consumer):
    """Ten thousand files of a petabyte each, announced in one message, take nothing either."""
    liar.frames = told(ROOT, [a_file(f"f{n}", size=10**15) for n in range(10_000)])
    assert "ended at byte 0 of 1000000000000000" in consumer.refuse(IntegrityError)


@pytest.mark.root
def test_more_than_the_disk_holds(liar, consumer_of, tmp_path):
    """A peer that sends until the disk is full gets the system's error, and every byte is given back."""
    import subprocess

    os.mkdir(tmp_path / "canary")
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path / "canary")]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        consumer, data = consumer_of(liar.record), bytes(1 << 19)
        digest = a_chunk(1, data).digest
        free = os.statvfs(consumer.base).f_bavail
        liar.frames = lambda context: iter(
            [
                *told(ROOT, a_file("f", size=10**15))[:2],
                *(Frame(chunks=[Chunk(1, n << 19, digest, data)]) for n in range(99)),
            ]
        )
        consumer.refuse(OSError)
        assert os.statvfs(consumer.base).f_bavail == free
    finally:
        consumer.channels.close()
        subprocess.run(["umount", str(tmp_path / "canary")], check=True)
