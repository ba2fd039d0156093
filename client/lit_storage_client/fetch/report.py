"""Tells the caller of a get how far it is.

Invariant: the caller hears it in the thread of the get; the bytes that are done never become fewer,
and stay below those in all until the copy is in its place. How many there are in all is asked
beside the transfer, which neither waits for the answer nor fails for want of it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lit_storage_client.fetch.source import Source
from lit_storage_client.fetch.stream import Progress
from lit_storage_proto.entry import Kind
from lit_storage_proto.uri import Location

T = TypeVar("T")

_SHORT_SECONDS = 0.1  # a get that is over by then asks nobody
_TOTAL_SECONDS = 10.0  # how long a list is read that only serves to tell a total


class _CallerError(Exception):
    """What the caller's function raised: none of the errors that a get goes on after."""

    def __init__(self, raised: Exception) -> None:
        super().__init__(raised)
        self.raised = raised


class Report:
    """Between one get, also where it is begun anew, and the function of its caller.

    Args:
        tell: the function of the caller.
        remote: who can be asked for the total.
        location: what is copied.
        follow_links: whether what links mean is copied, which no list tells the size of.
    """

    def __init__(self, tell: Progress, remote: Source, location: Location, *, follow_links: bool) -> None:
        self._tell = tell
        self._remote = remote
        self._location = location
        self._unsized: tuple[Kind, ...] = ()
        if follow_links:
            self.follow_links()
        self._asking: threading.Thread | None = None
        self._over = threading.Event()
        self._most = self._told = 0
        self._answer = 0  # the asking thread's; 0 while there is none
        self._total: int | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Take the bytes that are done; with a total, which is told of a finished get, it is over."""
        self._most = max(self._most, done)
        if total is not None:
            self._over.set()
            self._say(self._most, self._most)
            return
        if self._asking is None:
            self._asking = threading.Thread(target=self._ask, name="lit-storage-total", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads: then there is no total
                self._asking.start()
        if self._total is None and self._answer > self._told:
            self._total = self._answer
        self._say(self._most if self._total is None else min(self._most, self._total - 1), self._total)

    def follow_links(self) -> None:
        """Know that the origin sends what links mean; to be called before the first bytes are done."""
        self._unsized = (Kind.SYMLINK, Kind.SKIPPED)

    def during(self, get: Callable[[], T]) -> T:
        """Return what `get` returns; raise what it raises, and what the caller's function raised."""
        try:
            return get()
        except _CallerError as error:
            raised = error.raised
        finally:
            self._over.set()
        raise raised

    def _say(self, done: int, total: int | None) -> None:
        self._told = done
        try:
            self._tell(done, total)
        except Exception as error:
            raise _CallerError(error) from error

    def _ask(self) -> None:
        if self._over.wait(_SHORT_SECONDS):
            return
        try:
            self._answer = self._sum()
        except Exception:  # noqa: BLE001, S110  # whatever it is: the get itself says what is wrong
            pass

    def _sum(self) -> int:
        """Return the bytes in all; 0 where that takes too long, or is not to be known."""
        until, total = time.monotonic() + _TOTAL_SECONDS, 0
        for entry in self._remote.list(self._location):
            if self._over.is_set() or time.monotonic() > until or entry.kind in self._unsized:
                return 0
            total += entry.size
        return total
