"""Old trees that a get replaced: kept for a while for readers that hold a descriptor in them.

A reader that opens several files of one tree holds its directory open, and reads on in the old
tree after the swap. So the old tree is not removed at the swap, but `Limits.reader_seconds`
later, or at the next get of the same target, or when the session closes, whichever comes first.

Invariant: each staging that is kept is taken out of the one table, under its lock, by whoever then
removes it, and only by them; no lock is held while anything is removed. Of each target at most one
old tree is kept, so a target never takes more room than the get itself did. What a killed process
kept is removed by the next get, as any staging of the dead.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from lit_storage_client.fetch.staging import Staging

# Each holds two descriptors, of which a process customarily has 1024.
_MOST_KEPT = 64

Target = tuple[int, int, str]
"""Device and inode of a target's directory, and its name there, however its path is spelled."""


def target_in(directory: int, name: str) -> Target:
    """Return what the target `name` in the directory of a descriptor is known by."""
    status = os.fstat(directory)
    return status.st_dev, status.st_ino, name


@dataclass(frozen=True, slots=True)
class _Kept:
    staging: Staging
    due: float
    """When to remove it, on the clock of time.monotonic()."""


class Discards:
    """The old trees that one session keeps. May be used from any thread.

    In a forked child it keeps nothing and removes nothing of its parent's.
    """

    def __init__(self, reader_seconds: float) -> None:
        self._reader_seconds = reader_seconds
        self._process = os.getpid()
        self._kept: dict[Target, _Kept] = {}  # in the order in which they fall due
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        """Waits for the first one to fall due; there is one exactly while something is kept or removed."""

    def keep(self, target: Target, staging: Staging) -> None:
        """Remove `staging`, which holds the old tree of `target`, later; what was kept of it, now."""
        if self._is_inherited():
            staging.remove()
            return
        with self._changed:
            doomed = self._take(target)
            if self._closed or not self._has_thread():
                doomed.append(staging)
            else:
                if len(self._kept) >= _MOST_KEPT:
                    doomed += self._take(next(iter(self._kept)))
                self._kept[target] = _Kept(staging, time.monotonic() + self._reader_seconds)
        for each in doomed:
            each.remove()

    def discard(self, target: Target) -> None:
        """Remove what is kept of `target` now, to make room for the next copy."""
        if self._is_inherited():
            return
        with self._changed:
            doomed = self._take(target)
            self._changed.notify()
        for each in doomed:
            each.remove()

    def discard_all(self) -> bool:
        """Remove all that is kept now, to make room on a full disk; say whether there was any."""
        if self._is_inherited():
            return False
        with self._changed:
            doomed = [kept.staging for kept in self._kept.values()]
            self._kept.clear()
            self._changed.notify()
        for each in doomed:
            each.remove()
        return bool(doomed)

    def close(self) -> None:
        """Remove all that is kept, and end the thread. A second call does nothing."""
        if self._is_inherited():
            return
        with self._changed:
            self._closed = True
            thread = self._thread
        self.discard_all()
        if thread is not None:
            thread.join(self._reader_seconds)  # it may be in the middle of a large tree

    def _is_inherited(self) -> bool:
        return os.getpid() != self._process

    def _take(self, target: Target) -> list[Staging]:
        kept = self._kept.pop(target, None)
        return [] if kept is None else [kept.staging]

    def _has_thread(self) -> bool:
        """Say whether a thread waits, after starting one if there is none."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="lit-storage-discards", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter is about to end
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while (staging := self._wait()) is not None:
            staging.remove()

    def _wait(self) -> Staging | None:
        """Wait until a staging is due, and take it; None once nothing is kept."""
        with self._changed:
            while self._kept:
                target, first = next(iter(self._kept.items()))
                left = first.due - time.monotonic()
                if left <= 0:
                    return self._take(target)[0]
                self._changed.wait(left)
            self._thread = None
            return None
