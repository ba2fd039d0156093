"""Sees to it that what a Work declared stays readable when the Work does not run any more.

A Work notes what it declares in a file of its root, so that somebody else can publish it if the Work is
killed: the App that started it, or whoever has custody of its machine. Whoever does it publishes from
the storage root, marked as unclean, for nobody knows whether the Work had finished writing.

Invariant: what the note of an instance that ended names has not been published for the last time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_storage_client.artifacts import open_store
from lit_storage_proto.artifact import Manifest
from lit_storage_proto.errors import PathNotFound, StorageError
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry, WorkRecord, WorkState
from lit_storage_server.publish import publish, publish_removed
from lit_storage_server.shares import Shares

_NOTES = "declared"
_NOTE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


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


@dataclass(frozen=True, slots=True)
class Declaration:
    """What one instance of a Work declared."""

    name: str
    instance_id: str
    machine_id: str
    storage_root: str
    artifacts_url: str
    paths: Mapping[str, bool]
    """Whether each was there once, as far as is known."""


class Note:
    """The file in which one instance of a Work notes what it declares. Lines of JSON, the first about itself.

    Args:
        root: the root that the Works of a machine share.
        instance_id: of the Work.
    """

    def __init__(self, root: str, instance_id: str) -> None:
        self._path = os.path.join(root, _NOTES, instance_id)

    def begin(self, declaration: Declaration) -> None:
        """Make the file.

        Raises:
            OSError: the disk is full, and the like.
        """
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        self._add(
            {
                "name": declaration.name,
                "instance_id": declaration.instance_id,
                "machine_id": declaration.machine_id,
                "storage_root": declaration.storage_root,
                "artifacts": declaration.artifacts_url,
            }
        )

    def add(self, path: str, *, seen: bool) -> None:
        """Note a path, or that it was there once."""
        self._add({"path": path, "seen": seen})

    def read(self) -> Declaration | None:
        """Return what is noted, None if nothing is, as of an instance that published for the last time."""
        try:
            with open(self._path, encoding="ascii") as file:
                lines = [json.loads(line) for line in file if line.endswith("\n")]
        except (FileNotFoundError, ValueError):
            return None
        if not lines:
            return None
        about, paths = lines[0], dict[str, bool]()
        for line in lines[1:]:
            paths[line["path"]] = paths.get(line["path"], False) or bool(line["seen"])
        return Declaration(
            about["name"],
            about["instance_id"],
            about["machine_id"],
            about["storage_root"],
            about["artifacts"],
            paths,
        )

    def replace(self, declaration: Declaration, paths: Iterable[str]) -> None:
        """Note that only `paths` are left to be published."""
        self.remove()
        self.begin(declaration)
        for path in paths:
            self.add(path, seen=declaration.paths[path])

    def remove_others(self, name: str) -> None:
        """Remove the notes of former instances of a Work, whose storage root is another one's by now."""
        directory, own = os.path.split(self._path)
        with contextlib.suppress(OSError):
            for each in os.listdir(directory):
                other = Note(os.path.dirname(directory), each)
                if each != own and (left := other.read()) is not None and left.name == name:
                    other.remove()

    def remove(self) -> None:
        """Remove it: there is nothing left to do for this instance."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _add(self, line: dict[str, Any]) -> None:
        fd = os.open(self._path, _NOTE, 0o600)
        try:
            os.write(fd, json.dumps(line).encode("ascii") + b"\n")
        finally:
            os.close(fd)


def publish_all(
    declaration: Declaration,
    paths: Mapping[str, bool],
    *,
    limits: Limits,
    seconds: float,
    unclean: bool = False,
) -> Outcome:
    """Publish `paths` of a Work, one after the other, for as long as there is time.

    A path within another one is published with that.

    Args:
        declaration: whose they are, and where they are published.
        paths: whether each was there once.
        limits: deadlines and sizes.
        seconds: how long it may take.
        unclean: whether the Work died, and this is done for it.

    Raises:
        Exception: never. What went wrong is in the Outcome.
    """
    outcome, deadline = Outcome(), time.monotonic() + seconds
    if not paths:
        return outcome
    try:
        store = open_store(declaration.artifacts_url, declaration.name, limits=limits, create=True)
        version = store.next_version(declaration.instance_id)
        shares = Shares(declaration.storage_root, name=declaration.name)
    except Exception as error:  # noqa: BLE001  whatever it is, the Work's own end must not suffer from it
        outcome.failed.update(dict.fromkeys(paths, error))
        return outcome
    try:
        for path in paths:
            if path.startswith("/"):
                with contextlib.suppress(StorageError):
                    shares.declare(path)
        pending = _outermost(paths)
        while pending:
            path = pending.pop(0)
            try:
                outcome.published.append(
                    publish(
                        store,
                        shares,
                        path,
                        version,
                        machine_id=declaration.machine_id,
                        unclean=unclean,
                        deadline=deadline,
                    )
                )
            except PathNotFound:
                # One that died may have been about to write it anew: what it published before stays.
                if unclean or not paths[path]:
                    outcome.missing.append(path)
                    continue
                try:
                    publish_removed(
                        store, path, version, machine_id=declaration.machine_id, deadline=deadline
                    )
                    outcome.removed.append(path)
                except Exception as error:  # noqa: BLE001  as above
                    outcome.failed[path] = error
            except Exception as error:  # noqa: BLE001  as above
                outcome.failed[path] = error
                pending += _outermost([inner for inner in paths if _is_within(inner, path)])
    finally:
        shares.close()
    return outcome


def publish_left(
    root: str,
    registry: Registry,
    name: str,
    *,
    limits: Limits,
) -> list[str]:
    """Publish what the last instance of a Work left, if it ended without having done so.

    Args:
        root: the root that the Works of this machine share.
        registry: knows which instance it was, and is told where its artifacts are.
        name: of the Work.
        limits: deadlines and sizes.

    Returns:
        A sentence for each path that could not be published.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """
    work = registry.work(name)
    if work is None or registry.resolve(name) is not None:
        return []
    note = Note(root, work.instance_id)
    declaration = note.read()
    if declaration is None or declaration.name != name:
        return []
    outcome = publish_all(
        declaration, declaration.paths, limits=limits, seconds=limits.publish_seconds, unclean=True
    )
    url = declaration.artifacts_url if outcome.changed_store else work.artifacts_url
    registry.update_work(WorkRecord(name, work.instance_id, WorkState.FAILED, work.machine_id, url))
    note.remove()
    return sentences(name, declaration.artifacts_url, outcome)


def sentences(declaration_name: str, url: str, outcome: Outcome) -> list[str]:
    """Return what a person is to know of an Outcome: a sentence for each path that was not published."""
    told = [
        f"{path!r} of {declaration_name!r} was not published to {url}, and cannot be read when the Work is "
        f"gone: {error}"
        for path, error in outcome.failed.items()
    ]
    told += [
        f"{path!r} of {declaration_name!r} does not exist, so nothing of it was published to {url}"
        for path in outcome.missing
    ]
    return told


def _outermost(paths: Iterable[str]) -> list[str]:
    """Return each path that lies in no other."""
    kept: list[str] = []
    for path in sorted(paths):
        if not any(_is_within(path, other) for other in kept):
            kept.append(path)
    return kept


def _is_within(path: str, other: str) -> bool:
    if path == other:
        return False
    return not path.startswith("/") if not other else path.startswith(other + "/")


def main(arguments: list[str]) -> None:
    """Publish for a process that ends and can start no threads any more; print what went wrong."""
    root, instance_id, seconds, limits = arguments
    note = Note(root, instance_id)
    declaration = note.read()
    if declaration is None:
        return
    outcome = publish_all(
        declaration, declaration.paths, limits=Limits(**json.loads(limits)), seconds=float(seconds)
    )
    json.dump(
        {
            "changed": outcome.changed_store,
            "told": sentences(declaration.name, declaration.artifacts_url, outcome),
        },
        sys.stdout,
    )
