"""Calls of the C library that Python lacks: renameat2(2) and syncfs(2)."""

from __future__ import annotations

import ctypes
import errno
import os

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old_fd: int, old: str, new_fd: int, new: str, flags: int) -> None:
    """Change names as the call of this name does.

    Raises:
        OSError: as of renameat2(2); ENOSYS where the C library lacks it.
    """
    function = getattr(_libc, "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if function(old_fd, os.fsencode(old), new_fd, os.fsencode(new), ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)


def sync_file_system(fd: int) -> None:
    """Write all that waits to be written to the file system of `fd` to its disk: syncfs(2).

    Raises:
        OSError: something could not be written, as on a failing disk.
    """
    if _libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
