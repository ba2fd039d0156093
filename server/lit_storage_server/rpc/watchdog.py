"""Ends the calls of a server that take too long, or whose request is awaited while others have no thread.

Invariant: no call holds a thread longer than its deadline; and while calls wait for a thread, none that has
said nothing yet keeps one longer than a moment.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import grpc

# A request comes in the packet of its headers, or right behind it, unless its caller means no good. One that
# a flood delays for longer is cancelled, and its caller asks again.
_PATIENCE_SECONDS = 0.1


class Watchdog:
    """One thread that cancels each watched call whose deadline has passed.

    Args:
        is_pressed: says whether calls wait for a thread.
    """

    def __init__(self, is_pressed: Callable[[], bool] = lambda: False) -> None:
        self._is_pressed = is_pressed
        self._deadlines: dict[grpc.ServicerContext, float] = {}
        self._silent: dict[grpc.ServicerContext, float] = {}
        """Since when the request of a call is awaited, the longest first."""
        self._changed = threading.Condition()
        self._stopped = False
        self._wakes_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="lit-storage-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread; to be called once."""
        self._thread.start()

    @contextlib.contextmanager
    def watching(self, context: grpc.ServicerContext, seconds: float) -> Iterator[Callable[[float], None]]:
        """Cancel the call `seconds` from now unless the block ends; the value yielded moves the deadline."""

        def move(seconds: float) -> None:
            deadline = time.monotonic() + seconds
            self._deadlines[context] = deadline
            self._wake_by(deadline)

        move(seconds)
        try:
            yield move
        finally:
            self._deadlines.pop(context, None)

    @contextlib.contextmanager
    def awaiting(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Have the call give way to others in the block, which waits for its request."""
        self._silent[context] = time.monotonic()
        try:
            yield
        finally:
            self._silent.pop(context, None)

    def hurry(self) -> None:
        """Look soon whether calls are pressed for threads: one has just found none free."""
        self._wake_by(time.monotonic() + _PATIENCE_SECONDS)

    def stop(self) -> None:
        """End the thread; calls are watched no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _wake_by(self, moment: float) -> None:
        if moment < self._wakes_at:
            with self._changed:
                self._wakes_at = min(self._wakes_at, moment)
                self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                self._wakes_at = float("inf")
                now = time.monotonic()
                self._cancel(self._deadlines, now)
                if self._is_pressed():
                    self._cancel(self._silent, now - _PATIENCE_SECONDS)
                    self._wakes_at = min(self._wakes_at, now + _PATIENCE_SECONDS)
                wait = self._wakes_at - time.monotonic()
                self._changed.wait(None if wait == float("inf") else max(wait, 0.0))

    def _cancel(self, moments: dict[grpc.ServicerContext, float], before: float) -> None:
        """Cancel the calls whose moment has come, and wake again for the next of the others."""
        # A copy in one step of the interpreter: other threads add and remove meanwhile. That of a list of
        # the items is none, as each makes a tuple, which may collect garbage, and so end calls that are.
        for context, moment in moments.copy().items():
            if moment <= before:
                moments.pop(context, None)
                context.cancel()
            elif moments is self._deadlines:
                self._wakes_at = min(self._wakes_at, moment)
