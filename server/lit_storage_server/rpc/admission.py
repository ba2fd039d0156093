"""Bounds what calls may hold: how many streams run at once, and how long any call may stand still.

Invariant: each call holds a thread of the server only until its deadline, from before its request
has arrived, and where threads are short only for a moment before that. A stream whose request has arrived
takes one of a fixed number of places, or is refused at once; the threads beyond that number answer all
short calls.

For this every handler is wrapped as one that receives a stream of requests, which looks the same
on the wire. gRPC would otherwise wait for the one request of a call without a limit, and without
telling anyone: a few clients that open calls and send nothing could then silence the server.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc

from lit_storage_proto.limits import Limits
from lit_storage_server.rpc.auth import is_health
from lit_storage_server.rpc.places import Places
from lit_storage_server.rpc.refusal import abort
from lit_storage_server.rpc.watchdog import Watchdog

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


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
                return behavior(_first(handler, requests, context, self._watchdog)[0], context)

        return answer

    def _stream(self, handler: _Handler) -> Callable[..., Iterator[Any]]:
        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._watchdog.watching(context, self._limits.unary_seconds) as move:
                first, others = _first(handler, requests, context, self._watchdog)
                # A place is taken in the generator and not before it: only what has begun is sure to end.
                with self._places.taken(context):
                    responses = _responses(handler, first, others, context)
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
            behavior(_first(self._handler, requests, context, self._watchdog)[0], context, send)


def _responses(
    handler: _Handler, first: Any, others: Iterator[Any], context: grpc.ServicerContext
) -> Iterator[Any]:
    if handler.unary_stream is not None:
        return handler.unary_stream(first, context)
    assert handler.stream_stream is not None
    return handler.stream_stream(itertools.chain([first], others), context)


def _first(
    handler: _Handler, requests: Iterator[bytes], context: grpc.ServicerContext, watchdog: Watchdog
) -> tuple[Any, Iterator[Any]]:
    """Return the first request of a call, and what comes after it."""
    decoded = _decoded(handler, requests, context)
    with watchdog.awaiting(context):
        request = next(decoded, None)
    if request is None:
        abort(context, grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request")
    return request, decoded


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
