"""Says where a copy is written: the one place that confines writes.

Invariant: what `confine` returns is a name in a directory beneath ``R/@origin``, whatever the
target's text and whatever links lie on the way; ``R/@origin`` itself is a directory of R and no
link. Directories are held by descriptor from then on, so nobody can put another one in their
place. Nothing is made here but R: missing parents are made when a whole copy waits to be put in
place, and then only in the directory that is held.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lit_storage_core.system.beneath import open_beneath
from lit_storage_core.system.directories import make_directory, permits
from lit_storage_core.system.mounts import mount_of
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import AccessDenied, InvalidURI, PathExists
from lit_storage_proto.uri import check_name, normalise

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Destination:
    """A name in a directory, some of whose parents may be missing; a context manager that closes it."""

    base_fd: int
    """The storage root of a confined target, else the same as `anchor_fd`; O_PATH, as are the others."""
    path: str
    """The target, relative to `base_fd`."""
    anchor_fd: int
    """The deepest directory on the way that exists."""
    missing: tuple[str, ...]
    """The directories still to be made below it."""
    name: str
    label: str
    """The target as the caller wrote it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.anchor_fd)
        if self.base_fd != self.anchor_fd:
            os.close(self.base_fd)

    def check_place(self) -> None:
        """Refuse a target that cannot be put in place, before anything is transferred.

        Raises:
            AccessDenied: it is a mount point, or its directory cannot be written.
        """
        if not permits(".", os.W_OK | os.X_OK, dir_fd=self.anchor_fd):
            raise AccessDenied(
                f"{shown(self.label)} cannot be written: no permission to make it in its directory"
            )
        if self.missing:
            return
        try:
            fd = os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.anchor_fd)
        except FileNotFoundError:
            return
        try:
            if mount_of(fd) != mount_of(self.anchor_fd):
                raise AccessDenied(
                    f"{shown(self.label)} is a mount point and cannot be replaced; get into a path below it"
                )
        finally:
            os.close(fd)

    @property
    def is_there(self) -> bool:
        """Whether something is at the target, if only a link that leads nowhere."""
        if self.missing:
            return False
        try:
            os.stat(self.name, dir_fd=self.anchor_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def check_absent(self) -> None:
        """Refuse a target that is there.

        Raises:
            PathExists: it is.
        """
        if self.is_there:
            raise PathExists(f"{shown(self.label)} is already there; pass overwrite=True to replace it")

    def open_parent(self) -> int:
        """Return a descriptor of the target's directory; what is missing of the way to it is made.

        Raises:
            PathExists: something other than a directory has come to be on the way.
            AccessDenied: a directory cannot be made.
        """
        with _sentences(self.label):
            return _directory(open_beneath(self.anchor_fd, "/".join(self.missing), create=True), self.label)


def confine(root: str, origin: str, target: str) -> Destination:
    """Return where `target` may be written as a copy of files of the Work `origin`.

    Args:
        root: the storage root R of this session, absolute; it is made if it is missing.
        origin: the name of the Work.
        target: ``R/@origin``, or a path below it.

    Raises:
        InvalidURI: the target's text is not of that form, or `origin` is no name.
        AccessDenied: a link on the way leads out of ``R/@origin``, or a directory cannot be entered.
        PathExists: something on the way is not a directory.
    """
    root, base_name = normalise(root), f"@{check_name(origin)}"
    base = f"{root}/{base_name}"
    path = normalise(target)
    if path != base and not path.startswith(f"{base}/"):
        raise InvalidURI(f"{shown(target)} is outside of {shown(base)}, where copies of {origin!r} belong")
    parts = path.removeprefix(root).split("/")[1:]
    with _sentences(target), contextlib.ExitStack() as stack:
        make_directory(root)
        root_fd = os.open(root, _PATH)
        stack.callback(os.close, root_fd)
        if len(parts) == 1:
            anchor_fd, missing = root_fd, 0
        else:
            anchor_fd, missing = _deepest(root_fd, base, parts[:-1], target)
        stack.pop_all()
    return Destination(root_fd, "/".join(parts), anchor_fd, _tail(parts[:-1], missing), parts[-1], target)


def choose(target: str) -> Destination:
    """Return where `target`, a path of the caller's own choice, is to be written.

    Links on the way are followed, as all programs do.

    Raises:
        InvalidURI: the path has no last name that could be replaced, as "/" has none.
        AccessDenied: a directory cannot be entered.
        PathExists: something on the way is not a directory.
    """
    path = os.path.join(os.getcwd(), target).rstrip("/")
    if os.path.basename(path) in (".", ".."):
        path = os.path.realpath(path)
    parent, name = os.path.split(path)
    if ".." in parent.split("/"):
        parent = os.path.realpath(parent)  # what is missing of it is made, and ".." cannot be
    if not name or "\0" in path:
        raise InvalidURI(f"{shown(target)} cannot be replaced by a copy; name a path below it")
    missing: list[str] = []
    with _sentences(target):
        while True:
            try:
                anchor_fd = os.open(parent, _PATH)
                break
            except FileNotFoundError:
                parent, _, last = parent.rstrip("/").rpartition("/")
                missing.insert(0, last)
                parent = parent or "/"
    return Destination(anchor_fd, "/".join([*missing, name]), anchor_fd, tuple(missing), name, target)


def _deepest(root_fd: int, base: str, parents: list[str], target: str) -> tuple[int, int]:
    """Return the deepest of `parents` that exists, and how many below it are missing."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        base_fd = os.open(parents[0], flags, dir_fd=root_fd)
    except FileNotFoundError:
        return os.open(".", _PATH, dir_fd=root_fd), len(parents)
    try:
        if stat.S_ISLNK(os.fstat(base_fd).st_mode):
            raise AccessDenied(
                f"{shown(base)} is a symbolic link, through which no copy is written; mount it instead"
            )
        below = parents[1:]
        for count in range(len(below), -1, -1):
            try:
                fd = open_beneath(base_fd, "/".join(below[:count]), root_path=base)
            except FileNotFoundError:
                continue
            return _directory(fd, target), len(below) - count
        raise FileNotFoundError(base)
    finally:
        os.close(base_fd)


def _directory(fd: int, label: str) -> int:
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise _in_the_way(label)


def _in_the_way(label: str) -> PathExists:
    return PathExists(
        f"{shown(label)} cannot be made: something on the way to it is not a directory; remove that"
    )


def _tail(parts: list[str], count: int) -> tuple[str, ...]:
    return tuple(parts[len(parts) - count :])


class _sentences(contextlib.AbstractContextManager[None]):  # noqa: N801  # used as a function
    """Gives the system's refusals the sentence that the caller of a get can act on."""

    def __init__(self, label: str) -> None:
        self._label = label

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, AccessDenied | PathExists):
            return
        if isinstance(error, PermissionError):
            raise AccessDenied(
                f"{shown(self._label)} cannot be written: {error.strerror}, {error.filename}"
            ) from None
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise _in_the_way(self._label) from None
