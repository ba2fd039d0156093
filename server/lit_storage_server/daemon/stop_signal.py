"""A flag that is raised once, also by a signal handler, and that any thread can wait for.

Invariant: raising it takes no lock. A handler runs in the middle of whatever its thread does, perhaps while
that holds the lock of a `threading.Event`.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
import weakref

# A handler that has run by the time its thread enters a system call, or whose signal another thread took,
# does not interrupt that call, so no wait in the kernel is longer than this.
_MOST_SECONDS = 0.5


class StopSignal:
    """Not raised at first."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting, self._raised = ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        weakref.finalize(self, _close, ends)

    def set(self) -> None:
        """Raise it, for good."""
        self._is_set = True
        with contextlib.suppress(BlockingIOError):  # nobody reads, and one byte is enough
            os.write(self._raised, b"x")

    def fileno(self) -> int:
        """Return a descriptor that can be read once it is raised."""
        return self._waiting

    def is_set(self) -> bool:
        """Say whether it is raised."""
        return self._is_set

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is raised, or for so many seconds; say whether it is."""
        poll = select.poll()
        poll.register(self._waiting, select.POLLIN)
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._is_set:
            left = _MOST_SECONDS if deadline is None else min(_MOST_SECONDS, deadline - time.monotonic())
            if left <= 0:
                break
            poll.poll(left * 1000)
        return self._is_set


def _close(descriptors: tuple[int, int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
