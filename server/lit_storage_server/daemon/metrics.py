"""What Prometheus is told of a server, in its text format, over HTTP.

Invariant: no metric has a label that a peer chooses, so that their number is bounded, and none holds a
path, a token or an address. Whoever can reach the address can read them: there is no token.

The library comes with the extra ``metrics`` and is loaded only where metrics are asked for
(https://prometheus.github.io/client_python/).
"""

from __future__ import annotations

import errno
import importlib.metadata
import platform
import threading
from collections.abc import Callable
from typing import Any

from lit_storage_proto.endpoint import join_address
from lit_storage_proto.errors import AccessDenied, AddressInUse, InvalidConfig
from lit_storage_server.daemon.metrics_http import MetricsServer
from lit_storage_server.rpc.observation import CANCELLED, DONE, FAILED, Seen

_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300, 1800)
_STOP_SECONDS = 2.0


class Metrics:
    """Counts what a server does; an `Observer`.

    Raises:
        InvalidConfig: the extra ``metrics`` is not installed.
    """

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise InvalidConfig(
                "metrics need the library prometheus-client: pip install 'lit-storage[metrics]', or start "
                "without --metrics"
            ) from None
        self._prometheus = prometheus
        self._registry = prometheus.CollectorRegistry()
        self._served: tuple[MetricsServer, threading.Thread] | None = None

        def made(kind: Any, name: str, text: str, *labels: str, **options: Any) -> Any:
            return kind(f"lit_storage_{name}", text, labels, registry=self._registry, **options)

        self._transfers = made(prometheus.Counter, "transfers", "Transfers that ended, by how.", "status")
        self._bytes = made(prometheus.Counter, "transferred_bytes", "Bytes of files that were sent.")
        self._seconds = made(
            prometheus.Histogram, "transfer_seconds", "How long transfers took.", buckets=_BUCKETS
        )
        self._errors = made(
            prometheus.Counter, "errors", "Calls that ended with an error, by its status code.", "kind"
        )
        self._streams = made(prometheus.Gauge, "streams_in_flight", "Transfers that go on.")
        self._reachable = made(
            prometheus.Gauge, "registry_reachable", "1 if the registry answered when it was last asked."
        )
        self._published = made(
            prometheus.Counter, "custodian_publications", "Killed Works published for, by outcome.", "status"
        )
        build = made(prometheus.Gauge, "build_info", "What runs; always 1.", "version", "python")
        build.labels(importlib.metadata.version("lit-storage"), platform.python_version()).set(1)
        for status in (DONE, CANCELLED, FAILED):
            self._transfers.labels(status)
        for status in (DONE, FAILED):
            self._published.labels(status)

    def watch_lease(self, age: Callable[[], float]) -> None:
        """Tell the age in seconds of the lease by which the name is held, where the registry has leases."""
        gauge = self._prometheus.Gauge(
            "lit_storage_lease_age_seconds",
            "Since the registry's lease was last renewed.",
            registry=self._registry,
        )
        gauge.set_function(age)

    def serve(self, host: str, port: int) -> str:
        """Answer Prometheus from a thread, at ``/metrics``; return ``host:port``.

        Raises:
            AddressInUse: another process listens there.
            AccessDenied: this process may not listen there.
            OSError: the address is none of this machine.
        """
        try:
            server = MetricsServer(host, port, self._prometheus.make_wsgi_app(self._registry))
        except (OSError, OverflowError) as error:
            code, address = getattr(error, "errno", None) or errno.EINVAL, join_address(host, port)
            if code == errno.EADDRINUSE:
                raise AddressInUse(
                    f"{address!r} is taken by another process; name another address for metrics"
                ) from None
            if code == errno.EACCES:
                raise AccessDenied(f"this process may not listen on {address!r} for metrics") from None
            raise OSError(code, f"metrics cannot be served at {address!r}: {error}") from None
        thread = threading.Thread(target=server.serve_forever, name="lit-storage-metrics", daemon=True)
        thread.start()
        self._served = (server, thread)
        return join_address(host, server.server_port)

    def stop(self) -> None:
        """Answer no more. A second call does nothing."""
        served, self._served = self._served, None
        if served is not None:
            served[0].shutdown()
            served[0].server_close()
            served[1].join(_STOP_SECONDS)

    def text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return str(self._prometheus.generate_latest(self._registry).decode("utf-8"))

    def registry_answered(self, *, answered: bool) -> None:
        """Take whether the registry answered."""
        self._reachable.set(1 if answered else 0)

    def published(self, *, whole: bool) -> None:
        """Take that what a killed Work left was published, and whether all of it was."""
        self._published.labels(DONE if whole else FAILED).inc()

    def began(self) -> None:
        """See `Observer.began`."""
        self._streams.inc()

    def ended(self, seen: Seen) -> None:
        """See `Observer.ended`."""
        self._streams.dec()
        self._transfers.labels(seen.status).inc()
        self._bytes.inc(seen.bytes)
        self._seconds.observe(seen.seconds)

    def refused(self, kind: str) -> None:
        """See `Observer.refused`."""
        self._errors.labels(kind).inc()
