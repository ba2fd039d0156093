"""Locks that processes hold on a file or a directory: flock(2).

The kernel drops a lock when the last descriptor that shares it is closed, so also with its process. A child
that was forked meanwhile shares it.
"""

from __future__ import annotations

import errno
import fcntl
import time

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF)


def lock(fd: int, *, shared: bool = False) -> None:
    """Lock the file of a descriptor, without waiting.

    Args:
        fd: not O_PATH.
        shared: whether others may have it at the same time, if they take it shared too.

    Raises:
        BlockingIOError: another descriptor holds it.
        OSError: the file system refuses; see `has_no_locks`.
    """
    fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def wait_for_lock(fd: int, deadline: float, *, pause_seconds: float, shared: bool = False) -> bool:
    """Lock the file of a descriptor; return False if another one still holds it at `deadline`.

    True also where the file system has no locks: then two may be in the place that the lock guards.

    Args:
        fd: as of `lock`.
        deadline: on the clock of time.monotonic().
        pause_seconds: between two attempts.
        shared: as of `lock`.

    Raises:
        OSError: the disk fails.
    """
    while True:
        try:
            lock(fd, shared=shared)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        except OSError as error:
            if not has_no_locks(error):
                raise
            return True
        else:
            return True
        time.sleep(pause_seconds)


def unlock(fd: int) -> None:
    """Let go of the lock, also for all that share it.

    Raises:
        OSError: as of `lock`.
    """
    fcntl.flock(fd, fcntl.LOCK_UN)


def has_no_locks(error: OSError) -> bool:
    """Say whether an error of `lock` means that the file system has no locks."""
    return error.errno in _NO_LOCKS
