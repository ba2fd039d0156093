"""Opens what a path means below a directory, and never anything else.

Invariant: a descriptor returned from here lies beneath the root that was given, whatever links
are on the way and whoever renames directories meanwhile. Each step opens one name, without
following it, in a directory that was reached the same way. A symbolic link counts for its text
alone: that text is walked by the same steps, so links of /proc are not followed to what they
hold open.

Why not ``openat2(RESOLVE_BENEATH)``: it refuses an absolute link even where its target lies
below the root, which is how many programs write links, and kernels before 5.6 and several
sandboxes lack it.

The kernel is never asked for ".." (a directory moved elsewhere would have another parent).
The names that were walked are kept instead, and one ".." walks them again from the root without
the last one: one descriptor is open at a time, however deep the path is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from lit_storage_proto.errors import AccessDenied, InvalidURI
from lit_storage_proto.limits import MAX_LINKS
from lit_storage_proto.uri import normalise

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def open_beneath(
    root_fd: int,
    path: str,
    *,
    root_path: str | None = None,
    follow_last: bool = True,
    create: bool = False,
    mode: int = 0o777,
) -> int:
    """Return a new ``O_PATH`` descriptor of what `path` means below `root_fd`.

    Args:
        root_fd: a directory; it stays open and is not moved.
        path: relative, "" for the root itself; without "..".
        root_path: the absolute path of the root. With it, an absolute link is followed if its
            text begins with this path; without it, every absolute link leaves.
        follow_last: whether a link at the path itself is followed; else the link is opened.
        create: whether missing directories are made, the last one too.
        mode: permission bits of directories that are made, less the umask.

    Raises:
        AccessDenied: a link on the way leads out of the root.
        InvalidURI: `path` is absolute, or holds ".." or NUL.
        OSError: as of open(2), with `path` as its file name; ELOOP after 40 links.
    """
    return reach_beneath(
        root_fd, path, root_path=root_path, follow_last=follow_last, create=create, mode=mode
    )[0]


def reach_beneath(
    root_fd: int,
    path: str,
    *,
    root_path: str | None = None,
    follow_last: bool = True,
    create: bool = False,
    mode: int = 0o777,
) -> tuple[int, str]:
    """Do as `open_beneath`, and return the path without links too, relative to the root."""
    relative = normalise(path)
    if relative.startswith("/"):
        raise InvalidURI(f"{path!r} is absolute, but a path below a root was asked for")
    walk = _Walk(root_fd, path, _parts(root_path) if root_path is not None else None, create, mode)
    try:
        return walk.run(_parts(relative), follow_last), "/".join(walk.names)
    except OSError as error:
        walk.close()
        if not isinstance(error, AccessDenied):
            error.filename = path
        raise
    except BaseException:
        walk.close()
        raise


def open_without_links(path: str) -> int:
    """Return a new ``O_PATH`` descriptor of a directory, on whose way no link is followed.

    Args:
        path: absolute, and without "..".

    Raises:
        OSError: as of open(2), with `path` as its file name; ENOTDIR for a link too.
    """
    fd = os.open("/", _ROOT)
    try:
        for name in _parts(path):
            below = os.open(name, _STEP | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
    except OSError as error:
        os.close(fd)
        error.filename = path
        raise
    return fd


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


class _Walk:
    """Where one look-up stands: the directory reached, and the names that led there."""

    def __init__(self, root_fd: int, path: str, root: list[str] | None, create: bool, mode: int) -> None:
        self._root_fd = root_fd
        self._path = path
        self._root = root
        self._create = create
        self._mode = mode
        self.names: list[str] = []
        self._fd = os.open(".", _ROOT, dir_fd=root_fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def run(self, parts: list[str], follow_last: bool) -> int:
        """Walk `parts`; the descriptor returned belongs to the caller."""
        pending, links = parts[::-1], 0
        while pending:
            name = pending.pop()
            if name == "..":
                self._go_up(pending)
                continue
            text = self._enter(name, follow_last or bool(pending))
            if text is None:
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            pending += self._parts_of_link(text)[::-1]
        fd, self._fd = self._fd, -1
        return fd

    def _enter(self, name: str, follow: bool) -> str | None:
        """Open `name` in the directory reached; return the text of a link that is to be followed."""
        fd = self._open(name)
        try:
            if follow and stat.S_ISLNK(os.fstat(fd).st_mode):
                # readlinkat(2) with an empty name reads the very link that was opened.
                return os.readlink("", dir_fd=fd)
            self._fd, fd = fd, self._fd
            self.names.append(name)
            return None
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        try:
            return os.open(name, _STEP, dir_fd=self._fd)
        except FileNotFoundError:
            if not self._create:
                raise
        with contextlib.suppress(FileExistsError):  # someone else made it: as good
            os.mkdir(name, self._mode, dir_fd=self._fd)
        return os.open(name, _STEP, dir_fd=self._fd)

    def _parts_of_link(self, text: str) -> list[str]:
        parts = _parts(text)
        if not text.startswith("/"):
            return parts
        if self._root is None or parts[: len(self._root)] != self._root:
            raise self._leaves()
        depth = len(self._root)
        self._restart([])
        return parts[depth:]

    def _go_up(self, pending: list[str]) -> None:
        """Take one name back, and with it each ".." that follows, before walking anew."""
        if not stat.S_ISDIR(os.fstat(self._fd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        up = 1
        while pending and pending[-1] == "..":
            pending.pop()
            up += 1
        if up > len(self.names):
            raise self._leaves()
        self._restart(self.names[:-up])

    def _restart(self, names: list[str]) -> None:
        """Walk from the root through `names`, which were directories and not links when last seen."""
        self.close()
        self._fd = os.open(".", _ROOT, dir_fd=self._root_fd)
        self.names = names
        for name in names:
            fd = os.open(name, _STEP | os.O_DIRECTORY, dir_fd=self._fd)
            os.close(self._fd)
            self._fd = fd

    def _leaves(self) -> AccessDenied:
        return AccessDenied(f"{self._path!r} leads through a symbolic link out of what is shared")
