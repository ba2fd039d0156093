"""Opens what a path means below a directory, and never anything else.

Invariant: a descriptor returned from here lies beneath the root that was given, or beneath one of
the other roots to which the caller lets links lead (`Roots`), whatever links are on the way and
whoever renames directories meanwhile. Each step opens one name, without
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
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from lit_storage_proto.errors import AccessDenied, InvalidURI
from lit_storage_proto.limits import MAX_LINKS
from lit_storage_proto.uri import normalise

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Root(NamedTuple):
    """Another root, into which a link leads."""

    fd: int
    """An ``O_PATH`` descriptor; it belongs to whoever asked for the root."""
    path: str
    """Its absolute path."""
    below: Sequence[str]
    """What is left to walk below it; "" and "." are left out, ".." is not."""


class Roots(Protocol):
    """The roots into which a link may lead that leaves its own."""

    def find(self, parts: Sequence[str]) -> Root | None:
        """Return the root in which an absolute path lies, to the letter; None if it lies in none.

        Args:
            parts: the names in the path, the first one not "..".

        Raises:
            AccessDenied, OSError: that root cannot be opened.
        """
        ...


class Reached(NamedTuple):
    """What a path means."""

    fd: int
    """A new ``O_PATH`` descriptor."""
    path: str
    """Without links, relative to the root in which it lies."""
    root: Root | None
    """Where that is another root than the one given: which one. Its descriptor is closed."""


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
    ).fd


def reach_beneath(
    root_fd: int,
    path: str,
    *,
    root_path: str | None = None,
    follow_last: bool = True,
    create: bool = False,
    mode: int = 0o777,
    roots: Roots | None = None,
) -> Reached:
    """Do as `open_beneath`, and return where the path leads too.

    With `roots`, a link may lead out of the root into one of those. Such a link is followed only if it and
    all links before it were made by this process's user, by root, or by the owner of the root's own
    directory: whoever may only write somewhere in a root does not say what is read elsewhere.
    """
    relative = normalise(path)
    if relative.startswith("/"):
        raise InvalidURI(f"{path!r} is absolute, but a path below a root was asked for")
    walk = _Walk(root_fd, path, _parts(root_path) if root_path is not None else None, create, mode, roots)
    try:
        return Reached(walk.run(_parts(relative), follow_last), "/".join(walk.names), walk.entered)
    except OSError as error:
        walk.close()
        if not isinstance(error, AccessDenied):
            error.filename = path
        raise
    except BaseException:
        walk.close()
        raise
    finally:
        walk.close_root()


def open_without_links(path: str, *, below: int | None = None, directory: bool = True) -> int:
    """Return a new ``O_PATH`` descriptor of what has a path on whose way no link is followed.

    Args:
        path: absolute, and without "..".
        below: the directory below which `path` is taken, and then it is relative; None is "/".
        directory: whether it must be a directory; else a link at the path itself is opened as such.

    Raises:
        OSError: as of open(2), with `path` as its file name; ENOTDIR for a link on the way too.
    """
    fd = os.open("/", _ROOT) if below is None else os.open(".", _ROOT, dir_fd=below)
    parts = _parts(path)
    try:
        for index, name in enumerate(parts):
            is_on_the_way = directory or index + 1 < len(parts)
            reached = os.open(name, _STEP | (os.O_DIRECTORY if is_on_the_way else 0), dir_fd=fd)
            os.close(fd)
            fd = reached
    except OSError as error:
        os.close(fd)
        error.filename = path
        raise
    return fd


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


class _Walk:
    """Where one look-up stands: the directory reached, and the names that led there."""

    def __init__(
        self,
        root_fd: int,
        path: str,
        root: list[str] | None,
        create: bool,
        mode: int,
        roots: Roots | None = None,
    ) -> None:
        self._root_fd = root_fd
        self._roots = roots
        self.entered: Root | None = None
        """The root that the walk is in, where that is another one than it began in."""
        self._links = 0  # followed, and roots entered, which may cost more than a link
        self._is_trusted = True
        """Whether all links so far were made by somebody who may say where a link leads out of a root."""
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

    def close_root(self) -> None:
        """Release the root that was entered, if one was."""
        if self.entered is not None:
            os.close(self.entered.fd)

    def run(self, parts: list[str], follow_last: bool) -> int:
        """Walk `parts`; the descriptor returned belongs to the caller."""
        pending = parts[::-1]
        while pending:
            name = pending.pop()
            if name == "..":
                self._go_up(pending)
                continue
            text = self._enter(name, follow_last or bool(pending))
            if text is None:
                continue
            self._count_link()
            self._take_link(text, pending)
        fd, self._fd = self._fd, -1
        return fd

    def _count_link(self) -> None:
        self._links += 1
        if self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _enter(self, name: str, follow: bool) -> str | None:
        """Open `name` in the directory reached; return the text of a link that is to be followed."""
        fd = self._open(name)
        try:
            if follow and stat.S_ISLNK((status := os.fstat(fd)).st_mode):
                if self._roots is not None and status.st_uid not in (0, os.geteuid()):
                    self._is_trusted &= status.st_uid == os.fstat(self._root_fd).st_uid
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

    def _take_link(self, text: str, pending: list[str]) -> None:
        """Walk what a link means next."""
        parts = _parts(text)
        if not text.startswith("/"):
            pending += parts[::-1]
        elif self._root is None or parts[: len(self._root)] != self._root:
            # Where the link leads is decided by its text with all that is to be walked after it.
            parts += pending[::-1]
            pending.clear()
            self._enter_root(parts, pending)
        else:
            pending += parts[len(self._root) :][::-1]
            self._restart([])

    def _go_up(self, pending: list[str]) -> None:
        """Take one name back, and with it each ".." that follows, before walking anew."""
        if not stat.S_ISDIR(os.fstat(self._fd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        up = 1
        while pending and pending[-1] == "..":
            pending.pop()
            up += 1
        if up <= len(self.names):
            self._restart(self.names[:-up])
            return
        # The kernel names an open directory without links, so each ".." takes one name back.
        above = _parts(os.readlink(f"/proc/self/fd/{self._root_fd}")) if self._roots is not None else []
        parts = [*above[: max(0, len(above) + len(self.names) - up)], *pending[::-1]]
        pending.clear()
        self._enter_root(parts, pending)

    def _enter_root(self, parts: list[str], pending: list[str]) -> None:
        """Go on in another root, in which an absolute path lies to the letter."""
        if self._roots is None or not self._is_trusted or parts[:1] == [".."]:
            raise self._leaves()
        self._count_link()
        root = self._roots.find(parts)
        if root is None:
            raise self._leaves()
        self.close_root()
        self.entered, self._root_fd, self._root = root, root.fd, _parts(root.path)
        pending += list(root.below)[::-1]
        self.close()
        self._fd, self.names = os.dup(root.fd), []  # which may be a file

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
