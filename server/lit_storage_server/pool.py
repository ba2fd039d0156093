"""The threads that run the handlers of one server.

Invariant: none of them keeps the process from exiting. Those of ``ThreadPoolExecutor`` do: the
interpreter joins them at its end, and would wait there for a stream whose consumer is silent.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DaemonThreadPool(Executor):
    """An executor with at most `threads` daemon threads, each started when it is first needed."""

    def __init__(self, threads: int, name: str) -> None:
        self._limit = threads
        self._name = name
        self._threads: list[threading.Thread] = []
        self._work: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._stopped = False

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
            if self._idle < len(self._work) and len(self._threads) < self._limit:
                self._start_thread()
            else:
                self._changed.notify()
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
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._work and not self._stopped:
                    self._changed.wait()
                self._idle -= 1
                if not self._work:
                    return
                run = self._work.popleft()
            run()
            del run  # else this idle thread would keep the last call, and what it holds, alive
