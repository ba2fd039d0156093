"""The threads that run the handlers of one server.

Invariants: none of them keeps the process from exiting. Those of ``ThreadPoolExecutor`` do: the
interpreter joins them at its end, and would wait there for a stream whose consumer is silent. And `submit`
raises nothing while the pool runs: gRPC calls it from its one thread that serves, which would end.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

_IDLE_SECONDS = 2.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DaemonThreadPool(Executor):
    """An executor of daemon threads, each started when it is first needed.

    Args:
        threads: how many there are at most.
        name: what theirs begin with.
        kept: how many stay when they have nothing to do for a while; None is all.
        on_queued: called when a call is submitted for which there is no thread now.
    """

    def __init__(
        self,
        threads: int,
        name: str,
        *,
        kept: int | None = None,
        on_queued: Callable[[], None] = lambda: None,
    ) -> None:
        self.most = threads
        self._kept = threads if kept is None else kept
        self._name = name
        self._numbers = itertools.count()
        self._on_queued = on_queued
        self._threads: set[threading.Thread] = set()
        self._work: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._stopped = False

    def is_short(self) -> bool:
        """Say whether calls wait for a thread, after trying once more to start one."""
        with self._changed:
            if len(self._work) > self._idle:
                self._start_thread()
        return bool(self._work)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run a call on a thread of the pool; queue it while all are busy.

        Raises:
            RuntimeError: the pool was shut down.
        """
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever asks the future
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._changed:
            if self._stopped:
                raise RuntimeError("the server has stopped and runs nothing more")
            self._work.append(run)
            has_thread = len(self._work) <= self._idle or self._start_thread()
            self._changed.notify()
        if not has_thread:
            self._on_queued()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; what is queued still runs unless it is cancelled."""
        with self._changed:
            self._stopped = True
            if cancel_futures:
                self._work.clear()
            self._changed.notify_all()
        if wait:
            self.join(threading.TIMEOUT_MAX)

    def join(self, seconds: float) -> None:
        """Wait for the threads to end, at most `seconds` in all."""
        deadline = time.monotonic() + seconds
        with self._changed:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start_thread(self) -> bool:
        if len(self._threads) >= self.most:
            return False
        name = f"{self._name}-{next(self._numbers)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has none, or no memory for one: those that there are do
            return False
        self._threads.add(thread)
        return True

    def _run(self) -> None:
        while (run := self._next()) is not None:
            run()
            del run  # else this idle thread would keep the last call, and what it holds, alive

    def _next(self) -> Callable[[], None] | None:
        """Wait for a call to run; None ends the thread."""
        with self._changed:
            self._idle += 1
            while not self._work and not self._stopped:
                is_kept = len(self._threads) <= self._kept
                waited = self._changed.wait(None if is_kept else _IDLE_SECONDS)
                if not (waited or self._work) and len(self._threads) > self._kept:
                    break
            self._idle -= 1
            if self._work:
                return self._work.popleft()
            if not self._stopped:
                self._threads.discard(threading.current_thread())
            return None
