"""Hand-written codecs for the messages of StreamFiles, byte-compatible with the generated classes.

Why not the generated ones: parsing a message of 512 KiB copies its bytes twice in each
direction, which halves what two cores can move. Here a frame is joined once when it is sent,
and taken apart as views into the received message. A property test holds both codecs to the
same bytes in both directions (``tests/proto/test_frames.py``).

Only what is large is by hand. Entries and summaries, which are small, go through the generated
classes. Field numbers: see ``StreamFilesResponse`` and ``Chunk`` in ``v1/path_storage.proto``; the
encoding is that of https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from lit_storage_proto import entry as entries_
from lit_storage_proto.entry import Entry
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.v1 import path_storage_pb2 as pb

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_ORIGIN, _ENTRIES, _CHUNKS, _SUMMARY = 1, 2, 3, 4
_CHUNK_ENTRY, _CHUNK_OFFSET, _CHUNK_DIGEST, _CHUNK_DATA = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of bytes of one file. `data` may be a view into the message that brought it."""

    entry: int
    """The number of the file's entry, counted from 0 within the call."""
    offset: int
    digest: bytes
    """XXH3-128 of `data`, 16 bytes."""
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Summary:
    """How much was sent in one call."""

    entries: int = 0
    chunks: int = 0
    bytes: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of StreamFiles."""

    origin: tuple[str, str] | None = None
    """Name and instance id of who sends; in the first frame of a call."""
    entries: Sequence[Entry] = ()
    chunks: Sequence[Chunk] = ()
    summary: Summary | None = None
    """In the last frame of a call."""


def encode_frame(frame: Frame) -> bytes:
    """Return `frame` as the bytes of a StreamFilesResponse."""
    parts: list[bytes | memoryview] = []
    if frame.origin is not None:
        name, instance_id = frame.origin
        _put_bytes(parts, _ORIGIN, pb.Origin(name=name, instance_id=instance_id).SerializeToString())
    for entry in frame.entries:
        _put_bytes(parts, _ENTRIES, entries_.to_wire(entry).SerializeToString())
    for chunk in frame.chunks:
        _put_chunk(parts, chunk)
    if frame.summary is not None:
        summary = pb.Summary(
            entries=frame.summary.entries,
            chunks=frame.summary.chunks,
            bytes=frame.summary.bytes,
            skipped=frame.summary.skipped,
        )
        _put_bytes(parts, _SUMMARY, summary.SerializeToString())
    return b"".join(parts)


def decode_frame(message: bytes) -> Frame:
    """Take a StreamFilesResponse apart; chunk data are views into `message`.

    Unknown fields are passed over, as the encoding asks, so that later versions can add some.

    Raises:
        ProtocolViolation: the bytes are not such a message.
    """
    origin: tuple[str, str] | None = None
    entries: list[Entry] = []
    chunks: list[Chunk] = []
    summary: Summary | None = None
    view = memoryview(message)
    try:
        for field, value in _fields(view):
            if isinstance(value, int):
                continue
            if field == _CHUNKS:
                chunks.append(_chunk(value))
            elif field == _ENTRIES:
                entries.append(entries_.from_wire(pb.Entry.FromString(bytes(value))))
            elif field == _ORIGIN:
                sender = pb.Origin.FromString(bytes(value))
                origin = (sender.name, sender.instance_id)
            elif field == _SUMMARY:
                counts = pb.Summary.FromString(bytes(value))
                summary = Summary(counts.entries, counts.chunks, counts.bytes, counts.skipped)
    except ProtocolViolation:
        raise
    except (IndexError, DecodeError) as error:  # by hand, and in the generated classes
        raise ProtocolViolation(f"the peer sent a message that cannot be decoded: {error}") from None
    return Frame(origin, entries, chunks, summary)


def _put_bytes(parts: list[bytes | memoryview], field: int, value: bytes) -> None:
    parts.append(_varint(field << 3 | _BYTES) + _varint(len(value)))
    parts.append(value)


def _put_chunk(parts: list[bytes | memoryview], chunk: Chunk) -> None:
    head = b""  # as in proto3, a field with its default value is left out
    if chunk.entry:
        head += b"\x08" + _varint(chunk.entry)
    if chunk.offset:
        head += b"\x10" + _varint(chunk.offset)
    if chunk.digest:
        head += b"\x1a" + _varint(len(chunk.digest)) + chunk.digest
    size = len(chunk.data)
    if size:
        head += b"\x22" + _varint(size)
    parts.append(b"\x1a" + _varint(len(head) + size) + head)
    parts.append(chunk.data)


def _chunk(view: memoryview) -> Chunk:
    entry = offset = 0
    digest = b""
    data: bytes | memoryview = b""
    for field, value in _fields(view):
        if isinstance(value, int):
            if field == _CHUNK_ENTRY:
                entry = value
            elif field == _CHUNK_OFFSET:
                offset = value
        elif field == _CHUNK_DATA:
            data = value
        elif field == _CHUNK_DIGEST:
            digest = bytes(value)
    return Chunk(entry, offset, digest, data)


def _fields(view: memoryview) -> list[tuple[int, int | memoryview]]:
    """Return number and value of each varint or length-delimited field; others are passed over."""
    fields: list[tuple[int, int | memoryview]] = []
    position, end = 0, len(view)
    while position < end:
        tag, position = _read_varint(view, position)
        field, kind = tag >> 3, tag & 7
        if not field:
            raise ProtocolViolation("the peer sent a message with a field of number 0")
        if kind == _BYTES:
            size, position = _read_varint(view, position)
            if size > end - position:
                raise ProtocolViolation("the peer sent a message that ends in the middle of a field")
            fields.append((field, view[position : position + size]))
            position += size
        elif kind == _VARINT:
            value, position = _read_varint(view, position)
            fields.append((field, value))
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
            if position > end:
                raise ProtocolViolation("the peer sent a message that ends in the middle of a field")
        else:
            raise ProtocolViolation(f"the peer sent a message with the unknown wire type {kind}")
    return fields


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    byte = view[position]
    position += 1
    if byte < 0x80:
        return byte, position
    value, shift = byte & 0x7F, 7
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
        if shift > 63:
            raise ProtocolViolation("the peer sent a number that is longer than 64 bits")
