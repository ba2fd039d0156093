"""Makes directories, and asks for permissions, so that a disk that fails is not taken for a refusal."""

from __future__ import annotations

import os


def make_directory(path: str, mode: int = 0o777) -> None:
    """Make the directory `path`, and those that it lies in, unless it is there.

    Raises:
        FileExistsError: something else is there.
        OSError: as of stat(2) and mkdir(2).
    """
    try:
        os.stat(path)  # which tells why, where os.makedirs only says that there is no directory
    except FileNotFoundError:
        pass
    os.makedirs(path, mode, exist_ok=True)


def permits(path: str, mode: int, *, dir_fd: int | None = None) -> bool:
    """Say whether this process may use `path` so, as access(2) does with its effective ids.

    Args:
        path: relative to `dir_fd`, if that is given.
        mode: of ``os.R_OK`` and the like.
        dir_fd: a directory.

    Raises:
        OSError: as of stat(2), also where the disk fails, of which access(2) in Python only says no.
    """
    effective = os.access in os.supports_effective_ids
    for _ in range(2):  # what failed once may go well at the second time
        if os.access(path, mode, dir_fd=dir_fd, effective_ids=effective):
            return True
        os.stat(path, dir_fd=dir_fd)
    return False
