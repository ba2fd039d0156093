"""Lies about what a consumer has already: contact is lost, and the next attempt is told a lie."""

import glob
import os

import grpc
import pytest

from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import StorageError
from lit_storage_proto.frames import Chunk, Frame
from lit_storage_proto.limits import MIB, Limits
from lit_storage_proto.v1 import path_storage_pb2 as pb
from tests.hostile.consumer.conftest import sentence
from tests.hostile.consumer.liar import ROOT, a_chunk, a_directory, a_file, a_link, a_pack, told
from tests.waiting import within

STEP, SIZE = MIB // 2, 9 * MIB
DATA = [bytes([number]) * STEP for number in range(SIZE // STEP)]
CHUNKS = [a_chunk(1, data, number * STEP) for number, data in enumerate(DATA)]
HELD = 10  # steps that the first attempt brings
FILE = a_file("f", size=SIZE, version=b"v1")


def entry(path="f", size=SIZE, version=b"v1", **fields):
    return a_file(path, size=size, version=version, **fields)


@pytest.fixture
def resumed(liar, consumer_of):
    """Get from a peer that breaks off after half a file, and then says the parts it is given."""

    def run(*parts, honest=False):
        consumer = consumer_of(liar.record, resume_seconds=2.0)

        def frames(context):
            if liar.calls["frames"] == 1:
                yield from told(ROOT, FILE, *CHUNKS[:HELD])[:-1]
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield from told(ROOT, *parts)

        liar.frames = frames
        if honest:
            consumer.get()
        else:
            consumer.refuse()
        assert liar.calls["frames"] == 2
        return consumer

    return run


def test_honest_rest(resumed):
    """What was held counts, and the rest makes the file whole."""
    consumer = resumed(FILE, *CHUNKS[HELD:], honest=True)
    with open(f"{consumer.target}/f", "rb") as file:
        assert file.read() == b"".join(DATA)


LIES = {
    "all is held": [FILE],
    "more is held than is": [FILE, *CHUNKS[HELD + 1 :]],
    "less is held than is": [FILE, *CHUNKS[HELD - 1 :]],
    "all again": [FILE, *CHUNKS],
    "another version, as if it were held": [entry(version=b"v2"), *CHUNKS[HELD:]],
    "no version": [entry(version=b""), *CHUNKS[HELD:]],
    "another size": [entry(size=SIZE + 1), *CHUNKS[HELD:], a_chunk(1, b"x", SIZE)],
    "a smaller size": [entry(size=HELD * STEP)],
    "a size within what is held": [entry(size=STEP)],
    "a size of nothing": [entry(size=0), *CHUNKS[HELD:]],
    "the size without end": [entry(size=2**63 - 1), *CHUNKS[HELD:]],
    "another name": [entry("g"), *CHUNKS[HELD:]],
    "a name that leads to what is held": [entry("../held/0"), *CHUNKS[HELD:]],
    "a directory": [a_directory("f"), *CHUNKS[HELD:]],
    "a link to what is held": [a_link("f", "../held/0"), *CHUNKS[HELD:]],
    "a pack": [a_pack(["f"]), *CHUNKS[HELD:]],
    "twice": [FILE, *CHUNKS[HELD:], FILE],
    "packed before": [a_pack(["f"]), FILE, *CHUNKS[HELD:]],
    "the rest damaged": [FILE, Chunk(1, HELD * STEP, bytes(16), DATA[HELD])],
    "a hole over what is held": [FILE, Chunk(1, 0, hole=SIZE)],
    "skipped": [Entry("f", Kind.SKIPPED, version=b"v1"), *CHUNKS[HELD:]],
    "a round that takes what is held for granted": [
        FILE,
        *CHUNKS[HELD:],
        Frame(entries=[FILE], round=1),
        *[Frame(chunks=[Chunk(2, c.offset, c.digest, c.data)], round=1) for c in CHUNKS[HELD:]],
    ],
}


@pytest.mark.parametrize("parts", LIES.values(), ids=LIES)
def test_lie_about_what_is_held(resumed, parts):
    """No version, size or name makes bytes count that were not verified as those of this very file."""
    resumed(*parts)


def test_held_bytes_that_changed_meanwhile(liar, consumer_of):
    """What is held is read again before it counts: bytes that were changed on the disk are asked for anew."""
    consumer = consumer_of(liar.record, resume_seconds=2.0)
    partial = f"{consumer.root}/.staging/*/tree/f"

    def spoil():
        with open(*glob.glob(partial), "r+b") as file:
            file.seek(3 * STEP)
            file.write(b"spoiled")

    def frames(context):
        if liar.calls["frames"] == 1:
            yield from told(ROOT, FILE, *CHUNKS[:HELD])[:-1]
            within(10)(lambda: [f for f in glob.glob(partial) if os.path.getsize(f) == HELD * STEP])
            spoil()
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        yield from told(ROOT, FILE, CHUNKS[3], *CHUNKS[HELD:])

    liar.frames = frames
    consumer.get()
    with open(f"{consumer.target}/f", "rb") as file:
        assert file.read() == b"".join(DATA)


@pytest.mark.slow
def test_peer_that_breaks_off_for_ever(liar, consumer_of):
    """A peer that brings a little more each time, and breaks off, is ended by the timeout of the get."""
    consumer, attempts = consumer_of(liar.record, resume_seconds=2.0), []

    def frames(context):
        attempts.append(0)
        yield from told(ROOT, entry(version=b""), *CHUNKS[: len(attempts)])[:-1]
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    liar.frames = frames
    consumer.refuse(timeout=1.0)


@pytest.mark.slow
def test_what_is_left_is_bounded(liar, consumer_of):
    """What a silent peer leaves is one staging of one copy: the next get takes it over."""
    consumer = consumer_of(liar.record, progress_seconds=0.4)

    def frames(context):
        yield from told(ROOT, FILE, *CHUNKS[:HELD])[:-1] if liar.calls["frames"] == 1 else told(ROOT)[:-1]
        while context.is_active():
            yield Frame()

    liar.frames = frames
    for _ in range(4):
        with pytest.raises(StorageError) as caught:
            consumer.get()
        sentence(caught.value)
        assert len(os.listdir(f"{consumer.root}/.staging")) <= 1
    liar.frames = told(ROOT)
    consumer.remote.limits = Limits()  # an honest peer is given time
    consumer.get()
    assert os.listdir(f"{consumer.root}/.staging") == []


CONTENTS = {
    "a directory": told(ROOT),
    "two files": told(a_file("", b"xy"), a_chunk(0, b"xy"), a_file("g")),
    "a pack": told(a_file("", b"xy"), a_pack(["g"])),
    "a round": told(a_file("", b"xy"), Frame(entries=[a_file("", b"xy")], round=1)),
    "a hole": told(a_file("", b"xy"), Chunk(0, 0, hole=2)),
    "a descriptor": told(a_file("", b"xy"), Chunk(0, 0, descriptor_bytes=2)),
    "damaged": told(a_file("", b"xy"), Chunk(0, 0, bytes(16), b"xy")),
    "too little": told(a_file("", b"xy"), a_chunk(0, b"x")),
    "too much": told(a_file("", b"xy"), a_chunk(0, b"xyz")),
    "another part": told(a_file("", b"xy"), a_chunk(0, b"y", 1)),
    "no summary": told(a_file("", b"xy"), a_chunk(0, b"xy"))[:-1],
    "more behind the summary": [*told(a_file("", b"xy"), a_chunk(0, b"xy")), Frame()],
    "nothing": told(),
}


@pytest.mark.parametrize("frames", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("part", [(0, None), (0, 2)], ids=["all", "a part"])
def test_reading_without_a_copy(liar, consumer, frames, part):
    """What is read without a copy is held to the same: each byte is verified, and of that file."""
    from lit_storage_client.fetch.contents import contents
    from lit_storage_proto.uri import Location

    who = pb.Origin(name="trainer", instance_id="i1")
    liar.stat = pb.StatResponse(origin=who, entry=pb.Entry(kind=1, size=2))
    liar.frames = frames
    read = b""
    with pytest.raises((StorageError, IsADirectoryError)):
        for data in contents(consumer.remote, Location("trainer", "out"), offset=part[0], length=part[1]):
            read += data
    assert b"xy".startswith(read)
