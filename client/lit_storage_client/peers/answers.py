"""What the answers of a peer are held to: who it says it is, what a page of a list is, what a failure means.

Invariant: what comes out is of the Work that was asked, and its names and sentences can be shown.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf.message import DecodeError

from lit_storage_client.peers.entries import Listing
from lit_storage_client.peers.peer_identity import meaning_of
from lit_storage_client.peers.stream_call import StreamCall
from lit_storage_core.system.names import shown
from lit_storage_proto import entry as entries_
from lit_storage_proto.entry import Entry
from lit_storage_proto.errors import OriginUnavailable, ProtocolViolation, StorageError, TransferTimeout
from lit_storage_proto.limits import MAX_FRAME_BYTES, Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.status import error_of
from lit_storage_proto.uri import Location
from lit_storage_proto.v1 import path_storage_pb2 as pb

STALE = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""With these a peer says, or gRPC of it, that its record may be an old one."""

_TOO_LONG = "message larger than max"
_MAX_DETAILS = 1024  # characters of a peer's sentence that are passed on


class OtherOriginError(Exception):
    """Whoever answered is not the one that was asked."""


def check_answer(answer: pb.ExistsResponse | pb.StatResponse | None, record: LiveRecord) -> None:
    """See that there is an answer, and that it is from who was asked.

    Raises:
        ProtocolViolation: there is none.
        OtherOriginError: it is from somebody else.
    """
    if answer is None:  # as gRPC returns of a call that ended well without any answer
        raise ProtocolViolation("the peer ended a call without an answer")
    check_origin((answer.origin.name, answer.origin.instance_id), record)


def check_origin(origin: tuple[str, str], record: LiveRecord) -> None:
    """Compare who answered with who was asked; a record without an instance takes any.

    Raises:
        OtherOriginError: they differ.
    """
    name, instance_id = origin
    if name != record.name or (record.instance_id and instance_id != record.instance_id):
        raise OtherOriginError(
            f"{record.endpoint}, where {record.name!r} is registered, is now answered by "
            f"{shown(name[:_MAX_DETAILS])}; start {record.name!r} again"
        )


def failure_of(
    failure: grpc.RpcError, location: Location, record: LiveRecord, limits: Limits
) -> StorageError:
    """Return the error of this product that a failed call means; what the peer said is escaped and cut."""
    code, details = failure.code(), shown((failure.details() or "")[:_MAX_DETAILS])[1:-1]
    where = shown(str(location))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TransferTimeout(
            f"{where}: {record.name!r} at {record.endpoint} is live by the registry, "
            f"but gave no answer for {limits.unary_seconds:g} s"
        )
    if code in STALE:
        return OriginUnavailable(
            f"{where}: {record.name!r} is live by the registry, but cannot be asked at "
            f"{record.endpoint} ({meaning_of(failure.details() or '', record) or details})"
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if _TOO_LONG in (failure.details() or ""):  # which gRPC says on this side, under the code of the busy
            return ProtocolViolation(f"{where}: {record.name!r} sent a message that is too long ({details})")
        return OriginUnavailable(f"{where}: {record.name!r} is busy, try again later ({details})")
    return error_of(code, f"{where}: {details or code.name}")


def page_of(message: bytes) -> pb.ListFilesResponse:
    """Decode a page of a list.

    Raises:
        ProtocolViolation: it is none, or too long.
    """
    if len(message) > MAX_FRAME_BYTES:  # what it holds takes many times as much once it is decoded
        raise ProtocolViolation(f"the peer sent a page of {len(message)} bytes")
    try:
        return pb.ListFilesResponse.FromString(message)
    except DecodeError as error:
        raise ProtocolViolation(f"the peer sent a list that cannot be decoded: {error}") from None


def entries_of(
    location: Location, pages: StreamCall[pb.ListFilesResponse], listing: Listing
) -> Iterator[Entry]:
    """Yield the entries of all pages, checked, and end the call.

    Raises:
        ProtocolViolation: a name is none, or the list ended before it was complete.
        StorageError: the call failed.
    """
    with pages:
        for page in pages:
            for message in page.entries:
                yield listing.check(entries_.from_wire(message))
            if page.complete:
                return
    raise ProtocolViolation(f"the list of {shown(str(location))} ended before it was complete")
