"""The executor ``process``: each Work is a new Python process on this machine.

A Work's process is a session and process group of its own, so that Ctrl-C in a terminal reaches
the App alone, and so that ending it also ends what it started. It talks to the App over an
inherited socket pair. That a process ended is told by its pidfd and not by the end of the socket,
which a child of the Work may hold open. A `guard` process ends the groups if the App is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.spawn import get_command_line

from lit_storage.executors import Command, Publishing, Report, Start, Stop
from lit_storage.executors.guard import Guard
from lit_storage.executors.outbox import Outbox
from lit_storage_core.system.interpreter import find_interpreter
from lit_storage_proto.errors import InvalidApp

_CHILD = (  # nothing is imported from the working directory, unless the App does so too
    "import sys; sys.path[:] = filter(None, sys.path); from multiprocessing.connection import Connection;"
    "c = Connection(int(sys.argv[1]));"
    "sys.path[:], sys.argv[:] = c.recv(); from lit_storage.apps.process_child import main; main(c)"
)
_LEAVE_SECONDS = 5.0  # from what a Work published last until its process has ended
_LAST_WORDS_SECONDS = 1  # for the rest of a message whose sender is dead
_LOG = logging.getLogger("lit_storage.app")


class ProcessExecutor:
    """Starts Works as processes of this machine.

    Raises:
        InvalidApp: this program is no Python, and none is found that could be started in its place.
    """

    def __init__(self, stop_grace_seconds: float) -> None:
        """`stop_grace_seconds`: how long the guard lets orphaned Works unwind and publish."""
        self._guard = Guard(_interpreter(), stop_grace_seconds)
        self._workers: weakref.WeakSet[ProcessWorker] = weakref.WeakSet()
        self._closed = False
        _executors.add(self)

    def start(
        self, start: Start, receive: Callable[[Report], None], ended: Callable[[str], None]
    ) -> ProcessWorker:
        """See `Executor.start`."""
        if self._closed:
            raise RuntimeError(f"the App has ended, so {start.name!r} cannot run; run the App again")
        worker = ProcessWorker(start, receive, ended, self._guard)
        self._workers.add(worker)
        return worker

    def close(self) -> None:
        """See `Executor.close`."""
        self._closed = True
        self._guard.close()

    def abandon(self) -> None:
        """Let go of pipe and sockets in a forked child, so that they end when the App does."""
        self._guard.abandon()
        for worker in self._workers:
            worker.abandon()


_executors: weakref.WeakSet[ProcessExecutor] = weakref.WeakSet()


def _abandon_all() -> None:
    for executor in _executors:
        executor.abandon()


os.register_at_fork(after_in_child=_abandon_all)


def interpreter_flags() -> list[str]:
    """Return the flags of this interpreter that multiprocessing passes on to its children, such as ``-O``."""
    flags = get_command_line()[1:]
    return flags[: flags.index("-c")] if "-c" in flags else []


def _interpreter() -> str:
    """Return the Python that is started for a Work.

    Raises:
        InvalidApp: there is no Python that could be started.
    """
    try:
        return find_interpreter()
    except OSError as error:
        raise InvalidApp(
            f"no process can be started for a Work, since {error.strerror}; run the program with python, or "
            "name a Python that has its packages with multiprocessing.set_executable()"
        ) from None


class ProcessWorker:
    """A Work's process, seen from the App."""

    def __init__(
        self, start: Start, receive: Callable[[Report], None], ended: Callable[[str], None], guard: Guard
    ) -> None:
        self._name = start.name
        self._receive = receive
        self._ended = ended
        self._guard = guard
        self._publishing = False
        self._publish_seconds = start.limits.publish_seconds
        self._reaping = threading.Lock()
        self._gone = threading.Event()
        self._socket, theirs = socket.socketpair()
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            self._process = subprocess.Popen(  # noqa: S603  this interpreter, and no argument of anyone else's
                [
                    *(_interpreter(), *interpreter_flags()),
                    *("-c", _CHILD, str(theirs.fileno()), f"lit-storage Work {start.name}"),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._pidfd = os.pidfd_open(self._process.pid)
        guard.watch(self._process.pid)
        self._connection: Connection = Connection(os.dup(self._socket.fileno()))
        self._outbox = Outbox(self._connection, f"lit-send-{start.name}")
        self._outbox.put((sys.path, sys.argv))
        self._outbox.put(start)
        threading.Thread(target=self._attend, name=f"lit-work-{start.name}", daemon=True).start()

    @property
    def advice(self) -> str:
        """See `Worker.advice`."""
        return ""

    def send(self, command: Command) -> None:
        """See `Worker.send`."""
        self._outbox.put(command)

    def stop(self, grace_seconds: float) -> None:
        """See `Worker.stop`."""
        # By signal, and by a message for a `run` that took the signal for itself.
        self._signal(os.kill, signal.SIGTERM)
        self._outbox.put(Stop())
        seconds = grace_seconds / 2
        gone = self._gone.wait(seconds)
        if not gone and self._publishing:
            more = self._publish_seconds + _LEAVE_SECONDS
            seconds += more
            gone = self._gone.wait(more)
        if not gone:
            _LOG.warning("%r did not stop within %g s and is killed", self._name, seconds)
            self.kill()
            self._gone.wait(grace_seconds / 2)

    def kill(self) -> None:
        """See `Worker.kill`."""
        self._signal(os.killpg, signal.SIGKILL)

    def abandon(self) -> None:
        """Let go of the socket, in a forked child."""
        self._connection.close()
        self._socket.close()

    def _attend(self) -> None:
        """Pass reports on until the process has ended, then see to its end."""
        how = "ended"
        try:
            with contextlib.suppress(EOFError, OSError):
                self._receive_all()
        except Exception:  # noqa: BLE001  whatever it is, the Work's callers must hear of an end
            _LOG.exception("a report of %r could not be taken, so it is killed", self._name)
            self.kill()
        finally:
            try:
                how = self._reap()
            finally:
                self._gone.set()
                self._ended(how)

    def _receive_all(self) -> None:
        while self._connection in (ready := wait([self._connection, self._pidfd])):
            if self._pidfd in ready:
                # What it sent before it died is here already, and what is missing never comes.
                timeout = struct.pack("ll", _LAST_WORDS_SECONDS, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            report = self._connection.recv()
            self._publishing = isinstance(report, Publishing)
            if not self._publishing:
                self._receive(report)

    def _reap(self) -> str:
        """Wait for the end of the process, end what it left in its group, and say how it ended."""
        pid = self._process.pid
        wait([self._pidfd])
        known = True
        try:
            # While it is not reaped its number, which is also that of its group, stays its own.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            known = False  # this program ignores SIGCHLD, or waits for any child
        self._signal(os.killpg, signal.SIGKILL)
        self._guard.unwatch(pid)
        with self._reaping:
            code = self._process.wait()
        os.close(self._pidfd)
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes a sender that nobody reads from
        self._outbox.close(_LAST_WORDS_SECONDS)
        self.abandon()
        if not known:
            return "ended"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    def _signal(self, send: Callable[[int, int], None], signum: signal.Signals) -> None:
        with self._reaping:  # once it is reaped, another process may get its number
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    send(self._process.pid, signum)
