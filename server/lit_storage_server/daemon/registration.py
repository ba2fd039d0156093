"""Keeps a daemon's name in the registry for as long as it serves.

Invariant: a daemon answers only while it holds its name: where names are held by leases, not from the
moment on at which its own may have ended, until it has the name again, as another instance. Where another
process took the name the daemon is told once, and stops. Where the registry lost the record it is written
anew. Streams that run are not touched by any of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from lit_storage_core.registries.leases import LeaseKeeper, safe_end
from lit_storage_core.system.backoff import backoff
from lit_storage_core.system.boot_clock import boot_seconds
from lit_storage_proto.errors import NameTaken, RegistryUnavailable, StorageError
from lit_storage_proto.registry import Lease, LiveRecord, Registry
from lit_storage_server.daemon.logs import log
from lit_storage_server.daemon.stop_signal import StopSignal

_LOOK_SECONDS = 2.0
_END_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 2.0
_FOREVER = float("inf")


class Registration:
    """The live record of one daemon.

    Args:
        registry: where it stands.
        answered: told, after each look, whether the registry answered.
        lost: called once, if another process took the name.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        answered: Callable[[bool], None],
        lost: Callable[[StorageError], None],
    ) -> None:
        self._registry = registry
        self._answered = answered
        self._lost = lost
        self._record: LiveRecord | None = None
        self._became: Callable[[str], object] = str
        self._is_reachable = True
        self._keeper: LeaseKeeper | None = None
        self._stopped = StopSignal()
        self._thread = threading.Thread(target=self._keep, name="lit-storage-registration", daemon=True)

    @property
    def record(self) -> LiveRecord:
        """What stands there, or last stood."""
        assert self._record is not None
        return self._record

    def enter(
        self, record: LiveRecord, became: Callable[[str], object], seconds: float, stopping: StopSignal
    ) -> bool:
        """Register, and see to it from now on; say whether it was done before `stopping` was set.

        Args:
            record: what is to stand there.
            became: told of the instance id that the daemon is to answer as, where that changes.
            seconds: for how long it is tried.
            stopping: ends the attempts.

        Raises:
            NameTaken: another process has the name; where names are held by leases, for all these seconds.
            RegistryUnavailable: the registry did not answer for so many seconds.
            InvalidURI: the registry does not take the name.
        """
        self._record, self._became = record, became
        retried = (RegistryUnavailable, NameTaken) if self._registry.spans_machines else RegistryUnavailable
        done = retry(self._register, retried, seconds, stopping)
        if done:
            self._thread.start()
        return done

    def holds(self) -> bool:
        """Say whether the name is certainly this process's now."""
        keeper = self._keeper
        return keeper is None or boot_seconds() < safe_end(keeper.lease)

    def lease_age(self) -> float | None:
        """Return the seconds since the lease was renewed, None where there is no lease."""
        keeper = self._keeper
        return None if keeper is None else boot_seconds() - keeper.lease.since

    def leave(self) -> None:
        """Give the name back; what the registry does not take is logged. A second call does nothing."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        released = None
        while self._keeper is not released:  # meanwhile another lease may have taken its place
            released = self._keeper
            assert released is not None
            released.release()
        try:
            self._registry.unregister(self.record.name, self.record.instance_id)
        except StorageError as error:
            log(logging.WARNING, "the name could not be given back", error=str(error))
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)

    def look(self) -> None:
        """See that the record stands, and write it anew where it does not.

        Raises:
            NameTaken: another process took the name.
        """
        name, instance_id = self.record.name, self.record.instance_id
        try:
            with _own_failures():
                found = self._registry.resolve(name, fresh=True)
            if self._keeper is not None:
                pass  # whoever keeps the lease learns it first, and does what is to be done
            elif found is None and not self._stopped.is_set():
                self._register()
                log(logging.WARNING, "the registry had lost the name, and has it again", name=name)
            elif found is not None and found.instance_id not in ("", instance_id):  # a fixed list knows none
                raise NameTaken(f"the name {name!r} was taken by another process, at {found.endpoint}")
        except RegistryUnavailable as error:
            if self._is_reachable:
                log(logging.WARNING, "the registry does not answer; what runs goes on", error=str(error))
            self._is_reachable = False
        else:
            if not self._is_reachable:
                log(logging.INFO, "the registry answers again")
            self._is_reachable = True
        self._answered(self._is_reachable)

    def _register(self) -> None:
        with _own_failures():
            lease = self._registry.register(self.record)
        if lease is not None:
            self._hold(lease)

    def _hold(self, lease: Lease) -> None:
        keeper = LeaseKeeper(self.record.name, lease, self._registry.renew, on_lost=self._claim)
        self._keeper = keeper
        keeper.start()

    def _claim(self) -> None:
        """Register as another instance after the lease was lost, as soon as the registry takes it."""
        lost, former = self._keeper, self.record
        assert lost is not None
        log(logging.WARNING, "the lease was lost; new calls are refused until the name is held again")
        self._record = dataclasses.replace(former, instance_id=uuid.uuid4().hex)
        self._became(self.record.instance_id)
        # What is left of the former instance goes with its lease at the latest; longer, it is another's.
        until = boot_seconds() + lost.lease.seconds + _LONGEST_PAUSE_SECONDS

        def step() -> None:
            nonlocal until
            try:
                with _own_failures():
                    self._registry.unregister(former.name, former.instance_id)
                self._register()
            except RegistryUnavailable:
                until = max(until, boot_seconds() + lost.lease.seconds + _LONGEST_PAUSE_SECONDS)
                raise
            except NameTaken as error:
                if boot_seconds() > until:
                    raise _TakenError(str(error)) from None
                raise

        try:
            if retry(step, (RegistryUnavailable, NameTaken), _FOREVER, self._stopped):
                log(logging.INFO, "the name is held again", instance=self.record.instance_id)
        except _TakenError as error:
            self._lost(NameTaken(str(error)))
        except StorageError as error:
            self._lost(error)

    def _keep(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            try:
                self.look()
            except StorageError as error:
                if not self._stopped.is_set():
                    self._lost(error)
                return


class _TakenError(Exception):
    """Another process has the name for good."""


@contextlib.contextmanager
def _own_failures() -> Iterator[None]:
    """Have a registry be out of reach where this process lacks what to ask it with, such as descriptors."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise RegistryUnavailable(f"the registry cannot be asked: {error.strerror or error}") from None


def retry(
    step: Callable[[], object],
    on: type[StorageError] | tuple[type[StorageError], ...],
    seconds: float,
    stopping: StopSignal,
) -> bool:
    """Do a step, again and again as long as it fails so; say whether it was done before `stopping` was set.

    Raises:
        StorageError: as of the last attempt, after so many seconds.
    """
    deadline, told = time.monotonic() + seconds, False
    pauses = backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
    while not stopping.is_set():
        try:
            step()
        except on as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            if not told:
                log(logging.WARNING, "not registered yet; it is tried again", error=str(error))
                told = True
            stopping.wait(min(next(pauses), left))
        else:
            return True
    return False
