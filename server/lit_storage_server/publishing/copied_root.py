"""Makes a root that was copied a root of its own, before any process uses it.

A copy holds the machine id and the token of its original, live records of Works that live in the original,
and notes of what they declare. With these it would talk to the original's Works and publish the original's
files.

Invariant: one process at a time does it, and each step can be done again. The last step ends that the root
counts as a copy, so after a crash the next process begins anew, and no process uses a root for which not
all was done.
"""

from __future__ import annotations

import dataclasses
import logging
import os

from lit_storage_core.artifacts.urls import directory_of, in_place_url, is_in_place, machine_of
from lit_storage_core.registries.copied import CopiedWork, take_over
from lit_storage_core.security.secret import renew_root_token
from lit_storage_core.system.machine import (
    given_machine_id,
    kept_machine_id,
    new_machine_id,
    renew_machine_id,
)
from lit_storage_core.system.names import shown
from lit_storage_core.system.root_identity import (
    Likeness,
    RootIdentity,
    compare,
    keep_former_id,
    keep_identity,
    root_lock,
)
from lit_storage_proto.errors import AccessDenied, RegistryUnavailable
from lit_storage_server.publishing.notes import end_all, remove_all

_LOG = logging.getLogger("lit_storage.root")


def separate_copy(root: str, registry_file: str | None, *, timeout_seconds: float) -> None:
    """Give a copied root a machine id and a token of its own, and drop what belongs to the original.

    Do nothing if another process has done it meanwhile.

    Args:
        root: the root, without links.
        registry_file: as of `is_copy`.
        timeout_seconds: how long to wait for other processes that use the copied registry.

    Raises:
        AccessDenied: this process may not write what is in the root.
        RegistryUnavailable: the copied registry is damaged, of a newer version, or stays locked.
        TransferTimeout: another process holds the lock on the root for too long.
        OSError: the disk is full, and the like.
    """
    with root_lock(root) as directory_fd:
        likeness, copied = compare(root, registry_file)
        if copied is None or likeness is Likeness.SAME:
            return
        if likeness is Likeness.COPY:
            copied = _renew(root, registry_file, copied, timeout_seconds)
        if registry_file != _own_registry(root):
            _remove_notes(root)
        os.fsync(directory_fd)
        keep_identity(root, registry_file, copied)
    if likeness is Likeness.COPY:
        original = copied.paths[-1] if copied.paths else "another root"
        _LOG.warning(
            "%s is a copy of %s; it has a machine id and a token of its own from now on",
            shown(root),
            shown(original),
        )


def _renew(
    root: str, registry_file: str | None, copied: RootIdentity, timeout_seconds: float
) -> RootIdentity:
    """Do all of `separate_copy` but its last step; return what is kept of the original."""
    former_id = kept_machine_id(root)
    copied = keep_former_id(root, copied, former_id)
    kept_id = new_machine_id()
    own_id = given_machine_id() or kept_id
    own_registry = _own_registry(root)
    if os.path.isfile(own_registry) and not os.path.islink(own_registry):
        change = _Change(root, own_id, former_id, copied)
        try:
            take_over(own_registry, own_id, change.of, timeout_seconds=timeout_seconds)
        except (AccessDenied, RegistryUnavailable) as error:
            if registry_file == own_registry:
                raise
            _LOG.warning(
                "%s, which is not in use, still has the records of another root: %s",
                shown(own_registry),
                error,
            )
    if registry_file == own_registry:
        end_all(root, own_id)
    renew_machine_id(root, kept_id)
    renew_root_token(root)
    return copied


def _own_registry(root: str) -> str:
    return os.path.join(root, "registry.db")


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """What a copied registry is to say of Works."""

    root: str
    own_id: str
    former_id: str
    copied: RootIdentity

    def of(self, work: CopiedWork, registry_id: str) -> CopiedWork:
        """Return what is to be said of a Work: what it left in place in the original is in the copy too."""
        if not work.artifacts_url:
            return dataclasses.replace(work, machine_id=self.own_id)
        if not is_in_place(work.artifacts_url) or not self._means_original(work.artifacts_url, registry_id):
            return work  # the store was not copied
        return CopiedWork(self.own_id, in_place_url(self.root, self.own_id))

    def _means_original(self, url: str, registry_id: str) -> bool:
        if self.former_id and machine_of(url) == self.former_id:
            return True  # an id of the original alone
        try:
            path = os.path.dirname(directory_of(url))
        except ValueError:
            return False
        return machine_of(url) == registry_id and path in (self.root, *self.copied.paths)


def _remove_notes(root: str) -> None:
    """Remove notes of Works of the original: the registry in use is not a copy, and names those Works too."""
    names = remove_all(root)
    if names:
        _LOG.warning(
            "%s is a copy of another root, and its registry is not; what %s had not published there is not "
            "published from the copy",
            shown(root),
            ", ".join(names),
        )
