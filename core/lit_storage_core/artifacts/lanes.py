"""A few threads that make requests for one that waits no longer than it wants to.

Invariant: `Lanes.call` and `Pending.result` return or raise within the time they are given, whatever
the function does: one that hangs keeps its thread, which ends with the process, and nobody else.

Why not ``concurrent.futures``: its threads hold up the end of the program, and none can be had once that
has begun, which is when a session that nobody closed publishes. Where no thread can be had at all, as then
from Python 3.12 on, whoever asks calls the function itself: what is asked of a disk ends.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LateError(Exception):
    """The function did not return in time."""


class Pending(Generic[T]):
    """What a function will have returned."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function: Callable[[], T] | None = function
        self._done = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Call the function, unless it was dropped; for the thread that does."""
        function, self._function = self._function, None
        try:
            if function is not None:
                self._value = function()
        except BaseException as error:  # noqa: BLE001  it belongs to whoever waits
            self._error = error
        finally:
            self._done.set()

    def drop(self) -> None:
        """Do not call the function if that has not begun."""
        self._function = None

    def result(self, seconds: float) -> T:
        """Return what the function returned, or raise what it raised.

        Raises:
            LateError: it has not ended within `seconds`.
        """
        if not self._done.wait(max(0.0, seconds)):
            raise LateError
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # it is the function's


class Lanes:
    """At most `count` threads, made as they are needed; they end when `close` is called.

    Args:
        count: how many functions run at once.
        name: what the threads are called.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._queue: queue.SimpleQueue[Pending[Any] | None] = queue.SimpleQueue()
        self._threads = 0
        self._lock = threading.Lock()

    def submit(self, function: Callable[[], T]) -> Pending[T]:
        """Call `function` in one of the threads, as soon as one is free."""
        pending = Pending(function)
        with self._lock:
            if self._threads < self._count and self._start():
                self._threads += 1
            has_thread = self._threads > 0
        if has_thread:
            self._queue.put(pending)
        else:
            pending.run()
        return pending

    def call(self, function: Callable[[], T], seconds: float) -> T:
        """Return what `function` returns.

        Raises:
            LateError: it did not within `seconds`.
        """
        return self.submit(function).result(seconds)

    def close(self) -> None:
        """Drop what has not begun, and let the threads end when they have done the rest."""
        with self._lock:
            with contextlib.suppress(queue.Empty):
                while True:
                    pending = self._queue.get_nowait()
                    if pending is not None:
                        pending.drop()
                        pending.run()  # for whoever waits for it after all
            for _ in range(self._threads):
                self._queue.put(None)
            self._threads = 0

    def _start(self) -> bool:
        """Start a thread; say whether one could be had."""
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:  # the interpreter is ending (from Python 3.12 on), or threads are short
            return False
        return True

    def _run(self) -> None:
        while (pending := self._queue.get()) is not None:
            pending.run()
            del pending  # what it returned may be large


def remaining(deadline: float | None, most: float) -> float:
    """Return the seconds until `deadline`, on the clock of time.monotonic(), `most` at the most."""
    return most if deadline is None else max(0.0, min(most, deadline - time.monotonic()))
