"""Where a copy grows until it is whole: ``<id>.<state>/{owner,journal,tree}``, in the target's mount.

A staging is `making` until the file that names its owner is there; so long its own name does. Then it
is `filling`, then `swapping` while names are changed, then `discarding`; its owner changes the state by
renaming it. What a dead owner left in the state `filling` can be adopted by another get of the same
copy: by renaming it to an id of its own, which only one can do, also where locks do nothing. An owner
that was taken for dead too early then fails to change the state, and touches nothing any more.

Invariant: whatever lies in a staging is of use to nobody but its owner. Its owner removes it on every
way out but those that another attempt can go on from, and where the owner was killed the next get
does. Only a staging whose owner is certainly dead, or that is very old, is taken from it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lit_storage_client.fetch.held import salvage
from lit_storage_client.fetch.removal import remove
from lit_storage_core.staging.journal import JOURNAL, Journal, read_journal
from lit_storage_core.staging.names import ABANDONED, OLD, OWNER, SWAP, TREE, State, owner_in, stem_of
from lit_storage_core.system.beneath import open_beneath
from lit_storage_core.system.names import shown
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_core.system.write_whole import write_whole
from lit_storage_proto.errors import IntegrityError, OriginUnavailable, TransferTimeout

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class StagingPlace:
    """A directory in which stagings lie, and what the present get copies to where."""

    fd: int
    prefix: str
    """What the names of stagings begin with."""
    base_fd: int
    """What paths in journals are relative to: R for ``R/.staging``, else the directory itself."""
    target_path: str
    """The target of the present get, relative to `base_fd`."""
    copied: Mapping[str, Any] = field(default_factory=dict)
    """What the present get copies, and how: only what agrees in it is gone on from."""

    @property
    def mark(self) -> int:
        """The permission bit by which a staging beside its target is known to be made by a process of ours.

        A tree that came from an origin may hold directories of any name and content, and gets may be made
        into it: what looks like a staging there must not be gone on from, nor put back or removed. No entry
        of a peer has this bit. In ``R/.staging`` no copy is ever put.
        """
        return stat.S_ISVTX if self.prefix else 0

    def close(self) -> None:
        """Close the directory."""
        os.close(self.fd)


class Staging:
    """One staging; a context manager that removes it on every way out."""

    def __init__(self, place: StagingPlace, name: str, fd: int) -> None:
        self._place = place
        self._name = name
        self._given_away = False
        self._owns_place = False
        self.fd = fd
        self.journal = Journal(fd, place.copied)
        """What of it another attempt can go on from."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        lost = kind is FileNotFoundError and self._is_lost()
        if self._given_away or (kind is not None and _can_go_on(kind) and self._abandon()):
            self.close()
        else:
            self.remove()
        if lost:  # nothing is said about the origin's files
            raise self._taken_over() from None

    def take_name(self, name: str) -> None:
        """Go by another name from now on."""
        self._name = name

    def write_owner(self) -> None:
        """Note that it belongs to this process."""
        self._replace(OWNER, ProcessIdentity.current().to_text())

    @property
    def maker(self) -> int:
        """The user id that made the file which names the owner."""
        return os.stat(OWNER, dir_fd=self.fd, follow_symlinks=False).st_uid

    def salvage(self) -> None:
        """Lay aside what was verified of large files, and begin the tree anew.

        Raises:
            OSError: the disk failed.
        """
        self.journal.close()
        self.journal = Journal(self.fd, self._place.copied, salvage(self.fd, TREE, self._place.copied))

    def begin_swap(self) -> None:
        """Take it out of the reach of those that would go on from it.

        Raises:
            IntegrityError: another process did so already.
        """
        try:
            self._change(State.SWAPPING)
        except FileNotFoundError:
            self._given_away = True
            raise self._taken_over() from None

    def give_away(self) -> Staging | None:
        """Return this staging for someone else to `remove`, if it holds a directory that was replaced.

        Returns:
            One with descriptors of its own; None where there is nothing that a reader may still
            be in, or where descriptors are short, and this one is to be removed as ever.
        """
        try:
            if not any(_is_directory(self.fd, name) for name in (TREE, OLD)):
                return None
            remove(self.fd, SWAP)  # it has done its work, and must not bring the old tree back later
            self._change(State.DISCARDING)
            place_fd = os.dup(self._place.fd)
        except OSError:
            return None
        try:
            fd = os.dup(self.fd)
        except OSError:
            os.close(place_fd)
            return None
        given = Staging(dataclasses.replace(self._place, fd=place_fd, base_fd=-1), self._name, fd)
        given._owns_place = True
        self._given_away = True
        return given

    def remove(self) -> None:
        """Remove it and close it. It never raises: the get is decided, and the next one tries again."""
        try:
            if self._is_put_back():
                self.discard()
        except OSError:
            pass  # of a tree that another user's files keep
        finally:
            self.close()
            if self._owns_place:
                self._place.close()

    def close(self) -> None:
        """Close the directory. A second call does nothing."""
        try:
            self.journal.close()
        except OSError:
            pass  # what it says then is less than what is there
        finally:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

    def write(self, name: str, text: str, *, durable: bool = False) -> None:
        """Make a small file in it."""
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=self.fd)
        try:
            write_whole(fd, text.encode("ascii"))
            if durable:
                os.fsync(fd)
                os.fsync(self.fd)
        finally:
            os.close(fd)

    def note_swap(self, *, durable: bool) -> None:
        """Note that what lies at the target is about to be moved to OLD.

        Args:
            durable: whether the note must be on the disk before this returns.
        """
        self.write(SWAP, json.dumps({"path": self._place.target_path}), durable=durable)

    def is_dead(self, oldest_seconds: float) -> bool:
        """Say whether nobody can be using it any more."""
        status = os.fstat(self.fd)
        if status.st_uid != os.geteuid() or status.st_mode & self._place.mark != self._place.mark:
            return False  # where other users can write, or what an origin sent lies, theirs is not touched
        alive: bool | None = None
        most_seconds = math.inf
        try:
            owner = owner_in(self._name)
            if owner is None:
                text = self._read(OWNER)
                if text == ABANDONED:
                    return True
                owner = ProcessIdentity.from_text(text)
            # The file system may be one that several machines share, so another boot proves nothing.
            alive = owner.is_alive(same_machine=False)
            most_seconds = owner.most_seconds() + 1.0  # ticks are rounded
        except FileNotFoundError:
            if self._name.endswith(State.DISCARDING.value):
                return True  # the owner's file is what is removed last
        except ValueError:
            pass  # a power cut took what was written
        return alive is False or (alive is None and min(_age(self.fd), most_seconds) > oldest_seconds)

    def repair(self) -> None:
        """Put back what was moved aside, if nothing took its place."""
        try:
            path = json.loads(self._read(SWAP))["path"]
            os.stat(OLD, dir_fd=self.fd, follow_symlinks=False)
        except (FileNotFoundError, ValueError):
            return  # no second rename was under way, or the first one was not made
        parent, _, name = path.rpartition("/")
        parent_fd = open_beneath(self._place.base_fd, parent)
        try:
            os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(OLD, name, src_dir_fd=self.fd, dst_dir_fd=parent_fd)
        finally:
            os.close(parent_fd)

    def is_worth_keeping(self, seconds: float) -> bool:
        """Say whether it has something to go on from, that was written less than `seconds` ago."""
        try:
            fd = os.open(JOURNAL, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        try:
            age = _age(fd)
        finally:
            os.close(fd)
        return age < seconds and bool(read_journal(self.fd, None))

    def discard(self) -> bool:
        """Remove it with all that it holds, and say whether it was still this one's to remove."""
        try:
            self._change(State.DISCARDING)
        except FileNotFoundError:
            return False
        remove(self.fd, SWAP)  # first, so that nothing half removed is ever put back
        for name in os.listdir(self.fd):
            if name != OWNER:  # last, so that a removal that is cut short is found as dead
                remove(self.fd, name)
        remove(self.fd, OWNER)
        try:
            os.rmdir(self._name, dir_fd=self._place.fd)
        except FileNotFoundError:
            pass
        return True

    def _is_put_back(self) -> bool:
        """Put back what was moved aside; where the disk fails that, leave it to the next get and say so."""
        try:
            self.repair()
        except OSError:
            self._replace(OWNER, ABANDONED)  # else it would wait for the end of this process
            return False
        return True

    def _is_lost(self) -> bool:
        """Say whether someone else took or removed it, maybe with the directory that it lies in."""
        try:
            status = os.stat(self._name, dir_fd=self._place.fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return not os.path.samestat(status, os.fstat(self.fd))

    def _taken_over(self) -> IntegrityError:
        return IntegrityError(
            f"the copy of {shown(self._place.target_path)} was taken over by another process; get it again"
        )

    def _abandon(self) -> bool:
        """Leave it for another attempt, if there is something in it to go on from."""
        try:
            self.journal.close()
            if not self._name.endswith(State.FILLING.value) or not read_journal(self.fd, self._place.copied):
                return False
            self._replace(OWNER, ABANDONED)
        except OSError:
            return False
        return True

    def _change(self, state: State) -> None:
        """Rename it to another state; FileNotFoundError if it is not this one's any more."""
        name = stem_of(self._name) + state.value
        if name != self._name:
            os.rename(self._name, name, src_dir_fd=self._place.fd, dst_dir_fd=self._place.fd)
            self._name = name

    def _replace(self, name: str, text: str) -> None:
        new = f"{name}.{secrets.token_hex(4)}"
        self.write(new, text)
        os.rename(new, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def _read(self, name: str) -> str:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        with os.fdopen(fd, "rb") as file:
            return file.read().decode("ascii")


def _age(fd: int) -> float:
    """Return for how many seconds nothing was written, by the clock of the wall.

    What was written in the future, before a clock was set right, gets old from now on; else it never would.
    """
    age = time.time() - os.fstat(fd).st_mtime
    if age < 0:
        os.utime(fd)
    return max(age, 0.0)


def _can_go_on(kind: type[BaseException]) -> bool:
    """Say whether a copy that ended so may be gone on from: contact was lost, or this process is ending."""
    return issubclass(kind, (OriginUnavailable, TransferTimeout)) or not issubclass(kind, Exception)


def _is_directory(fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
