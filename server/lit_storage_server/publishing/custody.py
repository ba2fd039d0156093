"""Sees to it that what a Work declared stays readable when the Work does not run any more.

A Work notes what it declares in a file of its root, so that somebody else can publish it if the Work is
killed: the App that started it, else the custodian of its machine. They publish from the storage root,
marked as unclean, for nobody knows whether the Work had finished writing. Where there is neither, it waits
for the next process of its name, which goes on with it.

Invariant: what the note of an instance that ended names has not been published for the last time; so it
stays until that is done, whatever goes wrong, or until somebody gives up what failed for long. Of all
that publish from one storage root one does so at a time, and for a Work only once it has ended: whether its
name is free is looked up while nobody else may publish, and its process must be gone as well, for a lease
may be lost by a Work that goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from lit_storage_core.artifacts.store import ArtifactStore
from lit_storage_core.artifacts.urls import open_store
from lit_storage_proto.artifact import Manifest, Version
from lit_storage_proto.errors import PathNotFound, StorageError, TransferTimeout
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry, WorkRecord
from lit_storage_proto.uri import lies_below
from lit_storage_server.publishing.notes import FOLLOW, Declaration, Note
from lit_storage_server.publishing.publication_lock import alone
from lit_storage_server.publishing.publish import publish, publish_removed
from lit_storage_server.sources.shares import Shares


@dataclass(slots=True)
class Outcome:
    """What became of the declared paths of a Work."""

    published: list[Manifest] = field(default_factory=list[Manifest])
    removed: list[str] = field(default_factory=list[str])
    """Published as removed by the Work."""
    missing: list[str] = field(default_factory=list[str])
    """Never there, so nothing was published."""
    failed: dict[str, Exception] = field(default_factory=dict[str, Exception])
    """Not published; versions from before stay."""

    @property
    def changed_store(self) -> bool:
        """Whether there is something new to be read."""
        return bool(self.published or self.removed)

    def without(self, paths: Container[str]) -> Outcome:
        """Return it without what is to be told of some paths."""
        return Outcome(
            self.published,
            self.removed,
            [path for path in self.missing if path not in paths],
            {path: error for path, error in self.failed.items() if path not in paths},
        )


def publish_all(declaration: Declaration, *, limits: Limits, unclean: bool = False) -> Outcome:
    """Publish the paths of a Work, one after the other, within `Limits.publish_seconds`.

    A path within another one is published with that. It never raises: what went wrong is in the Outcome.

    Args:
        declaration: what is published, and where.
        limits: deadlines and sizes.
        unclean: whether the Work died, and this is done for it.
    """
    outcome, deadline = Outcome(), time.monotonic() + limits.publish_seconds
    if not declaration.paths:
        return outcome
    try:
        with alone(declaration.storage_root, declaration.name, deadline):
            return _publish(declaration, limits, unclean, deadline)
    except Exception as error:  # noqa: BLE001  whatever it is, the Work's own end must not suffer from it
        outcome.failed.update(dict.fromkeys(declaration.paths, error))
    return outcome


def _publish(declaration: Declaration, limits: Limits, unclean: bool, deadline: float) -> Outcome:
    """Do as `publish_all`, for whoever is `alone`."""
    outcome = Outcome()
    try:
        store = open_store(
            declaration.artifacts_url, declaration.name, limits=limits, create=True, deadline=deadline
        )
        with contextlib.closing(store):
            version = store.next_version(declaration.instance_id)
            shares = Shares(
                declaration.storage_root,
                name=declaration.name,
                follow_links=declaration.symlinks == FOLLOW,
            )
            with contextlib.closing(shares):
                _Round(declaration, store, shares, version, unclean, deadline, outcome).run()
    except Exception as error:  # noqa: BLE001  whatever it is, the Work's own end must not suffer from it
        outcome.failed.update(dict.fromkeys(declaration.paths, error))
    return outcome


@dataclass(frozen=True, slots=True)
class _Round:
    """One publication of all paths of a Work."""

    declaration: Declaration
    store: ArtifactStore
    shares: Shares
    version: Version
    unclean: bool
    deadline: float
    outcome: Outcome

    def run(self) -> None:
        paths = self.declaration.paths
        for path in (*paths, *self.declaration.shared):
            if path.startswith("/"):
                with contextlib.suppress(StorageError):
                    self.shares.declare(path)
        pending = _outermost(paths)
        while pending:
            path = pending.pop(0)
            try:
                self._publish(path)
            except Exception as error:  # noqa: BLE001  as in `publish_all`
                self.outcome.failed[path] = error
                pending += _outermost(inner for inner in paths if lies_below(inner, path))

    def _publish(self, path: str) -> None:
        if time.monotonic() > self.deadline:
            raise TransferTimeout("there was no time left to publish it; see Limits.publish_seconds")
        machine_id = self.declaration.machine_id
        try:
            manifest = publish(
                self.store,
                self.shares,
                path,
                self.version,
                machine_id=machine_id,
                unclean=self.unclean,
                deadline=self.deadline,
            )
            self.outcome.published.append(manifest)
        except PathNotFound:
            # One that died may have been about to write it anew: what was published before stays.
            if self.unclean or not self.declaration.paths[path]:
                self.outcome.missing.append(path)
                return
            publish_removed(self.store, path, self.version, machine_id=machine_id, deadline=self.deadline)
            self.outcome.removed.append(path)


def publish_left(root: str, registry: Registry, name: str, *, limits: Limits) -> list[str]:
    """Publish what the last instance of a Work left, if it ended without having done so.

    Of several processes that try at once one does it, and the others wait for it.

    Args:
        root: the root that the Works of this machine share.
        registry: knows which instance it was, and is told where its artifacts are.
        name: of the Work.
        limits: deadlines and sizes.

    Returns:
        A sentence for each path that could not be published.

    Raises:
        RegistryUnavailable: the registry does not answer.
        TransferTimeout: another process publishes what is there, and does not come to an end.
    """
    left = find_left(root, registry, name)
    told = publish_found(root, registry, left, limits=limits) if left is not None else None
    return told or []


def find_left(root: str, registry: Registry, name: str) -> Declaration | None:
    """Return what the last instance of a Work left that ended; None if there is nothing to publish.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """
    found = _find_left(root, registry, name)
    return None if found is None else found[1]


def _find_left(root: str, registry: Registry, name: str) -> tuple[WorkRecord, Declaration] | None:
    """Return with what `find_left` returns the record of that instance."""
    work = registry.work(name)
    if work is None or registry.resolve(name, fresh=True) is not None:
        return None
    note = Note(root, work.instance_id)
    declaration = note.read()
    if declaration is None or (declaration.name, declaration.instance_id) != (name, work.instance_id):
        return None
    return (work, declaration) if note.has_ended(declaration) else None


def publish_found(root: str, registry: Registry, left: Declaration, *, limits: Limits) -> list[str] | None:
    """Publish what `find_left` returned; return sentences, or None where there was nothing to do any more.

    What could not be published stays noted: a store may be out of reach for now, or a disk not mounted yet.

    Raises:
        RegistryUnavailable, TransferTimeout: as of `publish_left`.
    """
    deadline = time.monotonic() + limits.publish_seconds
    if not os.path.isdir(left.storage_root):
        _keep(root, left, left.paths)
        return [
            f"what {left.name!r} left is not published: its storage root {left.storage_root!r} is not there "
            "(is its disk mounted?); what was published before, if anything, is what can be read"
        ]
    with alone(left.storage_root, left.name, deadline):
        found = _find_left(root, registry, left.name)
        if found is None:
            return None
        work, declaration = found
        deadline = time.monotonic() + limits.publish_seconds
        outcome = _publish(declaration, limits, not declaration.has_left, deadline)
        if outcome.changed_store:
            registry.update_work(dataclasses.replace(work, artifacts_url=declaration.artifacts_url))
        _keep(root, declaration, outcome.failed)
        if declaration.holder:
            # It is gone, which other machines would learn from the end of its lease alone.
            registry.unregister(declaration.name, declaration.instance_id)
    return sentences(declaration, outcome)


def _keep(root: str, declaration: Declaration, failed: Container[str]) -> None:
    """Leave a note of the paths that are still to be published, and none if there is nothing more to do."""
    note = Note(root, declaration.instance_id)
    if not any(path in failed for path in declaration.paths):
        note.remove()
        return
    with contextlib.suppress(OSError):  # then what is noted is tried once more than it need be
        note.keep(declaration, failed)


def sentences(declaration: Declaration, outcome: Outcome, *, missing: bool = True) -> list[str]:
    """Return what a person is to know of an Outcome: a sentence for each path that was not published.

    Args:
        declaration: what was to be published.
        outcome: what became of it.
        missing: whether that counts of which there was nothing.
    """
    name, url = declaration.name, declaration.artifacts_url
    told = [
        f"{path!r} of {name!r} was not published to {url}; what was published of it before, if anything, is "
        f"what can be read: {error}"
        for path, error in outcome.failed.items()
    ]
    if missing:
        told += [
            f"{path!r} of {name!r} does not exist, so it was not published to {url}"
            for path in outcome.missing
        ]
    return told


def _outermost(paths: Iterable[str]) -> list[str]:
    """Return each path that lies in no other."""
    kept: list[str] = []
    for path in sorted(paths):
        if not any(lies_below(path, other) for other in kept):
            kept.append(path)
    return kept


def main(arguments: list[str]) -> None:
    """Publish for a process that ends and can start no threads any more; print what became of it."""
    root, instance_id, limits = arguments
    declaration = Note(root, instance_id).read()
    if declaration is not None:
        outcome = publish_all(declaration, limits=Limits(**json.loads(limits)))
        json.dump([outcome.changed_store, sentences(declaration, outcome)], sys.stdout)
