"""Where the former storage root of a Work is kept, and which versions in place lie in it.

A Work that begins with an empty storage root leaves the former one in ``<root>/former/NAME``. The directory
holds a file ``@.former``, which names the instances that published from it. Names that start with "@" are
reserved in a storage root, so the file is never served.

Invariant: the file is written before the directory is moved. So one rename decides for every reader where the
files of a version are.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable

from lit_storage_core.system.names import is_id
from lit_storage_core.system.replace_file import replace_file

FORMER = "former"
MARKER = "@.former"

_VERSION = 1
_MOST_BYTES = 16 << 20  # some hundred thousand instances
_Seen = tuple[int, int, int, int, int]
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def former_root_of(root: str, name: str) -> str:
    """Return where the former storage root of a Work is kept; there need not be one.

    Args:
        root: that the Works of a machine share.
        name: of the Work.
    """
    return os.path.join(root, FORMER, name)


def instances_of(storage_root: str) -> frozenset[str]:
    """Return the instances that published from a storage root that was moved; none if it was not."""
    data = read_small(os.path.join(storage_root, MARKER), _MOST_BYTES)
    with contextlib.suppress(ValueError, RecursionError):
        match json.loads(data):
            case {"version": 1, "instances": list(instances)}:
                return frozenset(each for each in instances if isinstance(each, str))
            case _:
                pass
    return frozenset()


class FormerInstances:
    """The instances that published from a storage root, read again only when its marker was replaced.

    May be used from any thread.

    Args:
        storage_root: where the former storage root would be.
    """

    def __init__(self, storage_root: str) -> None:
        self._storage_root = storage_root
        self._known: tuple[_Seen | None, frozenset[str]] = (None, frozenset())

    def get(self) -> frozenset[str]:
        """Return what `instances_of` returns."""
        seen = self._look()
        before, instances = self._known
        if seen is None:
            return frozenset()
        if seen != before:
            instances = instances_of(self._storage_root)
            self._known = (seen, instances)  # looked at first, so one that is replaced now is read again
        return instances

    def _look(self) -> _Seen | None:
        try:
            status = os.lstat(os.path.join(self._storage_root, MARKER))
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def read_small(path: str, most_bytes: int) -> bytes:
    """Return the first bytes of a regular file; none if it is absent, unreadable or anything else."""
    try:
        fd = os.open(path, _READ)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        with open(fd, "rb", closefd=False) as file:
            return file.read(most_bytes)
    except OSError:
        return b""
    finally:
        os.close(fd)


def mark(storage_root: str, instances: Iterable[str]) -> None:
    """Name in a storage root the instances that published from it, before it is moved.

    Raises:
        OSError: the disk is full, and the like.
    """
    kept = {"version": _VERSION, "instances": sorted(each for each in instances if is_id(each))}
    replace_file(os.path.join(storage_root, MARKER), lambda _inode: json.dumps(kept) + "\n", mode=0o644)
