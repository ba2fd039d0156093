"""Checks what a peer says of an entry, and that its list of them is one. Pure: no I/O.

Invariant: what passed `check_entry` describes a file, directory or link that can be; of a `Listing`
each path came once and after the directory that holds it, and no list is without end.
"""

from __future__ import annotations

from sys import getsizeof

from lit_storage_core.system.names import check_path, raw, shown
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.limits import MAX_TREE_BYTES, TREE_ENTRY_BYTES

MAX_LINK_BYTES = 4095  # PATH_MAX of Linux, less the NUL
MAX_SIZE_BYTES = 2**63 - 1  # off_t
MAX_VERSION_BYTES = 256
# What CPython takes for an entry with all that refers to it, as tracemalloc has it, less its texts.
_HELD_BYTES = {Kind.FILE: 450, Kind.DIRECTORY: 350, Kind.SYMLINK: 350}


class Room:
    """What is left of the memory that the entries of one tree may take."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_TREE_BYTES

    def take(self, entry: Entry) -> None:
        """Take what one more entry needs: files until their bytes are there, directories for their times.

        Raises:
            ProtocolViolation: there is no more.
        """
        texts = getsizeof(entry.link_target) + len(entry.version)
        self.take_name(entry.path, _HELD_BYTES.get(entry.kind, TREE_ENTRY_BYTES) + texts)

    def take_name(self, path: str, held: int = TREE_ENTRY_BYTES) -> None:
        """Take what one more name needs, and what is held with it.

        Raises:
            ProtocolViolation: there is no more.
        """
        self._left -= getsizeof(path) + held
        if self._left < 0:
            raise ProtocolViolation(
                "the peer names more directories, links and large files than one transfer takes, at "
                f"{shown(path)}; ask for directories of the tree one by one"
            )


class Listing:
    """The entries of one list, each checked before it is handed on.

    Args:
        recursive: whether more was asked for than the path itself and its direct children.
    """

    def __init__(self, *, recursive: bool) -> None:
        self._recursive = recursive
        self._is_directory: dict[str, bool] = {}
        self._room = Room()

    def check(self, entry: Entry) -> Entry:
        """Return the next entry.

        Raises:
            ProtocolViolation: it cannot stand where it says, or was not asked for.
        """
        path = entry.path
        check_path(path)
        check_entry(entry)
        self._room.take_name(path)
        if path in self._is_directory:
            raise ProtocolViolation(f"the peer listed {shown(path)} twice")
        parent = path.rpartition("/")[0]
        if path and not self._is_directory.get(parent):
            raise ProtocolViolation(
                f"the peer listed {shown(path)}, but no directory {shown(parent)} before it"
            )
        if entry.kind is Kind.REMOVED or (parent and not self._recursive):
            raise ProtocolViolation(f"the peer listed {shown(path)}, which was not asked for")
        self._is_directory[path] = entry.kind is Kind.DIRECTORY
        return entry


def check_root(entry: Entry) -> Entry:
    """Return an entry that is to describe the very path that was asked for.

    Raises:
        ProtocolViolation: it is of another path, or describes nothing that can be.
    """
    check_entry(entry)
    if entry.path or entry.kind is Kind.REMOVED:
        raise ProtocolViolation(f"the peer described {shown(entry.path)}, which was not asked for")
    return entry


def check_entry(entry: Entry) -> None:
    """Check all of an entry but its path.

    Raises:
        ProtocolViolation: its mode, size, version or text is none that an entry of its kind has.
    """
    if len(entry.version) > MAX_VERSION_BYTES:
        raise ProtocolViolation(
            f"the peer sent {shown(entry.path)} with a version of {len(entry.version)} bytes"
        )
    if entry.mode & ~0o777:
        raise ProtocolViolation(f"the peer sent {shown(entry.path)} with the mode {entry.mode:#o}")
    if entry.kind is Kind.FILE:
        if entry.size > MAX_SIZE_BYTES:
            raise ProtocolViolation(f"the peer sent {shown(entry.path)} with a size of {entry.size} bytes")
    elif entry.size:
        raise ProtocolViolation(f"the peer sent {shown(entry.path)}, which is no file, with a size")
    if entry.link_target and (
        entry.kind is not Kind.SYMLINK
        or "\0" in entry.link_target
        or len(raw(entry.link_target)) > MAX_LINK_BYTES
    ):
        raise ProtocolViolation(f"the peer sent {shown(entry.path)}, a link whose text no link can have")
