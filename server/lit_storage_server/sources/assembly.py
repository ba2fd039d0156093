"""Gathers entries, chunks and packs until a frame is full, and counts them.

Invariant: the data of a frame stay as they are until the next frame is asked for: what is packed
lies in one buffer that is filled anew only after its frame was taken, and a chunk that makes its
frame full at once may be a view too. Every frame stays within MAX_FRAME_BYTES.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from lit_storage_proto.digest import DIGEST_BYTES, chunk_digest
from lit_storage_proto.entry import MAX_TIME_NS, MIN_TIME_NS, Entry, Kind, time_on_wire
from lit_storage_proto.frames import Chunk, Frame, Pack, Summary
from lit_storage_proto.limits import KIB, MAX_FRAME_BYTES

# More than what encodes a chunk's numbers, digest and lengths, or an entry's but for its names.
_CHUNK_OVERHEAD = 32 + DIGEST_BYTES
_ENTRY_OVERHEAD = 128
_PACK_OVERHEAD = 64
_PACKED_FILE_OVERHEAD = 32
_MOST_PACKED = 1024
_LONGEST_NAME = 255 + 1  # with what joins it to the next one
_MOST_PACKED_BYTES = MAX_FRAME_BYTES - _PACK_OVERHEAD - _MOST_PACKED * (_LONGEST_NAME + _PACKED_FILE_OVERHEAD)

MAX_CHUNK_BYTES = MAX_FRAME_BYTES - KIB


class OpenPack:
    """The files of one directory that wait to be sent. Whoever reads them appends to all the lists."""

    __slots__ = ("directory", "hard_linked", "modes", "mtimes_ns", "names", "sizes", "start")

    def __init__(self, directory: int, start: int) -> None:
        self.directory = directory
        self.start = start
        """Where its data begin in the buffer."""
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.modes: list[int] = []
        self.mtimes_ns: list[int] = []
        self.hard_linked = 0


class Assembly:
    """The frames of one call.

    Args:
        full_bytes: how much makes a frame full.
    """

    def __init__(self, full_bytes: int) -> None:
        self._full_bytes = min(full_bytes, MAX_CHUNK_BYTES)
        self._entries: list[Entry] = []
        self._chunks: list[Chunk] = []
        self._packs: list[Pack] = []
        self._held = 0
        self._sent_entries = self._sent_chunks = self._sent_bytes = self._skipped = 0
        self._sent_packs = self._packed_files = 0
        self.round = 0
        """The round of what is put from now on; call `flush` before it changes."""
        self.buffer = memoryview(bytearray(self._full_bytes + 1))
        """For the data of packs; one more byte, so that a file that grew is noticed."""
        self.position = 0
        """Up to where the buffer is filled."""

    @property
    def capacity(self) -> int:
        """Bytes that the buffer holds."""
        return self._full_bytes

    @property
    def pack_capacity(self) -> int:
        """Bytes of the buffer that packs may fill, so that their names have room in the frame too."""
        return min(self._full_bytes, _MOST_PACKED_BYTES)

    @property
    def most_packed(self) -> int:
        """Files that one pack may hold, however small: with the longest names it stays within a frame."""
        return _MOST_PACKED

    @property
    def last_entry(self) -> int:
        """The number of the entry that was put last."""
        return self._sent_entries - 1

    def put_entry(self, entry: Entry) -> Iterator[Frame]:
        """Put an entry; yield the frames that it makes full."""
        self._sent_entries += 1
        self._skipped += entry.kind is Kind.SKIPPED
        names = entry.path + entry.link_target
        cost = _ENTRY_OVERHEAD + len(names) * (1 if names.isascii() else 4)
        if self._held + cost > MAX_FRAME_BYTES:
            yield from self.flush()
        self._entries.append(entry)
        self._held += cost
        if self._held >= self._full_bytes:
            yield from self.flush()

    def put_chunk(self, chunk: Chunk) -> Iterator[Frame]:
        """Put a chunk; yield the frames that it makes full."""
        self._sent_chunks += 1
        self._sent_bytes += chunk.size
        cost = _CHUNK_OVERHEAD + len(chunk.data)
        if self._held + cost > MAX_FRAME_BYTES:
            yield from self.flush()
        self._chunks.append(chunk)
        self._held += cost
        if self._held >= self._full_bytes or chunk.descriptor_bytes:
            yield from self.flush()

    def open_pack(self, directory: int) -> OpenPack:
        """Begin a pack of files of the directory with this entry number; its data go to `position`."""
        return OpenPack(directory, self.position)

    def close_pack(self, pack: OpenPack) -> Iterator[Frame]:
        """Put a pack, whose data end at `position`; yield the frames that it makes full."""
        if not pack.names:
            return
        names = os.fsencode("/".join(pack.names))
        data = self.buffer[pack.start : self.position]
        self._sent_packs += 1
        self._packed_files += len(pack.names)
        self._sent_bytes += len(data)
        cost = _PACK_OVERHEAD + len(names) + len(data) + _PACKED_FILE_OVERHEAD * len(pack.names)
        if self._held + cost > MAX_FRAME_BYTES:
            yield self._take()  # the buffer stays: this pack lies in it
        self._packs.append(
            Pack(
                pack.directory,
                names,
                pack.sizes,
                pack.modes,
                _on_wire(pack.mtimes_ns),
                chunk_digest(data),
                data,
                pack.hard_linked,
            )
        )
        self._held += cost
        if self._held >= self._full_bytes:
            yield from self.flush()

    def flush(self) -> Iterator[Frame]:
        """Yield what is held as a frame; no pack may be open."""
        if self._held:
            yield self._take()
        self.position = 0

    def finish(self, unsettled: tuple[str, ...] = (), unsettled_count: int = 0) -> Iterator[Frame]:
        """Yield the last frames, with what is held and the summary."""
        summary = Summary(
            self._sent_entries,
            self._sent_chunks,
            self._sent_bytes,
            self._skipped,
            self._sent_packs,
            self._packed_files,
            unsettled,
            unsettled_count,
        )
        if self._held > MAX_FRAME_BYTES // 2 or unsettled:
            yield from self.flush()
        yield self._take(summary)

    def _take(self, summary: Summary | None = None) -> Frame:
        frame = Frame(
            entries=self._entries, chunks=self._chunks, summary=summary, packs=self._packs, round=self.round
        )
        self._entries, self._chunks, self._packs, self._held = [], [], [], 0
        return frame


def _on_wire(times_ns: list[int]) -> list[int]:
    if min(times_ns) >= MIN_TIME_NS and max(times_ns) <= MAX_TIME_NS:  # at the speed of C, as there are many
        return times_ns
    return list(map(time_on_wire, times_ns))
