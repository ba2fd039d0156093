"""Removes what lies in a staging, whatever it is and whatever its permissions.

Invariant: a removal never leaves the staging: it goes by descriptors, follows no link, and stops at a
mount.
"""

from __future__ import annotations

import os
import secrets

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(staging_fd: int, name: str) -> None:
    """Remove `name` from a staging, if it is there.

    Directories below it are first moved up into the staging, so that neither the depth of a tree
    nor the length of its paths matters. A mount point cannot be moved, which ends the removal.
    """
    doomed = [name]
    while doomed:
        name = doomed.pop()
        try:
            os.unlink(name, dir_fd=staging_fd)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            doomed += _empty(staging_fd, name)
            os.rmdir(name, dir_fd=staging_fd)


def _empty(staging_fd: int, name: str) -> list[str]:
    """Empty a directory of a staging; return the names of the directories that it moved up."""
    moved = []
    os.chmod(name, 0o700, dir_fd=staging_fd)
    fd = os.open(name, _DIRECTORY, dir_fd=staging_fd)
    try:
        for inner in os.listdir(fd):
            try:
                os.unlink(inner, dir_fd=fd)
            except IsADirectoryError:
                moved.append(_move_up(fd, inner, staging_fd))
    finally:
        os.close(fd)
    return moved


def _move_up(fd: int, name: str, staging_fd: int) -> str:
    moved = f"moved-{secrets.token_hex(8)}"
    try:
        os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=staging_fd)
    except PermissionError:  # to move a directory takes write permission on itself
        os.chmod(name, 0o700, dir_fd=fd)
        os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=staging_fd)
    return moved
