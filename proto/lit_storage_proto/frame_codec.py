"""Hand-written codecs for the messages of StreamFiles, byte-compatible with the generated classes.

Why not the generated ones: parsing a message of 512 KiB copies its bytes twice in each
direction, which halves what two cores can move. Here a frame is joined once when it is sent, or
not at all on a direct way, and taken apart as views into what was received. A property test holds
both codecs to each other in both directions (``tests/proto/test_frame_codec.py``).

Only what is large is by hand. All that is small goes through the generated classes. Field
numbers: see ``StreamFilesResponse``, ``Chunk`` and ``Pack`` in ``v1/path_storage.proto``; the
encoding is that of https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from lit_storage_proto import entry as entries_
from lit_storage_proto.entry import Entry
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frames import Chunk, Direct, Frame, Pack, Summary
from lit_storage_proto.limits import MAX_FRAME_FIELDS
from lit_storage_proto.v1 import path_storage_pb2 as pb

Bytes = bytes | memoryview

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_ORIGIN, _ENTRIES, _CHUNKS, _SUMMARY, _PACKS, _DIRECT, _MOVED, _ROUND, _FOLLOWS = 1, 2, 3, 4, 5, 6, 7, 8, 9
_CHUNK_ENTRY, _CHUNK_OFFSET, _CHUNK_DIGEST, _CHUNK_DATA, _CHUNK_HOLE, _CHUNK_DESCRIPTOR = 1, 2, 3, 4, 5, 6
_PACK_DATA = 7

_BETWEEN_PATHS = b"//"


def encode_frame(frame: Frame) -> bytes:
    """Return `frame` as the bytes of a StreamFilesResponse."""
    return b"".join(_parts(frame, data=True))


def encode_detached(frame: Frame) -> tuple[bytes, Bytes]:
    """Return `frame`, which has at most one chunk or pack, as on a direct way: message, and data."""
    bulk: list[Chunk | Pack] = [*frame.chunks, *frame.packs]
    return b"".join(_parts(frame, data=False)), bulk[0].data if bulk else b""


def decode_frame(message: Bytes) -> Frame:
    """Take a StreamFilesResponse apart; data of chunks and packs are views into `message`.

    Unknown fields are passed over, as the encoding asks, so that later versions can add some.

    Raises:
        ProtocolViolation: the bytes are not such a message.
    """
    return _decode(message, None)


def decode_detached(message: Bytes, data: Bytes) -> Frame:
    """Take a message of a direct way apart: `data` becomes that of its one chunk or pack.

    Raises:
        ProtocolViolation: the bytes are not such a message, or nothing in it takes the data.
    """
    return _decode(message, data)


def _decode(message: Bytes, data: Bytes | None) -> Frame:
    origin: tuple[str, str] | None = None
    entries: list[Entry] = []
    chunks: list[Chunk] = []
    packs: list[Pack] = []
    summary: Summary | None = None
    direct: Direct | None = None
    moved, round_, follows = False, 0, False
    try:
        for field, value in _fields(memoryview(message)):
            if isinstance(value, int):
                if field == _MOVED:
                    moved = bool(value)
                elif field == _ROUND:
                    round_ = value & 0xFFFF_FFFF
                elif field == _FOLLOWS:
                    follows = bool(value)
            elif field == _CHUNKS:
                chunks.append(_chunk(value, data))
            elif field == _PACKS:
                packs.append(_pack(value, data))
            elif field == _ENTRIES:
                entries.append(entries_.from_wire(pb.Entry.FromString(bytes(value))))
            elif field == _ORIGIN:
                sender = pb.Origin.FromString(bytes(value))
                origin = (sender.name, sender.instance_id)
            elif field == _SUMMARY:
                summary = _summary(pb.Summary.FromString(bytes(value)))
            elif field == _DIRECT:
                offer = pb.Direct.FromString(bytes(value))
                direct = Direct(offer.unix_name, offer.tcp_port, offer.ticket, offer.stripes)
    except ProtocolViolation:
        raise
    except (IndexError, DecodeError) as error:  # by hand, and in the generated classes
        raise ProtocolViolation(f"the peer sent a message that cannot be decoded: {error}") from None
    if data is not None and (len(chunks) + len(packs) > 1 or (data and not chunks and not packs)):
        raise ProtocolViolation("the peer sent a message whose data belongs to no one chunk or pack")
    return Frame(origin, entries, chunks, summary, packs, direct, moved, round_, follows)


def _parts(frame: Frame, *, data: bool) -> list[Bytes]:
    parts: list[Bytes] = []
    if frame.origin is not None:
        name, instance_id = frame.origin
        _put_bytes(parts, _ORIGIN, pb.Origin(name=name, instance_id=instance_id).SerializeToString())
    for entry in frame.entries:
        _put_bytes(parts, _ENTRIES, entries_.to_wire(entry).SerializeToString())
    for chunk in frame.chunks:
        _put_bulk(parts, _CHUNKS, _chunk_head(chunk), _CHUNK_DATA, chunk.data if data else b"")
    if frame.summary is not None:
        _put_bytes(parts, _SUMMARY, _summary_message(frame.summary).SerializeToString())
    for pack in frame.packs:
        _put_bulk(parts, _PACKS, _pack_head(pack), _PACK_DATA, pack.data if data else b"")
    if frame.direct is not None:
        offer = frame.direct
        message = pb.Direct(
            unix_name=offer.unix_name,
            tcp_port=offer.tcp_port,
            ticket=offer.ticket,
            stripes=offer.stripes,
        )
        _put_bytes(parts, _DIRECT, message.SerializeToString())
    if frame.moved:
        parts.append(bytes((_MOVED << 3 | _VARINT, 1)))
    if frame.round:
        parts.append(bytes((_ROUND << 3 | _VARINT,)) + _varint(frame.round))
    if frame.follows_links:
        parts.append(bytes((_FOLLOWS << 3 | _VARINT, 1)))
    return parts


def _put_bytes(parts: list[Bytes], field: int, value: bytes) -> None:
    parts.append(_varint(field << 3 | _BYTES) + _varint(len(value)))
    parts.append(value)


def _put_bulk(parts: list[Bytes], field: int, head: bytes, data_field: int, data: Bytes) -> None:
    size = len(data)
    if size:  # as in proto3, a field with its default value is left out
        head += bytes((data_field << 3 | _BYTES,)) + _varint(size)
    parts.append(bytes((field << 3 | _BYTES,)) + _varint(len(head) + size) + head)
    parts.append(data)


def _chunk_head(chunk: Chunk) -> bytes:
    head = b""
    if chunk.entry:
        head += b"\x08" + _varint(chunk.entry)
    if chunk.offset:
        head += b"\x10" + _varint(chunk.offset)
    if chunk.digest:
        head += b"\x1a" + _varint(len(chunk.digest)) + chunk.digest
    if chunk.hole:
        head += b"\x28" + _varint(chunk.hole)
    if chunk.descriptor_bytes:
        head += b"\x30" + _varint(chunk.descriptor_bytes)
    return head


def _chunk(view: memoryview, detached: Bytes | None) -> Chunk:
    entry = offset = hole = descriptor_bytes = 0
    digest = b""
    data: Bytes = b""
    for field, value in _fields(view):
        if isinstance(value, int):
            if field == _CHUNK_ENTRY:
                entry = value
            elif field == _CHUNK_OFFSET:
                offset = value
            elif field == _CHUNK_HOLE:
                hole = value
            elif field == _CHUNK_DESCRIPTOR:
                descriptor_bytes = value
        elif field == _CHUNK_DATA:
            data = value
        elif field == _CHUNK_DIGEST:
            digest = bytes(value)
    if detached is not None:
        _check_detached(data)
        data = detached
    if (len(data) > 0) + (hole > 0) + (descriptor_bytes > 0) > 1:
        raise ProtocolViolation("the peer sent a chunk that has bytes in two ways")
    return Chunk(entry, offset, digest, data, hole, descriptor_bytes)


def _pack_head(pack: Pack) -> bytes:
    return pb.Pack(
        directory=pack.directory,
        names=pack.names,
        sizes=pack.sizes,
        modes=pack.modes,
        mtimes_ns=pack.mtimes_ns,
        digest=pack.digest,
        hard_linked=pack.hard_linked,
    ).SerializeToString()


def _pack(view: memoryview, detached: Bytes | None) -> Pack:
    head: list[memoryview] = []
    data: Bytes = b""
    position = begin = 0
    for field, value, end in _positions(view):
        if field == _PACK_DATA and not isinstance(value, int):
            head.append(view[begin:position])
            data, begin = value, end
        position = end
    head.append(view[begin:])
    message = pb.Pack.FromString(b"".join(head))
    if detached is not None:
        _check_detached(data)
        data = detached
    return Pack(
        message.directory,
        message.names,
        tuple(message.sizes),  # of which an empty one takes no memory
        tuple(message.modes),
        tuple(message.mtimes_ns),
        message.digest,
        data,
        message.hard_linked,
    )


def _check_detached(data: Bytes) -> None:
    if data:
        raise ProtocolViolation("the peer sent data in a message and after it")


def _summary_message(summary: Summary) -> pb.Summary:
    return pb.Summary(
        entries=summary.entries,
        chunks=summary.chunks,
        bytes=summary.bytes,
        skipped=summary.skipped,
        packs=summary.packs,
        packed_files=summary.packed_files,
        unsettled=_BETWEEN_PATHS.join(map(os.fsencode, summary.unsettled)),
        unsettled_count=summary.unsettled_count,
    )


def _summary(message: pb.Summary) -> Summary:
    paths = message.unsettled.split(_BETWEEN_PATHS) if message.unsettled_count else []
    return Summary(
        message.entries,
        message.chunks,
        message.bytes,
        message.skipped,
        message.packs,
        message.packed_files,
        tuple(map(os.fsdecode, paths)),
        message.unsettled_count,
    )


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each varint or length-delimited field; others are passed over."""
    for field, value, _ in _positions(view):
        yield field, value


def _positions(view: memoryview) -> Iterator[tuple[int, int | memoryview, int]]:
    """Do as `_fields`, and tell where each field ends too.

    One after the other: a field can be two bytes, and what stands for it here is a hundred.
    """
    position, end, left = 0, len(view), MAX_FRAME_FIELDS
    while position < end:
        tag, position = _read_varint(view, position)
        left -= 1
        if left < 0:  # each costs many times the work of sending it
            raise ProtocolViolation(f"the peer sent a message of more than {MAX_FRAME_FIELDS} fields")
        field, kind = tag >> 3, tag & 7
        if not field:
            raise ProtocolViolation("the peer sent a message with a field of number 0")
        if kind == _BYTES:
            size, position = _read_varint(view, position)
            if size > end - position:
                raise ProtocolViolation("the peer sent a message that ends in the middle of a field")
            value: int | memoryview = view[position : position + size]
            position += size
            yield field, value, position
        elif kind == _VARINT:
            value, position = _read_varint(view, position)
            yield field, value, position
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
            if position > end:
                raise ProtocolViolation("the peer sent a message that ends in the middle of a field")
            yield 0, 0, position
        else:
            raise ProtocolViolation(f"the peer sent a message with the unknown wire type {kind}")


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
