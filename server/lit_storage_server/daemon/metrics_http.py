"""The HTTP server that Prometheus asks, bounded in what callers can take from the process.

Invariant: there are never more than `MOST_CONNECTIONS` connections, each of which has a thread and a
descriptor, and none lasts longer than `CONNECTION_SECONDS`, whatever its caller sends or reads. Whoever
can reach the address needs no token, and must not be able to use up what transfers need.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

MOST_CONNECTIONS = 8
_PAUSE_SECONDS = 0.1
CONNECTION_SECONDS = 5.0  # from its beginning to the end of its answer; a scrape takes milliseconds
_LOG = logging.getLogger("lit_storage.metrics")


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Answers with what a WSGI application says.

    Args:
        host: to listen on; an address or a name.
        port: to listen on; 0 is any free one.
        application: says the answers.

    Raises:
        OSError: it cannot be listened there.
    """

    daemon_threads = True
    request_queue_size = 64  # too many who come at once are ended at once, and do not delay the others

    def __init__(self, host: str, port: int, application: Callable[..., Any]) -> None:
        self.address_family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._began: dict[socket.socket, float] = {}
        self._changing = threading.Lock()
        super().__init__((str(address[0]), port), _Handler)
        self.set_app(_refusing(application))

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; where that fails, as for want of descriptors, not at once again."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, or end the connection where there are too many."""
        with self._changing:
            admitted = len(self._began) < MOST_CONNECTIONS
            if admitted:
                self._began[request] = time.monotonic()
        if admitted:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """End a connection; its place is free again."""
        with self._changing:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End what has lasted too long; called all the time, twice a second or more often."""
        self._end_before(time.monotonic() - CONNECTION_SECONDS)

    def server_close(self) -> None:
        """Listen no more, and end the connections that are left."""
        super().server_close()
        self._end_before(float("inf"))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a caller that leaves early is none of the daemon's errors."""

    def _end_before(self, moment: float) -> None:
        with self._changing:
            for request, began in self._began.items():
                if began < moment:
                    # Not closed: its thread wakes with an error, and closes it.
                    with contextlib.suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)


def _refusing(application: Callable[..., Any]) -> Callable[..., Any]:
    """Answer with an error where an application fails: it may be on what a caller sent, who fills no log."""

    def answer(environ: Any, start_response: Callable[..., Any]) -> Any:
        try:
            return application(environ, start_response)
        except Exception:  # noqa: BLE001  # a library raises what it likes at headers that are none
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            _LOG.debug("a request for metrics failed", exc_info=True)
            return [b"the request cannot be understood, or the metrics cannot be collected\n"]

    return answer


class _Handler(WSGIRequestHandler):
    timeout = CONNECTION_SECONDS  # an end also where the thread that ends connections has stopped

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name of the library
        """Log nothing."""
