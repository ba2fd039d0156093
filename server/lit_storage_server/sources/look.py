"""What was seen of each directory when it was sent, and what differs when it is looked at again. Pure.

Invariant: a file that is in no `Difference` has, by the later look, the status that it had before its
first byte was read. The time of the last change of its status (ctime) is part of that, which no
program can set back.

It is compact, since it is held for as long as a tree is sent: 32 bytes a file, and its name.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection
from dataclasses import dataclass

from lit_storage_proto.entry import MAX_TIME_NS, MIN_TIME_NS, time_on_wire

_FIELDS = 4
_SIZE, _INODE = 0, 3
_SIGNED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Difference:
    """What is other in a directory than it was; false where nothing is."""

    removed: Collection[str] = ()
    """Names that are gone, or stand for a subdirectory where they did not, or the other way round."""
    changed: Collection[str] = ()
    """Names of what is no subdirectory that are new, or stand for something else."""
    metadata: bool = False
    """Whether mode or time of the directory itself are other."""

    def __bool__(self) -> bool:
        return self.metadata or bool(self.removed) or bool(self.changed)

    @property
    def names(self) -> list[str]:
        """All names that differ."""
        return list(dict.fromkeys([*self.removed, *self.changed]))


class Seen:
    """What a directory held at one time: its own status, its subdirectories, and the status of all else."""

    __slots__ = ("mode", "mtime_ns", "names", "number", "rows", "subdirectories")

    def __init__(self, status: os.stat_result, number: int = 0) -> None:
        self.number = number
        """Of the directory's entry."""
        self.mode = status.st_mode
        self.mtime_ns = status.st_mtime_ns
        self.names: list[str] = []
        self.rows = array("q")
        """Of each name size, mtime, ctime and inode."""
        self.subdirectories: list[str] = []

    def add(self, name: str, status: os.stat_result) -> None:
        """Note a name that is no subdirectory, and its status."""
        self.names.append(name)
        inode, mtime_ns = status.st_ino & _SIGNED, status.st_mtime_ns
        if not MIN_TIME_NS <= mtime_ns <= MAX_TIME_NS:  # as file systems have it that keep more than 64 bits
            mtime_ns = time_on_wire(mtime_ns)
        self.rows.extend((status.st_size, mtime_ns, status.st_ctime_ns, inode))

    def keep(self, other: Seen, *, without: Collection[str]) -> None:
        """Note what `other` notes, but for some names."""
        for index, name in enumerate(other.names):
            if name not in without:
                self.names.append(name)
                self.rows.extend(other.rows[index * _FIELDS : (index + 1) * _FIELDS])

    def difference(self, later: Seen, *, accept_growth: bool) -> Difference:
        """Return what differs at a later look.

        Args:
            later: what was seen then.
            accept_growth: whether a file that is the same one and longer counts as unchanged.
        """
        metadata = (self.mode, self.mtime_ns) != (later.mode, later.mtime_ns)
        now = (later.names, later.rows, later.subdirectories)
        if (self.names, self.rows, self.subdirectories) == now:
            return Difference(metadata=metadata)
        old, new = self._by_name(), later._by_name()
        changed = {
            name
            for name, row in new.items()
            if name not in old or (old[name] != row and not (accept_growth and _only_grew(old[name], row)))
        }
        removed = (old.keys() - new.keys()) | (set(self.subdirectories) - set(later.subdirectories))
        # What took the place of the other kind: both are gone and new, under one name.
        return Difference(sorted(removed), changed, metadata)

    def _by_name(self) -> dict[str, tuple[int, ...]]:
        rows = self.rows.tolist()
        return {
            name: tuple(rows[index * _FIELDS : (index + 1) * _FIELDS])
            for index, name in enumerate(self.names)
        }


def _only_grew(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return before[_INODE] == after[_INODE] and after[_SIZE] > before[_SIZE]
