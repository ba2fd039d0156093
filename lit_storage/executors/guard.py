"""Ends the process groups of Works whose App was killed: `Guard` in the App, `_main` beside it.

A killed App cannot clean up, and a Work whose ``run`` holds the interpreter in C code notices
neither the end of the App nor SIGTERM. The guard is a small process of its own. It is told the
numbers of the groups through a pipe, and watches the App by a pidfd, which no fork of the App can
keep from ending as it could a pipe. When the App ends it asks each group to stop, gives it time,
and kills what is left. It runs as a script and imports nothing of this package, so that it starts
in few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time

_END_SECONDS = 5.0


class Guard:
    """The App's end of the pipe."""

    def __init__(self, python: str, grace_seconds: float) -> None:
        """Start the guard.

        Args:
            python: the interpreter to start.
            grace_seconds: from asking orphaned Works to stop until they are killed.
        """
        self._lock = threading.Lock()
        self._process = subprocess.Popen(  # noqa: S603  this interpreter and this file
            [python, "-I", "-S", *_program(), str(os.getpid()), str(grace_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("LIT_STORAGE_")},
        )

    def watch(self, pid: int) -> None:
        """End the group of `pid` if this process dies."""
        self._say(f"+{pid}\n")

    def unwatch(self, pid: int) -> None:
        """Forget a group that has ended; call it before its leader is reaped."""
        self._say(f"-{pid}\n")

    def close(self) -> None:
        """End the guard; every group has been forgotten."""
        self.abandon()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # somebody suspended it
            self._process.kill()
            self._process.wait()

    def abandon(self) -> None:
        """Let go of the pipe, as a forked child must."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        # Somebody may have killed the guard, and a late Work may end after its App has closed it.
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line.encode())


def _program() -> list[str]:
    path = os.path.abspath(__file__)
    if os.path.isfile(path):
        return [path]
    import inspect

    return ["-c", inspect.getsource(sys.modules[__name__])]  # it is in an archive


def _main(app: int, grace_seconds: float) -> None:
    groups: dict[int, int] = {}  # pid of the leader -> pidfd, which no other process can take over
    if os.getppid() == app:
        _listen(groups, os.pidfd_open(app))
    for pidfd in groups.values():
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    for pid, pidfd in groups.items():
        select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _listen(groups: dict[int, int], app: int) -> None:
    """Keep `groups` as told, until the pipe or the App ends."""
    rest = b""
    while True:
        ready = select.select([0, app], [], [])[0]
        if 0 not in ready:
            return
        received = os.read(0, 4096)
        if not received:
            return
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            pid = int(line[1:])
            if line[:1] == b"+":
                with contextlib.suppress(ProcessLookupError):
                    groups[pid] = os.pidfd_open(pid)
            elif pid in groups:
                os.close(groups.pop(pid))


if __name__ == "__main__":
    _main(int(sys.argv[1]), float(sys.argv[2]))
