"""A Work's life as the Flow sees it: one `Supervisor` a Work, over any executor.

The life is the table `_NEXT`; every change of status goes through it. Reports of the Work arrive
on a thread of the executor; calls of the Flow may come from any thread. One condition guards
both, and every waiter waits on it.
"""

from __future__ import annotations

import enum
import logging
import pickle
import threading
import warnings
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from lit_storage.apps.arguments import Arguments
from lit_storage.apps.flow_state import FlowState
from lit_storage.executors import (
    Changed,
    Executor,
    Joined,
    Raised,
    Report,
    Returned,
    Run,
    Start,
    Worker,
)
from lit_storage.paths.path import Path
from lit_storage_proto.errors import NotAttached, TransferTimeout, WorkError

_LOG = logging.getLogger("lit_storage.app")


class Status(enum.StrEnum):
    """What a Work is doing."""

    NOT_STARTED = "not_started"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


_NEXT: Final[Mapping[Status, frozenset[Status]]] = {
    Status.NOT_STARTED: frozenset({Status.RUNNING, Status.STOPPED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.STOPPED}),
    Status.SUCCEEDED: frozenset({Status.RUNNING, Status.STOPPED, Status.FAILED}),
    Status.FAILED: frozenset({Status.RUNNING}),  # in a new process, as a new instance
    Status.STOPPED: frozenset({Status.RUNNING}),
}

_LEAVE_SECONDS = 5.0  # in which a process that has left has ended, unless the Work's own threads hold it up


class WorkTraceback(Exception):
    """The traceback of a Work, shown as the cause of what its ``run`` raised."""

    def __str__(self) -> str:
        name, text = self.args
        return f"in the process of {name!r}:\n\n{text}"


class Supervisor:
    """Starts one Work, calls its ``run``, keeps its state, and ends it.

    Args:
        name: the Work's name.
        attributes: those of the Flow's copy of the Work, kept up to date here.
        executor: starts the process.
        make_start: gives the first command, with the attributes as they are then.
        parallel: whether `run` returns at once.
        stop_grace_seconds: from asking the Work to stop until it is given up.
        publish_seconds: what publishing may take in addition.
        ended: called with its instance id, None if it never joined, when its process has ended, before
            anybody is told of that.
    """

    def __init__(
        self,
        name: str,
        attributes: MutableMapping[str, Any],
        executor: Executor,
        make_start: Callable[[], Start],
        *,
        parallel: bool,
        stop_grace_seconds: float,
        publish_seconds: float,
        ended: Callable[[str | None], None],
    ) -> None:
        self.name = name
        self._state = FlowState(name, attributes)
        self._executor = executor
        self._make_start = make_start
        self._parallel = parallel
        self._stop_grace_seconds = stop_grace_seconds
        self._publish_seconds = publish_seconds
        self._process_ended = ended
        self._changed = threading.Condition()
        self._status = Status.NOT_STARTED
        self._exception: BaseException | None = None
        self._exception_was_raised = False
        self._value: Any = None
        self._worker: Worker | None = None
        self._leaving: list[Worker] = []  # said that they are done; their processes may still exist
        self._processes = 0  # those whose end was not dealt with yet
        self._generation = 0
        self._instance_ids: dict[int, str] = {}  # by generation
        self._stopping = False
        self._start_deadline: threading.Timer | None = None

    @property
    def status(self) -> Status:
        """What the Work is doing."""
        return self._status

    @property
    def exception(self) -> BaseException | None:
        """What the last call of ``run`` raised."""
        return self._exception

    @property
    def is_live(self) -> bool:
        """Whether the Work has a process, which holds its name."""
        return self._worker is not None

    def start(self) -> None:
        """Start the Work's process unless it runs; return at once."""
        with self._changed:
            if self._worker is not None:
                return
            if restored := self._state.restore():
                _LOG.info(
                    "the next process of %r has the last state of %s, and not the values that stayed in the "
                    "former process",
                    self.name,
                    ", ".join(sorted(restored)),
                )
            start = self._make_start()
            self._state.begin()
            self._generation += 1
            self._stopping = False
            generation = self._generation
            self._worker = self._executor.start(
                start,
                lambda report: self._receive(generation, report),
                lambda how: self._ended(generation, how),
            )
            self._processes += 1
            seconds = start.limits.start_seconds
            self._start_deadline = threading.Timer(seconds, self._start_is_late, (generation, seconds))
            self._start_deadline.daemon = True
            self._start_deadline.start()

    def run(self, arguments: Arguments) -> Any:
        """Call ``run`` in the Work's process; wait for it unless the Work is parallel.

        Raises:
            RuntimeError: it is running already.
            TypeError: an attribute that the Flow assigned cannot be pickled.
            WorkError: it was stopped, or its process ended, before `run` did.
            NotAttached: a Path among the arguments is of a Work that is not in the Flow.
            BaseException: what ``run`` raised, with the Work's traceback as its cause.
        """
        _refuse_nameless(arguments)
        with self._changed:
            # What a former process left is published before there is another one to write there.
            self._changed.wait_for(lambda: self._processes <= (self._worker is not None), _LEAVE_SECONDS)
            if self._status is Status.RUNNING:
                raise RuntimeError(
                    f"{self.name!r} is running already; wait() for it, or give this call to another Work"
                )
            self.start()
            worker = self._worker
            assert worker is not None
            changes = self._state.changes()
            self._exception, self._exception_was_raised, self._value = None, False, None
            self._become(Status.RUNNING)
            worker.send(Run(arguments.pickled, changes))
        if self._parallel:
            return None
        value = self.wait(None)
        if self._status is Status.STOPPED:
            raise WorkError(f"{self.name!r} was stopped before run() had ended")
        return value

    def wait(self, timeout_seconds: float | None) -> Any:
        """Wait until ``run`` has ended; return what it returned, or raise what it raised.

        Raises:
            TimeoutError: it still runs after `timeout_seconds`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._status is not Status.RUNNING, timeout_seconds):
                raise TimeoutError(
                    f"run() of {self.name!r} still runs after {timeout_seconds:g} s; "
                    "call wait() again, or stop() to end it"
                )
            if self._exception is not None:
                self._exception_was_raised = True
                raise self._exception
            return self._value

    def join(self) -> None:
        """Wait until ``run`` has ended, however it did."""
        with self._changed:
            self._changed.wait_for(lambda: self._status is not Status.RUNNING)

    def stop(self) -> None:
        """End the Work's process: it unwinds, leaves, or is killed after half of the grace."""
        with self._changed:
            self._stopping = True
            workers = self._workers()
        for worker in workers:
            worker.stop(self._stop_grace_seconds)
        with self._changed:
            seconds = self._stop_grace_seconds + self._publish_seconds
            self._changed.wait_for(lambda: not self._processes, seconds)
            self._leaving = [late for late in self._leaving if late not in workers]
            if self._status in (Status.NOT_STARTED, Status.SUCCEEDED):
                self._become(Status.STOPPED)

    def kill(self) -> None:
        """End the Work's process now."""
        with self._changed:
            self._stopping = True
            workers = self._workers()
        for worker in workers:
            worker.kill()

    def _workers(self) -> list[Worker]:
        return [*self._leaving, self._worker] if self._worker is not None else list(self._leaving)

    def unraised(self) -> BaseException | None:
        """Return what ``run`` raised if nobody has been told yet."""
        return None if self._exception_was_raised else self._exception

    @property
    def withheld(self) -> Mapping[str, str]:
        """What the attributes are that stay in the Work's process, by name."""
        return self._state.withheld

    def assigned(self, name: str) -> None:
        """Know that the Flow assigned or deleted an attribute: the next `run` brings it along."""
        self._state.assigned(name)

    def _receive(self, generation: int, report: Report) -> None:
        with self._changed:
            if generation != self._generation:
                return
            if isinstance(report, Joined):
                self._instance_ids[generation] = report.instance_id
                self._cancel_start_deadline()
                return
            self._state.apply(report.changes)
            if isinstance(report, Changed):
                return
            if isinstance(report, Returned):
                self._value = self._unpickled(report.value, "what run() returned")
                self._become(Status.SUCCEEDED)
                return
            self._retire()
            if isinstance(report, Raised):
                self._fail(_exception_of(self.name, report))
            else:
                self._note_stop()

    def _ended(self, generation: int, how: str) -> None:
        # It may take a while: what the Work declared and did not publish itself is published now.
        try:
            self._process_ended(self._instance_ids.pop(generation, None))
        finally:
            self._note_end(generation, how)

    def _note_end(self, generation: int, how: str) -> None:
        with self._changed:
            self._processes -= 1
            self._changed.notify_all()
            if generation != self._generation:
                return
            self._cancel_start_deadline()
            self._worker = None
            if self._status is Status.RUNNING and self._stopping:
                self._become(Status.STOPPED)
            elif self._status is Status.RUNNING:
                self._fail(WorkError(f"the process of {self.name!r} {how} before run() had ended"))
            elif self._status is Status.SUCCEEDED and self._stopping:
                self._become(Status.STOPPED)
            self._changed.notify_all()

    def _retire(self) -> None:
        """Have no process any more: it gave its name back, so that another one can start."""
        self._cancel_start_deadline()
        if self._worker is not None:
            self._leaving.append(self._worker)
            self._worker = None

    def _note_stop(self) -> None:
        if self._stopping or self._status is not Status.RUNNING:
            if self._status is not Status.FAILED:
                self._become(Status.STOPPED)
        else:
            self._fail(WorkError(f"{self.name!r} was stopped from outside before run() had ended"))

    def _start_is_late(self, generation: int, seconds: float) -> None:
        with self._changed:
            worker = self._worker
            if generation != self._generation or worker is None or self._start_deadline is None:
                return
            self._retire()
            if self._status is Status.RUNNING:
                advice = f"; {worker.advice}" if worker.advice else ""
                self._fail(
                    TransferTimeout(
                        f"the process of {self.name!r} did not start within {seconds:g} s{advice}"
                    )
                )
        worker.kill()

    def _unpickled(self, pickled: bytes, what: str) -> Any:
        try:
            return pickle.loads(pickled)  # noqa: S301  from the App's own process
        except Exception as error:  # noqa: BLE001  its class may be one that only the Work can import
            warnings.warn(f"{what} of {self.name!r} cannot be loaded in the Flow: {error}", stacklevel=2)
            return None

    def _cancel_start_deadline(self) -> None:
        if self._start_deadline is not None:
            self._start_deadline.cancel()
            self._start_deadline = None

    def _fail(self, exception: BaseException) -> None:
        if self._status is Status.NOT_STARTED:
            return  # its process could not start; the first call of run() starts another and is told
        self._exception = exception
        self._become(Status.FAILED)

    def _become(self, status: Status) -> None:
        if status is not self._status:
            assert status in _NEXT[self._status], f"{self._status} -> {status}"
            self._status = status
        self._changed.notify_all()


def _refuse_nameless(arguments: Arguments) -> None:
    for path in arguments.paths:
        if isinstance(path, Path) and path._origin is not None and path._origin.name is None:
            raise NotAttached(
                f"{str(path)!r} is of a Work without a name, since it is no attribute of the Flow; assign it"
            )


def _exception_of(name: str, report: Raised) -> BaseException:
    exception: object = None
    if report.exception:
        try:
            exception = pickle.loads(report.exception)  # noqa: S301  from the App's own process
        except BaseException:  # noqa: BLE001  its class may be one that only the Work can import
            exception = None
    if not isinstance(exception, BaseException):
        exception = WorkError(f"{name!r} raised {report.summary}")
    if report.traceback:
        exception.__cause__ = WorkTraceback(name, report.traceback)
    return exception
