"""Keeps the free memory of a virtual machine at hand, so that its host is not what is measured.

Many hypervisors take back memory that a guest has freed, in runs of 2 MiB, and give it out again page
by page when it is next touched: 2.5 s a GiB on the machine of the published figures, where memory that
stayed costs 0.28. Whether a copy pays for that depends on what ran before it. A file in memory of which
every second half-MiB is punched out leaves no free run that is long enough to be taken back, and the
holes are what all that is measured then lives in.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterator

from benchmarks.rows import GIB, MIB

_MOST_BYTES = 12 * GIB
_HOLE_BYTES = MIB // 2
_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02  # fallocate(2)


@contextlib.contextmanager
def ballast(directory: str) -> Iterator[str]:
    """Hold it in `directory`, a file system in memory, for the length of a ``with`` block.

    Yields:
        A sentence that says how much it is.
    """
    free = os.statvfs(directory)
    size = min(_MOST_BYTES, _available_bytes() // 2, free.f_bavail * free.f_frsize // 2) // MIB * MIB
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    with tempfile.TemporaryFile(prefix="bench-ballast-", dir=directory, buffering=0) as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))
        for offset in range(0, size, 2 * _HOLE_BYTES):
            if libc.fallocate(file.fileno(), _KEEP_SIZE_PUNCH_HOLE, offset, _HOLE_BYTES):
                raise OSError(ctypes.get_errno(), "fallocate", directory)
        yield f"{size / GIB:.1f} GiB of memory were held in fragments, so that the host took none back"


def _available_bytes() -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
