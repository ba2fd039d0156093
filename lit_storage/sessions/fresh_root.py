"""Gives a Work an empty storage root at its first start in the run of an App, as in the cloud.

    <root>/works/NAME             the storage root
    <root>/former/NAME            the former one, as it was moved; one of each Work is kept
    <root>/former/@NAME:run       the run of an App that NAME began with an empty storage root
    <root>/former/@NAME:old-…     an older one, in whose place the storage root is moved
    <root>/former/@NAME:gone-…    an older one whose place was taken, which is being removed

No Work can have a name with "@". What published versions need is told by `former_root.py` of core.

Invariant: nothing is moved while a process lives that has the name, or that declared files in the storage
root; nor before what a killed Work declared is published. The storage root is moved and the run is noted
under one lock. A Work registers only while its own run is noted, so of two Apps that start at once one is
refused. Every step can be repeated: the run is noted after the move, so the next start begins anew after a
crash, and an empty storage root is not moved, so a former one is not replaced by nothing. An older one whose
place is still free is the former one, and gets its name back.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lit_storage.sessions import environment
from lit_storage.sessions.persistence import tell
from lit_storage.sessions.start_lock import moving, registering_only_if
from lit_storage_client.fetch.removal import remove
from lit_storage_core.artifacts.former_root import (
    FORMER,
    MARKER,
    former_root_of,
    instances_of,
    mark,
    read_small,
)
from lit_storage_core.artifacts.urls import in_place_url, open_store
from lit_storage_core.registries import open_registry
from lit_storage_core.system.machine import machine_id
from lit_storage_core.system.mounts import mount_points_below
from lit_storage_core.system.names import shown
from lit_storage_core.system.replace_file import replace_file
from lit_storage_proto.errors import AccessDenied, IntegrityError, NameTaken, StorageError
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry
from lit_storage_proto.uri import STAGING

if TYPE_CHECKING:
    from lit_storage_core.artifacts.store import ArtifactStore, Kept

_LOG = logging.getLogger("lit_storage.work")

_MOST_RUN_BYTES = 100
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def begin_empty(root: str, registry: str, name: str, run_id: str, limits: Limits) -> None:
    """Let the Work `name` find an empty storage root, unless it has begun in this run of an App already.

    To be called in the process of the Work, before it joins.

    Args:
        root: as of `lit_storage.join`.
        registry: its URL.
        name: of the Work.
        run_id: of the run of the App.
        limits: deadlines.

    Raises:
        NameTaken: a live process has the name, or declared files in the storage root.
        AccessDenied: the storage root is a link or on another file system, holds a mount point, or cannot be
            moved.
        StorageError: what the Work declared before it was killed cannot be published.
        RegistryUnavailable: the registry does not answer.
        TransferTimeout: another process publishes, or starts under the name, for too long.
        OSError: the disk is full, and the like.
    """
    root = environment.open_root(root, registry, timeout_seconds=limits.resolve_seconds)
    own_id = machine_id(root)
    start = _Start(root, name, own_id, limits)
    restore_former(root, name, limits)
    if _noted_run(root, name) != run_id:
        with contextlib.closing(open_registry(registry, machine_id=own_id, limits=limits)) as opened:
            start.publish_unpublished(opened)
            start.begin(opened, run_id)
    start.remove_older_versions()  # also after a crash between the two


@contextlib.contextmanager
def joining_in_run(root: str, name: str, run_id: str) -> Iterator[None]:
    """Within the block, let a session of this thread register only while the run is the noted one.

    To be called after `begin_empty`, with the same arguments. Registering raises NameTaken if another App has
    begun with the name since.
    """

    def check() -> None:
        if _noted_run(root, name) != run_id:
            raise NameTaken(
                f"another App with fresh has started {name!r} in the meantime, and has the storage root now; "
                "stop that App first, or take another name or root"
            )

    with registering_only_if(check):
        yield


def restore_former(root: str, name: str, limits: Limits) -> None:
    """Give a former storage root its place back, if a process was killed while it replaced that.

    Raises:
        TransferTimeout: another process starts for too long.
        OSError: it cannot be renamed.
    """
    aside, former = os.path.join(root, FORMER), former_root_of(root, name)
    if os.path.lexists(former) or not _older(aside, name):
        return
    with moving(root, limits):
        older = _older(aside, name)
        if len(older) == 1 and not os.path.lexists(former):
            os.rename(os.path.join(aside, older[0]), former)


def discard_older(root: str, name: str) -> None:
    """Remove the storage roots of a Work that are older than its former one; never raise.

    It takes as long as they are large. What is not removed, because the process ends, is removed by the next
    call.

    Args:
        root: that the Works of this machine share.
        name: of the Work.
    """
    aside = os.path.join(root, FORMER)
    try:
        _condemn_older(root, name)
        for each in [*_beginning(aside, f"@{name}:gone-"), *_beginning(aside, f"@{name}:run.")]:
            _discard(aside, each)  # a note of a run that was cut short, too
    except OSError as error:
        tell([f"an older storage root of {name!r} in {shown(aside)} cannot be removed: {error}"])


def _condemn_older(root: str, name: str) -> None:
    """Note of each older storage root, by its name, that its place was taken."""
    aside = os.path.join(root, FORMER)
    older = _older(aside, name)
    if os.path.lexists(former_root_of(root, name)):  # looked for after they were listed
        for each in older:
            os.rename(os.path.join(aside, each), os.path.join(aside, each.replace(":old-", ":gone-")))


def _discard(aside: str, name: str) -> None:
    """Remove an older storage root. What a removal that is cut short has moved stays within it."""
    path = os.path.join(aside, name)
    with contextlib.suppress(FileNotFoundError):  # another process removes it too
        try:
            fd = os.open(path, _DIRECTORY)
        except NotADirectoryError:  # also a link
            os.unlink(path)
            return
        try:
            os.fchmod(fd, 0o700)
            for inner in os.listdir(fd):
                remove(fd, inner)
        finally:
            os.close(fd)
        os.rmdir(path)


class _Start:
    """One start of a Work that is to find nothing.

    Args:
        root: that the Works of this machine share, without links.
        name: of the Work.
        own_id: the id of this machine.
        limits: deadlines.
    """

    def __init__(self, root: str, name: str, own_id: str, limits: Limits) -> None:
        self._root = root
        self._name = name
        self._machine_id = own_id
        self._limits = limits
        self._aside = os.path.join(root, FORMER)
        self._former = former_root_of(root, name)

    def publish_unpublished(self, registry: Registry) -> None:
        """Publish what the last instance declared and did not publish, since it was killed.

        Raises:
            StorageError: not all of it can be published; it stays noted, and where it is.
        """
        from lit_storage_server.publishing.custody import find_left, publish_left

        sentences = publish_left(self._root, registry, self._name, limits=self._limits)
        if find_left(self._root, registry, self._name) is not None:
            raise StorageError(
                f"{self._name!r} cannot start with an empty storage root, because what it declared before is "
                f"not published yet; try again later, or run it once without fresh to give that up: "
                f"{'; '.join(sentences)}"
            )
        tell(sentences)

    def begin(self, registry: Registry, run_id: str) -> None:
        """Move the storage root aside, if it holds anything; make an empty one instead, and note the run."""
        from lit_storage_server.publishing.publication_lock import alone

        storage_root = environment.make_storage_root(self._root, f"works/{self._name}")
        environment.make_storage_root(self._root, FORMER)
        deadline = time.monotonic() + self._limits.publish_seconds
        with alone(storage_root, self._name, deadline), self._unmarked_on_error(storage_root):
            self._prepare(registry, storage_root)  # before the lock, which every Work of the root waits for
            with moving(self._root, self._limits):
                self._prepare(registry, storage_root)  # somebody may have registered or written meanwhile
                if _holds_files(storage_root):
                    self._move(storage_root)
                self._note(run_id)

    def _prepare(self, registry: Registry, storage_root: str) -> None:
        """Refuse what must not be moved, and mark the rest. A second call writes only what has changed."""
        self._refuse_live(registry)
        if _holds_files(storage_root):
            self._refuse_immovable(storage_root)
            self._mark(storage_root)

    @contextlib.contextmanager
    def _unmarked_on_error(self, storage_root: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(storage_root, MARKER))
            raise

    def _move(self, storage_root: str) -> None:
        mode = stat.S_IMODE(os.stat(storage_root).st_mode)
        self._exchange(storage_root)
        os.chmod(environment.make_storage_root(self._root, f"works/{self._name}"), mode)
        _LOG.info("%s begins with an empty storage root; the former is %s", self._name, shown(self._former))

    def _note(self, run_id: str) -> None:
        """Note that the Work has begun in a run of an App: from now on its files are its own."""
        replace_file(_run_file(self._root, self._name), lambda _inode: f"{run_id}\n", mode=0o644)

    def remove_older_versions(self) -> None:
        """Remove the versions whose files lie in older storage roots, which are not kept."""
        try:
            for each in _older(self._aside, self._name):
                if instances := instances_of(os.path.join(self._aside, each)):
                    self._remove_versions(instances)
        except (StorageError, OSError) as error:  # their files are gone in any case
            tell([f"what {self._name!r} left before its former storage root stays listed: {error}"])

    def _refuse_live(self, registry: Registry) -> None:
        from lit_storage_server.publishing.notes import Note, noted

        lives = registry.resolve(self._name, fresh=True) is not None
        lives |= any(
            not Note(self._root, each.instance_id).has_ended(each)
            for each in noted(self._root)
            if each.name == self._name
        )
        if lives:
            raise NameTaken(
                f"{self._name!r} cannot start with an empty storage root, because a live process has its "
                "name or its files; stop that process first"
            )

    def _refuse_immovable(self, storage_root: str) -> None:
        if os.path.islink(storage_root):
            raise self._immovable(storage_root, "it is a link")
        if os.path.ismount(storage_root) or os.stat(storage_root).st_dev != os.stat(self._aside).st_dev:
            raise self._immovable(storage_root, "it is on another file system than its root")
        if points := mount_points_below(storage_root):
            raise self._immovable(storage_root, f"something is mounted at {shown(points[0])} in it")

    def _mark(self, storage_root: str) -> None:
        """Name in the storage root the instances that published from it."""
        older = [os.path.join(self._aside, each) for each in _older(self._aside, self._name)]
        gone = frozenset[str]().union(*map(instances_of, [self._former, *older]))
        with self._versions() as (_store, versions):
            instances = frozenset(kept.version.instance_id for kept in versions) - gone
        is_marked = os.path.exists(os.path.join(storage_root, MARKER))
        if not is_marked or instances_of(storage_root) != instances:
            mark(storage_root, instances)

    def _exchange(self, storage_root: str) -> None:
        """Move the storage root aside, in place of the former one; undo it where it fails."""
        older = os.path.join(self._aside, f"@{self._name}:old-{secrets.token_hex(8)}")
        has_older = os.path.lexists(self._former)
        if has_older:
            os.rename(self._former, older)
        try:
            os.rename(storage_root, self._former)
        except OSError as error:
            if has_older:
                os.rename(older, self._former)
            if error.errno in (errno.EXDEV, errno.EBUSY, errno.EPERM, errno.EACCES):
                raise self._immovable(storage_root, error.strerror or str(error)) from None
            raise

    def _immovable(self, storage_root: str, why: str) -> AccessDenied:
        return AccessDenied(
            f"the storage root {shown(storage_root)} cannot be moved aside ({why}); empty it yourself, or "
            f"run {self._name!r} without fresh"
        )

    @contextlib.contextmanager
    def _versions(self) -> Iterator[tuple[ArtifactStore, list[Kept]]]:
        """Open the store of what the Work left in place; yield it with all versions in it."""
        url = in_place_url(self._root, self._machine_id)
        with contextlib.closing(open_store(url, self._name, limits=self._limits)) as store:
            has_any = os.path.isdir(os.path.join(self._root, "artifacts", self._name))
            yield store, store.versions() if has_any else []

    def _remove_versions(self, instances: frozenset[str]) -> None:
        """Remove the versions of instances whose storage root is removed; absolute paths lie elsewhere."""
        with self._versions() as (store, versions):
            store.remove(
                [
                    kept
                    for kept in versions
                    if kept.version.instance_id in instances and not _is_elsewhere(store, kept)
                ]
            )


def _run_file(root: str, name: str) -> str:
    return os.path.join(root, FORMER, f"@{name}:run")


def _noted_run(root: str, name: str) -> str:
    """Return the last run of an App in which a Work began with an empty storage root; "" if none."""
    return read_small(_run_file(root, name), _MOST_RUN_BYTES).decode("ascii", "replace").strip()


def _is_elsewhere(store: ArtifactStore, kept: Kept) -> bool:
    """Say whether a version is of an absolute path, so that its files are not in the storage root."""
    try:
        return store.manifest(kept).path.startswith("/")
    except (FileNotFoundError, IntegrityError):
        return False


def _older(aside: str, name: str) -> list[str]:
    """Return the names of the storage roots of a Work that are older than the former one."""
    return _beginning(aside, f"@{name}:old-")


def _beginning(aside: str, prefix: str) -> list[str]:
    try:
        return [each for each in os.listdir(aside) if each.startswith(prefix)]
    except FileNotFoundError:
        return []


def _holds_files(storage_root: str) -> bool:
    """Say whether there is anything in a storage root but what this product keeps for itself."""
    return not set(os.listdir(storage_root)) <= {STAGING, MARKER}
