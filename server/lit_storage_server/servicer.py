"""The four calls of lit_storage.v1.PathStorage: requests become values here, and values answers.

Invariant: nothing is answered to a request that was meant for another name or instance, or that
holds a field which is not known here. Generated types go no further in than this module, and no
exception goes further out than `refusing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import grpc
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from lit_storage_proto.entry import get_path, to_wire
from lit_storage_proto.errors import AccessDenied, PathNotFound
from lit_storage_proto.limits import Limits
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_server.refusal import abort, refusing
from lit_storage_server.shares import Shares
from lit_storage_server.stream import ByteRange, FrameStream
from lit_storage_server.walk import entry_of, walk

SERVICE: Final = pb.DESCRIPTOR.services_by_name["PathStorage"].full_name

# A page is one message: this many entries stay below 1 MiB unless names are very long.
_PAGE_ENTRIES = 1000
_PAGE_NAME_CHARACTERS = 64 * 1024


_Request = pb.ExistsRequest | pb.StatRequest | pb.ListFilesRequest | pb.StreamFilesRequest


class PathStorageServicer:
    """Answers for one name and instance from what it shares.

    Args:
        name: the name under which the registry lists this process.
        instance_id: new for each start of it.
        shares: what may be read.
        limits: sizes of messages.
    """

    def __init__(self, name: str, instance_id: str, shares: Shares, limits: Limits) -> None:
        self._name = name
        self._instance_id = instance_id
        self._origin = pb.Origin(name=name, instance_id=instance_id)
        self._shares = shares
        self._limits = limits

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server routes the calls of the service through."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Exists": grpc.unary_unary_rpc_method_handler(
                    self.exists, pb.ExistsRequest.FromString, pb.ExistsResponse.SerializeToString
                ),
                "Stat": grpc.unary_unary_rpc_method_handler(
                    self.stat, pb.StatRequest.FromString, pb.StatResponse.SerializeToString
                ),
                "ListFiles": grpc.unary_stream_rpc_method_handler(
                    self.list_files, pb.ListFilesRequest.FromString, pb.ListFilesResponse.SerializeToString
                ),
                # Without a serializer the messages go out as they are: frames are encoded bytes.
                "StreamFiles": grpc.unary_stream_rpc_method_handler(
                    self.stream_files, pb.StreamFilesRequest.FromString
                ),
            },
        )

    def exists(self, request: pb.ExistsRequest, context: grpc.ServicerContext) -> pb.ExistsResponse:
        """Say whether a path is there for others; what is not shared is not there."""
        self._check(request, context)
        with refusing(context):
            try:
                self._shares.open(get_path(request)).close()
            except (PathNotFound, AccessDenied):
                return pb.ExistsResponse(origin=self._origin, exists=False)
            return pb.ExistsResponse(origin=self._origin, exists=True)
        raise AssertionError  # `refusing` ends the call where the block does not

    def stat(self, request: pb.StatRequest, context: grpc.ServicerContext) -> pb.StatResponse:
        """Describe one path; a link at the path itself is followed."""
        self._check(request, context)
        with refusing(context), self._shares.open(get_path(request)) as opened:
            return pb.StatResponse(origin=self._origin, entry=to_wire(entry_of("", opened.status)))
        raise AssertionError  # as in `exists`

    def list_files(
        self, request: pb.ListFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ListFilesResponse]:
        """List a tree without its bytes, in pages."""
        self._check(request, context)
        with refusing(context), self._shares.open(get_path(request)) as opened:
            page, characters = pb.ListFilesResponse(origin=self._origin), 0
            for found in walk(opened, recursive=request.recursive):
                assert found.entry is not None  # files are described too
                page.entries.append(to_wire(found.entry))
                characters += len(found.path) + len(found.entry.link_target)
                if len(page.entries) >= _PAGE_ENTRIES or characters >= _PAGE_NAME_CHARACTERS:
                    yield page
                    page, characters = pb.ListFilesResponse(), 0
            page.complete = True
            yield page

    def stream_files(self, request: pb.StreamFilesRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Copy a tree, or ranges of its files, as encoded frames."""
        self._check(request, context)
        with refusing(context):
            path = get_path(request)
            ranges = [_byte_range(message) for message in request.ranges]
            stream = FrameStream(self._shares, (self._name, self._instance_id), self._limits.chunk_bytes)
            yield from stream.ranges(path, ranges) if ranges else stream.tree(path)

    def _check(self, request: _Request, context: grpc.ServicerContext) -> None:
        """Refuse a request that is meant for another one, or that holds what is not understood here."""
        target = request.target
        if target.name not in ("", self._name) or target.instance_id not in ("", self._instance_id):
            abort(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this address belongs to {self._name!r}, instance {self._instance_id}, and the request was "
                f"meant for {target.name!r}, instance {target.instance_id}; resolve the name again",
            )
        number = _unknown_field(request)
        if number is not None:
            abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{request.DESCRIPTOR.name} holds field {number}, which {self._name!r} does not know; "
                "upgrade its lit-storage",
            )


def _unknown_field(message: Message) -> int | None:
    """Return the number of a field that this version does not know, in `message` or in one within it."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        return int(unknown[0].field_number)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in (value,) if isinstance(value, Message) else value:
            number = _unknown_field(inner)
            if number is not None:
                return number
    return None


def _byte_range(message: pb.Range) -> ByteRange:
    length = message.length if message.HasField("length") else None
    return ByteRange(get_path(message), message.offset, length, message.version)
