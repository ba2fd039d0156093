"""Holds what arrives against what was announced, before a byte of it is used. Pure: no I/O.

Invariant: a file is whole only if its chunks ascended from 0 to its size without gap or overlap,
but for what was held from before, each with the digest that was sent with it, and a tree is whole
only if each of its files is and the summary counts what was counted here. A size alone, or the end
of a call, proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lit_storage_core.system.names import shown
from lit_storage_core.system.spans import Span
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError, ProtocolViolation
from lit_storage_proto.frames import Chunk, Pack, Summary


class Expected:
    """A file some of whose bytes are still to come."""

    __slots__ = ("_held", "begun", "entry", "journaled", "offset")

    def __init__(self, entry: Entry, held: Sequence[Span] = ()) -> None:
        self.entry = entry
        self.offset = 0
        """Where the next chunk must begin: all before it came, or was held."""
        self.begun = bool(held)
        """Whether some of it is on the disk; for whoever writes it."""
        self.journaled: int | None = None
        """Its number in a journal, if it has one; for whoever writes it."""
        self._held = sorted(held, reverse=True)
        self.advance(0)

    @property
    def whole(self) -> bool:
        """Whether all bytes are there."""
        return self.offset == self.entry.size

    @property
    def limit(self) -> int:
        """Where the bytes end that are due from `offset` on."""
        return self._held[-1][0] if self._held else self.entry.size

    def advance(self, size: int) -> None:
        """Count `size` more bytes, and pass over what was held."""
        self.offset += size
        while self._held and self._held[-1][0] == self.offset:
            self.offset = self._held.pop()[1]


class Verifier:
    """What one call announced, and what of it came."""

    def __init__(self) -> None:
        self._pending: dict[int, Expected] = {}
        self._numbers: dict[str, int] = {}  # of what is pending, by path
        self._entries = self._chunks = self._skipped = self._packs = self._packed = 0
        self.bytes = 0
        """How many came in chunks and packs."""

    def announce(self, entry: Entry, held: Sequence[Span] = ()) -> Expected | None:
        """Take the next entry, whose number is how many came before it.

        Args:
            entry: a file with bytes is waited for.
            held: what of its bytes is not to come, since it is there.

        Returns:
            What is waited for, if anything.
        """
        number, self._entries = self._entries, self._entries + 1
        if entry.kind is Kind.SKIPPED:
            self._skipped += 1
        if entry.kind is not Kind.FILE or not entry.size:
            return None
        expected = Expected(entry, held)
        if not expected.whole:
            self._pending[number] = expected
            self._numbers[entry.path] = number
        return expected

    def replace(self, paths: Iterable[str]) -> None:
        """Wait no more for the bytes of what was announced under these paths."""
        for path in paths:
            number = self._numbers.pop(path, None)
            if number is not None:
                del self._pending[number]

    def accept(self, chunk: Chunk) -> Expected:
        """Check the next chunk; return its file, already advanced past the chunk.

        Raises:
            IntegrityError: the bytes are not those of the digest.
            ProtocolViolation: the chunk belongs to no file that waits for it.
        """
        expected = self._pending.get(chunk.entry)
        if expected is None:
            raise ProtocolViolation(f"the peer sent bytes of entry {chunk.entry}, which waits for none")
        entry, size = expected.entry, chunk.size
        if chunk.offset != expected.offset or not size or size > expected.limit - chunk.offset:
            raise ProtocolViolation(
                f"the peer sent bytes {chunk.offset} to {chunk.offset + size} of {shown(entry.path)}, "
                f"where those from {expected.offset} on, up to {expected.limit}, are due"
            )
        if chunk.data and chunk_digest(chunk.data) != chunk.digest:
            raise IntegrityError(
                f"bytes {chunk.offset} to {chunk.offset + size} of {shown(entry.path)} were damaged on their "
                "way; get it again"
            )
        expected.advance(size)
        self._chunks += 1
        self.bytes += size
        if expected.whole:
            del self._pending[chunk.entry]
            del self._numbers[entry.path]
        return expected

    def lack(self, chunk: Chunk, expected: Expected) -> None:
        """Take back that a chunk came: less was there. Only the file as a whole can come anew."""
        expected.offset = -1
        self._pending[chunk.entry] = expected
        self._numbers[expected.entry.path] = chunk.entry

    def accept_pack(self, pack: Pack) -> None:
        """Check a pack: the bytes are all there, and undamaged.

        Raises:
            IntegrityError: the bytes are not those of the digest.
            ProtocolViolation: they are not as many as the files have.
        """
        size = len(pack.data)
        if sum(pack.sizes) != size:
            raise ProtocolViolation(f"the peer packed {size} bytes for files of {sum(pack.sizes)}")
        if chunk_digest(pack.data) != pack.digest:
            first = pack.names.partition(b"/")[0].decode("utf-8", "surrogateescape")
            raise IntegrityError(
                f"{len(pack.sizes)} files from {shown(first)} on were damaged on their way; get it again"
            )
        self._packs += 1
        self._packed += len(pack.sizes)
        self.bytes += size

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
        said = replace(summary, unsettled=(), unsettled_count=0)
        counted = Summary(self._entries, self._chunks, self.bytes, self._skipped, self._packs, self._packed)
        if said != counted or not self._entries:
            raise IntegrityError(f"the peer says that it sent {said}, but what came is {counted}")
