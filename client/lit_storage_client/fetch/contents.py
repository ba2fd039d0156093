"""Reads one file of another Work without a copy on the disk.

Invariant: no byte is handed out whose digest was not checked, and none out of order; that they are
all is known when the iterator ends.
"""

from __future__ import annotations

from collections.abc import Generator

from lit_storage_client.fetch.source import Source
from lit_storage_client.fetch.verify import Verifier
from lit_storage_client.peers.remote import no_file
from lit_storage_core.system.spans import clipped, without
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frames import Frame, Summary
from lit_storage_proto.uri import Location


def contents(
    remote: Source, location: Location, *, offset: int = 0, length: int | None = None
) -> Generator[bytes | memoryview, None, None]:
    """Yield the bytes of a file in their order, in runs of up to ``Limits.chunk_bytes``.

    A run is to be used before the next one is asked for.

    Args:
        remote: who can be asked for the file.
        location: whose file, and which.
        offset: of the first byte that is wanted; 0 or more.
        length: how many bytes are wanted; None is all that follow. What lies behind the end of the
            file is passed over.

    Raises:
        PathNotFound: the Work has no such path, or does not run and left none.
        IsADirectoryError: it is no file.
        SourceChanged: the file changed while it was read.
        IntegrityError: bytes were damaged, or are missing.
        ProtocolViolation: the peer sent what is not the content of one file.
        StorageError: as of `Remote.stream`.
    """
    verifier = Verifier()
    summary: Summary | None = None
    entries: list[Entry] = []
    whole = not offset and length is None
    with remote.stream(location) if whole else remote.stream_part(location, offset, length) as frames:
        for frame in frames:
            entries += frame.entries
            _check(frame, entries, summary, location)
            for entry in frame.entries:
                verifier.announce(
                    entry, () if whole else without([clipped(entry.size, offset, length)], entry.size)
                )
            for chunk in frame.chunks:
                verifier.accept(chunk)
                yield chunk.data
            summary = frame.summary
    verifier.finish(summary)


def _check(frame: Frame, entries: list[Entry], summary: Summary | None, location: Location) -> None:
    """Refuse what was not asked for: another tree than one file, and content that is not in the frame."""
    if summary is not None:
        raise ProtocolViolation("the peer went on after its summary, which must come last")
    if entries and entries[0].kind is not Kind.FILE:
        raise no_file(location)
    if len(entries) > 1 or frame.packs or frame.round or not all(chunk.data for chunk in frame.chunks):
        raise ProtocolViolation(f"the peer sent more than the bytes of the one file '{location}'")
