"""Removes what lies in a staging, whatever it is and whatever its permissions.

Invariant: a removal never leaves the staging: it goes by descriptors, follows no link, and stops at a
mount. It gets to its end also where others remove the same, or a get still works in what was replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets

_RACES = 1000  # each is something that was made in a directory while it was emptied
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(staging_fd: int, name: str) -> None:
    """Remove `name` from a staging, if it is there.

    Directories below it are first moved up into the staging, so that neither the depth of a tree
    nor the length of its paths matters. A mount point cannot be moved, which ends the removal.
    """
    doomed, races = [name], 0
    while doomed:
        name = doomed.pop()
        try:
            os.unlink(name, dir_fd=staging_fd)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            try:
                _empty(staging_fd, name, doomed)
                os.rmdir(name, dir_fd=staging_fd)
            except FileNotFoundError:
                pass
            except OSError as error:
                races += 1
                if error.errno != errno.ENOTEMPTY or races > _RACES:
                    raise
                doomed.append(name)


def _empty(staging_fd: int, name: str, moved: list[str]) -> None:
    """Empty a directory of a staging; add the names of the directories that it moved up."""
    os.chmod(name, 0o700, dir_fd=staging_fd)
    fd = os.open(name, _DIRECTORY, dir_fd=staging_fd)
    try:
        for inner in os.listdir(fd):
            try:
                os.unlink(inner, dir_fd=fd)
            except FileNotFoundError:
                pass
            except IsADirectoryError:
                with contextlib.suppress(FileNotFoundError):
                    moved.append(_move_up(fd, inner, staging_fd))
    finally:
        os.close(fd)


def _move_up(fd: int, name: str, staging_fd: int) -> str:
    moved = f"moved-{secrets.token_hex(8)}"
    try:
        os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=staging_fd)
    except PermissionError:  # to move a directory takes write permission on itself
        os.chmod(name, 0o700, dir_fd=fd)
        os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=staging_fd)
    return moved
