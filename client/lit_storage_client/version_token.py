"""What changes whenever the content of a file may have changed.

It means something on the machine of the file alone. Others compare it, and never look into it.
"""

from __future__ import annotations

import os
import struct

_TOKEN = struct.Struct("<QqqQQ")


def version_of(status: os.stat_result) -> bytes:
    """Return the token of a file with this status.

    Programs can set the time of the content back, but not that of the last change of the inode.
    """
    return _TOKEN.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
