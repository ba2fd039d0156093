"""Which process holds something, and whether that very process still runs.

Invariant: only a process that certainly ended is called dead. A pid alone says nothing, because
the kernel gives it out again: the start time, the boot and the pid namespace belong to it. A
stopped process (SIGSTOP, a debugger, a suspended machine) is alive; a zombie is not.

The files read here are described in proc_pid_stat(5), namespaces(7) and random(4), the descriptor
of a process in pidfd_open(2).
"""

from __future__ import annotations

import functools
import json
import math
import os
import select
import weakref
from dataclasses import asdict, dataclass

from lit_storage_core.system.boot_clock import boot_seconds

_ENDED = (b"Z", b"X", b"x")
_STATE, _START_TIME = 3, 22  # numbers of fields in proc_pid_stat(5)
_MOST_WATCHED = 64  # descriptors that one watch may hold


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one boot of one kernel; it is never equal to a later process of the same pid."""

    pid: int
    """As processes of its own pid namespace see it."""
    start_time: int
    """Clock ticks from boot to its start, as the first time namespace counts them: time_namespaces(7)."""
    boot_id: str
    """The kernel's random id of this boot."""
    pid_namespace: str
    """As the link ``/proc/<pid>/ns/pid`` reads."""

    @classmethod
    def current(cls) -> ProcessIdentity:
        """Return the identity of the calling process.

        Raises:
            OSError: ``/proc`` is not there.
        """
        _, start_time = _read_stat("self")
        return cls(os.getpid(), start_time, _boot_id(), _pid_namespace())

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Return the identity of the process that has `pid` now, in the pid namespace of this one.

        Raises:
            OSError: there is none, or ``/proc`` is not there.
        """
        _, start_time = _read_stat(str(pid))
        return cls(pid, start_time, _boot_id(), _pid_namespace())

    def is_alive(self, *, same_machine: bool = True) -> bool | None:
        """Say whether this very process runs: True, False, or None where it cannot be looked up.

        Args:
            same_machine: another boot id then means that the machine was started anew, so the
                process is gone. Pass False for what was read from a file system that several
                machines may share: another boot id then means nothing, and the answer is None.

        Returns:
            None if it is in another pid namespace (a container beside this one), or if this
            process may not see it (``/proc`` mounted with hidepid, or of another namespace).

        Raises:
            OSError: ``/proc`` is not there.
        """
        if self.boot_id != _boot_id():
            return False if same_machine else None
        if self.pid_namespace != _pid_namespace():
            return None
        if os.readlink("/proc/self") != str(os.getpid()):
            return _unseen(self.pid)  # this /proc shows another namespace than ours
        try:
            state, start_time = _read_stat(str(self.pid))
        except (FileNotFoundError, ProcessLookupError):
            return _unseen(self.pid)
        except PermissionError:
            return None
        return start_time == self.start_time and state not in _ENDED

    def most_seconds(self) -> float:
        """Return how long it can have been running, which no change of the clock of the wall makes longer.

        Infinite for one of another boot.
        """
        if self.boot_id != _boot_id():
            return math.inf
        ticks = os.sysconf("SC_CLK_TCK")
        return max(0.0, boot_seconds() - (self.start_time + _boot_offset(ticks)) / ticks)

    def to_text(self) -> str:
        """Return one line of ASCII JSON that `from_text` reads."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> ProcessIdentity:
        """Return the identity that `to_text` wrote.

        Raises:
            ValueError: `text` is not of that form, as of a file that was only partly written.
        """
        try:
            members = json.loads(text)
        except RecursionError:
            raise ValueError("the text is no object") from None
        match members:
            case {
                "pid": int(pid),
                "start_time": int(start_time),
                "boot_id": str(boot_id),
                "pid_namespace": str(pid_namespace),
            } if pid > 0:
                return cls(pid, start_time, boot_id, pid_namespace)
        raise ValueError("the text names no process")


class ProcessWatch:
    """Says of the same processes again and again whether they run, in one system call each.

    A process that was seen alive is held by a descriptor, which tells its end and never means another
    process. Only a "yes" is taken from it: what it does not confirm is looked up anew. May be used
    from any thread; a forked child begins anew, for it may close descriptors that it does not know.
    """

    def __init__(self) -> None:
        self._seen: dict[ProcessIdentity, _Descriptor] = {}
        _watches.add(self)

    def is_alive(self, identity: ProcessIdentity) -> bool | None:
        """See `ProcessIdentity.is_alive`, of a process of the same machine."""
        seen = self._seen.get(identity)
        if seen is not None and not seen.has_ended():
            return True
        # Opened before the look: if that very process is then alive, it was so when this was opened.
        opened = _Descriptor.of(identity.pid)
        alive = identity.is_alive()
        self._seen.pop(identity, None)
        if alive and opened is not None:
            self._seen[identity] = opened
            for oldest in list(self._seen)[:-_MOST_WATCHED]:
                self._seen.pop(oldest, None)
        return alive

    def close(self) -> None:
        """Let go of every process."""
        self._seen.clear()


class _Descriptor:
    """A pidfd, open as long as anybody refers to it: so no thread polls a number that was given out anew."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    @classmethod
    def of(cls, pid: int) -> _Descriptor | None:
        """Return one of the process that has `pid` now, or None where none is to be had."""
        try:
            return cls(os.pidfd_open(pid))
        except (OSError, OverflowError):
            return None

    def has_ended(self) -> bool:
        """Say whether the process ended, down to its last thread."""
        poll = select.poll()
        poll.register(self._number, select.POLLIN)
        return bool(poll.poll(0))

    def __del__(self) -> None:
        os.close(self._number)


_watches: weakref.WeakSet[ProcessWatch] = weakref.WeakSet()


def _let_go_after_fork() -> None:
    for watch in list(_watches):
        watch.close()


os.register_at_fork(after_in_child=_let_go_after_fork)


def _unseen(pid: int) -> bool | None:
    """Tell a process that is gone from one that is hidden: kill(2) reaches both namespaces and hidepid."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return None
    return None


def _read_stat(process: str) -> tuple[bytes, int]:
    """Return state and start time of ``/proc/<process>/stat``.

    The command name, field 2, may hold spaces and parentheses, so counting starts after the last ")".
    """
    descriptor = os.open(f"/proc/{process}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        stat = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    fields = stat[stat.rindex(b")") + 1 :].split()
    return fields[_STATE - 3], int(fields[_START_TIME - 3]) - _boot_offset(os.sysconf("SC_CLK_TCK"))


@functools.cache
def _boot_offset(ticks: int) -> int:
    """Return by how many ticks this time namespace counts more since boot than the first one."""
    try:
        with open("/proc/self/timens_offsets", "rb") as file:
            offsets = {name: int(seconds) for name, seconds, _ in map(bytes.split, file)}
    except (OSError, ValueError):  # a kernel without time namespaces
        return 0
    return offsets.get(b"boottime", 0) * ticks


os.register_at_fork(after_in_child=_boot_offset.cache_clear)  # the child may be in another one


@functools.cache
def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()


def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")  # not cached: a forked child may be in another one
