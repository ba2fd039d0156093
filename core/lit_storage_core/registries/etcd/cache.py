"""What is known of the live records of one registry, from several sources. Pure: no I/O.

Invariant: of one name, what etcd said at a later revision is never replaced by what it said at an
earlier one, in whatever order the two arrive: a load, the events of a watch, the answers to this
process's own questions and the results of its own writes. Memory is bounded: what is larger than a record
can be, or more than a registry holds, is not kept. Whoever does not find a name here asks etcd.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from lit_storage_core.registries.checked import MOST_RECORDS
from lit_storage_core.registries.etcd.records import MOST_BYTES


class LiveCache:
    """Values of live records by name. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[str, tuple[int, bytes]] = {}
        self._free: dict[str, int] = {}
        """Names that were free at a revision which the watch has not reached yet."""
        self.revision = 0
        """All changes up to this one are known; 0: nothing is."""

    def get(self, name: str) -> bytes | None:
        """Return the value of a name, or None where nobody is known to live."""
        known = self._live.get(name)
        return None if known is None else known[1]

    def clear(self) -> None:
        """Know nothing any more: what comes now is of another history."""
        with self._lock:
            self._live, self._free, self.revision = {}, {}, 0

    def load(self, values: Iterable[tuple[str, int, bytes]], revision: int) -> None:
        """Take all that there is at a revision: names, the revision of the last change of each, values."""
        loaded = {name: (changed, value) for name, changed, value in values if len(value) <= MOST_BYTES}
        with self._lock:
            later = {name: known for name, known in self._live.items() if known[0] > revision}
            self._live = loaded | later
            self._advance(revision)
            for name in self._free:
                self._live.pop(name, None)

    def put(self, name: str, revision: int, value: bytes | None) -> None:
        """Take what this process found, or wrote, at a revision; None: the name is free."""
        with self._lock:
            if revision > self.revision:
                self._put(name, revision, value)

    def apply(self, changes: Iterable[tuple[str, int, bytes | None]], *, whole: bool = True) -> None:
        """Take changes that a watch tells of, in their order.

        Args:
            changes: names, revisions and values; None: the name is free.
            whole: whether no more changes of the last revision are to come.
        """
        with self._lock:
            last = 0
            for name, revision, value in changes:
                self._put(name, revision, value)
                last = revision
            if whole:
                self._advance(last)

    def _put(self, name: str, revision: int, value: bytes | None) -> None:
        known = self._live.get(name)
        if max(known[0] if known is not None else 0, self._free.get(name, 0)) > revision:
            return
        if value is not None and (
            len(value) > MOST_BYTES or (known is None and len(self._live) >= MOST_RECORDS)
        ):
            self._live.pop(name, None)
        elif value is not None:
            self._live[name] = (revision, value)
            self._free.pop(name, None)
        else:
            self._live.pop(name, None)
            if len(self._free) >= MOST_RECORDS:
                self._live, self._free = {}, {}  # nobody tells when it may be forgotten: nothing is known
            self._free[name] = revision

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        if self._free:
            self._free = {name: free for name, free in self._free.items() if free > self.revision}
