"""Manifests of artifacts as bytes, sealed, so that one that was cut short is never taken for whole.

Invariant: what `decode_manifest` returns is what `encode_manifest` was given, and fits together: each
chunk of each file lies within one object, and each object has a key of the store's grammar. Names are
as they came; whoever makes files of them checks them as those of a peer.
"""

from __future__ import annotations

import os
from typing import Final

from google.protobuf.message import DecodeError

from lit_storage_proto.artifact import Extent, Manifest, StoredEntry, StoredObject, Version, key_version
from lit_storage_proto.digest import DIGEST_BYTES, chunk_digest
from lit_storage_proto.entry import Kind, from_wire, get_path, is_utf8, set_path, to_wire
from lit_storage_proto.errors import IntegrityError, ProtocolViolation
from lit_storage_proto.limits import MAX_FRAME_BYTES
from lit_storage_proto.uri import is_reserved
from lit_storage_proto.v1 import artifact_pb2 as pb

MAGIC: Final = b"LITARTF1"
_MOST_BYTES = 2**63 - 1  # off_t


def encode_manifest(manifest: Manifest) -> bytes:
    """Return `manifest` as it is kept in a store or on a disk."""
    message = pb.Manifest(
        name=manifest.name,
        instance_id=manifest.version.instance_id,
        number=manifest.version.number,
        published_ns=manifest.published_ns,
        machine_id=manifest.machine_id,
        unclean=manifest.unclean,
        removed=manifest.removed,
        chunk_bytes=manifest.chunk_bytes,
        objects=[pb.Manifest.Object(key=key, size=size) for key, size in manifest.objects],
    )
    set_path(message, manifest.path)
    if is_utf8(manifest.in_place):
        message.in_place = manifest.in_place
    else:
        message.in_place_bytes = os.fsencode(manifest.in_place)
    for stored in manifest.entries:
        entry = message.entries.add(
            entry=to_wire(stored.entry),
            spans=[number for start, end in stored.spans for number in (start, end - start)],
            extents=[number for extent in stored.extents for number in extent],
            digests=stored.digests,
        )
        if is_utf8(stored.place):
            entry.place = stored.place
        else:
            entry.place_bytes = os.fsencode(stored.place)
    sealed = MAGIC + message.SerializeToString()
    return sealed + chunk_digest(sealed)


def check_places(manifest: Manifest) -> None:
    """Refuse a manifest that no reader would accept for where it places an entry.

    Raises:
        IntegrityError: one lies where no reader looks for it.
    """
    for stored in manifest.entries:
        _check_place(stored, manifest)


def decode_manifest(data: bytes, *, where: str) -> Manifest:
    """Return the manifest that `data` is.

    Args:
        data: the whole file.
        where: what errors call it.

    Raises:
        IntegrityError: it is cut short, damaged, or none.
        ProtocolViolation: it is whole, and of another version of this product.
    """
    sealed = memoryview(data)[:-DIGEST_BYTES]
    if len(data) < len(MAGIC) + DIGEST_BYTES or chunk_digest(sealed) != data[-DIGEST_BYTES:]:
        raise IntegrityError(f"the manifest {where} is cut short or damaged")
    if data[: len(MAGIC)] != MAGIC:
        # Whole, and of somebody who knows more: whoever goes on without it may read or remove wrongly.
        raise ProtocolViolation(f"the manifest {where} is of another format; upgrade lit-storage")
    try:
        message = pb.Manifest.FromString(bytes(sealed[len(MAGIC) :]))
        manifest = _manifest(message)
        _check(manifest)
    except (DecodeError, ProtocolViolation, IntegrityError, ValueError) as error:
        raise IntegrityError(f"the manifest {where} is damaged: {error}") from None
    return manifest


def _manifest(message: pb.Manifest) -> Manifest:
    return Manifest(
        name=message.name,
        path=get_path(message),
        version=Version(message.number, message.instance_id),
        published_ns=message.published_ns,
        machine_id=message.machine_id,
        chunk_bytes=message.chunk_bytes,
        entries=[_stored(stored) for stored in message.entries],
        objects=[StoredObject(each.key, each.size) for each in message.objects],
        in_place=os.fsdecode(message.in_place_bytes) if message.in_place_bytes else message.in_place,
        unclean=message.unclean,
        removed=message.removed,
    )


def _stored(message: pb.StoredEntry) -> StoredEntry:
    spans, extents = message.spans, message.extents
    if len(spans) % 2 or len(extents) % 3:
        raise IntegrityError("runs are named by halves")
    return StoredEntry(
        from_wire(message.entry),
        tuple((start, start + length) for start, length in zip(spans[::2], spans[1::2], strict=True)),
        tuple(map(Extent, extents[::3], extents[1::3], extents[2::3])),
        message.digests,
        os.fsdecode(message.place_bytes) if message.place_bytes else message.place,
    )


def _check(manifest: Manifest) -> None:
    if Version.parse(str(manifest.version)) is None:
        raise IntegrityError("its version is none")
    for each in manifest.objects:
        if key_version(each.key) is None:
            raise IntegrityError(f"{each.key!r} is no object of a store")
    if "\0" in manifest.in_place + manifest.path:
        raise IntegrityError("it names a path that cannot be")
    if not manifest.entries:
        if not manifest.removed:
            raise IntegrityError("it has no entries")
        return
    if not 0 < manifest.chunk_bytes <= MAX_FRAME_BYTES:
        raise IntegrityError(f"its chunks have {manifest.chunk_bytes} bytes")
    for stored in manifest.entries:
        _check_stored(stored, manifest)


def _check_place(stored: StoredEntry, manifest: Manifest) -> None:
    if stored.place and not (manifest.in_place and _is_place(stored)):
        raise IntegrityError(f"{stored.entry.path!r} is said to lie where it cannot")


def _is_place(stored: StoredEntry) -> bool:
    """Say whether what is in place may be where the entry has it."""
    place = stored.place
    parts = place.removeprefix("/").split("/")
    is_clean = place == "." or ({"", ".", ".."}.isdisjoint(parts) and "\0" not in place)
    is_shared = place.startswith("/") or not is_reserved(place)
    return is_clean and is_shared and stored.entry.kind in (Kind.FILE, Kind.DIRECTORY)


def _check_stored(stored: StoredEntry, manifest: Manifest) -> None:
    position, path = 0, stored.entry.path
    if stored.entry.size > _MOST_BYTES:
        raise IntegrityError(f"{path!r} is said to have {stored.entry.size} bytes")
    for start, end in stored.spans:
        if not position <= start < end <= stored.entry.size:
            raise IntegrityError(f"the runs of {path!r} do not ascend, or leave the file")
        position = end
    _check_place(stored, manifest)
    for number, offset, size in stored.extents:
        if number >= len(manifest.objects) or not (
            0 < size <= manifest.objects[number].size - offset <= _MOST_BYTES
        ):
            raise IntegrityError(f"bytes of {path!r} are said to lie where no object is")
    if stored.digests or stored.extents:
        if bool(stored.extents) is bool(manifest.in_place):
            raise IntegrityError(f"the bytes of {path!r} are nowhere, or twice")
        if len(stored.digests) != DIGEST_BYTES * stored.count_chunks(manifest.chunk_bytes):
            raise IntegrityError(f"{path!r} has not as many digests as chunks")
        for _ in stored.chunks(manifest.chunk_bytes):
            pass  # it raises where they do not fit together
