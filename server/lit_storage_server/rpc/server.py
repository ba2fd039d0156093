"""The server that a process embeds: one port, its services, and an orderly end.

Invariant: between `start` and `stop` health checks, Exists and Stat are answered, however many
streams run or stand still. After `stop` no thread and no port is left, and a process that exits
without it is not held up.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import grpc
from grpc_reflection.v1alpha import reflection

from lit_storage_core.security.settings import Security
from lit_storage_proto.endpoint import is_address, join_address
from lit_storage_proto.errors import AccessDenied, AddressInUse
from lit_storage_proto.limits import MAX_MESSAGE_BYTES, Limits
from lit_storage_server.rpc.admission import AdmissionInterceptor
from lit_storage_server.rpc.auth import (
    HEALTH_SERVICE,
    TokenInterceptor,
    check_bind,
    server_tls,
)
from lit_storage_server.rpc.descriptors import most_connections
from lit_storage_server.rpc.direct import DirectWays
from lit_storage_server.rpc.health import HealthServicer
from lit_storage_server.rpc.observation import Observer, ObservingInterceptor
from lit_storage_server.rpc.places import Places
from lit_storage_server.rpc.pool import DaemonThreadPool
from lit_storage_server.rpc.servicer import SERVICE, PathStorageServicer
from lit_storage_server.rpc.watchdog import Watchdog
from lit_storage_server.sources.shares import Shares
from lit_storage_server.sources.source import SharedSource, Source

_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A port that is taken is an error: with the option two processes would share its connections.
    ("grpc.so_reuseport", 0),
    # A client may ask every 10 s whether the connection still stands, also between calls.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A consumer whose machine is gone closes nothing; it is noticed within a minute, as who merely holds on.
    # (To close what is idle would have gRPC write on the terminal of each consumer.)
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # by itself a minute, and the one of the two that counts
    # Who connects and says nothing holds a descriptor no longer; gRPC by itself allows two minutes.
    ("grpc.server_handshake_timeout_ms", 10_000),
)

# Calls of one connection at once; gRPC has further ones wait at the caller. It is far above the streams and
# the health watches that a server has at all, so that what is too much for those is refused, and told.
_CONNECTION_CALLS = 2048

# Threads in which requests are awaited that may never come: the more, the sooner others have their turn.
_AWAITING_THREADS = 128
# Calls of all connections that wait for a thread, each with some KiB. What is too much for those is refused.
_WAITING_CALLS = 1024


class PeerServer:
    """Serves what a process shares, under one name and instance id.

    Args:
        name: the name under which the registry lists this process.
        instance_id: new for each start of it.
        shares: what may be read, or what reads it; it stays open when the server stops.
        bind: ``HOST:PORT`` to listen on; port 0 is any free one.
        security: what callers must show.
        limits: how many streams, and how long anything may take.
        direct: offer streams a way beside gRPC.
        left: has what stopped Works of this machine left, for whoever asks for ``@NAME/PATH``; None
            refuses such paths.
        observer: is told of what the server does.
        holds: says whether the name is this process's now; while it is not, new calls are refused.

    Raises:
        InvalidURI: `bind` is no address.
        AccessDenied: others could reach `bind`, and nothing would tell who they are.
    """

    def __init__(
        self,
        name: str,
        instance_id: str,
        shares: Shares | Source,
        *,
        bind: str = "127.0.0.1:0",
        security: Security | None = None,
        limits: Limits | None = None,
        direct: bool = True,
        left: Source | None = None,
        observer: Observer | None = None,
        holds: Callable[[], bool] | None = None,
    ) -> None:
        self._name = name
        self._instance_id = instance_id
        self._direct = direct
        self._ways: DirectWays | None = None
        self._left = left
        self._observer = observer
        self._security = security or Security()
        self._host, self._port = check_bind(bind, self._security)
        self._limits = limits or Limits()
        self._source = (
            SharedSource(shares, self._limits.chunk_bytes) if isinstance(shares, Shares) else shares
        )
        self._health = HealthServicer(SERVICE, holds=holds)
        self._holds = holds
        self._servicer: PathStorageServicer | None = None
        self._watchdog = Watchdog(lambda: self._pool.is_short())
        self._places = Places(name, self._limits.server_streams, self._limits.peer_share)
        kept = self._limits.server_streams + self._limits.server_reserve
        self._pool = DaemonThreadPool(
            kept + _AWAITING_THREADS, f"lit-storage-{name}", kept=kept, on_queued=self._watchdog.hurry
        )
        self._server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        """``host:port`` that it listens on; the port is 0 until it has started, if any was asked for."""
        return self._address(self._port)

    def start(self) -> str:
        """Listen, and return the endpoint; to be called once.

        Raises:
            AddressInUse: another process listens there.
            AccessDenied: this process may not listen there, or a file of TLS or tokens cannot be used.
            OSError: the address is not one of this machine.
        """
        tls = server_tls(self._security)
        interceptors = self._interceptors()
        if self._direct:
            self._ways = DirectWays(self._host, tls, self._limits)
        self._servicer = servicer = PathStorageServicer(
            self._name,
            self._instance_id,
            self._source,
            self._limits,
            self._ways,
            left=self._left,
            observer=self._observer,
            holds=self._holds,
        )
        # gRPC only ever submits to it, though its types ask for the executor of the library.
        pool = cast("ThreadPoolExecutor", self._pool)
        server = grpc.server(
            pool,
            interceptors=interceptors,
            options=self._options(),
            maximum_concurrent_rpcs=self._pool.most + _WAITING_CALLS,
        )
        server.add_generic_rpc_handlers((servicer.handler(), self._health.handler()))
        reflection.enable_server_reflection((SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME), server)
        address = self._address(self._port)
        try:
            if tls is None:
                self._port = server.add_insecure_port(address)
            else:
                self._port = server.add_secure_port(address, tls.credentials())
        except RuntimeError:
            if self._ways is not None:
                self._ways.stop()
            raise self._why_not(address) from None
        self._watchdog.start()
        server.start()
        self._server = server
        return self.endpoint

    def become(self, instance_id: str) -> None:
        """Answer as another instance from now on; streams that run go on."""
        self._instance_id = instance_id
        if self._servicer is not None:
            self._servicer.become(instance_id)

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Refuse new streams at once, and cancel those that still run after `grace_seconds`.

        Short calls are answered as long as streams run. A second call does nothing.
        """
        server, self._server = self._server, None
        if server is None:
            return
        self._health.stop()
        if self._ways is not None:
            self._ways.close_listeners()
        if self._places.close(grace_seconds):
            # The last bytes are on their way. Closing a connection on which something has arrived
            # unread resets it, and a reset throws away what the other side has not read yet.
            threading.Event().wait(min(self._limits.linger_seconds, grace_seconds))
        server.stop(0).wait(self._limits.unary_seconds)
        if self._ways is not None:
            self._ways.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool.join(self._limits.unary_seconds)
        self._watchdog.stop()

    def _interceptors(self) -> list[grpc.ServerInterceptor]:
        admission = AdmissionInterceptor(self._places, self._watchdog, self._limits)
        interceptors: list[grpc.ServerInterceptor] = []
        if self._observer is not None:
            interceptors.append(ObservingInterceptor(self._observer))
        if self._security.has_token:
            interceptors.append(TokenInterceptor(self._security))
        return [*interceptors, admission]

    def _options(self) -> list[tuple[str, int]]:
        calls = max(_CONNECTION_CALLS, 2 * (self._limits.server_streams + self._limits.server_reserve))
        return [
            *_OPTIONS,
            ("grpc.max_concurrent_streams", calls),
            # gRPC counts those to each address by themselves, of which a name such as localhost may have two.
            ("grpc.max_allowed_incoming_connections", most_connections(self._addresses())),
        ]

    def _addresses(self) -> int:
        """Return to how many addresses the host is bound."""
        if is_address(self._host):
            return 1
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError:
            return 1  # nothing can listen there, which is told soon
        return len({address for *_, address in found})

    def _address(self, port: int) -> str:
        return join_address(self._host, port)

    def _why_not(self, address: str) -> OSError:
        """Return why nothing can listen on `address`; gRPC does not tell, so the system is asked."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        code = errno.EADDRINUSE
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((self._host, self._port))
        except OSError as error:
            code = error.errno or code
        if code == errno.EADDRINUSE:
            return AddressInUse(
                f"{address!r} is taken by another process; stop it, or listen on port 0 for any free one"
            )
        if code in (errno.EACCES, errno.EPERM):
            return AccessDenied(f"this process may not listen on {address!r}; take a port above 1023")
        return OSError(
            code, f"cannot listen on {address!r}: {os.strerror(code) if code > 0 else 'unknown host'}"
        )
