"""A Work's life inside its own process: join, call ``run`` when told, report, leave.

`WorkHost.serve` runs on the process's main thread, so that ``run`` may install signal handlers
and is unwound by an exception. Commands come from another thread through `command`. Whatever
ends the life, the Work leaves its session first and reports after it: when the Flow hears of the
end, the name is free.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import pickle
import queue
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from lit_storage.apps.arguments import unpack
from lit_storage.apps.arrivals import Arrivals
from lit_storage.apps.assignments import own_paths
from lit_storage.apps.async_run import AsyncRun
from lit_storage.apps.attributes import setter_refused
from lit_storage.apps.dispatch import is_awaitable_or_generator
from lit_storage.apps.handover import fetch_all
from lit_storage.apps.hidden_paths import HiddenPaths
from lit_storage.apps.internals import attributes_of, internals
from lit_storage.apps.paths_in_values import find_paths, first_hidden_path
from lit_storage.apps.teller import Post, Teller
from lit_storage.apps.tracebacks import user_traceback
from lit_storage.apps.work import Work
from lit_storage.executors import (
    Command,
    Joined,
    Publishing,
    Raised,
    Report,
    Returned,
    Run,
    Start,
    Stop,
    Stopped,
    by_value,
)
from lit_storage.executors.work_state import Changes, NotState, pickled_state
from lit_storage.paths.path import Path
from lit_storage.sessions.fresh_root import begin_empty, discard_older, joining_in_run, restore_former
from lit_storage.sessions.persistence import tell
from lit_storage.sessions.session import Session, join
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_proto.registry import WorkState

_LOG = logging.getLogger("lit_storage.work")


class WorkStopped(SystemExit):
    """Raised in ``run`` when the Work is to stop, so that it unwinds as at ``sys.exit``."""


class WorkHost:
    """Runs one Work in this process.

    Args:
        start: who the Work is.
        send: carries reports to the executor and the Flow, without waiting; called from any thread.
        load: loads the module of the Work's class.
        app: the App's process, where it shares this machine and publishes what the Work leaves.
    """

    def __init__(
        self,
        start: Start,
        send: Post,
        load: Callable[[], None],
        app: ProcessIdentity | None = None,
    ) -> None:
        self._start = start
        self._send = send
        self._load = load
        self._app = app
        self._process = os.getpid()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._teller: Teller | None = None
        self._session: Session | None = None
        self._arrivals: Arrivals | None = None
        self._stopping = False
        self._state = WorkState.STOPPED
        self._given: list[Path] = []  # among the arguments of the last call
        self._hidden_paths = HiddenPaths(start.name)
        self._in_run = False  # whether code of the user runs on the main thread
        self._async_run: AsyncRun | None = None
        self.is_publishing = False
        """Whether ``run`` has ended, and what the Work declared is being published."""

    def command(self, command: Command) -> None:
        """Queue what the Work does next; after a Stop, no queued `run` begins any more."""
        if isinstance(command, Stop):
            self._stopping = True
        self._commands.put(command)

    def interrupt(self) -> None:
        """Unwind ``run`` if it goes on. Called by a signal handler on the main thread.

        Raises:
            WorkStopped: in ``run``, once. An asynchronous one is cancelled first.
        """
        if not self._in_run:
            return
        is_forked = os.getpid() != self._process  # with a copy of the loop that nobody runs
        if self._async_run is None or is_forked or not self._async_run.cancel():
            self._in_run = False  # one exception is enough: unwinding is not interrupted again
            raise WorkStopped(128 + signal.SIGTERM)

    def serve(self) -> None:
        """Join, then do as commanded until stopped or until ``run`` raises."""
        work: Work | None = None
        try:
            with self._begin_empty():
                self._session = join(
                    self._start.name,
                    root=self._start.root,
                    registry=self._start.registry,
                    bind=self._start.bind,
                    artifacts=self._start.artifacts,
                    # An App of an older version has none, as on a Ray node.
                    symlinks=getattr(self._start, "symlinks", "keep"),
                    security=self._start.security,
                    limits=self._start.limits,
                )
            self._arrivals = Arrivals(self._session)
            if self._app is not None:
                self._session.leave_rest_to_app(self._app)
            self._load()
            work = self._unpickle_work()
            self._send(Joined(self._session.instance_id))
            while not isinstance(command := self._commands.get(), Stop):
                if isinstance(command, Run):
                    self._run(work, command)
                    self._state = WorkState.SUCCEEDED
        except WorkStopped:
            self._state = WorkState.STOPPED
        except BaseException as error:  # noqa: BLE001  whatever it is, it is raised in the Flow
            self._end_if_forked(error)
            self._end(WorkState.FAILED, work, partial(_raised, error))
            return
        self._end(self._state, work, Stopped)

    def _begin_empty(self) -> AbstractContextManager[None]:
        """Move aside what earlier runs of the App left in the storage root, if the App asks for that.

        Returns:
            a context to join in.
        """
        start = self._start
        run_id = getattr(start, "fresh_run_id", "")  # an App of an older version has none
        if not run_id:
            restore_former(start.root, start.name, start.limits)
            return nullcontext()
        begin_empty(start.root, start.registry, start.name, run_id, start.limits)
        threading.Thread(
            target=discard_older, args=(start.root, start.name), name="lit-former", daemon=True
        ).start()
        return joining_in_run(start.root, start.name, run_id)

    def assigned(self, work: Work, name: str) -> None:
        """Tell the Flow at once that `run` assigned or deleted an attribute."""
        if os.getpid() != self._process:
            return  # a forked child of the Work has a Work of its own
        attributes = attributes_of(work)
        if attributes.is_stored(name):  # a getter of the user may take a lock that the caller holds
            own_paths(work, name)
            self._declare_own(attributes.get(name))
            self._warn_of_hidden_paths(work, [name])
        if self._teller is not None:
            self._teller.assigned(name)

    def _unpickle_work(self) -> Work:
        work = pickle.loads(self._start.work)  # noqa: S301  from the App that started this process
        assert isinstance(work, Work)
        internals(work).persist = getattr(self._start, "persist", None) or internals(work).persist
        internals(work).origin.assign(self._start.name)
        attributes = attributes_of(work)
        self._declare_own(attributes.snapshot())
        self._warn_of_hidden_paths(work, attributes)
        self._teller = Teller(attributes, self._send)
        internals(work).on_assign = self.assigned
        return work

    def _run(self, work: Work, command: Run) -> None:
        assert self._session is not None
        self._session.check_name()
        args, kwargs, self._given = unpack(command.arguments, internals(work).origin)
        self._apply(work, command.changes)
        self._declare_own(attributes_of(work).snapshot())
        self._warn_of_hidden_paths(work, command.changes.assigned)
        self._in_run = True
        try:
            if self._stopping:
                raise WorkStopped
            fetch_all(
                self._foreign(self._given, attributes_of(work).snapshot()),
                workers=self._start.limits.fetch_workers,
                arrivals=self._arrivals,
            )
            value = self._outcome(work.run(*args, **kwargs))
        except SystemExit as error:
            if isinstance(error, WorkStopped) or error.code not in (None, 0):
                raise
            value = None
        finally:
            self._in_run = False
            self._async_run = None
        self._end_if_forked(None)
        self._session.check_name()  # nobody could get what this run made
        self._declare_own(value)
        self._warn_of_hidden_paths(work, attributes_of(work))
        pickled = self._pickle_value(value)
        if internals(work).persist == "run":
            self._publish(work)
        self._send(self._report(work, lambda changes: Returned(changes, pickled)))
        if self._teller is not None:
            self._teller.sent()

    def _outcome(self, value: Any) -> Any:
        """Return `value`, or what it brings if it is awaitable, as where ``run`` is a coroutine function.

        Raises:
            TypeError: it is a generator, so that nothing was done.
            WorkStopped: the Work was stopped meanwhile, and its task was cancelled.
        """
        if not is_awaitable_or_generator(value):
            return value
        if not inspect.isawaitable(value):
            raise TypeError(
                f"run() of {self._start.name!r} returned a generator, whose code has not run; "
                "return when the work is done"
            )
        self._async_run = AsyncRun(value, self._start.limits.stop_grace_seconds / 2)
        try:
            return self._async_run.run()
        except asyncio.CancelledError:
            if self._stopping:
                raise WorkStopped(128 + signal.SIGTERM) from None
            raise

    def _foreign(self, *values: Any) -> list[Path]:
        return [
            path
            for path in find_paths(values)
            if path.origin_name is not None and path.origin_name != self._start.name and path.uri is not None
        ]

    def _declare_own(self, value: Any) -> None:
        session = self._session
        if session is None or session.has_lost_name:
            return  # a thread of the user outlives the Work, or nobody is served any more
        for path in find_paths(value):
            if path.origin_name == self._start.name and path.uri is not None:
                session.declare(path)

    def _own_and_declare(self, work: Work) -> None:
        """Take in the Paths that `run` put into containers, which no assignment reported."""
        own_paths(work)
        self._declare_own(attributes_of(work).snapshot())

    def _warn_of_hidden_paths(self, work: Work, names: Iterable[str]) -> None:
        attributes = attributes_of(work)
        self._hidden_paths.look(attributes, names, lambda: [*find_paths(attributes.snapshot()), *self._given])

    def _apply(self, work: Work, changes: Changes) -> None:
        attributes = attributes_of(work)
        for name, pickled in changes.assigned.items():
            value = pickle.loads(pickled)  # noqa: S301  from the App that started this process
            try:
                attributes[name] = value
            except Exception as error:  # noqa: BLE001  a setter of the user may raise anything
                tell([setter_refused(self._start.name, name, error)])
            assert self._teller is not None
            self._teller.received(name, attributes.get(name, value))
        for name in changes.deleted:
            attributes.pop(name, None)
            assert self._teller is not None
            self._teller.forgotten(name)

    def _report(self, work: Work | None, make: Callable[[Changes], Report]) -> Report:
        """Return a report with all that has changed, also in place."""
        if work is None or self._teller is None:
            return make(Changes())
        self._own_and_declare(work)
        return self._teller.report(make)

    def _pickle_value(self, value: Any) -> bytes:
        try:
            return pickled_state(value)
        except NotState:
            path = first_hidden_path(value, lambda _: True)
            loss = "" if path is None else f", so the Path {str(path)!r} in it is not handed over"
            warnings.warn(
                f"run() of {self._start.name!r} returned a {type(value).__name__}, which stays in its "
                f"process{loss}; return JSON-like values, Paths or containers of these",
                stacklevel=2,
            )
            return pickle.dumps(None)

    def _end_if_forked(self, error: BaseException | None) -> None:
        """End here in a child that `run` forked and let return: only the Work itself may report."""
        if os.getpid() != self._process:
            if error is not None:
                traceback.print_exception(error)
            os._exit(error is not None)

    def _end(self, state: WorkState, work: Work | None, make: Callable[[Changes], Report]) -> None:
        """Leave, then send the last report. It is made before: outside of a session Paths have no URI."""
        try:
            report = self._report(work, make)
        except Exception:  # noqa: BLE001  pickling calls code of the user; the report matters more
            _LOG.exception("the last state of %r cannot be told", self._start.name)
            report = make(Changes())
        self._leave(state)
        self._send(report)

    def _publish(self, work: Work) -> None:
        """Publish before the Flow hears that ``run`` returned: what it starts next can rely on it."""
        assert self._session is not None
        self._own_and_declare(work)
        self._begin_publishing()
        try:
            self._session.publish()
        except Exception as error:  # noqa: BLE001  a run that ended well has ended well
            tell([f"what {self._start.name!r} declared could not be published: {error}"])
        finally:
            self.is_publishing = False

    def _begin_publishing(self) -> None:
        self.is_publishing = True
        self._send(Publishing())

    def _leave(self, state: WorkState) -> None:
        session, self._session = self._session, None
        try:
            if session is not None:
                self._begin_publishing()
                session.close(state)
        except Exception as error:  # noqa: BLE001  it is told, and the report still follows
            # What ended the Work is worth more to its Flow than what then went wrong in leaving.
            _LOG.warning("%r could not leave properly: %s", self._start.name, error)


def _raised(error: BaseException, changes: Changes) -> Raised:
    if isinstance(error, SystemExit):
        summary = f"SystemExit: {error.code}"
    else:
        summary = "".join(traceback.format_exception_only(error)).strip()
    return Raised(changes, _pickle_exception(error), summary, user_traceback(error))


def _pickle_exception(error: BaseException) -> bytes:
    """Return `error` pickled, or nothing where the Flow could not unpickle it.

    SystemExit stays here: raised in the Flow it would end the App without a word.
    """
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return b""
    try:
        pickled = by_value.dumps(error)
        pickle.loads(pickled)  # noqa: S301  made in the line above
    except BaseException:  # noqa: BLE001  a pickle of user code may raise anything
        return b""
    return pickled
