"""Bounds what calls may hold: how many streams run at once, and how long any call may stand still.

Invariant: each call holds a thread of the server only until its deadline, from before its request
has arrived. A stream takes one of a fixed number of places, or is refused at once; the threads
beyond that number answer all short calls.

For this every handler is wrapped as one that receives a stream of requests, which looks the same
on the wire. gRPC would otherwise wait for the one request of a call without a limit, and without
telling anyone: a few clients that open calls and send nothing could then silence the server.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc

from lit_storage_proto.limits import Limits
from lit_storage_server.auth import is_health
from lit_storage_server.refusal import abort

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Watchdog:
    """One thread that cancels each watched call whose deadline has passed."""

    def __init__(self) -> None:
        self._deadlines: dict[grpc.ServicerContext, float] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._wakes_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="lit-storage-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread; to be called once."""
        self._thread.start()

    @contextlib.contextmanager
    def watching(self, context: grpc.ServicerContext, seconds: float) -> Iterator[Callable[[float], None]]:
        """Cancel the call `seconds` from now unless the block ends; the value yielded moves the deadline."""

        def move(seconds: float) -> None:
            deadline = time.monotonic() + seconds
            self._deadlines[context] = deadline
            if deadline < self._wakes_at:
                with self._changed:
                    self._changed.notify()

        move(seconds)
        try:
            yield move
        finally:
            self._deadlines.pop(context, None)

    def stop(self) -> None:
        """End the thread; calls are watched no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                self._wakes_at = float("inf")
                now = time.monotonic()
                # A copy in one step of the interpreter: other threads add and remove meanwhile.
                for context, deadline in list(self._deadlines.items()):
                    if deadline <= now:
                        self._deadlines.pop(context, None)
                        context.cancel()
                    else:
                        self._wakes_at = min(self._wakes_at, deadline)
                wait = self._wakes_at - time.monotonic()
                self._changed.wait(None if wait == float("inf") else max(wait, 0.0))


class Places:
    """The fixed number of streams that run at once, and their end when the server stops."""

    def __init__(self, name: str, count: int) -> None:
        self._free = self._count = count
        self._closed = False
        self._changed = threading.Condition()
        self._busy = f"{name!r} already runs {count} streams; try again in a moment"
        self._stopping = f"{name!r} is stopping; resolve the name again"

    @contextlib.contextmanager
    def taken(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Hold a place for the length of a ``with`` block, or end the call where there is none."""
        refusal = self._take()
        if refusal is not None:
            abort(context, *refusal)
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Refuse further streams, and wait up to `seconds` for the running ones.

        Returns:
            Whether there were any, and all have ended.
        """
        with self._changed:
            self._closed = True
            running = self._free < self._count
            return self._changed.wait_for(lambda: self._free == self._count, seconds) and running

    def _take(self) -> tuple[grpc.StatusCode, str] | None:
        with self._changed:
            if self._closed:
                return grpc.StatusCode.UNAVAILABLE, self._stopping
            if not self._free:
                return grpc.StatusCode.RESOURCE_EXHAUSTED, self._busy
            self._free -= 1
            return None


class AdmissionInterceptor(grpc.ServerInterceptor):
    """Watches every call, and keeps the number of streams within its limit."""

    def __init__(self, places: Places, watchdog: Watchdog, limits: Limits) -> None:
        self._places = places
        self._watchdog = watchdog
        self._limits = limits

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Return the method's handler, wrapped."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        if handler.unary_unary is not None:
            return _wrapped(
                self._short(handler, handler.unary_unary), handler, grpc.stream_unary_rpc_method_handler
            )
        if is_health(handler_call_details.method) and handler.unary_stream is not None:
            watch = _NonBlocking(handler, self._watchdog, self._limits.unary_seconds)
            return _wrapped(watch, handler, grpc.stream_stream_rpc_method_handler)
        return _wrapped(self._stream(handler), handler, grpc.stream_stream_rpc_method_handler)

    def _short(self, handler: _Handler, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            with self._watchdog.watching(context, self._limits.unary_seconds):
                return behavior(_only(handler, requests, context), context)

        return answer

    def _stream(self, handler: _Handler) -> Callable[..., Iterator[Any]]:
        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            # A place is taken in the generator and not before it: only what has begun is sure to end.
            watching = self._watchdog.watching(context, self._limits.unary_seconds)
            with self._places.taken(context), watching as move:
                responses = _responses(handler, requests, context)
                move(self._limits.progress_seconds)
                for response in responses:
                    if response is not None:  # else something went another way
                        yield response
                    move(self._limits.progress_seconds)

        return answer


class _NonBlocking:
    """A health watch: it may last for as long as the server, so it returns its thread at once."""

    # gRPC looks for this mark; it then passes a callback that sends, and takes no iterator.
    experimental_non_blocking = True

    def __init__(self, handler: _Handler, watchdog: Watchdog, seconds: float) -> None:
        self._handler = handler
        self._watchdog = watchdog
        self._seconds = seconds

    def __call__(
        self, requests: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[Any], None]
    ) -> None:
        behavior: Callable[..., Any] | None = self._handler.unary_stream
        assert behavior is not None
        with self._watchdog.watching(context, self._seconds):
            behavior(_only(self._handler, requests, context), context, send)


def _responses(handler: _Handler, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
    if handler.unary_stream is not None:
        return handler.unary_stream(_only(handler, requests, context), context)
    assert handler.stream_stream is not None
    return handler.stream_stream(_decoded(handler, requests, context), context)


def _only(handler: _Handler, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
    """Return the one request of a call."""
    request = next(_decoded(handler, requests, context), None)
    if request is None:
        abort(context, grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request")
    return request


def _decoded(handler: _Handler, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
    for request in requests:
        try:
            decoded = handler.request_deserializer(request) if handler.request_deserializer else request
        except Exception:  # noqa: BLE001  # each deserializer raises what it likes
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "the request cannot be decoded")
        yield decoded


def _wrapped(behavior: Callable[..., Any], handler: _Handler, make: Callable[..., _Handler]) -> _Handler:
    # The requests stay encoded for `_decoded`: gRPC answers what it cannot decode with a traceback.
    return make(behavior, request_deserializer=None, response_serializer=handler.response_serializer)
