"""Asks a Work for its files: does a path exist, what is it, what lies below it, and its bytes.

Invariant: "absent" is only said on good evidence: the registry knows nobody of that name, or a
live peer, proven to be the one asked, says no. A peer that is registered but silent, or a
registry that does not answer, is an error and never a "no".

A peer that is busy refuses calls, or cancels those that have not begun so that others have their turn: they
are made again after a pause, for as long as a connection may take. A call whose token was taken out of use
while it was on its way is made again with the one of now.

An address may meanwhile belong to another process. Each request names its target, each answer its
origin, and where they differ, or nobody answers, the name is resolved once more: a Work that was
restarted elsewhere is asked there, one that is gone is absent, all else is an error.
"""

from __future__ import annotations

import errno
import random
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import grpc

from lit_storage_client.peers.answers import (
    STALE,
    OtherOriginError,
    check_answer,
    check_origin,
    entries_of,
    failure_of,
    page_of,
)
from lit_storage_client.peers.channels import Channels, PeerCalls
from lit_storage_client.peers.direct import Dialer, Ways
from lit_storage_client.peers.entries import Listing, check_root
from lit_storage_client.peers.stream_call import Responses, StreamCall
from lit_storage_client.peers.tree_call import TreeCall
from lit_storage_core.security.settings import Metadata
from lit_storage_core.system.backoff import backoff
from lit_storage_core.system.names import shown
from lit_storage_core.system.spans import clipped
from lit_storage_proto import entry as entries_
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import (
    NotAttached,
    OriginUnavailable,
    PathNotFound,
    ProtocolViolation,
)
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord, Registry, WorkState
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_proto.uri import Location
from lit_storage_proto.v1 import path_storage_pb2 as pb

T = TypeVar("T")

_LAST_SEEN = {
    WorkState.RUNNING: "ended just now",
    WorkState.SUCCEEDED: "ended well",
    WorkState.STOPPED: "was stopped",
    WorkState.FAILED: "failed or was killed",
}
_RETURN_SECONDS = 5.0  # a Work tries once a second to register anew, and starts a process before
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0


class Remote:
    """The Works that one session can ask. May be used from any thread."""

    def __init__(self, registry: Registry, channels: Channels, limits: Limits, ways: Ways = Ways.ALL) -> None:
        self._registry = registry
        self._channels = channels
        self._dialer = Dialer(channels.credentials, limits.connect_seconds, ways)
        self.limits = limits

    @property
    def return_seconds(self) -> float:
        """For how long a name that was served may be free before its Work has registered anew.

        Where names have leases, a Work whose registry was out of reach for too long does so.
        """
        return _RETURN_SECONDS if self._registry.spans_machines else 0.0

    def exists(self, location: Location) -> bool:
        """Say whether the Work is live and has this path.

        Raises:
            OriginUnavailable: the Work is live by the registry, but cannot be reached.
            TransferTimeout: the Work is reached, but silent.
            RegistryUnavailable: the registry does not answer.
            AccessDenied: the Work does not take this session's token or certificate.
        """

        def call(record: LiveRecord, calls: PeerCalls, token: Metadata) -> bool:
            request = _addressed(pb.ExistsRequest(), record, location)
            answer = calls.exists(request, self.limits.unary_seconds, token)
            check_answer(answer, record)
            return answer.exists

        try:
            return self._ask(location, call)
        except PathNotFound:
            return False

    def stat(self, location: Location) -> Entry:
        """Return the entry of a path; its own `path` is "".

        Raises:
            PathNotFound: the Work does not run, or has no such path.
            StorageError: as of `exists`.
        """

        def call(record: LiveRecord, calls: PeerCalls, token: Metadata) -> Entry:
            request = _addressed(pb.StatRequest(), record, location)
            answer = calls.stat(request, self.limits.unary_seconds, token)
            check_answer(answer, record)
            return check_root(entries_.from_wire(answer.entry))

        return self._ask(location, call)

    def list(self, location: Location, *, recursive: bool = True) -> Iterator[Entry]:
        """Return the entries of a tree, a directory before what it holds; their names are checked.

        The first page is asked for at once, the others as the iterator is read.

        Raises:
            PathNotFound: the Work does not run, or has no such path.
            ProtocolViolation: while iterating: the list ends early, or a name is none.
            StorageError: as of `exists`.
        """

        def call(record: LiveRecord, calls: PeerCalls, token: Metadata) -> StreamCall[pb.ListFilesResponse]:
            request = _addressed(pb.ListFilesRequest(recursive=recursive), record, location)
            responses = calls.list_files(request, metadata=token)
            pages = self._stream(responses, page_of, _weight, location, record)
            _begin(pages, lambda page: (page.origin.name, page.origin.instance_id), record)
            return pages

        pages = self._ask(location, call)
        entries = entries_of(location, pages, Listing(recursive=recursive))
        weakref.finalize(entries, pages.cancel)  # a generator that never began has no `finally` to run
        return entries

    def stream(
        self, location: Location, options: TreeOptions | None = None, *, deadline: float | None = None
    ) -> TreeCall:
        """Return the frames of a whole tree. Its first frame has arrived, and is of the Work asked.

        Use it in a ``with`` block, or call its `cancel`: else the call goes on.

        Args:
            location: whose files, and where.
            options: what the frames may hold.
            deadline: when the last frame must have come, on the clock of time.monotonic().

        Raises:
            PathNotFound: the Work does not run, or has no such path.
            StorageError: as of `exists`; also while iterating.
        """
        options = options or TreeOptions()
        ways = self._dialer.ways if options.direct else Ways.NONE
        return self._stream_files(location, _tree_request(options), ways, deadline)

    def stream_part(self, location: Location, offset: int, length: int | None) -> TreeCall:
        """Return the frames of a part of one file; what lies behind its end is passed over.

        Raises:
            PathNotFound: the Work does not run, or has no such path.
            IsADirectoryError: it is no file.
            SourceChanged: another file came to be there at the same time.
            StorageError: as of `exists`; also while iterating.
        """
        entry = self.stat(location)
        if entry.kind is not Kind.FILE:
            raise no_file(location)
        begin, end = clipped(entry.size, offset, length)
        part = pb.Range(offset=begin, length=end - begin, version=entry.version)
        return self._stream_files(location, pb.StreamFilesRequest(ranges=[part]), Ways.NONE, None)

    def _stream_files(
        self, location: Location, request: pb.StreamFilesRequest, ways: Ways, deadline: float | None
    ) -> TreeCall:
        def call(record: LiveRecord, calls: PeerCalls, token: Metadata) -> TreeCall:
            try:
                return begun(record, calls, token)
            except grpc.RpcError as failure:
                # An older server refuses what it does not know. It keeps links if it is not asked about them.
                is_refused = failure.code() is grpc.StatusCode.INVALID_ARGUMENT
                if not (is_refused and request.links_as_origin):
                    raise
                request.links_as_origin = False
                return begun(record, calls, token)

        def begun(record: LiveRecord, calls: PeerCalls, token: Metadata) -> TreeCall:
            frames = TreeCall(
                calls.stream_files(_addressed(request, record, location), metadata=token),
                record,
                replace(self._dialer, ways=ways),
                lambda failure: failure_of(failure, location, record, self.limits),
                **self._times(location, deadline),
            )
            _begin(frames, lambda frame: frame.origin or ("", ""), record)
            return frames

        return self._ask(location, call, deadline)

    def _ask(
        self,
        location: Location,
        call: Callable[[LiveRecord, PeerCalls, Metadata], T],
        deadline: float | None = None,
    ) -> T:
        """Make `call` at the live instance; see the module's head for when another one is asked."""
        record = self._live(location)
        pauses = _Pauses(self.limits.connect_seconds, deadline)
        resolved_again = has_renewed = False
        token: Metadata = ()
        while True:
            try:
                calls = self._channels.calls(record)
                token = self._channels.metadata
                return call(record, calls, token)
            except grpc.RpcError as failure:
                is_refused = failure.code() is grpc.StatusCode.UNAUTHENTICATED
                if is_refused and not has_renewed and self._channels.renewed_metadata() != token:
                    has_renewed = True
                    continue
                error, stale = failure_of(failure, location, record, self.limits), failure.code() in STALE
                gave_way = failure.code() is grpc.StatusCode.CANCELLED
                if isinstance(error, OriginUnavailable) and not stale and pauses.pause():
                    continue
            except RuntimeError as short:
                if type(short) is not RuntimeError:
                    raise
                self._channels.forget(record)
                raise OriginUnavailable(
                    f"{shown(str(location))}: {record.name!r} cannot be asked ({short}); let some of this "
                    "process's threads end, or allow it more"
                ) from None
            except OtherOriginError as other:
                error, stale = OriginUnavailable(f"{shown(str(location))}: {other}"), True
                gave_way = False
            if not stale or resolved_again:
                raise error
            resolved_again = True
            newer = self._live(location, fresh=True)
            if newer == record:
                if not (gave_way and pauses.pause()):
                    raise error
                resolved_again = False
            record = newer

    def _live(self, location: Location, *, fresh: bool = False) -> LiveRecord:
        if location.origin is None:
            raise NotAttached(f"{shown(str(location))} names no Work that could be asked")
        record = self._registry.resolve(location.origin, fresh=fresh)
        if record is None:
            raise PathNotFound(f"{shown(str(location))} is not there: {self._why_absent(location.origin)}")
        is_open = self._dialer.credentials.security.tls and not record.instance_id
        if is_open and not self._registry.url.startswith("static:"):
            # Then the address says what a certificate must show, and only a list of one's own may do that.
            raise OriginUnavailable(
                f"{shown(str(location))}: the record of {record.name!r} names no instance"
            )
        return record

    def _why_absent(self, name: str) -> str:
        work = self._registry.work(name)
        if work is None:
            return f"no Work {name!r} is known to {self._registry.url}"
        return f"{name!r} is not running (it {_LAST_SEEN[work.state]})"

    def _stream(
        self,
        responses: Responses,
        decode: Callable[[bytes], T],
        weigh: Callable[[T], int],
        location: Location,
        record: LiveRecord,
    ) -> StreamCall[T]:
        return StreamCall(
            responses,
            decode,
            weigh,
            lambda failure: failure_of(failure, location, record, self.limits),
            **self._times(location, None),
        )

    def _times(self, location: Location, deadline: float | None) -> dict[str, Any]:
        return {
            "what": f"the transfer of {shown(str(location))}",
            "first_seconds": self.limits.unary_seconds,
            "progress_seconds": self.limits.progress_seconds,
            "least_rate": self.limits.least_bytes_per_second,
            "deadline": deadline,
        }


def no_file(location: Location) -> IsADirectoryError:
    """Return the error of asking for bytes of what is no file."""
    return IsADirectoryError(errno.EISDIR, "It is no file, so get it instead", str(location))


class _Pauses:
    """Pauses before a busy origin is asked again: growing, jittered, and bounded in sum."""

    def __init__(self, seconds: float, deadline: float | None) -> None:
        self._end = time.monotonic() + seconds
        if deadline is not None:
            self._end = min(self._end, deadline)
        self._longest = backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)

    def pause(self) -> bool:
        """Sleep, and say whether there is time for another call."""
        longest = next(self._longest)
        seconds = random.uniform(longest / 2, longest)  # noqa: S311  # spreads load, guards nothing
        if time.monotonic() + seconds >= self._end:
            return False
        time.sleep(seconds)
        return True


class _Request(Protocol):
    path: str
    path_bytes: bytes

    @property
    def target(self) -> pb.Origin: ...


R = TypeVar("R", bound=_Request)


def _addressed(request: R, record: LiveRecord, location: Location) -> R:
    request.target.name = record.name
    request.target.instance_id = record.instance_id
    entries_.set_path(request, location.path)
    return request


def _tree_request(options: TreeOptions) -> pb.StreamFilesRequest:
    request = pb.StreamFilesRequest(
        packs=options.packs,
        holes=options.holes,
        settle=options.settle,
        accept_changes=options.accept_changes,
        follow_links=options.follow_links,
        links_as_origin=options.links_as_origin,
        direct=options.direct,
    )
    for file in options.held:
        message = request.held.add(version=file.version)
        entries_.set_path(message, file.path)
        message.starts.extend(start for start, _ in file.spans)
        message.ends.extend(end for _, end in file.spans)
    return request


def _begin(stream: StreamCall[T], origin_of: Callable[[T], tuple[str, str]], record: LiveRecord) -> None:
    """Wait for the first message, and see that it is from who was asked; else end the call."""
    try:
        check_origin(origin_of(stream.peek()), record)
    except StopIteration:
        raise ProtocolViolation("the peer ended a stream without any message in it") from None
    except BaseException:
        stream.cancel()
        raise


def _weight(page: pb.ListFilesResponse) -> int:
    return page.ByteSize() if page.entries else 0
