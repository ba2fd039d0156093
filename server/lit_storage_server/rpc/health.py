"""grpc.health.v1.Health: whether the server answers, told to anyone.

Invariant: no lock is held while something is sent. The servicer of grpcio-health-checking holds
one, and can wait there for the thread of gRPC that waits for the same lock because another
watcher has left; such a server answers nobody any more. Only the messages of that package are
used here.

The status changes when the server stops, and while its name may be another's. A watch is told the status
at its beginning, and ends with the server: https://grpc.io/docs/guides/health-checking/.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2 as pb

from lit_storage_server.rpc.auth import HEALTH_SERVICE
from lit_storage_server.rpc.refusal import abort

_MOST_WATCHES = 1000  # of all callers: each costs some 20 KiB for as long as it likes, and needs no token


class HealthServicer:
    """Answers for the server as a whole ("") and for each of `services`.

    Args:
        services: which there are.
        holds: says whether the server has its name; None is always.
    """

    def __init__(self, *services: str, holds: Callable[[], bool] | None = None) -> None:
        self._services = frozenset(("", *services))
        self._holds = holds
        self._stopping = False
        self._watches = 0
        self._counting = threading.Lock()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server routes the calls of the service through.

        Its Watch takes the callback that `admission` has gRPC pass, and holds no thread.
        """
        return grpc.method_handlers_generic_handler(
            HEALTH_SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    self.check, pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self.watch, pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
                ),
            },
        )

    def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        self._stopping = True

    def check(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        """Say the status of a service; NOT_FOUND if it is none of this server's."""
        if request.service not in self._services:
            abort(context, grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r} here")
        return self._status(request.service)

    def watch(
        self,
        request: pb.HealthCheckRequest,
        context: grpc.ServicerContext,
        send: Callable[[pb.HealthCheckResponse], None],
    ) -> None:
        """Send the status of a service, and leave the call open until the server or the caller ends it.

        RESOURCE_EXHAUSTED if there are too many such calls.
        """
        if not self._take():
            abort(
                context,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this server already has {_MOST_WATCHES} health watches; use Check, or try again later",
            )
        if not context.add_callback(self._give_back):  # the caller has left already
            self._give_back()
            return
        send(self._status(request.service))

    def _take(self) -> bool:
        with self._counting:
            if self._watches >= _MOST_WATCHES:
                return False
            self._watches += 1
            return True

    def _give_back(self) -> None:
        with self._counting:
            self._watches -= 1

    def _status(self, service: str) -> pb.HealthCheckResponse:
        if service not in self._services:
            return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
        if self._stopping or not (self._holds is None or self._holds()):
            return pb.HealthCheckResponse(status=pb.HealthCheckResponse.NOT_SERVING)
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)
