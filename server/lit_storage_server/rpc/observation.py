"""What a server tells of its work to whoever keeps count: transfers and refusals.

Invariant: an observer is told of the end of each transfer of whose beginning it was told, however that
ends, and nothing that it is told holds a token or a byte of a file.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast

import grpc

from lit_storage_proto.frames import Frame
from lit_storage_server.rpc.auth import is_health

DONE, CANCELLED, FAILED = "ok", "cancelled", "failed"

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(slots=True)
class Seen:
    """One transfer, as far as it has come."""

    peer: str
    """As gRPC writes it, such as ``ipv4:192.0.2.7:40312``."""
    path: str
    status: str = DONE
    """How it ended."""
    reason: str = ""
    """The kind of the error that ended it."""
    bytes: int = 0
    """Sent so far, whichever way; holes do not count."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    def counted(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass frames on, and count the bytes of each once the next one is asked for."""
        for frame in frames:
            size = sum(len(chunk.data) + chunk.descriptor_bytes for chunk in frame.chunks)
            size += sum(len(pack.data) for pack in frame.packs)
            yield frame
            self.bytes += size


class Observer(Protocol):
    """Whoever keeps count. Its methods are called by the threads of the server, and do not raise."""

    def began(self) -> None:
        """Take that a transfer began."""
        ...

    def ended(self, seen: Seen) -> None:
        """Take how it ended."""
        ...

    def refused(self, kind: str) -> None:
        """Take that a call, of whichever method, ended with an error of this kind."""
        ...


class Observers:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def began(self) -> None:
        """See `Observer.began`."""
        for observer in self._observers:
            observer.began()

    def ended(self, seen: Seen) -> None:
        """See `Observer.ended`."""
        for observer in self._observers:
            observer.ended(seen)

    def refused(self, kind: str) -> None:
        """See `Observer.refused`."""
        for observer in self._observers:
            observer.refused(kind)


@contextlib.contextmanager
def observing(observer: Observer, peer: str, path: str) -> Iterator[Seen]:
    """Tell `observer` of the transfer that a ``with`` block is."""
    seen = Seen(peer, path)
    observer.began()
    try:
        yield seen
    except GeneratorExit:  # the consumer left, or the server cancelled the call
        seen.status = CANCELLED
        raise
    except BaseException as error:
        seen.status, seen.reason = FAILED, type(error).__name__
        raise
    finally:
        observer.ended(seen)


class ObservingInterceptor(grpc.ServerInterceptor):
    """Tells of each call that ended with an error, by the name of its status code; health checks aside.

    It is the first of a server's interceptors, so that it sees what the others refuse. Calls and connections
    that gRPC itself turns away, for there are too many, it does not see.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Return the method's handler, wrapped."""
        handler: Any = continuation(handler_call_details)
        if handler is None:
            self._observer.refused("unimplemented")
            return None
        if is_health(handler_call_details.method):
            return cast("_Handler", handler)  # its watch takes no iterator
        make: Callable[..., _Handler]
        # What comes after this one made each handler one of a stream of requests.
        if handler.stream_unary is not None:
            make, behavior = grpc.stream_unary_rpc_method_handler, self._unary(handler.stream_unary)
        elif handler.stream_stream is not None:
            make, behavior = grpc.stream_stream_rpc_method_handler, self._stream(handler.stream_stream)
        else:
            return cast("_Handler", handler)
        return make(behavior, handler.request_deserializer, handler.response_serializer)

    def _unary(self, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            try:
                return behavior(requests, context)
            finally:
                self._tell(context)

        return answer

    def _stream(self, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                yield from behavior(requests, context)
            finally:
                self._tell(context)

        return answer

    def _tell(self, context: grpc.ServicerContext) -> None:
        code = cast("Any", context).code()  # documented, and not in its stubs
        if isinstance(code, grpc.StatusCode) and code is not grpc.StatusCode.OK:
            self._observer.refused(code.name.lower())
