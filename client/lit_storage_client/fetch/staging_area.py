"""Where stagings lie: ``R/.staging``, or the directory of the target; and what the dead left there.

Invariant: of several that would go on from one staging, one does. What nobody can go on from, and
nobody owns, is removed by the next get.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_storage_client.fetch.confine import Destination
from lit_storage_client.fetch.staging import Staging, StagingPlace
from lit_storage_core.staging.journal import read_journal
from lit_storage_core.staging.names import State, name_with_owner
from lit_storage_core.system.mounts import mount_of
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import AccessDenied
from lit_storage_proto.uri import STAGING

_SIBLING_PREFIX = ".lit-staging-"

# What reading a staging raises in which there is something that no process of ours wrote.
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class StagingArea(StagingPlace):
    """A directory that holds stagings, of which some may be left behind by the dead."""

    def adopt(self, oldest_seconds: float) -> Staging | None:
        """Return a staging in which another get of this very copy got stuck, now of this process.

        Args:
            oldest_seconds: as of `discard_dead`.
        """
        best, _ = self._most(oldest_seconds)
        if not best:
            return None
        with contextlib.suppress(OSError, *_DAMAGED):  # someone else was faster, or is removing it
            return self._take(best, oldest_seconds)
        return None

    def kept_bytes(self, oldest_seconds: float) -> int:
        """Return how many bytes the next get of this very copy need not receive again.

        Args:
            oldest_seconds: as of `discard_dead`.
        """
        return self._most(oldest_seconds)[1]

    def _most(self, oldest_seconds: float) -> tuple[str, int]:
        """Return the staging from which most can be taken, and how many bytes; "" and 0 if there is none."""
        best, most = "", 0
        for name in self._names(State.FILLING):
            with contextlib.suppress(OSError, *_DAMAGED):
                size = self._adoptable_bytes(name, oldest_seconds)
                if size > most:
                    best, most = name, size
        return best, most

    def create(self) -> Staging:
        """Return a new staging of this process.

        Raises:
            AccessDenied: the directory cannot be written.
        """
        name = name_with_owner(self.prefix + secrets.token_hex(8))
        try:
            os.mkdir(name, 0o700 | self.mark, dir_fd=self.fd)
            staging = Staging(self, name, os.open(name, _DIRECTORY, dir_fd=self.fd))
        except (PermissionError, FileNotFoundError) as error:  # the latter in /proc, or in what was removed
            raise AccessDenied(f"no copy can be staged: {error.strerror} in its directory") from None
        except OSError as error:
            error.filename = self.target_path
            raise
        is_new = False
        try:
            is_new = not os.listdir(staging.fd)
            self._check_new(staging, is_new=is_new)
            self._rename(staging, name)
        except BaseException as error:
            if is_new and os.fstat(staging.fd).st_uid == os.geteuid():
                staging.__exit__(type(error))
            else:
                staging.close()  # and no more: what lies there may be none of ours to remove
            raise
        return staging

    def _check_new(self, staging: Staging, *, is_new: bool) -> None:
        """Note its owner; refuse what was put in the place of the directory just made.

        Another user may put one of his own there, or one of this user's with all that is in it. What is made
        in it tells whose one's own would be: a file system may give all files to one user.
        """
        if is_new:
            staging.write_owner()
        if not is_new or staging.maker != os.fstat(staging.fd).st_uid:
            raise AccessDenied(
                f"no copy can be staged beside {shown(self.target_path)}: another user replaces what is made "
                "there; get into a directory that others may not write"
            )

    def discard_dead(self, oldest_seconds: float, *, keep: bool = True) -> bool:
        """Remove what dead processes left, after putting back what they had moved aside.

        Args:
            oldest_seconds: the age from which on a staging whose owner cannot be looked up is dead.
            keep: whether a copy that got stuck stays for so long, for a get that goes on from it.

        Returns:
            Whether anything was removed.
        """
        removed = False
        for name in self._names():
            # Someone else removes it too, or may not: it harms nobody, and is tried again.
            with contextlib.suppress(OSError, *_DAMAGED):
                removed |= self._discard_if_dead(name, oldest_seconds, keep)
        return removed

    def _take(self, former: str, oldest_seconds: float) -> Staging | None:
        staging = Staging(self, former, os.open(former, _DIRECTORY, dir_fd=self.fd))
        try:
            if not staging.is_dead(oldest_seconds):  # it is another one than was looked at
                staging.close()
                return None
            # Written before and after: in between nobody may take it for one of the dead.
            staging.write_owner()
            self._rename(staging, former)
        except OSError:
            staging.close()
            raise
        try:
            staging.write_owner()
            staging.salvage()
        except (OSError, *_DAMAGED):
            staging.remove()
            raise
        return staging

    def _rename(self, staging: Staging, former: str) -> None:
        name = self.prefix + secrets.token_hex(8) + State.FILLING.value
        os.rename(former, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        staging.take_name(name)

    def _names(self, state: State | None = None) -> list[str]:
        try:
            fd = os.open(".", _DIRECTORY & ~os.O_NOFOLLOW, dir_fd=self.fd)
        except PermissionError:
            return []  # it can be written but not listed: nothing can be found in it
        try:
            names = [name for name in os.listdir(fd) if name.startswith(self.prefix)]
        except FileNotFoundError:
            return []  # it was removed meanwhile
        finally:
            os.close(fd)
        return names if state is None else [name for name in names if name.endswith(state.value)]

    def _adoptable_bytes(self, name: str, oldest_seconds: float) -> int:
        """Return how much a get of this copy can take from a staging; 0 from one that is in use."""
        staging = Staging(self, name, os.open(name, _DIRECTORY, dir_fd=self.fd))
        try:
            if not staging.is_dead(oldest_seconds):
                return 0
            return sum(run.size for noted in read_journal(staging.fd, self.copied) for run in noted.runs)
        finally:
            staging.close()

    def _discard_if_dead(self, name: str, oldest_seconds: float, keep: bool) -> bool:
        staging = Staging(self, name, os.open(name, _DIRECTORY, dir_fd=self.fd))
        try:
            if not staging.is_dead(oldest_seconds):
                return False
            if keep and name.endswith(State.FILLING.value) and staging.is_worth_keeping(oldest_seconds):
                return False
            staging.repair()
            return staging.discard()
        finally:
            staging.close()


def area_for(
    destination: Destination, *, confined: bool, copied: Mapping[str, Any] | None = None
) -> StagingArea:
    """Return where a copy for `destination` is staged: in ``R/.staging``, or beside the target.

    Beside it is where the target is not confined, or lies in another mount than R, since names
    can be exchanged only within a mount.

    Raises:
        AccessDenied: ``R/.staging`` cannot be made.
    """
    anchor_fd = destination.anchor_fd
    if not confined or mount_of(anchor_fd) != mount_of(destination.base_fd):
        fd = os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=anchor_fd)
        path = "/".join([*destination.missing, destination.name])
        return StagingArea(fd, _SIBLING_PREFIX, fd, path, copied or {})
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
    return StagingArea(fd, "", destination.base_fd, destination.path, copied or {})
