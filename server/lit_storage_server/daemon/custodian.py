"""Looks after what Works of one root leave: publishes for those that were killed, wherever no App does.

Invariant: it publishes for a Work only once that has ended, and leaves it to the Work's App as long as
there is one. What fails is tried again, for `Limits.staging_seconds`. A root has one custodian, which holds
a lock in it; only the owner of the root can be it, for whoever writes into the root says what is read and
published.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import stat
import threading
import time
from collections.abc import Set as AbstractSet
from typing import Protocol

from lit_storage_core.system.file_lock import lock
from lit_storage_core.system.machine import MACHINE_ID_VARIABLE
from lit_storage_core.system.mounts import file_system_of, spans_machines
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_proto.errors import InvalidConfig, RegistryUnavailable, StorageError
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry
from lit_storage_server.daemon.logs import LOG, log
from lit_storage_server.daemon.stop_signal import StopSignal
from lit_storage_server.publishing.custody import find_left, publish_found
from lit_storage_server.publishing.notes import Declaration, Note, noted

_LOCK = "custodian.lock"
_LONGEST_PAUSE = 600.0
_MOST_WATCHED = 256  # processes whose end is learnt at once; that of others at the next look


class Told(Protocol):
    """Whoever counts what a custodian does."""

    def published(self, *, whole: bool) -> None:
        """Take that what a Work left was published, and whether all of it was."""
        ...


class CustodianLock:
    """The right to be the custodian of a root, held until `release` or the end of the process.

    Args:
        root: that the Works of this machine share.

    Raises:
        InvalidConfig: another process is its custodian, or this one cannot be.
    """

    def __init__(self, root: str) -> None:
        status = os.stat(root)
        way_out = "or start the daemon with --no-custodian"
        if status.st_uid != os.geteuid():
            raise InvalidConfig(
                f"the custodian of {root} must run as the owner of it, user {status.st_uid}, and this is "
                f"user {os.geteuid()}; change the user, {way_out}"
            )
        if status.st_mode & stat.S_IWOTH:
            raise InvalidConfig(
                f"{root} can be written by every user of this machine, who could have a custodian hand out "
                f"any file: chmod o-w it, {way_out}"
            )
        if os.geteuid() == 0 and status.st_mode & stat.S_IWGRP:
            raise InvalidConfig(
                f"{root} can be written by group {status.st_gid}, and a custodian that is root can read any "
                f"file: chmod g-w it, let its Works and the daemon run as another user, {way_out}"
            )
        if not os.environ.get(MACHINE_ID_VARIABLE, "").strip() and spans_machines(file_system_of(root)):
            raise InvalidConfig(
                f"{root} is on a file system of many machines ({file_system_of(root)}), which then have one "
                f"id, and a custodian would publish for Works of another one: give each machine an id of its "
                f"own with {MACHINE_ID_VARIABLE}, for its Works as well, {way_out}"
            )
        path = os.path.join(root, _LOCK)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            lock(self._fd)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "?"
            os.close(self._fd)
            raise InvalidConfig(
                f"another daemon (process {holder}) is the custodian of {root} already; stop that "
                f"one, {way_out}"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Let another process be it. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class _Retries:
    """When to try again what failed, after pauses that grow.

    Args:
        seconds: the first pause.
    """

    def __init__(self, seconds: float) -> None:
        self._first = seconds
        self._pauses: dict[str, tuple[float, float]] = {}
        self._since: dict[str, float] = {}

    def is_due(self, instance_id: str) -> bool:
        """Say whether it is time to try again, or has not failed yet."""
        return self._pauses.get(instance_id, (0.0, 0.0))[1] <= time.monotonic()

    def failed(self, instance_id: str) -> float:
        """Take that it failed; return the seconds until it is due."""
        former = self._pauses.get(instance_id)
        pause = self._first if former is None else min(2 * former[0], max(self._first, _LONGEST_PAUSE))
        self._pauses[instance_id] = (pause, time.monotonic() + pause)
        self._since.setdefault(instance_id, time.monotonic())
        return pause

    def has_failed_for(self, instance_id: str, seconds: float) -> bool:
        """Say whether it has been failing for so long."""
        return time.monotonic() - self._since.get(instance_id, math.inf) >= seconds

    def forget_others(self, instance_ids: AbstractSet[str]) -> None:
        """Keep nothing of instances that are not noted any more."""
        for gone in self._pauses.keys() - instance_ids:
            del self._pauses[gone], self._since[gone]


class Custodian:
    """A thread that publishes what killed Works left.

    Args:
        root: that the Works of this machine share.
        machine_id: of this machine; what Works of another one noted in a shared root is passed over.
        registry: knows who lives.
        limits: how often it looks, and what publishing may take.
        told: counts what it does.
    """

    def __init__(
        self, root: str, machine_id: str, registry: Registry, limits: Limits, told: Told | None = None
    ) -> None:
        self._root = root
        self._machine_id = machine_id
        self._registry = registry
        self._limits = limits
        self._told = told
        self._silent = False
        self._retries = _Retries(limits.custody_seconds)
        self._watched: dict[str, int] = {}
        self._stopped = StopSignal()
        self._thread = threading.Thread(target=self._run, name="lit-storage-custodian", daemon=True)

    def start(self) -> None:
        """Begin; to be called once."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End, within so many seconds; what is being published then is whole or not there."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        if not self._thread.is_alive():
            self._watch(set())

    def look(self) -> None:
        """Publish what is to be published now, and watch the others.

        Whatever goes wrong for one Work is its own, unless the registry does not answer.
        """
        wanted: set[str] = set()
        found = noted(self._root)
        self._retries.forget_others({declaration.instance_id for declaration in found})
        for declaration in found:
            if self._stopped.is_set():
                break
            try:
                wanted.update(self._look_after(declaration))
            except RegistryUnavailable:
                raise
            except (StorageError, OSError) as error:
                log(logging.WARNING, "not published yet", work=declaration.name, error=str(error))
            except Exception:  # noqa: BLE001  whatever it is, the next Work is looked after
                LOG.exception("what %r left is not published yet", declaration.name)
        self._watch(wanted)

    def _look_after(self, noticed: Declaration) -> list[str]:
        """Publish for one Work if that is to be done; return the processes whose ends are waited for."""
        if noticed.machine_id != self._machine_id:
            return []
        # An App that tried in vain does not do so again.
        waited_for = [noticed.holder] if noticed.tried_at else [noticed.holder, noticed.keeper]
        holding = [each for each in waited_for if _lives(each)]
        if not holding and self._retries.is_due(noticed.instance_id):
            self._publish(noticed)
        return holding

    def _publish(self, noticed: Declaration) -> None:
        left = find_left(self._root, self._registry, noticed.name)
        if left is None or left.instance_id != noticed.instance_id:
            self._discard(noticed)
            return
        told = publish_found(self._root, self._registry, left, limits=self._limits)
        if told is None:
            return  # another process was first
        problems = {"problems": told} if told else {}
        what = {"work": left.name, "instance": left.instance_id, "store": left.artifacts_url, **problems}
        note = Note(self._root, left.instance_id)
        if note.read() is None:
            log(logging.WARNING if told else logging.INFO, "published what a Work left", **what)
        elif 0 < left.tried_at < time.time() - self._limits.staging_seconds and self._retries.has_failed_for(
            left.instance_id, self._limits.staging_seconds
        ):  # by a clock that nobody sets, too
            note.remove()
            log(logging.ERROR, "gave up publishing what a Work left", **what)
        else:
            pause = self._retries.failed(left.instance_id)
            log(logging.WARNING, "not all that a Work left is published yet", retry_seconds=pause, **what)
        if self._told is not None and not (told and left.tried_at):
            self._told.published(whole=not told)

    def _discard(self, noticed: Declaration) -> None:
        """Remove an old note of an instance that ended if a later one has taken its place."""
        note, work = Note(self._root, noticed.instance_id), self._registry.work(noticed.name)
        is_superseded = work is not None and work.instance_id != noticed.instance_id
        if is_superseded and note.age() > self._limits.staging_seconds and note.has_ended(noticed):
            note.remove()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._look()
            self._wait()

    def _look(self) -> None:
        """Look; what goes wrong is logged once, until it goes well again."""
        try:
            self.look()
            self._silent = False
        except (StorageError, OSError) as error:
            if not self._silent:
                log(logging.WARNING, "the custodian cannot look after Works now", error=str(error))
            self._silent = True
        except Exception:  # noqa: BLE001  whatever it is, the next Work is looked after
            LOG.exception("the custodian failed for an unforeseen reason")

    def _watch(self, processes: set[str]) -> None:
        """Hold a descriptor of each of these processes, and of no other."""
        for gone in self._watched.keys() - processes:
            os.close(self._watched.pop(gone))
        for process in processes - self._watched.keys():
            if len(self._watched) < _MOST_WATCHED:
                with contextlib.suppress(OSError, ValueError):
                    fd = os.pidfd_open(ProcessIdentity.from_text(process).pid)
                    # Alive after it was opened, it is that very process.
                    if _lives(process):
                        self._watched[process] = fd
                    else:
                        os.close(fd)

    def _wait(self) -> None:
        """Wait until a watched process ends, it is time to look again, or `stop`."""
        poll = select.poll()
        for fd in (*self._watched.values(), self._stopped.fileno()):
            poll.register(fd, select.POLLIN)
        poll.poll(self._limits.custody_seconds * 1000)
        # A process that is a zombie for as long as its parent likes must not make this spin.
        self._stopped.wait(0.05)


def _lives(process: str) -> bool:
    """Say whether a process of a Declaration is known to run on this machine."""
    try:
        return bool(process) and ProcessIdentity.from_text(process).is_alive() is True
    except (ValueError, OSError):
        return False
