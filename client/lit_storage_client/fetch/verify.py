"""Holds what arrives against what was announced, before a byte of it is used. Pure: no I/O.

Invariant: a file is whole only if its chunks ascended from 0 to its size without gap or overlap,
each with the digest that was sent with it, and a tree is whole only if each of its files is and
the summary counts what was counted here. A size alone, or the end of a call, proves nothing.
"""

from __future__ import annotations

from lit_storage_client.names import shown
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError, ProtocolViolation
from lit_storage_proto.frames import Chunk, Summary


class Expected:
    """A file some of whose bytes are still to come."""

    __slots__ = ("entry", "offset")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.offset = 0
        """Bytes that came so far, which is where the next chunk must begin."""

    @property
    def whole(self) -> bool:
        """Whether all bytes came."""
        return self.offset == self.entry.size


class Verifier:
    """What one call announced, and what of it came."""

    def __init__(self) -> None:
        self._pending: dict[int, Expected] = {}
        self._entries = self._chunks = self._skipped = 0
        self.files = 0
        self.bytes = 0

    def announce(self, entry: Entry) -> None:
        """Take the next entry, whose number is how many came before it; a file with bytes is waited for."""
        if entry.kind is Kind.FILE:
            self.files += 1
            if entry.size:
                self._pending[self._entries] = Expected(entry)
        elif entry.kind is Kind.SKIPPED:
            self._skipped += 1
        self._entries += 1

    def accept(self, chunk: Chunk) -> Expected:
        """Check the next chunk; return its file, already advanced past the chunk.

        Raises:
            IntegrityError: the bytes are not those of the digest.
            ProtocolViolation: the chunk belongs to no file that waits for it.
        """
        expected = self._pending.get(chunk.entry)
        if expected is None:
            raise ProtocolViolation(f"the peer sent bytes of entry {chunk.entry}, which waits for none")
        entry, size = expected.entry, len(chunk.data)
        if chunk.offset != expected.offset or not size or size > entry.size - chunk.offset:
            raise ProtocolViolation(
                f"the peer sent bytes {chunk.offset} to {chunk.offset + size} of {shown(entry.path)}, "
                f"where those from {expected.offset} on, up to {entry.size}, are due"
            )
        if chunk_digest(chunk.data) != chunk.digest:
            raise IntegrityError(
                f"bytes {chunk.offset} to {chunk.offset + size} of {shown(entry.path)} were damaged on their "
                "way; get it again"
            )
        expected.offset += size
        self._chunks += 1
        self.bytes += size
        if expected.whole:
            del self._pending[chunk.entry]
        return expected

    def finish(self, summary: Summary | None) -> None:
        """Check that the tree is whole.

        Raises:
            IntegrityError: bytes are missing, or the summary is, or it counts something else.
        """
        if summary is None:
            raise IntegrityError("the transfer ended without its summary, so it is not known to be whole")
        for expected in self._pending.values():
            raise IntegrityError(
                f"the transfer ended at byte {expected.offset} of {expected.entry.size} of "
                f"{shown(expected.entry.path)}"
            )
        counted = Summary(self._entries, self._chunks, self.bytes, self._skipped)
        if summary != counted or not self._entries:
            raise IntegrityError(f"the peer says that it sent {summary}, but what came is {counted}")
