"""The hand-written codec against the generated one: the same bytes, both ways, and no other exceptions."""

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frame_codec import decode_detached, decode_frame, encode_detached, encode_frame
from lit_storage_proto.frames import Chunk, Direct, Frame, Pack, Summary
from lit_storage_proto.v1 import path_storage_pb2 as pb

PACK_FIELDS = ("directory", "names", "sizes", "modes", "mtimes_ns", "digest", "hard_linked")
COUNTS = ("entries", "chunks", "bytes", "skipped", "packs", "packed_files", "unsettled_count")

uint64 = st.integers(0, 2**64 - 1)
names = st.one_of(st.text(max_size=30), st.binary(max_size=30).map(os.fsdecode))
entries = st.builds(
    Entry,
    path=names,
    kind=st.sampled_from(Kind),
    size=uint64,
    mode=st.integers(0, 0o777),
    mtime_ns=st.integers(-(2**63), 2**63 - 1),
    link_target=names,
    version=st.binary(max_size=40),
    hard_linked=st.booleans(),
)
contents = st.binary(min_size=1, max_size=500)
chunks = st.one_of(
    st.builds(Chunk, uint64, uint64, st.binary(max_size=20), st.binary(max_size=500)),
    st.builds(Chunk, uint64, uint64, hole=st.integers(1, 2**64 - 1)),
    st.builds(Chunk, uint64, uint64, descriptor_bytes=st.integers(1, 2**64 - 1)),
)
packs = st.builds(
    Pack,
    uint64,
    st.binary(max_size=30),
    st.lists(uint64, max_size=4).map(tuple),
    st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4).map(tuple),
    st.binary(max_size=20),
    st.binary(max_size=500),
    uint64,
)
paths = st.lists(st.binary(min_size=1, max_size=9).map(lambda raw: raw.replace(b"/", b"_")), max_size=3)
summaries = st.builds(
    lambda counts, unsettled, more: Summary(
        *counts, tuple(map(os.fsdecode, unsettled)), len(unsettled) + more if unsettled else 0
    ),
    st.tuples(*[uint64] * 6),
    paths,
    st.integers(0, 2**40),
)
frames = st.builds(
    Frame,
    st.none() | st.tuples(st.text(max_size=20), st.text(max_size=20)),
    st.lists(entries, max_size=4),
    st.lists(chunks, max_size=4),
    st.none() | summaries,
    st.lists(packs, max_size=3),
    st.none() | st.builds(Direct, st.text(max_size=20), st.integers(0, 2**32 - 1), st.binary(max_size=40)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


def generated(frame):
    """Return the generated message that means the same as `frame`, built field by field."""
    message = pb.StreamFilesResponse()
    if frame.origin is not None:
        message.origin.SetInParent()
        message.origin.name, message.origin.instance_id = frame.origin
    for entry in frame.entries:
        wire = message.entries.add(kind=entry.kind, size=entry.size, mode=entry.mode)
        wire.mtime_ns, wire.version = entry.mtime_ns, entry.version
        wire.hard_linked = entry.hard_linked
        for field, name in (("path", entry.path), ("link_target", entry.link_target)):
            raw = os.fsencode(name)
            try:
                setattr(wire, field, raw.decode())
            except UnicodeDecodeError:
                setattr(wire, f"{field}_bytes", raw)
    for chunk in frame.chunks:
        message.chunks.add(
            entry=chunk.entry,
            offset=chunk.offset,
            digest=chunk.digest,
            data=bytes(chunk.data),
            hole=chunk.hole,
            descriptor_bytes=chunk.descriptor_bytes,
        )
    for pack in frame.packs:
        fields = {field: getattr(pack, field) for field in PACK_FIELDS}
        message.packs.add(**fields, data=bytes(pack.data))
    if frame.summary is not None:
        message.summary.SetInParent()
        for field in COUNTS:
            setattr(message.summary, field, getattr(frame.summary, field))
        message.summary.unsettled = b"//".join(map(os.fsencode, frame.summary.unsettled))
    if frame.direct is not None:
        message.direct.SetInParent()
        message.direct.unix_name, message.direct.tcp_port = frame.direct.unix_name, frame.direct.tcp_port
        message.direct.ticket = frame.direct.ticket
    message.moved, message.round = frame.moved, frame.round
    message.follows_links = frame.follows_links
    return message


@pytest.mark.slow
@given(frames)
def test_encodes_to_the_generated_bytes(frame):
    """An encoded frame means the same to the generated class, and without packs is byte for byte the same."""
    encoded = encode_frame(frame)
    assert pb.StreamFilesResponse.FromString(encoded) == generated(frame)
    if not any(pack.hard_linked for pack in frame.packs):  # its field comes after the data
        assert encoded == generated(frame).SerializeToString()


@given(frames)
def test_detached(frame):
    """On a direct way the data of the one chunk or pack follow the message."""
    frame = dataclasses.replace(frame, chunks=frame.chunks[:1], packs=frame.packs[: 0 if frame.chunks else 1])
    message, data = encode_detached(frame)
    assert decode_detached(message, data) == frame
    assert bytes(data) not in message or len(data) < 30


@given(frames, contents)
def test_detached_data_that_belong_to_nothing(frame, data):
    """Data with no chunk or pack to go to, or with several, are refused."""
    empty = dataclasses.replace(frame, chunks=[], packs=[])
    with pytest.raises(ProtocolViolation):
        decode_detached(encode_frame(empty), data)
    two = dataclasses.replace(frame, chunks=[Chunk(0, 0), Chunk(1, 0)], packs=[])
    with pytest.raises(ProtocolViolation):
        decode_detached(encode_frame(two), data)


def test_data_in_two_ways():
    """A chunk has data, or stands for a hole, or for bytes of a descriptor."""
    for chunk in (Chunk(0, 0, data=b"x", hole=1), Chunk(0, 0, hole=1, descriptor_bytes=1)):
        with pytest.raises(ProtocolViolation, match="two ways"):
            decode_frame(encode_frame(Frame(chunks=[chunk])))
    with pytest.raises(ProtocolViolation, match="and after it"):
        decode_detached(encode_frame(Frame(chunks=[Chunk(0, 0, data=b"x")])), b"y")


@given(frames)
def test_decodes_generated_bytes(frame):
    """What the generated class writes is decoded to the equal frame."""
    assert decode_frame(generated(frame).SerializeToString()) == frame


@pytest.mark.slow
@given(frames)
def test_encoded_bytes_are_of_the_type_bytes(frame):
    """gRPC takes exactly bytes: a frame of views encodes to them too."""
    views = Frame(chunks=[Chunk(c.entry, c.offset, c.digest, memoryview(c.data)) for c in frame.chunks])
    assert type(encode_frame(views)) is bytes


def decode_or_refuse(message):
    """Decode a message that may be anything; only a ProtocolViolation may come instead."""
    try:
        return decode_frame(message)
    except ProtocolViolation:
        return None


@pytest.mark.slow
@given(frames, st.data())
def test_truncated(frame, data):
    """A message that is cut off is refused, or is a shorter frame; nothing else is raised."""
    message = encode_frame(frame)
    cut = message[: data.draw(st.integers(0, len(message)))]
    assert isinstance(decode_or_refuse(cut), Frame | None)


@pytest.mark.slow
@given(frames, st.data())
def test_mutated(frame, data):
    """A message with changed bytes is refused or is some frame; nothing else is raised."""
    message = bytearray(encode_frame(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        if message:
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(decode_or_refuse(bytes(message)), Frame | None)


@given(st.binary(max_size=300))
def test_arbitrary_bytes(message):
    """Bytes that nobody encoded are refused or are some frame; nothing else is raised."""
    assert isinstance(decode_or_refuse(message), Frame | None)


@given(st.binary(max_size=200))
def test_chunks_of_arbitrary_bytes_agree(message):
    """Where both codecs accept arbitrary bytes, they find the same chunks in them."""
    frame = decode_or_refuse(message)
    if frame is not None and frame.chunks and not frame.entries:
        try:
            parsed = pb.StreamFilesResponse.FromString(message)
        except Exception:
            return  # the generated class is stricter about what is passed over
        assert [(c.entry, c.offset, c.digest, c.data) for c in parsed.chunks] == [
            (c.entry, c.offset, c.digest, bytes(c.data)) for c in frame.chunks
        ]


LATER_FIELDS = [b"\x78\x01", b"\x7a\x02hi", b"\x79" + bytes(8), b"\x7d" + bytes(4), b"\xf8\xff\xff\x07\x05"]


@pytest.mark.parametrize("field", LATER_FIELDS)
def test_unknown_fields_are_passed_over(field):
    """A field of a later version, of each wire type, is passed over in a frame and in a chunk."""
    chunk = field + b"\x08\x05" + b"\x22\x01x" + field
    message = field + b"\x1a" + bytes([len(chunk)]) + chunk + field
    assert decode_frame(message) == Frame(None, [], [Chunk(5, 0, b"", b"x")], None, [])


def test_chunk_data_is_not_copied():
    """A chunk's data are a view into the message."""
    message = encode_frame(Frame(chunks=[Chunk(0, 0, b"d" * 16, b"x" * 100)]))
    data = decode_frame(message).chunks[0].data
    assert isinstance(data, memoryview)
    assert data.obj is message


@pytest.mark.parametrize(
    "message",
    [
        b"\x0b",
        b"\x0c",
        b"\x00",
        b"\x1a\x05ab",
        b"\x1a",
        b"\xff" * 11,
        b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
    ids=["group", "end-group", "field-0", "short", "no-length", "long-varint", "huge-length"],
)
def test_malformed_messages_are_refused(message):
    """Groups, field 0, lengths beyond the message and numbers beyond 64 bits are refused."""
    with pytest.raises(ProtocolViolation):
        decode_frame(message)


def test_unknown_kind_is_refused():
    """An entry of a kind that this version does not know is refused, not guessed."""
    message = pb.StreamFilesResponse(entries=[pb.Entry(path="x", kind=99)]).SerializeToString()
    with pytest.raises(ProtocolViolation, match="kind 99"):
        decode_frame(message)
