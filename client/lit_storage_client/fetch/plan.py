"""Decides what a tree that arrives entry by entry may become on this disk. Pure: no I/O.

Invariant: every path that leaves this module to be made names one thing directly inside a
directory that this same plan made before. Nothing of a peer's making is a part of a path: not
"..", not an absolute name, not a link that was taken for a directory. Links are handed out last, so
that while files are written no link of the tree exists, and only those whose text leads to
somewhere in the tree.

Files in packs are not remembered, which would be most of what a large tree costs: a name that comes
twice is refused when it is made, by the kernel (O_EXCL).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from lit_storage_client.peers.entries import Room, check_entry
from lit_storage_core.system.names import MAX_PART_BYTES, check_path, shown
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frames import Pack

MAX_SKIPPED_NAMES = 100
MAX_ROUNDS = 3

_NO_NAMES = frozenset((b"", b".", b".."))


@dataclass(frozen=True, slots=True)
class Skipped:
    """What of a tree was not made: devices, sockets, FIFOs, and links that leave the tree."""

    names: tuple[str, ...] = ()
    """The first of them, at most MAX_SKIPPED_NAMES."""
    count: int = 0


class Step(enum.Enum):
    """What becomes of an entry."""

    MAKE = enum.auto()
    """Make it now; in a round it takes the place of a file that came before."""
    TOUCH = enum.auto()
    """It is a directory that is there: only its mode and time change."""
    REMOVE = enum.auto()
    """Remove what is there, with all below it."""
    WAIT = enum.auto()
    """Nothing now: a link is handed out at the end, and what is skipped is never made."""


class Plan:
    """The tree as it is known so far. `add` takes entries in the order in which they arrive."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}
        self._directories: dict[int, str] = {}
        self._links: dict[str, Entry] = {}
        self._skipped: dict[str, None] = {}
        self._skipped_count = 0
        self._count = 0
        self._round = 0
        self._came: set[str] = set()  # in this round
        self._went: set[str] = set()  # was removed in this round
        self._gone: list[str] = []
        self._below: dict[str, list[str]] | None = None  # made when the first directory is removed
        self._room = Room()

    def begin_round(self, number: int) -> None:
        """Take the round of a frame: from 1 on, what comes replaces what came before.

        Raises:
            ProtocolViolation: it is not this round or a later one of the few that may be.
        """
        if not self._round <= number <= MAX_ROUNDS:
            raise ProtocolViolation(f"the peer sent round {number} after round {self._round}")
        if number > self._round:
            self._round = number
            self._came.clear()
            self._went.clear()

    @property
    def in_round(self) -> bool:
        """Whether what comes replaces what came before."""
        return self._round > 0

    def add(self, entry: Entry) -> Step:
        """Take the next entry; say what to do about it now.

        Raises:
            ProtocolViolation: the entry cannot stand where it says.
        """
        path, kind = entry.path, entry.kind
        if self._kinds:
            check_path(path)
            if not path and kind not in (Kind.FILE, Kind.DIRECTORY):
                raise ProtocolViolation("the peer made the root of a tree something else")
        elif path or kind in (Kind.SYMLINK, Kind.REMOVED):
            raise ProtocolViolation(f"the first entry of a tree must be its root, but is {shown(path)}")
        check_entry(entry)
        self._room.take(entry)
        number, self._count = self._count, self._count + 1
        if kind is Kind.REMOVED:
            return self._remove(path)
        before = self._kinds.get(path)
        if before is None:
            if path:
                self._check_parent(path)
        elif not self.in_round:
            raise _twice(path)
        elif (before is Kind.DIRECTORY) is not (kind is Kind.DIRECTORY):
            raise _other_kind(path)
        if self.in_round:
            self._take_once(path, self._came)
            self._forget(path)
        self._kinds[path] = kind
        if self._below is not None and before is None:
            self._below.setdefault(_parent(path), []).append(path)
        if kind is Kind.DIRECTORY:
            self._directories[number] = path
            return Step.MAKE if before is None else Step.TOUCH
        if kind is Kind.FILE:
            return Step.MAKE
        if kind is Kind.SYMLINK:
            self._links[path] = entry
        else:
            self._skip(path)
        # In a round it may stand for a file that was made.
        return Step.REMOVE if self.in_round else Step.WAIT

    def names_of(self, pack: Pack) -> tuple[str, list[bytes]]:
        """Return directory and names of the files of a pack.

        Raises:
            ProtocolViolation: there is no such directory, or a name is none.
        """
        directory = self._directories.get(pack.directory)
        if directory is None or self._kinds.get(directory) is not Kind.DIRECTORY:
            raise ProtocolViolation(f"the peer packed files of entry {pack.directory}, which is no directory")
        names = pack.names.split(b"/")
        longest = max(map(len, names))
        if longest > MAX_PART_BYTES or b"\0" in pack.names or not _NO_NAMES.isdisjoint(names):
            raise ProtocolViolation(f"the peer packed files of {shown(directory)} with a name that is none")
        if not len(names) == len(pack.sizes) == len(pack.modes) == len(pack.mtimes_ns):
            raise ProtocolViolation(f"the peer packed {len(names)} files, and describes another number")
        if max(pack.modes) & ~0o777:
            raise ProtocolViolation(f"the peer packed a file of {shown(directory)} with a mode that is none")
        if pack.hard_linked > len(names):
            raise ProtocolViolation(f"the peer packed {len(names)} files, and {pack.hard_linked} hard links")
        return directory, names

    def replace(self, path: str) -> None:
        """Take a file of a pack that a round brings in place of what was there.

        Raises:
            ProtocolViolation: that is a directory.
        """
        if self._kinds.get(path) is Kind.DIRECTORY:
            raise _other_kind(path)
        self._room.take_name(path)
        self._take_once(path, self._came)
        self._forget(path)

    def take_gone(self) -> list[str]:
        """Return the paths whose place what came last in a round takes, or that it removes.

        Each was named one by one, or is that of a file of a pack, which may have been there or not.
        """
        gone, self._gone = self._gone, []
        return gone

    def links(self) -> Sequence[Entry]:
        """Return the links to make once all else is made; those that leave the tree are skipped.

        Call it once, after the last entry.
        """
        kept = []
        for link in self._links.values():
            if self._stays_inside(link):
                kept.append(link)
            else:
                self._skip(link.path)
        self._links = {}
        return kept

    @property
    def skipped(self) -> Skipped:
        """What was not made so far."""
        return Skipped(tuple(self._skipped), self._skipped_count)

    def _remove(self, path: str) -> Step:
        if not self.in_round or not path:
            raise ProtocolViolation(f"the peer removed {shown(path)}, which it may not")
        self._check_parent(path)
        self._take_once(path, self._went)
        if self._kinds.get(path) is Kind.DIRECTORY:
            self._forget_below(path)
        self._forget(path)
        return Step.REMOVE

    def _take_once(self, path: str, taken: set[str]) -> None:
        """Note that a round sent a path: one that sent the same for ever would never end."""
        if path in taken:
            raise _twice(path)
        taken.add(path)

    def _forget_below(self, path: str) -> None:
        if self._below is None:
            self._below = {}
            for known in self._kinds:
                if known:
                    self._below.setdefault(_parent(known), []).append(known)
        directories = [path]
        while directories:
            for below in self._below.pop(directories.pop(), ()):
                if below in self._kinds:
                    directories.append(below)
                    self._forget(below)

    def _forget(self, path: str) -> None:
        self._gone.append(path)
        self._links.pop(path, None)
        if self._kinds.pop(path, None) is Kind.SKIPPED:
            self._skipped_count -= 1
            self._skipped.pop(path, None)

    def _check_parent(self, path: str) -> None:
        parent = _parent(path)
        if self._kinds.get(parent) is not Kind.DIRECTORY:
            raise ProtocolViolation(
                f"the peer sent {shown(path)}, but no directory {shown(parent)} before it"
            )

    def _stays_inside(self, link: Entry) -> bool:
        """Say whether the text of a link leads to somewhere in the tree, on whatever way.

        A ".." is safe where it leaves a real directory of this tree: the link's own directory and
        those above it, or one that the text named. After a link it would mean the parent of what
        that link means, and after a name that is not in the tree, whatever comes to be there.
        """
        if not link.link_target or link.link_target.startswith("/"):
            return False
        reached = link.path.split("/")[:-1]
        for part in link.link_target.split("/"):
            if part == "..":
                if not reached or self._kinds.get("/".join(reached)) is not Kind.DIRECTORY:
                    return False
                reached.pop()
            elif part not in ("", "."):
                reached.append(part)
        return True

    def _skip(self, path: str) -> None:
        self._skipped_count += 1
        if len(self._skipped) < MAX_SKIPPED_NAMES:
            self._skipped[path] = None


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _twice(path: str) -> ProtocolViolation:
    return ProtocolViolation(f"the peer sent {shown(path)} twice")


def _other_kind(path: str) -> ProtocolViolation:
    return ProtocolViolation(f"the peer sent {shown(path)} as another kind, without removing it")
