"""Lists a directory of which a stopped Work left parts: the declared paths below it, and what they hold.

A Work publishes declared paths, so no version says what else the directory held. It can be listed, to find
what is there, and not copied: a copy would be another tree than the Work had.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lit_storage_core.artifacts.artifact import Artifact
from lit_storage_core.artifacts.store import ArtifactStore
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError, PathNotFound
from lit_storage_proto.uri import Location, lies_below


def entries_at(store: ArtifactStore, location: Location, *, recursive: bool) -> Iterator[Entry]:
    """Return the entries of a path that a Work left, or of a directory that holds such paths.

    A directory comes before what it holds, and the path itself, as "", before all others.

    Args:
        store: of the Work.
        location: of the path.
        recursive: False lists direct children only.

    Raises:
        PathNotFound: it left nothing there nor below.
        IntegrityError, AccessDenied, OriginUnavailable, TransferTimeout, OSError: as of `Artifact.find`; also
            while iterating.
    """
    try:
        return Artifact.find(store, location).entries(recursive=recursive)
    except PathNotFound:
        below = list(_below(store, location))
        if not below:
            raise
        return _entries(location.path, below, recursive)


def _below(store: ArtifactStore, location: Location) -> Iterator[tuple[str, Artifact]]:
    """Yield each declared path that lies below a path, and in no other one, with what is left of it."""
    outer = ""
    for path in sorted(_declared_paths(store), key=lambda path: path.split("/")):
        if lies_below(path, location.path) and not (outer and lies_below(path, outer)):
            try:
                artifact = Artifact.find(store, Location(location.origin, path))
            except PathNotFound:
                continue
            outer = path
            yield path, artifact


def _declared_paths(store: ArtifactStore) -> Iterator[str]:
    """Yield each declared path of which there is a version that is whole."""
    found = set[str]()
    for kept in store.versions():
        if kept.unit not in found:
            try:
                path = store.manifest(kept).path
            except (FileNotFoundError, IntegrityError):
                continue  # it was removed a moment ago, or an older version counts
            found.add(kept.unit)
            yield path


def _entries(directory: str, below: list[tuple[str, Artifact]], recursive: bool) -> Iterator[Entry]:
    yield _directory("", below[0][1])
    seen = {""}
    for path, artifact in below:
        names = path.removeprefix(directory).strip("/").split("/")
        for depth in range(1, len(names) if recursive else min(2, len(names))):
            above = "/".join(names[:depth])
            if above not in seen:
                seen.add(above)
                yield _directory(above, artifact)
        if recursive or len(names) == 1:
            top = "/".join(names)
            for entry in artifact.entries(recursive=recursive) if recursive else [artifact.entry]:
                yield replace(entry, path=f"{top}/{entry.path}" if entry.path else top)


def _directory(path: str, artifact: Artifact) -> Entry:
    """Return the entry of a directory of which nothing is known but that it holds something."""
    return Entry(path, Kind.DIRECTORY, 0, 0o755, artifact.entry.mtime_ns)
