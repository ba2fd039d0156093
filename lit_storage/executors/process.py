"""The executor ``process``: each Work is a new Python process on this machine.

A Work's process is a session and process group of its own, so that Ctrl-C in a terminal reaches
the App alone, and so that ending it also ends what it started. It talks to the App over an
inherited socket pair, whose end of file tells either side that the other is gone. A `guard`
process ends the groups if the App is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from lit_storage.executors import Command, Report, Start, Stop
from lit_storage.executors.guard import Guard

_CHILD = (
    "import sys; from multiprocessing.connection import Connection; c = Connection(int(sys.argv[1]));"
    "sys.path[:], sys.argv[:] = c.recv(); from lit_storage.executors.process_child import main; main(c)"
)


class ProcessExecutor:
    """Starts Works as processes of this machine."""

    def __init__(self, stop_grace_seconds: float) -> None:
        """`stop_grace_seconds`: how long the guard lets orphaned Works unwind."""
        self._guard = Guard(stop_grace_seconds)
        self._closed = False

    def start(
        self, start: Start, receive: Callable[[Report], None], ended: Callable[[str], None]
    ) -> ProcessWorker:
        """See `Executor.start`."""
        if self._closed:
            raise RuntimeError(f"the App has ended, so {start.name!r} cannot run; run the App again")
        return ProcessWorker(start, receive, ended, self._guard)

    def close(self) -> None:
        """See `Executor.close`."""
        self._closed = True
        self._guard.close()


class ProcessWorker:
    """A Work's process, seen from the App."""

    def __init__(
        self, start: Start, receive: Callable[[Report], None], ended: Callable[[str], None], guard: Guard
    ) -> None:
        self._receive = receive
        self._ended = ended
        self._guard = guard
        self._sending = threading.Lock()
        self._reaping = threading.Lock()
        self._gone = threading.Event()
        ours, theirs = socket.socketpair()
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            self._process = subprocess.Popen(  # noqa: S603  this interpreter, and no argument of anyone else's
                [sys.executable, "-c", _CHILD, str(theirs.fileno()), f"lit-storage Work {start.name}"],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        guard.watch(self._process.pid)
        self._connection: Connection = Connection(ours.detach())
        self._put((sys.path, sys.argv))
        self.send(start)
        threading.Thread(target=self._listen, name=f"lit-work-{start.name}", daemon=True).start()

    def send(self, command: Command) -> None:
        """See `Worker.send`."""
        self._put(command)

    def stop(self, grace_seconds: float) -> None:
        """See `Worker.stop`."""
        self._ask_to_stop()
        if not self._gone.wait(grace_seconds / 2):
            self.kill()
            self._gone.wait(grace_seconds / 2)

    def kill(self) -> None:
        """See `Worker.kill`."""
        self._signal(os.killpg, signal.SIGKILL)

    def _ask_to_stop(self) -> None:
        """Ask by signal, and by a message for a `run` that took the signal for itself.

        Neither waits: the process may be suspended, with a message to it half written.
        """
        self._signal(os.kill, signal.SIGTERM)
        if self._sending.acquire(blocking=False):
            try:
                if select.select([], [self._connection], [], 0)[1]:
                    self._connection.send(Stop())
            except (OSError, ValueError):
                pass  # its end is told by `ended`
            finally:
                self._sending.release()

    def _put(self, message: object) -> None:
        with self._sending, contextlib.suppress(OSError):  # if it has ended, `ended` tells
            self._connection.send(message)

    def _listen(self) -> None:
        try:
            while True:
                self._receive(self._connection.recv())
        except (EOFError, OSError):
            pass
        finally:
            self._reap()

    def _reap(self) -> None:
        """Wait for the process, end what it left behind in its group, and tell how it ended."""
        pid = self._process.pid
        # While it is not reaped its number, which is also that of its group, stays its own.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._signal(os.killpg, signal.SIGKILL)
        self._guard.unwatch(pid)
        with self._reaping:
            code = self._process.wait()
        self._connection.close()
        self._gone.set()
        self._ended(f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}")

    def _signal(self, send: Callable[[int, int], None], signum: signal.Signals) -> None:
        with self._reaping:  # once it is reaped, another process may get its number
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    send(self._process.pid, signum)
