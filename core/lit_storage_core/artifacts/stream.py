"""Turns what an artifact holds into the frames of one get, as a live Work would send them.

Invariant: entries, chunks and summary keep every rule of StreamFiles, so that whoever receives a live
Work's files receives these with the same checks, and cannot tell them apart.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import Self

from lit_storage_core.artifacts.fetching import ObjectContents
from lit_storage_core.artifacts.in_place import PlacedContents
from lit_storage_core.artifacts.pieces import Piece, pieces_of
from lit_storage_core.artifacts.store import ArtifactStore
from lit_storage_core.artifacts.tree import Item
from lit_storage_core.system.spans import Span, without
from lit_storage_proto.artifact import Manifest
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frames import Chunk, Frame, Summary
from lit_storage_proto.limits import MIB
from lit_storage_proto.tree_options import TreeOptions

_FRAME_BYTES = 1 * MIB
_FRAME_ENTRIES = 512
_WORTH_A_DESCRIPTOR_BYTES = 1 * MIB


class ArtifactStream:
    """The frames of a tree, or of parts of one file; a context manager that ends it.

    Args:
        store: of the artifact.
        manifest: which version of it.
        items: what is sent, a directory before what it holds; the first one has the path "".
        options: what the frames may hold.
        spans: of the only file, what is sent; None is all.
        deadline: when the last frame must have come, on the clock of time.monotonic().
    """

    def __init__(
        self,
        store: ArtifactStore,
        manifest: Manifest,
        items: Sequence[Item],
        options: TreeOptions,
        *,
        spans: Sequence[Span] | None = None,
        deadline: float | None = None,
    ) -> None:
        self._manifest = manifest
        self._items = items
        self._options = options
        self._spans = spans
        self._held = {held.path: held for held in options.held}
        self._placed = PlacedContents(manifest) if manifest.in_place else None
        self._contents = self._placed or ObjectContents(store, manifest, deadline)
        self._descriptor = -1
        self._sent = Summary()
        self._frames = self._make_frames()
        weakref.finalize(self, self._contents.close)  # of one that nobody uses, or ends

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Frame]:
        return self._frames

    def cancel(self) -> None:
        """End it. A second call does nothing."""
        self._frames.close()
        self._contents.close()

    def take_descriptor(self) -> int:
        """Return the descriptor of the file of the last frame; it belongs to the caller.

        Raises:
            ProtocolViolation: there is none.
        """
        if self._descriptor < 0:
            raise ProtocolViolation("a descriptor was asked for where none was sent")
        return os.dup(self._descriptor)

    def acknowledge(self, *, done: bool) -> None:
        """Take that the descriptor is being read, or has been: it stays open until the next frame."""

    def _make_frames(self) -> Generator[Frame, None, None]:
        entries: list[Entry] = []
        chunks: list[Chunk] = []
        announced = held = 0
        for piece, data in self._contents.data(self._pieces()):
            new = self._items[announced : piece.number + 1]
            announced += len(new)
            entries += [item.entry for item in new]
            for chunk in self._chunks(piece, data):
                chunks.append(chunk)
                held += len(chunk.data)
                # A view into a buffer that is filled anew, or a descriptor, goes at once.
                if self._placed or held >= _FRAME_BYTES or len(entries) >= _FRAME_ENTRIES:
                    yield self._frame(entries, chunks)
                    entries, chunks, held = [], [], 0
        entries += [item.entry for item in self._items[announced:]]
        for first in range(0, len(entries), _FRAME_ENTRIES):
            yield self._frame(entries[first : first + _FRAME_ENTRIES], chunks)
            chunks = []
        if chunks:
            yield self._frame([], chunks)
        yield Frame(summary=self._sent)

    def _frame(self, entries: list[Entry], chunks: list[Chunk]) -> Frame:
        sent = self._sent
        self._sent = Summary(
            sent.entries + len(entries),
            sent.chunks + len(chunks),
            sent.bytes + sum(chunk.size for chunk in chunks),
            sent.skipped + sum(entry.kind is Kind.SKIPPED for entry in entries),
        )
        return Frame(entries=entries, chunks=chunks)

    def _pieces(self) -> Iterator[Piece]:
        for number, item in enumerate(self._items):
            if item.entry.kind is not Kind.FILE or not item.entry.size:
                continue
            wanted = self._wanted(item.entry)
            if self._placed is not None and self._is_large(item.entry) and self._is_same(self._placed, item):
                for start, end in wanted:
                    yield Piece(number, item.stored, start, end - start, None, by_descriptor=True)
            else:
                yield from pieces_of(number, item.stored, wanted, self._manifest.chunk_bytes)

    def _wanted(self, entry: Entry) -> Sequence[Span]:
        if self._spans is not None:
            return self._spans
        held = self._held.get(entry.path)
        known = held is not None and bool(entry.version) and held.version == entry.version
        return without(held.spans if known and held is not None else (), entry.size)

    def _is_large(self, entry: Entry) -> bool:
        """Say whether a file is better handed over open, to be cloned or copied by the kernel."""
        return self._options.direct and entry.size >= _WORTH_A_DESCRIPTOR_BYTES

    def _is_same(self, placed: PlacedContents, item: Item) -> bool:
        return placed.file(item.stored).is_unchanged()

    def _chunks(self, piece: Piece, data: memoryview) -> Iterator[Chunk]:
        if piece.chunk is not None:
            whole = len(data) == piece.chunk.size
            digest = piece.chunk.digest if whole else chunk_digest(data)
            yield Chunk(piece.number, piece.offset, digest, data)
        elif piece.by_descriptor and self._placed is not None:
            file = self._placed.file(piece.stored)
            self._descriptor = file.fd
            yield Chunk(piece.number, piece.offset, descriptor_bytes=piece.size)
            self._descriptor = -1
            if not file.is_unchanged():
                raise self._placed.changed(piece.stored)
        elif self._options.holes:
            yield Chunk(piece.number, piece.offset, hole=piece.size)
        else:
            for offset in range(piece.offset, piece.offset + piece.size, self._manifest.chunk_bytes):
                zeros = bytes(min(self._manifest.chunk_bytes, piece.offset + piece.size - offset))
                yield Chunk(piece.number, offset, chunk_digest(zeros), zeros)
