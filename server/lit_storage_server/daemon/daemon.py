"""A daemon: one process of a machine that shares directories by names, and looks after its Works.

Invariant: it is registered only while it serves. Told to stop, it gives its name back first, refuses new
streams, lets those that run end within `Config.drain_seconds`, and exits with status 0; told twice, it
exits at once. Nothing that is logged or raised holds a token.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from lit_storage_core.registries import open_registry
from lit_storage_core.registries.database import file_of
from lit_storage_core.registries.etcd import access as etcd_access
from lit_storage_core.security.settings import Security
from lit_storage_core.system.machine import machine_id
from lit_storage_core.system.root_identity import is_copy
from lit_storage_proto.errors import AccessDenied, InvalidConfig, RegistryUnavailable, StorageError
from lit_storage_proto.registry import LiveRecord, Registry, WorkState
from lit_storage_server.daemon.config import NOTHING_TO_SERVE, Config
from lit_storage_server.daemon.custodian import Custodian, CustodianLock
from lit_storage_server.daemon.left_source import LeftSource
from lit_storage_server.daemon.logs import TransferLog, log
from lit_storage_server.daemon.metrics import Metrics
from lit_storage_server.daemon.named_shares import NamedShares, NamedSource, check_shares
from lit_storage_server.daemon.notify import notify
from lit_storage_server.daemon.registration import Registration, retry
from lit_storage_server.daemon.stop_signal import StopSignal
from lit_storage_server.rpc.auth import check_bind
from lit_storage_server.rpc.observation import Observer, Observers
from lit_storage_server.rpc.server import PeerServer

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOP_SECONDS = 5.0  # what a custodian has begun to publish may take, once nobody is served any more


@dataclass(frozen=True, slots=True)
class Place:
    """Where a daemon runs, as its environment and its configuration say together."""

    root: str
    """Directory that the Works of this machine share; it exists."""
    registry_url: str
    security: Security
    advertised: Callable[[str, Registry], str]
    """Returns the ``host:port`` that others dial, of the one that is listened on."""


class Daemon:
    """One daemon, from its start to its end.

    Args:
        config: what it is to do.
        place: where.
    """

    def __init__(self, config: Config, place: Place) -> None:
        self._config = config
        self._place = place
        self._limits = config.limits
        self._stopping = StopSignal()
        self._failure: StorageError | None = None

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; to be called in the main thread.

        Raises:
            InvalidConfig: what it is to do cannot be done, or what is needed for it is not installed.
            AccessDenied: `bind` would serve others without protection, or a file cannot be used.
            AddressInUse: an address is taken.
            NameTaken: another process has, or took, the name.
            RegistryUnavailable: the registry did not answer for `Limits.start_seconds`.
        """
        with self._signals(), contextlib.ExitStack() as stack:
            if self._start(stack):
                notify("READY=1", f"STATUS=serving as {self._config.name}")
                self._stopping.wait()
                notify("STOPPING=1")
                log(logging.INFO, "stopping", drain_seconds=self._config.drain_seconds)
        log(logging.INFO, "stopped")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Let `run` return; from any thread."""
        self._stopping.set()

    def _start(self, stack: contextlib.ExitStack) -> bool:
        """Start all parts, each of which `stack` ends; say whether that was done before a signal came."""
        config, place = self._config, self._place
        self._check_bind()
        shares = check_shares(config.shares, secret=self._secret_files())
        machine = machine_id(place.root)
        is_custodian = self._is_custodian()
        if not shares and not is_custodian:
            raise InvalidConfig(NOTHING_TO_SERVE)
        if is_custodian:
            stack.callback(CustodianLock(place.root).release)
        metrics = self._metrics(stack)
        registry = self._registry(machine, stack)
        if registry is None:
            return False
        left: LeftSource | None = None
        if is_custodian:
            left = LeftSource(place.root, machine, registry, self._limits)
            stack.callback(left.close)
        observer: Observer = TransferLog() if metrics is None else Observers(TransferLog(), metrics)
        instance_id = uuid.uuid4().hex
        registration = Registration(registry, answered=_teller(metrics), lost=self._lose)
        server = self._server(instance_id, shares, left, observer, registration.holds)
        custodian = Custodian(place.root, machine, registry, self._limits, metrics)
        stack.callback(custodian.stop, _STOP_SECONDS)
        listening = server.start()
        stack.callback(server.stop, config.drain_seconds)
        tls_name = config.name if place.security.tls else ""
        endpoint = place.advertised(listening, registry)
        record = LiveRecord(config.name, instance_id, endpoint, machine, tls_name, is_custodian)
        if not registration.enter(record, server.become, self._limits.start_seconds, self._stopping):
            return False
        stack.callback(self._leave, registration, registry)
        if is_custodian:
            custodian.start()
        if metrics is not None and registration.lease_age() is not None:
            metrics.watch_lease(lambda: registration.lease_age() or 0.0)
        _teller(metrics)(True)
        self._tell(listening, record, shares)
        return True

    def _server(
        self,
        instance_id: str,
        shares: dict[str, str],
        left: LeftSource | None,
        observer: Observer,
        holds: Callable[[], bool],
    ) -> PeerServer:
        config, security = self._config, self._place.security
        source = NamedSource(NamedShares(shares, name=config.name), self._limits.chunk_bytes)
        return PeerServer(
            config.name,
            instance_id,
            source,
            bind=config.bind,
            security=security,
            limits=self._limits,
            left=left,
            observer=observer,
            holds=holds,
        )

    def _check_bind(self) -> None:
        try:
            check_bind(self._config.bind, self._place.security)
        except AccessDenied as error:
            raise AccessDenied(
                f"{error}; on a network that you trust, --insecure lets the token travel in clear"
            ) from None

    def _metrics(self, stack: contextlib.ExitStack) -> Metrics | None:
        address = self._config.metrics_address
        if address is None:
            return None
        metrics = Metrics()
        served = metrics.serve(*address)
        stack.callback(metrics.stop)
        log(logging.INFO, "metrics are served", address=served)
        return metrics

    def _registry(self, machine: str, stack: contextlib.ExitStack) -> Registry | None:
        """Open the registry, within `Limits.start_seconds`; None if a signal came before."""
        opened: list[Registry] = []

        def step() -> None:
            opened.append(open_registry(self._place.registry_url, machine_id=machine, limits=self._limits))

        if not retry(step, RegistryUnavailable, self._limits.start_seconds, self._stopping):
            return None
        stack.callback(opened[0].close)
        is_copy(self._place.root, file_of(opened[0].url))  # keeps the inode of the registry too
        return opened[0]

    def _is_custodian(self) -> bool:
        """Say whether to look after what Works left, as told, else wherever the registry records Works."""
        keeps_works = not self._place.registry_url.startswith("static:")
        if self._config.custodian and not keeps_works:
            raise InvalidConfig(
                "a static registry knows nothing of Works that stopped, so there is nothing to be the "
                "custodian of; name another registry, or leave out --custodian"
            )
        return keeps_works if self._config.custodian is None else self._config.custodian

    def _secret_files(self) -> list[str]:
        security = self._place.security
        files = (self._place.root, security.token_file, security.key)
        own = [os.path.abspath(file) for file in files if file is not None]
        return own + etcd_access.secret_files()

    def _leave(self, registration: Registration, registry: Registry) -> None:
        """Give the name back; the registry then says of it that it was stopped."""
        record = registration.record
        with contextlib.suppress(StorageError):
            former = registry.work(record.name)
            if former is not None and former.instance_id == record.instance_id:
                state = WorkState.STOPPED if self._failure is None else WorkState.FAILED
                registry.update_work(dataclasses.replace(former, state=state))
        registration.leave()

    def _lose(self, error: StorageError) -> None:
        self._failure = error
        self._stopping.set()

    def _tell(self, listening: str, record: LiveRecord, shares: dict[str, str]) -> None:
        security = self._place.security
        shown = [("TLS", security.certificate), ("client certificates", security.ca)]
        asked = [name for name, is_given in (*shown, ("a token", security.has_token)) if is_given]
        log(
            logging.INFO,
            "serving",
            name=record.name,
            instance=record.instance_id,
            listening=listening,
            endpoint=record.endpoint,
            shares=shares,
            registry=without_secrets(self._place.registry_url),
            security=", ".join(asked) or "none",
            custodian_of=self._place.root if record.custodian else None,
            pid=os.getpid(),
        )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end `run`, the second one at once; SIGHUP changes nothing, and is logged."""

        def stop(signum: int, _frame: FrameType | None) -> None:
            if self._stopping.is_set():
                os._exit(0)
            del signum
            self._stopping.set()

        def hang_up(_signum: int, _frame: FrameType | None) -> None:
            log(logging.INFO, "SIGHUP changes nothing: TLS files and tokens are read anew when they change")

        before = {signum: signal.signal(signum, stop) for signum in _SIGNALS}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def without_secrets(url: str) -> str:
    """Return the URL of a registry as it may be logged: without user, password and options."""
    return re.sub(r"//[^/]*@", "//…@", url).partition("?")[0]


def _teller(metrics: Metrics | None) -> Callable[[bool], None]:
    def tell(answered: bool) -> None:
        if metrics is not None:
            metrics.registry_answered(answered=answered)

    return tell
