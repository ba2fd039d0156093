"""What changes whenever the content of a file may have changed.

It means something on the machine of the file alone. Others compare it, and never look into it.
"""

from __future__ import annotations

import os
import struct

TICK_SECONDS = 0.02
"""No clock of Linux that stamps files is coarser than this: CONFIG_HZ is 100 at the least."""

_TOKEN = struct.Struct("<QqqQQ")


def version_of(status: os.stat_result) -> bytes:
    """Return the token of a file with this status.

    Programs can set the time of the content back, but not that of the last change of the inode.
    """
    return _TOKEN.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def may_hide_a_change(token: bytes, time_ns: int) -> bool:
    """Say whether a file with this token could change after `time_ns` and have the same one again.

    It could if it was last changed in the same tick of the clock that stamps files.

    Args:
        token: as of `version_of`.
        time_ns: nanoseconds since 1970-01-01 UTC.
    """
    return bool(_TOKEN.unpack(token)[2] > time_ns - TICK_SECONDS * 1e9)
