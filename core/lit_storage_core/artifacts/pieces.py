"""Says which bytes of an artifact make up what is asked for, in the order in which they are sent. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lit_storage_core.system.spans import Span
from lit_storage_proto.artifact import StoredChunk, StoredEntry


class Piece(NamedTuple):
    """A run of bytes of one file that is to be sent."""

    number: int
    """Of the file's entry."""
    stored: StoredEntry
    offset: int
    """In the file."""
    size: int
    chunk: StoredChunk | None
    """In which it lies, all of which is checked; None: it is a hole, or `by_descriptor`."""
    by_descriptor: bool = False
    """Whether the file is handed over open."""


def pieces_of(number: int, stored: StoredEntry, wanted: Sequence[Span], chunk_bytes: int) -> Iterator[Piece]:
    """Yield the pieces of a file.

    Args:
        number: of its entry.
        stored: the file.
        wanted: from this byte up to that one, ascending and disjoint.
        chunk_bytes: of the manifest.
    """
    position, runs = 0, iter(wanted)
    start, end = next(runs, (0, 0))
    for chunk in itertools.chain(stored.chunks(chunk_bytes), (None,)):
        begins = stored.entry.size if chunk is None else chunk.offset
        ends = stored.entry.size if chunk is None else chunk.offset + chunk.size
        while end > start:
            if position < begins and start < begins:
                first = max(start, position)
                yield Piece(number, stored, first, min(end, begins) - first, None)
            if chunk is not None and start < ends and end > begins:
                first = max(start, begins)
                yield Piece(number, stored, first, min(end, ends) - first, chunk)
            if end > ends:
                break
            start, end = next(runs, (0, 0))
        position = ends
