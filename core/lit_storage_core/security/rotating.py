"""What some files hold, read anew when they change, as an operator renews them.

Invariant: what `get` returns was read whole and found good. While files are missing, unreadable or do
not go together, what was good last stays; there is never nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from lit_storage_proto.errors import AccessDenied

R = TypeVar("R")
T = TypeVar("T")

# A file may change twice within one tick of its file system's clock, and look as it did after the first time.
_TICK_SECONDS = 0.05
_HALF_WRITTEN_SECONDS = 1.0  # several files are renewed one after the other
_LOOK_SECONDS = 0.1
_LOG = logging.getLogger("lit_storage.security")

Signature = tuple[tuple[int, int, int, int, int] | None, ...]


class Rotating(Generic[R, T]):
    """The present meaning of some files. May be used from any thread.

    Args:
        what: they are, for the log.
        paths: the files.
        read: returns what they hold; raises AccessDenied where they cannot be used.
        make: returns what that means, or raises AccessDenied. It is not asked again while they hold the same.

    Raises:
        AccessDenied: they cannot be used now, and no writer was about to end.
    """

    def __init__(
        self, what: str, paths: Sequence[str], read: Callable[[], R], make: Callable[[R], T]
    ) -> None:
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._make = make
        self._reading = threading.Lock()
        self._told: Signature | None = None
        self._held = self._first()

    def get(self, *, wait: bool = False) -> T:
        """Return what the files hold now, or held when they were good last.

        Args:
            wait: whether to wait for another thread that reads them; else what they held before is returned.
        """
        known, _, value = self._held
        seen = _signature(self._paths)
        if seen == known or not self._reading.acquire(blocking=wait):
            return value
        try:
            self._held = self._again(seen)
            return self._held[2]
        finally:
            self._reading.release()

    def _first(self) -> tuple[Signature | None, R, T]:
        deadline = time.monotonic() + _HALF_WRITTEN_SECONDS
        while True:
            seen = _signature(self._paths)
            try:
                content = self._read()
                return _final(seen), content, self._make(content)
            except AccessDenied:
                is_being_written = _youngest(seen) < _HALF_WRITTEN_SECONDS
                if not is_being_written or time.monotonic() > deadline:
                    raise
            time.sleep(_LOOK_SECONDS)

    def _again(self, seen: Signature) -> tuple[Signature | None, R, T]:
        _, content, value = self._held
        try:
            present = self._read()
            if present == content:
                return _final(seen), content, value
            value = self._make(present)
        except OSError as error:
            if seen != self._told:
                self._told = seen
                _LOG.warning("%s cannot be renewed, and stays as it was: %s", self._what, error)
            # What a disk did not give, or no descriptor was free for, may come at the next look.
            return (_final(seen) if isinstance(error, AccessDenied) else None), content, value
        _LOG.info("%s was renewed", self._what)
        return _final(seen), present, value


def _signature(paths: tuple[str, ...]) -> Signature:
    return tuple(map(_stat, paths))


def _stat(path: str) -> tuple[int, int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _youngest(signature: Signature) -> float:
    """Return how many seconds ago a file was changed last; infinity where that is not known."""
    ages = [time.time() - max(entry[:2]) / 1e9 for entry in signature if entry is not None]
    return min((age for age in ages if age >= 0), default=float("inf"))


def _final(signature: Signature) -> Signature | None:
    """Return by what a later change is noticed; None where the next look is to read again."""
    return None if _youngest(signature) < _TICK_SECONDS else signature
