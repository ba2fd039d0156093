"""Asks a Work for its files, or where it does not live any more what it left: its artifacts.

Invariant: a live Work is never passed over for its artifacts, and one that is registered but silent, or
a store that does not answer, is an error and never a "no". Absent is what neither has.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from lit_storage_client.artifacts import ArtifactStore, open_store
from lit_storage_client.artifacts.in_place import PlacedContents
from lit_storage_client.artifacts.stream import ArtifactStream
from lit_storage_client.artifacts.tree import ArtifactTree, Item
from lit_storage_client.names import shown
from lit_storage_client.remote import Remote
from lit_storage_client.tree_call import TreeCall, TreeOptions
from lit_storage_proto.artifact import Manifest, StoredEntry
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import OriginUnavailable, PathNotFound
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry
from lit_storage_proto.uri import Location

T = TypeVar("T")


class Artifact:
    """One path in the newest whole version of an artifact that holds it."""

    def __init__(self, store: ArtifactStore, manifest: Manifest, root: StoredEntry) -> None:
        self._store = store
        self.manifest = manifest
        self._root = root

    @property
    def entry(self) -> Entry:
        """What is there; its path is ""."""
        return next(self._below(recursive=False)).entry

    def entries(self, *, recursive: bool) -> Iterator[Entry]:
        """Yield what is there and below it, as `Remote.list` does."""
        return (item.entry for item in self._below(recursive=recursive))

    def stream(self, options: TreeOptions, deadline: float | None) -> ArtifactStream:
        """Return the frames of the tree, as `Remote.stream` does."""
        below = list(self._below(recursive=True, follow=options.follow_links))
        return ArtifactStream(self._store, self.manifest, below, options, deadline=deadline)

    def part(self, offset: int, length: int | None) -> ArtifactStream:
        """Return the frames of a part of a file, as `Remote.stream_part` does."""
        size = self._root.entry.size
        end = size if length is None else min(size, offset + length)
        spans = [(offset, end)] if offset < end else []
        root = next(self._below(recursive=False))
        return ArtifactStream(self._store, self.manifest, [root], TreeOptions(), spans=spans)

    def _below(self, *, recursive: bool, follow: bool = False) -> Iterator[Item]:
        return ArtifactTree(self.manifest).below(self._root, recursive=recursive, follow=follow)


class Origins:
    """The Works that one session can ask, living or not. May be used from any thread.

    Args:
        remote: asks those that live.
        registry: knows where the others left their files.
        machine_id: of this machine.
        limits: deadlines and sizes.
    """

    def __init__(self, remote: Remote, registry: Registry, machine_id: str, limits: Limits) -> None:
        self._remote = remote
        self._registry = registry
        self._machine_id = machine_id
        self.limits = limits
        self._stores: dict[tuple[str, str], ArtifactStore] = {}
        self._opening = threading.Lock()

    def exists(self, location: Location) -> bool:
        """Say whether the Work has this path, or left it.

        Raises:
            OriginUnavailable: the Work is live by the registry and cannot be reached, or its store cannot.
            TransferTimeout: the Work, or its store, is silent.
            RegistryUnavailable: the registry does not answer.
            AccessDenied: the Work, or its store, does not take what this session shows it.
            IntegrityError: what it left is damaged.
        """
        if self._remote.exists(location):
            return True
        try:
            return not self._lives(location) and self.artifact(location) is not None
        except PathNotFound:
            return False

    def stat(self, location: Location) -> Entry:
        """Return the entry of a path; its own `path` is "".

        Raises:
            PathNotFound: the Work has no such path, or has left none.
            StorageError: as of `exists`.
        """
        return self._either(lambda: self._remote.stat(location), lambda artifact: artifact.entry, location)

    def list(self, location: Location, *, recursive: bool = True) -> Iterator[Entry]:
        """Return the entries of a tree, a directory before what it holds. As of `Remote.list`.

        Raises:
            PathNotFound: the Work has no such path, or has left none.
            StorageError: as of `exists`; also while iterating.
        """
        return self._either(
            lambda: self._remote.list(location, recursive=recursive),
            lambda artifact: artifact.entries(recursive=recursive),
            location,
        )

    def stream(
        self, location: Location, options: TreeOptions | None = None, *, deadline: float | None = None
    ) -> TreeCall | ArtifactStream:
        """Return the frames of a whole tree. As of `Remote.stream`.

        Raises:
            PathNotFound: the Work has no such path, or has left none.
            StorageError: as of `exists`; also while iterating.
        """

        def live() -> TreeCall | ArtifactStream:
            return self._remote.stream(location, options, deadline=deadline)

        return self._either(
            live, lambda artifact: artifact.stream(options or TreeOptions(), deadline), location
        )

    def stream_part(self, location: Location, offset: int, length: int | None) -> TreeCall | ArtifactStream:
        """Return the frames of a part of one file; what lies behind its end is passed over.

        Raises:
            PathNotFound: the Work has no such path, or has left none.
            IsADirectoryError: it is no file.
            StorageError: as of `exists`; also while iterating.
        """

        def live() -> TreeCall | ArtifactStream:
            return self._remote.stream_part(location, offset, length)

        def left(artifact: Artifact) -> TreeCall | ArtifactStream:
            if artifact.entry.kind is not Kind.FILE:
                raise IsADirectoryError(errno.EISDIR, "It is no file, so get it instead", str(location))
            return artifact.part(offset, length)

        return self._either(live, left, location)

    def artifact(self, location: Location) -> Artifact:
        """Return what the Work left of a path, whether or not it lives.

        Raises:
            PathNotFound: it left nothing there.
            OriginUnavailable: its store is out of reach, or on another machine.
            StorageError: as of `exists`.
        """
        assert location.origin is not None
        where, name = shown(str(location)), location.origin
        store = self.store(name)
        if store is None:
            raise PathNotFound(f"{where} is not there: nothing of {name!r} was published")
        manifest = store.covering(location.path)
        root = None
        if manifest is not None and not manifest.removed:
            below = location.path.removeprefix(manifest.path).lstrip("/")
            root = ArtifactTree(manifest).find(below)
        if root is None or manifest is None or not self._is_there(manifest, root):
            raise PathNotFound(f"{where} is not there: what {name!r} left at {store.url} does not hold it")
        return Artifact(store, manifest, root)

    def store(self, name: str) -> ArtifactStore | None:
        """Return the store of what a Work left, None if it never published anything.

        Raises:
            OriginUnavailable: it is on another machine.
            InvalidURI: its URL is none, or what it needs is not installed here.
            RegistryUnavailable: the registry does not answer.
        """
        work = self._registry.work(name)
        if work is None or not work.artifacts_url:
            return None
        if work.artifacts_url.startswith("in-place:") and work.machine_id != self._machine_id:
            raise OriginUnavailable(
                f"what {name!r} left is in place on another machine ({work.machine_id}), and is not served "
                "from there; name a store that all machines reach with LIT_STORAGE_ARTIFACTS"
            )
        with self._opening:
            key = (work.artifacts_url, name)
            if key not in self._stores:
                self._stores[key] = open_store(work.artifacts_url, name, limits=self.limits)
            return self._stores[key]

    def _either(self, live: Callable[[], T], left: Callable[[Artifact], T], location: Location) -> T:
        try:
            return live()
        except PathNotFound:
            if self._lives(location) or self.store(location.origin or "") is None:
                raise
        return left(self.artifact(location))

    def _lives(self, location: Location) -> bool:
        """Say whether the Work lives, so that its "no" is one; asked after it, for it may have just ended."""
        return location.origin is not None and self._registry.resolve(location.origin) is not None

    def _is_there(self, manifest: Manifest, root: StoredEntry) -> bool:
        """Say whether what is in place has not been removed since."""
        if not manifest.in_place:
            return True
        placed = PlacedContents(manifest)
        try:
            return placed.is_there(root)
        finally:
            placed.close()
