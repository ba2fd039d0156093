"""Opens a path that was declared, through those links on its way that whoever declared it relied on.

Invariant: a link is followed if this process's user, root, or the owner of the directory that it lies in
made it. Any other was put there by somebody who may merely write into that directory, as everybody may into
/tmp; he does not say what is shared. Linux has this rule for sticky directories alone, and as a setting:
proc_sys_fs(5), protected_symlinks.
"""

from __future__ import annotations

import errno
import os
import stat

from lit_storage_proto.errors import AccessDenied
from lit_storage_proto.limits import MAX_LINKS

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def open_declared(path: str) -> int:
    """Return a new ``O_PATH`` descriptor of what an absolute path means.

    Raises:
        AccessDenied: a link on the way, or at the end, was made by another user.
        OSError: as of open(2); ELOOP after 40 links.
    """
    fd, pending, links = os.open("/", _STEP), _parts(path), 0
    try:
        while pending:
            below = _open(fd, pending.pop())
            try:
                if not stat.S_ISLNK(os.fstat(below).st_mode):
                    fd, below = below, fd
                    continue
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                _check(below, fd, path)
                text = os.readlink("", dir_fd=below)
                pending += _parts(text)
                if text.startswith("/"):
                    fd, old = os.open("/", _STEP), fd
                    os.close(old)
            finally:
                os.close(below)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _parts(path: str) -> list[str]:
    """Return the names in a path, the first one last."""
    return [part for part in path.split("/") if part not in ("", ".")][::-1]


def _open(directory: int, name: str) -> int:
    try:
        return os.open(name, _STEP | os.O_DIRECTORY, dir_fd=directory)  # so that it is mounted on demand
    except NotADirectoryError:
        return os.open(name, _STEP, dir_fd=directory)


def _check(link: int, directory: int, path: str) -> None:
    maker = os.fstat(link).st_uid
    if maker not in (0, os.geteuid(), os.fstat(directory).st_uid):
        raise AccessDenied(
            f"{path!r} is not served: user {maker} put a symbolic link on the way to it; have its directory "
            "written by nobody else"
        )
