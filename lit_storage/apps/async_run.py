"""A ``run`` that returned an awaitable: `asyncio.run` waits for it, and a stop cancels it first.

A signal handler cancels the task, so that its ``finally`` and ``async with`` run in the loop. `WorkStopped`
interrupts the main thread, as in any other ``run``, in two cases: the loop does not turn, because code
computes or blocks in it, or most of the time to unwind has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import queue
import signal
import threading
from collections.abc import Awaitable
from typing import Any

_TURN_SHARE = 0.2  # of the time to unwind, in which a loop that is not blocked turns
_CANCEL_SHARE = 0.6  # more, in which the task ends; the rest is for what does not end by being cancelled


class AsyncRun:
    """One call of an asynchronous ``run``.

    Args:
        awaitable: what ``run`` returned.
        unwind_seconds: from the request to stop until the process is killed.
    """

    def __init__(self, awaitable: Awaitable[Any], unwind_seconds: float) -> None:
        self._awaitable = awaitable
        self._unwind_seconds = unwind_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()  # its put() may interrupt itself
        self._ended = threading.Event()
        self._is_requested = False
        self._is_cancelled = False
        self._is_overdue = False

    def run(self) -> Any:
        """Return what the awaitable returns, or raise what it raises."""
        threading.Thread(target=self._escalate, name="lit-async-stop", daemon=True).start()
        handler = signal.getsignal(signal.SIGTERM)
        try:
            return asyncio.run(self._main())
        finally:
            # A loop in which the user set a handler leaves the default action behind.
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, handler)
            self._ended.set()
            self._requests.put(False)
            if inspect.iscoroutine(self._awaitable):
                self._awaitable.close()  # where it was never begun

    async def _main(self) -> Any:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        return await self._awaitable

    def cancel(self) -> bool:
        """Request the end; return False where the caller has to interrupt the main thread instead.

        Called by a signal handler on the main thread, any number of times.
        """
        if self._loop is None or self._is_overdue:
            return False
        if not self._is_requested:
            self._is_requested = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, for run() is about to return
                self._loop.call_soon_threadsafe(self._cancel_task)
            self._requests.put(True)
        return True

    def _cancel_task(self) -> None:
        self._is_cancelled = True
        assert self._task is not None
        self._task.cancel()

    def _escalate(self) -> None:
        if not self._requests.get():
            return
        if self._ended.wait(self._unwind_seconds * _TURN_SHARE):
            return
        if self._is_cancelled and self._ended.wait(self._unwind_seconds * _CANCEL_SHARE):
            return
        self._is_overdue = True
        os.kill(os.getpid(), signal.SIGTERM)
