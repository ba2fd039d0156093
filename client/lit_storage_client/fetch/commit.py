"""Puts a whole staged tree in the place of its target.

Invariant: every look-up of the target sees the old tree or the new one, whatever is killed when:
the kernel renames or exchanges the two names in one step. Where a file system can do neither
(EINVAL, ENOSYS), the old tree is moved aside and the new one into its place, with a journal from
which the next get puts the old one back if that was cut short.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from lit_storage_client.fetch.staging import Staging
from lit_storage_core.staging.names import OLD, TREE
from lit_storage_core.system.libc import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2, sync_file_system
from lit_storage_core.system.names import shown
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import AccessDenied, IntegrityError, PathExists

STREAM = "stream"
TWICE = "stream, renamed twice"

Rename = Callable[[int, str, int, str, int], None]

_RACES = 64  # each is another process that made or removed the target between two calls
_CANNOT = (errno.EINVAL, errno.ENOSYS)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def seal(staging: Staging, *, label: str, durable: bool) -> None:
    """Take a whole staged tree out of the reach of other attempts, and write it to the disk.

    Args:
        staging: holds a whole TREE.
        label: the target in errors.
        durable: whether the tree survives a power cut from here on.

    Raises:
        IntegrityError: another process took the staging over.
        OSError: something could not be written, as on a failing disk.
    """
    staging.begin_swap()
    if durable:
        with _refusals(label):
            sync_file_system(staging.fd)


def commit(
    staging: Staging,
    root: Entry,
    parent_fd: int,
    name: str,
    *,
    label: str,
    overwrite: bool,
    durable: bool,
    rename: Rename = renameat2,
) -> str:
    """Make the staged tree, after `seal`, the target `name` in `parent_fd`; say how.

    What was there, if anything, is in the staging afterwards.

    Args:
        staging: holds a whole TREE, and was sealed.
        root: the entry of its root.
        parent_fd: the target's directory, in the same mount.
        name: the target, which is itself replaced where it is a link.
        label: the target in errors.
        overwrite: whether a target that is there is replaced.
        durable: whether the new tree survives a power cut once this has returned.
        rename: how names are changed.

    Raises:
        PathExists: the target is there, and `overwrite` is false.
        AccessDenied: the target is a mount point, or may not be replaced.
        IntegrityError: the target's directory was removed meanwhile.
        OSError: the disk fails, and the like.
    """
    with root_directory(staging, root) as root_fd, _refusals(label):
        how = _Swap(staging, parent_fd, name, label, rename, durable).run(overwrite)
        if root_fd >= 0:
            os.fchmod(root_fd, root.mode)
        if durable:
            sync_directory(parent_fd, staging.fd)
    return how


class _Swap:
    """The steps of one change of names."""

    def __init__(
        self, staging: Staging, parent_fd: int, name: str, label: str, rename: Rename, durable: bool
    ) -> None:
        self._staging = staging
        self._parent_fd = parent_fd
        self._name = name
        self._label = label
        self._rename = rename
        self._durable = durable

    def run(self, overwrite: bool) -> str:
        try:
            for _ in range(_RACES):
                if self._place():
                    return STREAM
                if not overwrite:
                    raise self._exists()
                if self._exchange():
                    return STREAM
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            self._rename_twice(overwrite)
            return TWICE
        raise OSError(errno.EBUSY, "other processes keep making and removing it", self._label)

    def _place(self) -> bool:
        """Rename to a name that is free; say whether it was."""
        try:
            self._rename(self._staging.fd, TREE, self._parent_fd, self._name, RENAME_NOREPLACE)
        except FileExistsError:
            return False
        return True

    def _exchange(self) -> bool:
        """Exchange with what is there; say whether something was."""
        try:
            with movable(self._parent_fd, self._name):
                self._rename(self._staging.fd, TREE, self._parent_fd, self._name, RENAME_EXCHANGE)
        except FileNotFoundError:
            return False
        return True

    def _rename_twice(self, overwrite: bool) -> None:
        try:
            os.stat(self._name, dir_fd=self._parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(TREE, self._name, src_dir_fd=self._staging.fd, dst_dir_fd=self._parent_fd)
            return
        if not overwrite:
            raise self._exists()
        self._staging.note_swap(durable=self._durable)
        try:
            with movable(self._parent_fd, self._name):
                os.rename(self._name, OLD, src_dir_fd=self._parent_fd, dst_dir_fd=self._staging.fd)
            os.rename(TREE, self._name, src_dir_fd=self._staging.fd, dst_dir_fd=self._parent_fd)
        except BaseException:
            self._staging.repair()
            raise

    def _exists(self) -> PathExists:
        return PathExists(f"{shown(self._label)} is already there; pass overwrite=True to replace it")


@contextlib.contextmanager
def root_directory(staging: Staging, root: Entry) -> Iterator[int]:
    """Hold the staged root open where its mode is still to be set; yield -1 where it is not.

    A directory that its owner cannot write cannot be renamed into another directory, so such a
    mode is set after the renaming, through the descriptor: by then the name may be another's.
    """
    if root.kind is not Kind.DIRECTORY or root.mode & 0o700 == 0o700:
        yield -1
        return
    fd = os.open(TREE, _DIRECTORY, dir_fd=staging.fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def movable(parent_fd: int, name: str) -> Iterator[None]:
    """Let the block move a directory that is there, even one that its owner cannot write.

    Such a directory is made writable for the move, and is as before where the move fails.
    """
    status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o200 or status.st_uid != os.geteuid():
        yield
        return
    mode = stat.S_IMODE(status.st_mode)
    os.chmod(name, mode | 0o200, dir_fd=parent_fd)
    try:
        yield
    except BaseException:
        os.chmod(name, mode, dir_fd=parent_fd)
        raise


@contextlib.contextmanager
def _refusals(label: str) -> Iterator[None]:
    """Give the system's refusals the sentence that the caller of a get can act on."""
    try:
        yield
    except (PathExists, AccessDenied):
        raise
    except PermissionError as error:
        raise AccessDenied(f"{shown(label)} may not be replaced: {error.strerror}") from None
    except FileNotFoundError:  # which the caller would take for an origin that lacks the path
        raise IntegrityError(
            f"the directory of {shown(label)} was removed at the same time; get it again"
        ) from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise AccessDenied(
                f"{shown(label)} is in use as a mount point, which cannot be replaced"
            ) from None
        raise OSError(error.errno, error.strerror, label) from None


def sync_directory(parent_fd: int, staging_fd: int) -> None:
    """Write the names in a directory to the disk: fsync(2)."""
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent_fd)
    except PermissionError:
        sync_file_system(staging_fd)  # a directory that cannot be listed cannot be opened for fsync(2)
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
