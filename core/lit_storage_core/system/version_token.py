"""What changes whenever the content of a file may have changed.

It means something on the machine of the file alone. Others compare it, and never look into it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection

from lit_storage_proto.entry import time_on_wire

TICK_SECONDS = 0.02
"""No clock of Linux that stamps files is coarser than this: CONFIG_HZ is 100 at the least."""

_WHOLE_SECONDS = 2.0
_TOKEN = struct.Struct("<QqqQQ")


def version_of(status: os.stat_result) -> bytes:
    """Return the token of a file with this status.

    Programs can set the time of the content back, but not that of the last change of the inode.
    """
    try:
        return _TOKEN.pack(
            status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
        )
    except struct.error:  # a program may set a time of content that no clock will reach
        nearest = time_on_wire(status.st_mtime_ns)
        return _TOKEN.pack(status.st_size, nearest, status.st_ctime_ns, status.st_ino, status.st_dev)


def may_hide_a_change(token: bytes, time_ns: int) -> bool:
    """Say whether a file with this token could change after `time_ns` and have the same one again.

    It could if it was last changed in the same tick of the clock that stamps files. Whole seconds are
    those of a file system that keeps no more.

    Args:
        token: as of `version_of`.
        time_ns: nanoseconds since 1970-01-01 UTC.
    """
    changed_ns: int = _TOKEN.unpack(token)[2]
    tick_seconds = TICK_SECONDS if changed_ns % 1_000_000_000 else _WHOLE_SECONDS
    return changed_ns > time_ns - tick_seconds * 1e9


def is_mapped(token: bytes, inodes: Collection[int]) -> bool:
    """Say whether a file with this token is one of `inodes`, as of `mapped_inodes`."""
    return _TOKEN.unpack(token)[3] in inodes


def mapped_inodes() -> frozenset[int]:
    """Return the inodes of files that this process may write through ``mmap``: proc_pid_maps(5).

    Only the first write to a page of theirs changes what `version_of` looks at. An inode of another file
    system that has the same number is no harm: its token is only not kept.
    """
    inodes = set()
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            fields = line.split(None, 5)
            if fields[1][1:2] == b"w" and fields[1][3:4] == b"s":
                inodes.add(int(fields[4]))
    return frozenset(inodes)
