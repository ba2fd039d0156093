"""What a process lets others read, and the one function that confines every read to it.

Invariant: a descriptor that leaves `Shares.open` lies within a share, whatever links are on the
way, and a descriptor that leaves `open_regular` is of a regular file that may be served. No other
function of the server opens a file by a name that came from a peer.

A share is the storage root without its reserved names, or one declared absolute path with all
below it. A symbolic link is followed if it stays within its own share, or leads into another one of
the same Work: to the letter of its absolute path, or by ".." from where its share really lies. No
directory between two shares is opened for that, and a link means no more than a request for the path
that it leads to, so it widens nothing. A declared path is its owner's word, so links on the way to it
are followed wherever they lead; see `declared_path`.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lit_storage_core.system.beneath import Reached, Root, open_without_links, reach_beneath
from lit_storage_core.system.mounts import below_path
from lit_storage_proto.errors import AccessDenied, InvalidURI, PathNotFound, ProtocolViolation, SourceChanged
from lit_storage_proto.limits import MAX_PATH_BYTES
from lit_storage_proto.uri import STAGING, is_reserved, normalise
from lit_storage_server.sources.declared_path import open_declared

# How a regular file is opened. O_NONBLOCK: the name may have become a FIFO, and opening one would
# wait for a writer.
OPEN_REGULAR = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Opened:
    """A path of a share, held by an ``O_PATH`` descriptor until it is closed."""

    fd: int
    path: str
    """As it was asked for."""
    status: os.stat_result
    is_storage_root: bool = False
    """Whether reserved names lie directly in it."""
    absolute: str = ""
    """Its absolute path, as it was asked for."""
    has_crossed: bool = False
    """Whether a link led to it from another share."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.status.st_mode)

    def close(self) -> None:
        """Release the descriptor; to be called once."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Shares:
    """The storage root of a process and the absolute paths that it declared.

    Args:
        root: the storage root, an absolute path without links that exists.
        name: who shares it; errors name it.
        writable_only: serve only files that this process could write itself, by its effective
            ids. False is for a daemon, whose operator grants what is shared.
        follow_links: whether a tree is read with its links followed, where the reader leaves that to the
            Work.
    """

    follow_links = False

    def __init__(
        self, root: str, *, name: str, writable_only: bool = True, follow_links: bool = False
    ) -> None:
        self.root = os.path.abspath(root)
        self.name = name
        self.writable_only = writable_only
        self.follow_links = follow_links
        # One that became a link since it was resolved leads to what nobody meant.
        self._root_fd = open_without_links(self.root)
        self._above = frozenset(_identity(os.stat(above)) for above in _ancestors(self.root))
        self._declared: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def declare(self, path: str) -> None:
        """Share `path` and all below it; it need not exist yet.

        A path below the storage root is shared already, so nothing is added for it.

        Raises:
            InvalidURI: `path` is not absolute, or holds ".." or NUL.
            AccessDenied: it is "/", a directory above the storage root, or a reserved name there.
        """
        normal = normalise(path)
        if not normal.startswith("/"):
            raise InvalidURI(f"{path!r} cannot be shared as it is; give its absolute path")
        inside = self._below_root(normal)
        if inside is not None:
            self._refuse_reserved(inside, normal)
            return
        if normal == "/" or below_path(self.root, normal) is not None:
            raise self._too_wide(normal)
        try:
            self._refuse_above(os.stat(normal), normal)
        except OSError as error:
            if isinstance(error, AccessDenied):
                raise
            # Not there, or not to be seen, yet: `open` looks again.
        with self._lock:
            self._declared |= {normal}

    def open(self, path: str) -> Opened:
        """Return what a path of a request means; this is the function that confines reads.

        Args:
            path: relative to the storage root ("" is the root), or absolute and declared, or
                below a declared path.

        Raises:
            ProtocolViolation: a part is empty, "." or "..", or holds NUL, or the path is too long.
            AccessDenied: it is not shared, a link leads out of all shares, or it is a regular file
                that this process could not write itself.
            PathNotFound: nothing is there.
            OSError: the file system failed.
        """
        check_wire_path(path)
        try:
            opened = self._open_absolute(path) if path.startswith("/") else self._open_relative(path, path)
        except OSError as error:
            raise self._typed(error, path) from None
        try:
            if stat.S_ISREG(opened.status.st_mode):
                self.check_file(opened.fd, opened.status, path)
        except BaseException:
            opened.close()
            raise
        return opened

    def open_regular(self, directory: int, name: str, path: str) -> tuple[int, os.stat_result] | None:
        """Open the regular file `name` of a directory for reading, if it may be served.

        Args:
            directory: descriptor of the directory; with an empty `name`, of the file itself.
            name: one part of a path; a link of this name is not followed.
            path: what errors call the file.

        Returns:
            Descriptor and status, or None where nothing is there any more.

        Raises:
            AccessDenied: the file cannot be read, or could not be written by this process.
            SourceChanged: it is no regular file any more.
            OSError: the file system failed.
        """
        try:
            if name:
                fd = os.open(name, OPEN_REGULAR, dir_fd=directory)
            else:
                fd = os.open(f"/proc/self/fd/{directory}", OPEN_REGULAR & ~os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.unopened(error, path) from None
        try:
            status = os.fstat(fd)
            self.check_regular(fd, status, path)
        except BaseException:
            os.close(fd)
            raise
        return fd, status

    def unopened(self, error: OSError, path: str) -> OSError | SourceChanged:
        """Return what it means that OPEN_REGULAR failed: AccessDenied, SourceChanged, or `error`."""
        if isinstance(error, PermissionError):
            return AccessDenied(f"{self.name!r} may not read {path!r}; check its mode and owner")
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or a socket
            return _no_file(path)
        if error.errno == errno.EAGAIN:  # which without O_NONBLOCK would be a wait: fcntl(2), F_SETLEASE
            return SourceChanged(
                f"{path!r} is leased by another program of its machine, which was told to give it back; try "
                "again in a minute"
            )
        error.filename = path
        return error

    def check_regular(self, fd: int, status: os.stat_result, path: str) -> None:
        """Refuse what may not be served of what OPEN_REGULAR opened.

        Raises:
            SourceChanged: it is no regular file.
            AccessDenied: as of `check_file`.
        """
        if not stat.S_ISREG(status.st_mode):
            raise _no_file(path)
        self.check_file(fd, status, path)

    def check_file(self, fd: int, status: os.stat_result, path: str) -> None:
        """Refuse a regular file that this process could not write itself.

        Raises:
            AccessDenied: it neither owns the file nor may write it, by its effective ids.
        """
        if not self.writable_only or status.st_uid == os.geteuid():
            return
        if not os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True):
            raise AccessDenied(
                f"{path!r} is not served: {self.name!r} neither owns the file nor may write it; "
                "copy it, or give its process write permission"
            )

    def close(self) -> None:
        """Release the storage root; nothing can be opened any more. A second call does nothing."""
        fd, self._root_fd = self._root_fd, -1
        if fd >= 0:
            os.close(fd)

    def _open_relative(self, relative: str, path: str) -> Opened:
        self._refuse_reserved(relative, path)
        reached = reach_beneath(self._root_fd, relative, root_path=self.root, roots=self)
        return self._opened(reached, self.root, path, join(self.root, relative))

    def find(self, parts: Sequence[str]) -> Root | None:
        """Return the share in which the absolute path of a link lies: see `beneath.Roots`."""
        path = f"/{'/'.join(parts)}"
        if self._below_root(path) is not None:
            return Root(os.open(".", _DIRECTORY, dir_fd=self._root_fd), self.root, _rest(parts, self.root))
        with self._lock:
            shares = sorted(self._declared, key=len)
        absent: OSError | None = None
        # A share counts under the name by which it was declared first, and then under its name without links.
        for is_real in (False, True):
            for share in shares:
                if not is_real and below_path(path, share) is None:
                    continue
                try:
                    fd = self._open_share(share)
                except AccessDenied:  # which names the share; who asked knows the link alone
                    continue
                except OSError as error:
                    absent = absent if is_real else absent or error
                    continue
                name = real_path(fd) if is_real else share
                if below_path(path, name) is not None:
                    return Root(fd, share, _rest(parts, name))
                os.close(fd)
        if absent is not None:
            raise absent
        return None

    def place_of(self, fd: int) -> str:
        """Return where an open file lies: relative to the storage root, or absolute outside of it."""
        real = real_path(fd)
        below = self._below_root(real)
        # A declared path may be a link to a copy under R/@…: its owner's word, and no path below R.
        return real if below is None or is_reserved(below) else below

    def _open_absolute(self, path: str) -> Opened:
        inside = self._below_root(path)
        if inside is not None:
            return self._open_relative(inside, path)
        # The widest share that holds the path: a link may then lead as far as any of them allows.
        for share in sorted(self._declared, key=len):
            below = below_path(path, share)
            if below is not None:
                return self._open_declared(share, below, path)
        raise AccessDenied(f"{path!r} is not shared by {self.name!r}; assign it to an attribute of the Work")

    def _open_declared(self, share: str, below: str, path: str) -> Opened:
        fd = self._open_share(share)
        try:
            reached = reach_beneath(fd, below, root_path=share, roots=self) if below else None
        finally:
            if below:
                os.close(fd)
        return self._opened(reached or Reached(fd, "", None), share, path, join(share, below))

    def _open_share(self, share: str) -> int:
        """Return a descriptor of a declared path."""
        fd = open_declared(share)
        try:
            self._refuse_above(os.fstat(fd), share)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _opened(self, reached: Reached, began: str, path: str, absolute: str) -> Opened:
        """Return what a look-up led to, if that may be shared; its descriptor is taken over.

        Args:
            reached: what it led to.
            began: the path of the share in which the look-up began.
            path: as it was asked for.
            absolute: the same, absolute.
        """
        root = began if reached.root is None else reached.root.path
        is_below_root = root == self.root
        try:
            if is_below_root:
                self._refuse_reserved(reached.path, path)
                self._refuse_staging(reached.path, path)
            return Opened(
                reached.fd,
                path,
                os.fstat(reached.fd),
                is_storage_root=is_below_root and not reached.path,
                absolute=absolute,
                has_crossed=reached.root is not None,
            )
        except BaseException:
            os.close(reached.fd)
            raise

    def _below_root(self, path: str) -> str | None:
        return below_path(path, self.root)

    def _refuse_reserved(self, relative: str, path: str) -> None:
        if is_reserved(relative):
            raise self._reserved(path)

    def _refuse_staging(self, reached: str, path: str) -> None:
        """Refuse the staging by whatever name: a file system may know it in capitals, or by a short name.

        What begins with "@" does so in each of its names.
        """
        try:
            first, staging = (
                os.stat(name, dir_fd=self._root_fd, follow_symlinks=False)
                for name in (reached.partition("/")[0] or ".", STAGING)
            )
        except OSError:
            return  # there is no staging
        if os.path.samestat(first, staging):
            raise self._reserved(path)

    def _reserved(self, path: str) -> AccessDenied:
        return AccessDenied(
            f"{path!r} is not shared by {self.name!r}: directly under its storage root, '@…' and "
            f"{STAGING!r} hold copies; ask the Work that owns the files"
        )

    def _refuse_above(self, status: os.stat_result, path: str) -> None:
        if _identity(status) in self._above:
            raise self._too_wide(path)

    def _too_wide(self, path: str) -> AccessDenied:
        return AccessDenied(
            f"{path!r} cannot be shared: it holds the storage root of {self.name!r}; share one beside it"
        )

    def _typed(self, error: OSError, path: str) -> OSError:
        if isinstance(error, AccessDenied):
            return error
        if error.errno in _ABSENT:
            return PathNotFound(f"{self.name!r} has no {path!r}")
        if error.errno in (errno.EACCES, errno.EPERM):
            return AccessDenied(f"{self.name!r} may not look into a directory on the way to {path!r}")
        return error


def _no_file(path: str) -> SourceChanged:
    return SourceChanged(
        f"{path!r} was replaced by something that is no regular file; try again when it rests"
    )


def check_wire_path(path: str) -> None:
    """Check a path that a peer asked for, before anything else is done with it.

    Raises:
        ProtocolViolation: a part is empty, "." or "..", or holds NUL, or the path is too long.
    """
    if len(path) > MAX_PATH_BYTES:
        raise ProtocolViolation(
            f"a path of {len(path)} characters was asked for; {MAX_PATH_BYTES} bytes are allowed"
        )
    if not path or path == "/":
        return
    parts = path.removeprefix("/").split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or "\0" in path:
        raise ProtocolViolation(f"{path!r} cannot be asked for: a part is empty, '.' or '..', or holds NUL")


def _ancestors(path: str) -> list[str]:
    above = []
    while path != "/":
        path = os.path.dirname(path)
        above.append(path)
    return above


def join(directory: str, name: str) -> str:
    """Return the path of a name in a directory, where either may be empty."""
    return f"{directory}/{name}" if directory and name else directory or name


def _rest(parts: Sequence[str], directory: str) -> Sequence[str]:
    """Return the parts of a path behind those of a directory."""
    return parts[len([part for part in directory.split("/") if part]) :]


def real_path(fd: int) -> str:
    """Return the path of what is open, as the kernel knows it."""
    return os.readlink(f"/proc/self/fd/{fd}")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
