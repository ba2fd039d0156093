"""Replaces a small file: whoever opens it reads the former content or the new one, whole.

Invariant: the new content is on the disk before it has the name. A link at the name is itself replaced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def replace_file(
    path: str, text_of: Callable[[int], str], *, mode: int, temporary_directory: str | None = None
) -> None:
    """Write a file as `path`, in place of what is there.

    Args:
        path: in a directory that exists.
        text_of: returns the new content, ASCII, for the inode number of the file that will hold it.
        mode: permission bits, less the umask.
        temporary_directory: where the file is written first, on the same file system; by default beside
            `path`.

    Raises:
        OSError: as of open(2), write(2) and rename(2), of `path`.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(temporary_directory or directory, f"{name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, _NEW_FILE, mode)
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(text_of(os.fstat(fd).st_ino))
                file.flush()
                _keep_owner(fd, path)
                os.fsync(fd)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _keep_owner(fd: int, path: str) -> None:
    """Let root replace a file of another user without taking it from that user."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):
        former = os.lstat(path)
        os.fchown(fd, former.st_uid, former.st_gid)
