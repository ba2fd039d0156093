"""Where a copy grows until it is whole: ``<id>/{owner,tree}``, in a directory of the same mount.

Invariant: whatever lies in a staging is of use to nobody but its owner. Its owner removes it on
every way out, and where the owner was killed the next get does. Only a staging whose owner is
certainly dead, or that is very old, is taken from it. Removal never leaves the staging: it goes
by descriptors, follows no link, and stops at a mount.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import stat
import time
from dataclasses import dataclass
from typing import Self

from lit_storage_client.beneath import open_beneath
from lit_storage_client.confine import Destination
from lit_storage_client.mounts import mount_of
from lit_storage_client.names import shown
from lit_storage_client.process import ProcessIdentity
from lit_storage_proto.errors import AccessDenied
from lit_storage_proto.uri import STAGING

TREE = "tree"
OLD = "old"
_OWNER = "owner"
_JOURNAL = "journal"
_SIBLING_PREFIX = ".lit-staging-"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class StagingArea:
    """A directory that holds stagings, of which some may be left behind by the dead."""

    fd: int
    prefix: str
    """What the names of stagings begin with."""
    base_fd: int
    """What paths in journals are relative to: R for ``R/.staging``, else the directory itself."""
    target_path: str
    """The target of the present get, relative to `base_fd`."""

    def create(self) -> Staging:
        """Return a new staging of this process.

        Raises:
            AccessDenied: the directory cannot be written.
        """
        name = self.prefix + secrets.token_hex(8)
        try:
            os.mkdir(name, 0o700, dir_fd=self.fd)
        except (PermissionError, FileNotFoundError) as error:  # the latter in /proc and the like
            raise AccessDenied(f"no copy can be staged: {error.strerror} in its directory") from None
        except OSError as error:
            error.filename = self.target_path
            raise
        staging = Staging(self, name, os.open(name, _DIRECTORY, dir_fd=self.fd))
        try:
            staging.write(_OWNER, ProcessIdentity.current().to_text())
        except BaseException:
            staging.__exit__()
            raise
        return staging

    def discard_dead(self, oldest_seconds: float) -> None:
        """Remove what dead processes left, after putting back what they had moved aside.

        Args:
            oldest_seconds: the age from which on a staging whose owner cannot be looked up is dead.
        """
        try:
            fd = os.open(".", _DIRECTORY & ~os.O_NOFOLLOW, dir_fd=self.fd)
        except PermissionError:
            return  # it can be written but not listed: nothing can be found in it
        try:
            names = [name for name in os.listdir(fd) if name.startswith(self.prefix)]
        finally:
            os.close(fd)
        for name in names:
            try:
                self._discard_if_dead(name, oldest_seconds)
            except OSError:
                continue  # someone else removes it too, or may not: it harms nobody, and is tried again

    def close(self) -> None:
        """Close the directory."""
        os.close(self.fd)

    def _discard_if_dead(self, name: str, oldest_seconds: float) -> None:
        staging = Staging(self, name, os.open(name, _DIRECTORY, dir_fd=self.fd))
        try:
            if staging.is_dead(oldest_seconds):
                staging.repair()
                staging.discard()
        finally:
            staging.close()


class Staging:
    """One staging; a context manager that removes it on every way out."""

    def __init__(self, area: StagingArea, name: str, fd: int) -> None:
        self._area = area
        self._name = name
        self._given_away = False
        self._owns_area = False
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._given_away:
            self.close()
        else:
            self.remove()

    def give_away(self) -> Staging | None:
        """Return this staging for someone else to `remove`, if it holds a directory that was replaced.

        Returns:
            One with descriptors of its own; None where there is nothing that a reader may still
            be in, or where descriptors are short, and this one is to be removed as ever.
        """
        try:
            if not any(_is_directory(self.fd, name) for name in (TREE, OLD)):
                return None
            _remove(self.fd, _JOURNAL)  # it has done its work, and must not bring the old tree back later
            area_fd = os.dup(self._area.fd)
        except OSError:
            return None
        try:
            fd = os.dup(self.fd)
        except OSError:
            os.close(area_fd)
            return None
        given = Staging(dataclasses.replace(self._area, fd=area_fd, base_fd=-1), self._name, fd)
        given._owns_area = True
        self._given_away = True
        return given

    def remove(self) -> None:
        """Remove it and close it. It never raises: the get is decided, and the next one tries again."""
        try:
            self.discard()
        except OSError:
            pass  # of a tree that another user's files keep
        finally:
            self.close()
            if self._owns_area:
                self._area.close()

    def close(self) -> None:
        """Close the directory. A second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def write(self, name: str, text: str, *, durable: bool = False) -> None:
        """Make a small file in it."""
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=self.fd)
        try:
            os.write(fd, text.encode("ascii"))
            if durable:
                os.fsync(fd)
                os.fsync(self.fd)
        finally:
            os.close(fd)

    def write_journal(self, *, durable: bool) -> None:
        """Note that what lies at the target is about to be moved to OLD.

        Args:
            durable: whether the note must be on the disk before this returns.
        """
        self.write(_JOURNAL, json.dumps({"path": self._area.target_path}), durable=durable)

    def is_dead(self, oldest_seconds: float) -> bool:
        """Say whether nobody can be using it any more."""
        status = os.fstat(self.fd)
        if status.st_uid != os.geteuid():
            return False  # in a directory that other users can write, theirs are not touched
        alive: bool | None = None
        try:
            # The file system may be one that several machines share, so another boot proves nothing.
            alive = ProcessIdentity.from_text(self._read(_OWNER)).is_alive(same_machine=False)
        except (FileNotFoundError, ValueError):
            pass  # it is being made, or being removed, or was so when its owner was killed
        return alive is False or (alive is None and time.time() - status.st_mtime > oldest_seconds)

    def repair(self) -> None:
        """Put back what was moved aside, if nothing took its place."""
        try:
            path = json.loads(self._read(_JOURNAL))["path"]
            os.stat(OLD, dir_fd=self.fd, follow_symlinks=False)
        except (FileNotFoundError, ValueError):
            return  # no second rename was under way, or the first one was not made
        parent, _, name = path.rpartition("/")
        parent_fd = open_beneath(self._area.base_fd, parent)
        try:
            os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(OLD, name, src_dir_fd=self.fd, dst_dir_fd=parent_fd)
        finally:
            os.close(parent_fd)

    def discard(self) -> None:
        """Remove it with all that it holds; what is gone already is no error."""
        _remove(self.fd, _JOURNAL)  # first, so that nothing half removed is ever put back
        for name in os.listdir(self.fd):
            if name != _OWNER:  # last, so that a removal that is cut short is found as dead
                _remove(self.fd, name)
        _remove(self.fd, _OWNER)
        try:
            os.rmdir(self._name, dir_fd=self._area.fd)
        except FileNotFoundError:
            pass

    def _read(self, name: str) -> str:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        with os.fdopen(fd, encoding="ascii") as file:
            return file.read()


def area_for(destination: Destination, *, confined: bool) -> StagingArea:
    """Return where a copy for `destination` is staged: in ``R/.staging``, or beside the target.

    Beside it is where the target is not confined, or lies in another mount than R, since names
    can be exchanged only within a mount.

    Raises:
        AccessDenied: ``R/.staging`` cannot be made.
    """
    anchor_fd = destination.anchor_fd
    if not confined or mount_of(anchor_fd) != mount_of(destination.base_fd):
        fd = os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=anchor_fd)
        return StagingArea(fd, _SIBLING_PREFIX, fd, "/".join([*destination.missing, destination.name]))
    try:
        try:
            os.mkdir(STAGING, 0o700, dir_fd=destination.base_fd)
        except FileExistsError:
            pass
        fd = os.open(STAGING, _DIRECTORY, dir_fd=destination.base_fd)
    except (PermissionError, NotADirectoryError) as error:
        raise AccessDenied(
            f"{shown(destination.label)} cannot be staged in {STAGING}: {error.strerror}"
        ) from None
    return StagingArea(fd, "", destination.base_fd, destination.path)


def _is_directory(fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _remove(staging_fd: int, name: str) -> None:
    """Remove `name` from a staging, whatever it is and whatever its permissions.

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
