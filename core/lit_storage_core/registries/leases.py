"""Renews a lease for as long as its holder serves, and tells the holder before it may have ended.

Invariant: `on_lost` is called before anybody else can have the name, by this machine's clock: at the
end of the lease less a margin for clocks that do not go alike, counted from before the last renewal
that was answered was asked for. A process that is itself stopped cannot be told in time; what ends it
all the same is `lit_storage_server.process.fence`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lit_storage_core.system.boot_clock import boot_seconds
from lit_storage_proto.registry import Lease

_RENEWALS = 3  # in the time of a lease
_MARGIN, _LEAST_MARGIN_SECONDS = 1 / 15, 0.2
_LONGEST_WAIT_SECONDS = 1.0  # waits stand still while the machine is suspended, and leases do not
_RETRY = 1 / 20  # of the time of a lease, after a renewal that was not answered
_END_SECONDS = 5.0
_LOG = logging.getLogger("lit_storage.registry")

Renew = Callable[[Lease, float], Lease | None]


def safe_end(lease: Lease) -> float:
    """Return until when its holder may serve, on the clock of `boot_seconds`."""
    return lease.end - max(_LEAST_MARGIN_SECONDS, lease.seconds * _MARGIN)


class LeaseKeeper:
    """Keeps one lease, from a thread of its own.

    Args:
        name: whose lease it is, for what is logged.
        lease: as the registry gave it.
        renew: as `Registry.renew`.
        on_lost: called once, from that thread, when the lease has ended or may soon have.
        on_renewed: called with each new lease, from that thread.
    """

    def __init__(
        self,
        name: str,
        lease: Lease,
        renew: Renew,
        *,
        on_lost: Callable[[], None],
        on_renewed: Callable[[Lease], None] | None = None,
    ) -> None:
        self._name = name
        self.lease = lease
        """As it is now."""
        self._renew = renew
        self._on_lost = on_lost
        self._on_renewed = on_renewed
        self._released = threading.Event()
        self._is_renewing = True
        self._thread = threading.Thread(target=self._run, name="lit-storage-lease", daemon=True)

    def start(self) -> None:
        """Begin; to be called once."""
        self._thread.start()

    def let_end(self) -> None:
        """Renew no more, and tell when the lease has ended all the same."""
        self._is_renewing = False

    def release(self) -> None:
        """Renew no more, and tell nothing more. A second call does nothing."""
        self._released.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        due = self.lease.since + self.lease.seconds / _RENEWALS
        is_silent = False
        while not self._released.is_set():
            now, end = boot_seconds(), safe_end(self.lease)
            if now >= end:
                self._lost("the registry did not answer in time" if self._is_renewing else "its time is over")
                return
            if now < due or not self._is_renewing:
                until = min(due, end) if self._is_renewing else end
                self._released.wait(min(until - now, _LONGEST_WAIT_SECONDS))
                continue
            try:
                renewed = self._renew(self.lease, end - now)
            except Exception as error:  # noqa: BLE001  whatever it is, the end of the lease is kept
                if not is_silent:
                    _LOG.warning("the lease of %r cannot be renewed now, and goes on: %s", self._name, error)
                is_silent = True
                due = boot_seconds() + self.lease.seconds * _RETRY
                continue
            if renewed is None:
                self._lost("the registry ended it")
                return
            is_silent = False
            self.lease = renewed
            due = renewed.since + renewed.seconds / _RENEWALS
            if self._on_renewed is not None:
                self._on_renewed(renewed)

    def _lost(self, why: str) -> None:
        if not self._released.is_set():
            _LOG.warning("the lease of %r is lost: %s", self._name, why)
            self._on_lost()
