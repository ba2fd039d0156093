"""SIGTERM as an exception: what a service manager sends first unwinds this program like Ctrl-C.

A handler that is there already stays, and outside of the main thread none can be set.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def exit_at_sigterm() -> Callable[[], None]:
    """Let SIGTERM raise SystemExit from now on; return what takes that back."""
    if threading.current_thread() is not threading.main_thread():
        return _nothing
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return _nothing
    signal.signal(signal.SIGTERM, _exit)
    return _take_back


@contextmanager
def deferring_sigterm() -> Iterator[list[int]]:
    """Let a SIGTERM that would raise SystemExit not cut the block short.

    Yields:
        The signals that came meanwhile, for whoever then ends the program after all.
    """
    received: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not _exit
    ):
        yield received
        return
    signal.signal(signal.SIGTERM, lambda signum, _frame: received.append(signum))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, _exit)


def _exit(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _take_back() -> None:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _exit:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _nothing() -> None:
    """Take nothing back."""
