"""Publishes one declared path of a Work: reads it as it is served, and writes a version of its artifact.

Invariant: what is published was all there at one time. It is whole in the store, or not to be seen.

Where `Shares.follow_links` is set, a manifest has what a link means instead of the link, and if the bytes
stay in place, also where they lie.

What a version before holds is not written again, and not even read where the file still has the version
token that it had then; a token is kept only where no later change can bring it about again. Files are
compared chunk by chunk, so that of one that grew, or changed in places, only that is written.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from lit_storage_core.artifacts.store import ArtifactStore
from lit_storage_core.artifacts.writer import FormerRemovedError, Writer
from lit_storage_core.system.spans import Span
from lit_storage_core.system.version_token import TICK_SECONDS, is_mapped, mapped_inodes, may_hide_a_change
from lit_storage_proto.artifact import Extent, Manifest, StoredChunk, StoredEntry, StoredObject, Version
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.frames import Chunk, Frame
from lit_storage_server.sources.assembly import MAX_CHUNK_BYTES
from lit_storage_server.sources.shares import Shares
from lit_storage_server.sources.tree_stream import TreeOptions, TreeStream

_ATTEMPTS = 2

Held: TypeAlias = Mapping[str, tuple[bytes, Sequence[Span]]]
"""By path the version token of a file, and which of its bytes are known."""


def publish(
    store: ArtifactStore,
    shares: Shares,
    path: str,
    version: Version,
    *,
    machine_id: str,
    unclean: bool = False,
    deadline: float | None = None,
) -> Manifest:
    """Publish what the Work has at `path`, and return what was published.

    Args:
        store: of the Work's artifacts.
        shares: what the Work serves, which confines what is read.
        path: the declared path: relative to the storage root, or absolute.
        version: newer than all before it.
        machine_id: of this machine.
        unclean: whether the Work died, and this is done for it.
        deadline: when it must be published, on the clock of time.monotonic().

    Raises:
        PathNotFound: there is nothing.
        AccessDenied: a file cannot be read, or may not be served; or the store refuses this process.
        SourceChanged: files went on changing.
        TransferTimeout: the time is over, or the store is silent.
        OriginUnavailable: the store cannot be reached.
        OSError: a disk, or the store, is full, and the like.
    """
    chunk_bytes = min(store.limits.chunk_bytes, MAX_CHUNK_BYTES)  # as streams have them
    time.sleep(TICK_SECONDS)  # so that the tokens of what was written just now can be kept
    for attempt in range(_ATTEMPTS):
        version = Version(version.number + bool(attempt), version.instance_id)
        try:
            with store.begin(path, version, deadline=deadline) as writer:
                former = writer.former if not attempt else None
                if former is not None and former.chunk_bytes != chunk_bytes:
                    former = None
                draft, places = _read(shares, path, writer, former, machine_id, chunk_bytes)
                entries, objects = draft.finish(places)
                manifest = Manifest(
                    store.name,
                    path,
                    version,
                    time.time_ns(),
                    machine_id,
                    chunk_bytes,
                    entries,
                    objects,
                    in_place=shares.root if store.in_place else "",
                    unclean=unclean,
                )
                writer.commit(manifest)
        except FormerRemovedError:
            continue  # somebody pruned what this was built upon
        return manifest
    raise AssertionError("a version that names no objects of others depends on none")


def publish_removed(
    store: ArtifactStore, path: str, version: Version, *, machine_id: str, deadline: float | None = None
) -> None:
    """Publish that the Work has removed `path`, so that older versions of it are not taken for it.

    Raises:
        TransferTimeout, OriginUnavailable, AccessDenied, OSError: as of `publish`.
    """
    with store.begin(path, version, deadline=deadline) as writer:
        writer.commit(Manifest(store.name, path, version, time.time_ns(), machine_id, 0, removed=True))


def _read(
    shares: Shares, path: str, writer: Writer, former: Manifest | None, machine_id: str, chunk_bytes: int
) -> tuple[_Draft, Mapping[str, str]]:
    """Read the tree, and write what of it is new; return also `TreeStream.places`."""
    held: Held = {}
    if former is not None and former.machine_id == machine_id:
        # These need not be read if they still have the version token they had.
        held = {
            stored.entry.path: (stored.entry.version, [(0, stored.entry.size)])
            for stored in former.entries
            if stored.entry.kind is Kind.FILE and stored.entry.size and stored.entry.version
        }
    draft = _Draft(writer, former, held, chunk_bytes)
    options = TreeOptions(
        holes=True, settle=True, links_as_origin=True, held=held, note_places=not writer.keeps_bytes
    )
    stream = TreeStream(shares, path, options, chunk_bytes)
    for frame in stream.frames():
        writer.check_deadline()
        draft.take(frame)
    return draft, stream.places


class _Draft:
    """The entries of a version, as its frames come; a round replaces what came before."""

    def __init__(self, writer: Writer, former: Manifest | None, held: Held, chunk_bytes: int) -> None:
        self._writer = writer
        self._former = former
        self._held = held
        self._chunk_bytes = chunk_bytes
        self._files: dict[str, _File] = {}
        self._numbers: dict[int, _File] = {}
        self._count = 0
        self._began_ns = time.time_ns()
        self._mapped = mapped_inodes()

    def take(self, frame: Frame) -> None:
        for entry in frame.entries:
            self._announce(entry, frame.round)
        for chunk in frame.chunks:
            file = self._numbers[chunk.entry]
            if not chunk.hole:
                file.add(chunk, self._writer)

    def finish(self, places: Mapping[str, str]) -> tuple[list[StoredEntry], list[StoredObject]]:
        """Return the entries, and the objects that they name.

        Args:
            places: by path where what is not at its path lies.
        """
        numbers: dict[str, int] = {}
        entries = [file.stored(numbers, held=path in self._held) for path, file in self._files.items()]
        for stored in entries if places else ():
            if stored.entry.kind in (Kind.FILE, Kind.DIRECTORY):
                stored.place = places.get(stored.entry.path, "")
        sizes = dict(self._former.objects) if self._former is not None else {}
        sizes |= self._writer.sizes
        return entries, [StoredObject(key, sizes[key]) for key in numbers]

    def _announce(self, entry: Entry, number_of_round: int) -> None:
        number, self._count = self._count, self._count + 1
        if number_of_round and entry.kind is not Kind.DIRECTORY:
            self._forget(entry.path)
        if entry.kind is Kind.REMOVED:
            return
        if number_of_round and (before := self._files.get(entry.path)) is not None:
            before.entry = entry  # a directory with another mode or time, which keeps its place
            return
        new = entry.kind is Kind.FILE and not self._is_held(entry)
        if new and (
            may_hide_a_change(entry.version, self._began_ns) or is_mapped(entry.version, self._mapped)
        ):
            entry = dataclasses.replace(entry, version=b"")
        file = _File(entry, self._former_of(entry.path), self._chunk_bytes)
        self._files[entry.path] = file
        if entry.kind is Kind.FILE:
            self._numbers[number] = file

    def _is_held(self, entry: Entry) -> bool:
        """Say whether the bytes of a file do not come, since it is as it was."""
        return self._held.get(entry.path, (b"", ()))[0] == entry.version

    def _former_of(self, path: str) -> tuple[Manifest, StoredEntry] | None:
        former = self._former.by_path.get(path) if self._former is not None else None
        return None if former is None or self._former is None else (self._former, former)

    def _forget(self, path: str) -> None:
        for known in [known for known in self._files if known == path or known.startswith(path + "/")]:
            del self._files[known]


class _File:
    """One entry under way."""

    __slots__ = (
        "_chunk_bytes",
        "_digests",
        "_former",
        "_former_chunks",
        "_last",
        "_places",
        "_spans",
        "entry",
    )

    def __init__(self, entry: Entry, former: tuple[Manifest, StoredEntry] | None, chunk_bytes: int) -> None:
        self.entry = entry
        self._former = former
        self._chunk_bytes = chunk_bytes
        self._former_chunks: Iterator[StoredChunk] | None = None
        self._last: StoredChunk | None = None
        self._spans: list[tuple[int, int]] = []
        self._places: list[tuple[str, int, int]] = []
        self._digests = bytearray()

    def add(self, chunk: Chunk, writer: Writer) -> None:
        """Take the next bytes of the file: those of the version before are not written again."""
        size = chunk.size
        if self._spans and self._spans[-1][1] == chunk.offset and not self._ends_run():
            self._spans[-1] = (self._spans[-1][0], chunk.offset + size)
        else:
            self._spans.append((chunk.offset, chunk.offset + size))
        self._digests += chunk.digest
        if not writer.keeps_bytes:
            return
        known = self._known(chunk)
        key, position = known if known is not None else writer.put(chunk.data)
        if self._places and self._places[-1][0] == key and sum(self._places[-1][1:]) == position:
            self._places[-1] = (key, self._places[-1][1], self._places[-1][2] + size)
        else:
            self._places.append((key, position, size))

    def stored(self, numbers: dict[str, int], *, held: bool) -> StoredEntry:
        """Return it as it is kept.

        Args:
            numbers: of the objects by key; new ones are added.
            held: whether its bytes did not come if it is as it was.
        """
        if not self._digests:
            return self._unread(numbers) if held else StoredEntry(self.entry)
        spans = () if self._spans == [(0, self.entry.size)] else tuple(self._spans)
        return StoredEntry(self.entry, spans, _numbered(self._places, numbers), bytes(self._digests))

    def _unread(self, numbers: dict[str, int]) -> StoredEntry:
        """Return what no bytes came of: a file as before, one without data, or no file."""
        if self._former is None or self.entry.kind is not Kind.FILE:
            return StoredEntry(self.entry)
        manifest, former = self._former
        if former.entry.version != self.entry.version or not former.entry.version:
            return StoredEntry(self.entry)
        places = [(manifest.objects[number].key, position, size) for number, position, size in former.extents]
        return StoredEntry(self.entry, former.spans, _numbered(places, numbers), former.digests)

    def _ends_run(self) -> bool:
        """Say whether the chunk before was a short one, after which chunks are counted anew."""
        start, end = self._spans[-1]
        return (end - start) % self._chunk_bytes != 0

    def _known(self, chunk: Chunk) -> tuple[str, int] | None:
        if self._former is None:
            return None
        manifest, former = self._former
        if self._former_chunks is None:
            self._former_chunks = former.chunks(manifest.chunk_bytes)
        known = self._last
        while known is None or known.offset < chunk.offset:  # both ascend
            known = self._last = next(self._former_chunks, None)
            if known is None:
                self._former = None
                return None
        if known.offset != chunk.offset or known.size != chunk.size or known.digest != chunk.digest:
            return None
        return manifest.objects[known.object].key, known.position


def _numbered(places: Iterable[tuple[str, int, int]], numbers: dict[str, int]) -> tuple[Extent, ...]:
    return tuple(
        Extent(numbers.setdefault(key, len(numbers)), position, size) for key, position, size in places
    )
