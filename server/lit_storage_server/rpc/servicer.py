"""The four calls of lit_storage.v1.PathStorage: requests become values here, and values answers.

Invariant: nothing is answered to a request that was meant for another name or instance, or that
holds a field which is not known here. Generated types go no further in than this module, and no
exception goes further out than `refusing`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import grpc
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from lit_storage_core.system.spans import Span
from lit_storage_proto.entry import get_path, to_wire
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frame_codec import encode_frame
from lit_storage_proto.frames import Frame
from lit_storage_proto.limits import MAX_HELD_FILES, MAX_RANGES, Limits
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_server.rpc.direct import DirectWays, frames_on
from lit_storage_server.rpc.observation import Observer, observing
from lit_storage_server.rpc.refusal import abort, refusing
from lit_storage_server.sources.range_stream import ByteRange
from lit_storage_server.sources.source import Source
from lit_storage_server.sources.tree_stream import TreeOptions

SERVICE: Final = pb.DESCRIPTOR.services_by_name["PathStorage"].full_name

# A page is one message: this many entries stay below 1 MiB unless names are very long.
_PAGE_ENTRIES = 1000
_PAGE_NAME_CHARACTERS = 64 * 1024


_Request = pb.ExistsRequest | pb.StatRequest | pb.ListFilesRequest | pb.StreamFilesRequest


class PathStorageServicer:
    """Answers for one name and instance from what a Source has.

    Args:
        name: the name under which the registry lists this process.
        instance_id: new for each start of it.
        source: has what is asked for.
        limits: sizes of messages.
        ways: what streams are offered beside gRPC.
        left: has what is asked for under ``@NAME/``: what stopped Works left; None refuses it.
        observer: is told of transfers.
        holds: says whether the name is this process's now; None is always.
    """

    def __init__(
        self,
        name: str,
        instance_id: str,
        source: Source,
        limits: Limits,
        ways: DirectWays | None = None,
        *,
        left: Source | None = None,
        observer: Observer | None = None,
        holds: Callable[[], bool] | None = None,
    ) -> None:
        self._name = name
        self._origin = pb.Origin(name=name, instance_id=instance_id)
        self._holds = holds
        self._own = source
        self._limits = limits
        self._ways = ways
        self._left = left
        self._observer = observer

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

    def become(self, instance_id: str) -> None:
        """Answer as another instance from now on."""
        self._origin = pb.Origin(name=self._name, instance_id=instance_id)

    def exists(self, request: pb.ExistsRequest, context: grpc.ServicerContext) -> pb.ExistsResponse:
        """Say whether a path is there for others; what is not shared is not there."""
        self._check(request, context)
        with refusing(context):
            path = get_path(request)
            return pb.ExistsResponse(origin=self._origin, exists=self._source(path).exists(path))
        raise AssertionError  # `refusing` ends the call where the block does not

    def stat(self, request: pb.StatRequest, context: grpc.ServicerContext) -> pb.StatResponse:
        """Describe one path; a link at the path itself is followed."""
        self._check(request, context)
        with refusing(context):
            path = get_path(request)
            return pb.StatResponse(origin=self._origin, entry=to_wire(self._source(path).stat(path)))
        raise AssertionError  # as in `exists`

    def list_files(
        self, request: pb.ListFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ListFilesResponse]:
        """List a tree without its bytes, in pages."""
        self._check(request, context)
        with refusing(context), contextlib.ExitStack() as stack:
            path = get_path(request)
            entries = self._source(path).entries(path, recursive=request.recursive)
            page, characters = pb.ListFilesResponse(origin=self._origin), 0
            for entry in stack.enter_context(contextlib.closing(entries)):
                page.entries.append(to_wire(entry))
                characters += len(entry.path) + len(entry.link_target)
                if len(page.entries) >= _PAGE_ENTRIES or characters >= _PAGE_NAME_CHARACTERS:
                    yield page
                    page, characters = pb.ListFilesResponse(), 0
            page.complete = True
            yield page

    def stream_files(
        self, request: pb.StreamFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes | None]:
        """Copy a tree, or ranges of its files, as encoded frames; None stands for what went another way."""
        self._check(request, context)
        with refusing(context), contextlib.ExitStack() as stack:
            path, origin = get_path(request), (self._name, self._origin.instance_id)
            seen: Callable[[Iterator[Frame]], Iterator[Frame]] = iter
            if self._observer is not None:
                seen = stack.enter_context(observing(self._observer, context.peer(), path)).counted
            source, offer = self._source(path), None
            if request.direct and self._ways is not None:
                offer = stack.enter_context(self._ways.offered())
                context.add_callback(offer.shut_down)
            if request.ranges:
                ranges = [_byte_range(message) for message in request.ranges]
                if _tree_only(request):
                    raise ProtocolViolation("ranges go with no other field but the path")
                frames = stack.enter_context(contextlib.closing(source.ranges(path, ranges)))
                yield encode_frame(Frame(origin))
                yield from map(encode_frame, seen(frames))
                return
            tree = source.tree(path, _options(request))
            # Closed, not dropped: the traceback of an error may hold on to it, and so to open files.
            frames = stack.enter_context(contextlib.closing(tree.frames()))
            yield encode_frame(
                Frame(
                    origin,
                    direct=offer.direct if offer else None,
                    follows_links=request.links_as_origin and tree.follows_links,
                )
            )
            for frame in frames_on(seen(frames), offer, lambda: tree.descriptor, tree.pass_descriptors):
                yield None if frame is None else encode_frame(frame)

    def _source(self, path: str) -> Source:
        return self._left if self._left is not None and path.startswith("@") else self._own

    def _check(self, request: _Request, context: grpc.ServicerContext) -> None:
        """Refuse a request that is meant for another one, or that holds what is not understood here."""
        if self._holds is not None and not self._holds():
            abort(
                context,
                grpc.StatusCode.UNAVAILABLE,
                f"{self._name!r} has not heard of its registry for too long to be sure of its name; try "
                "again in a moment",
            )
        target, instance_id = request.target, self._origin.instance_id
        if target.name not in ("", self._name) or target.instance_id not in ("", instance_id):
            abort(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this address belongs to {self._name!r}, instance {instance_id}, and the request was "
                f"meant for {target.name!r}, instance {target.instance_id}; resolve the name again",
            )
        if isinstance(request, pb.StreamFilesRequest):
            _check_counts(request, context)
        number = _unknown_field(request)
        if number is not None:
            abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{request.DESCRIPTOR.name} holds field {number}, which {self._name!r} does not know; "
                "upgrade its lit-storage",
            )


def _check_counts(request: pb.StreamFilesRequest, context: grpc.ServicerContext) -> None:
    """Refuse more than a request may name before anything looks at each: a message holds two million."""
    for count, most, what in (
        (len(request.ranges), MAX_RANGES, "ranges were asked for"),
        (len(request.held), MAX_HELD_FILES, "files are held"),
    ):
        if count > most:
            abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{count} {what} in one request; {most} are allowed, so send several",
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


def _tree_only(request: pb.StreamFilesRequest) -> bool:
    return bool(
        request.packs
        or request.holes
        or request.settle
        or request.accept_changes
        or request.follow_links
        or request.links_as_origin
        or request.held
    )


def _options(request: pb.StreamFilesRequest) -> TreeOptions:
    if request.accept_changes and not request.settle:
        raise ProtocolViolation("accept_changes goes only with settle")
    return TreeOptions(
        request.packs,
        request.holes,
        request.settle,
        request.accept_changes,
        request.follow_links,
        request.links_as_origin,
        {get_path(held): (held.version, _spans(held)) for held in request.held},
    )


def _spans(held: pb.Held) -> list[Span]:
    if len(held.starts) != len(held.ends):
        raise ProtocolViolation("what is held must have as many starts as ends")
    spans: list[Span] = []
    position = 0
    for start, end in zip(held.starts, held.ends, strict=True):
        if not position <= start < end:
            raise ProtocolViolation("what is held must ascend and be disjoint")
        position = end
        spans.append((start, end))
    return spans
