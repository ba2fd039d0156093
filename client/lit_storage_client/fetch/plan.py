"""Decides what a tree that arrives entry by entry may become on this disk. Pure: no I/O.

Invariant: every path that leaves this module with the verdict "make it" names one new thing
directly inside a directory that this same plan made before. Nothing of a peer's making is a part
of a path: not "..", not an absolute name, not a link that was taken for a directory. Links are
handed out last, so that while files are written no link of the tree exists, and only those whose
text leads to somewhere in the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_storage_client.names import check_path, raw, shown
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation

MAX_LINK_BYTES = 4095  # PATH_MAX of Linux, less the NUL
MAX_SIZE_BYTES = 2**63 - 1  # off_t
MAX_SKIPPED_NAMES = 100


@dataclass(frozen=True, slots=True)
class Skipped:
    """What of a tree was not made: devices, sockets, FIFOs, and links that leave the tree."""

    names: tuple[str, ...] = ()
    """The first of them, at most MAX_SKIPPED_NAMES."""
    count: int = 0


class Plan:
    """The tree as it is known so far. `add` takes entries in the order in which they arrive."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}
        self._links: list[Entry] = []
        self._skipped: list[str] = []
        self._skipped_count = 0

    def add(self, entry: Entry) -> bool:
        """Take the next entry; say whether to make it now (else: later, or never).

        Raises:
            ProtocolViolation: the entry cannot stand where it says.
        """
        path, kind = entry.path, entry.kind
        if self._kinds:
            check_path(path)
            self._check_place(path)
        elif path or kind is Kind.SYMLINK:
            raise ProtocolViolation(f"the first entry of a tree must be its root, but is {shown(path)}")
        _check_metadata(entry)
        self._kinds[path] = kind
        if kind is Kind.SYMLINK:
            self._links.append(entry)
            return False
        if kind is Kind.SKIPPED:
            self._skip(path)
            return False
        return True

    def links(self) -> Sequence[Entry]:
        """Return the links to make once all else is made; those that leave the tree are skipped.

        Call it once, after the last entry.
        """
        kept = []
        for link in self._links:
            if self._stays_inside(link):
                kept.append(link)
            else:
                self._skip(link.path)
        self._links = []
        return kept

    @property
    def skipped(self) -> Skipped:
        """What was not made so far."""
        return Skipped(tuple(self._skipped), self._skipped_count)

    def _check_place(self, path: str) -> None:
        if path in self._kinds:
            raise ProtocolViolation(f"the peer sent {shown(path)} twice")
        parent = path.rpartition("/")[0]
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
            self._skipped.append(path)


def _check_metadata(entry: Entry) -> None:
    if entry.mode & ~0o777:
        raise ProtocolViolation(f"the peer sent {shown(entry.path)} with the mode {entry.mode:#o}")
    if entry.kind is Kind.FILE:
        if entry.size > MAX_SIZE_BYTES:
            raise ProtocolViolation(f"the peer sent {shown(entry.path)} with a size of {entry.size} bytes")
    elif entry.size:
        raise ProtocolViolation(f"the peer sent {shown(entry.path)}, which is no file, with a size")
    if entry.kind is Kind.SYMLINK and (
        "\0" in entry.link_target or len(raw(entry.link_target)) > MAX_LINK_BYTES
    ):
        raise ProtocolViolation(f"the peer sent {shown(entry.path)}, a link whose text no link can have")
