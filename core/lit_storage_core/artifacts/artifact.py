"""One path of a Work in what it left: described, listed and sent as a live Work would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lit_storage_core.artifacts.in_place import PlacedContents
from lit_storage_core.artifacts.store import ArtifactStore
from lit_storage_core.artifacts.stream import ArtifactStream
from lit_storage_core.artifacts.tree import ArtifactTree, Item
from lit_storage_core.system.names import shown
from lit_storage_core.system.spans import Span, clipped
from lit_storage_proto.artifact import Manifest, StoredEntry
from lit_storage_proto.entry import Entry
from lit_storage_proto.errors import PathNotFound
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_proto.uri import Location


class Artifact:
    """One path in the newest whole version of an artifact that holds it; made by `find`."""

    def __init__(
        self, store: ArtifactStore, manifest: Manifest, tree: ArtifactTree, root: StoredEntry
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._tree = tree
        self._root = root

    @classmethod
    def find(cls, store: ArtifactStore, location: Location) -> Artifact:
        """Return what the Work of a store left at a path.

        Raises:
            PathNotFound: it left nothing there, or what is in place was removed since.
            IntegrityError: no version of it is whole.
            AccessDenied, OriginUnavailable, TransferTimeout, OSError: as of `Objects`.
        """
        manifest = store.covering(location.path)
        while manifest is not None and not manifest.removed:
            tree = ArtifactTree(manifest)
            root = tree.find(location.path.removeprefix(manifest.path).lstrip("/"))
            if root is not None and (not manifest.in_place or _is_in_place(manifest, root)):
                return cls(store, manifest, tree, root)
            if manifest.in_place == store.place_of(manifest):
                break
            manifest = store.covering(location.path)  # the storage root was moved meanwhile
        raise PathNotFound(
            f"{shown(str(location))} is not there: {location.origin!r} does not run, and what it left at "
            f"{store.url} does not hold it"
        )

    @property
    def machine_id(self) -> str:
        """Of the machine on which it was published."""
        return self._manifest.machine_id

    @property
    def instance_id(self) -> str:
        """Of the Work that published it."""
        return self._manifest.version.instance_id

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
        return ArtifactStream(self._store, self._manifest, below, options, deadline=deadline)

    def stream_part(self, offset: int, length: int | None) -> ArtifactStream:
        """Return the frames of a part of a file, as `Remote.stream_part` does."""
        begin, end = clipped(self._root.entry.size, offset, length)
        return self.stream_spans([(begin, end)] if begin < end else [])

    def stream_spans(self, spans: Sequence[Span]) -> ArtifactStream:
        """Return the frames of parts of a file, ascending and disjoint."""
        root = next(self._below(recursive=False))
        return ArtifactStream(self._store, self._manifest, [root], TreeOptions(), spans=spans)

    def _below(self, *, recursive: bool, follow: bool = False) -> Iterator[Item]:
        return self._tree.below(self._root, recursive=recursive, follow=follow)


def _is_in_place(manifest: Manifest, root: StoredEntry) -> bool:
    """Say whether what is in place has not been removed since."""
    placed = PlacedContents(manifest)
    try:
        return placed.is_there(root)
    finally:
        placed.close()
