"""Ends this process when its time is over, even where none of its threads can run.

Invariant: from the moment that was set last on, no instruction of this process runs any more. A timer
of the kernel sends SIGKILL, which also ends a process that is stopped (SIGSTOP, a frozen debugger), or
whose interpreter is held; a machine that was suspended fires it before anything else gets on.

Python has no call for it: timer_create(2), by ctypes. Where the C library has none, nothing is set,
and what renews the lease has to end the process by itself.
"""

from __future__ import annotations

import ctypes
import signal

_CLOCK_BOOTTIME = 7  # linux/time.h; also counts while the machine is suspended
_SIGEV_SIGNAL = 0
_TIMER_ABSTIME = 1


class _SigEvent(ctypes.Structure):
    # struct sigevent of sigevent(7): 64 bytes on every machine of Linux.
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * (64 - 2 * ctypes.sizeof(ctypes.c_int) - ctypes.sizeof(ctypes.c_void_p))),
    )


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Fence:
    """The end of this process, which can be put off. Its children are not touched by it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        event = _SigEvent(None, signal.SIGKILL, _SIGEV_SIGNAL)
        try:
            failed = self._libc.timer_create(_CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(self._timer))
        except AttributeError:  # a C library that keeps it elsewhere
            failed = 1
        self.works = not failed
        """Whether there is such a timer."""

    def set(self, end: float) -> None:
        """Let the process end at `end`, on the clock of `boot_seconds`, and not when it was set to before."""
        self._arm(max(end, 1e-3))

    def lift(self) -> None:
        """Let the process go on."""
        self._arm(0.0)

    def _arm(self, end: float) -> None:
        if not self.works:
            return
        nanoseconds = int(end * 1e9)
        spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(*divmod(nanoseconds, 10**9)))
        self._libc.timer_settime(self._timer, _TIMER_ABSTIME, ctypes.byref(spec), None)
