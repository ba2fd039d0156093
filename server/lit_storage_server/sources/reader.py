"""Reads the bytes of one open file as chunks: data with their digests, holes, or a descriptor.

Invariant: every byte between the ends of a span is in exactly one chunk, and they ascend. Where the
file turns out to be shorter the chunks end before, and the caller is told.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.frames import Chunk
from lit_storage_proto.limits import MIB

_WORTH_A_DESCRIPTOR_BYTES = 1 * MIB
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own is: stat(2)


class ShortFileError(Exception):
    """The file ends before the bytes that were to be read."""


class Reader:
    """Reads files one after the other.

    Args:
        chunk_bytes: largest run of bytes of one file in one chunk.
        holes: whether holes are sent as such.
    """

    def __init__(self, chunk_bytes: int, *, holes: bool) -> None:
        self._chunk_bytes = chunk_bytes
        self._holes = holes
        self.descriptors = False
        """Whether large spans are to be passed as a descriptor from now on."""
        # One buffer for all full chunks: it stays in the processor's cache, and fresh memory
        # would cost a page fault every 4 KiB.
        self._buffer = memoryview(bytearray(chunk_bytes))

    def chunks(
        self, fd: int, number: int, status: os.stat_result, spans: Sequence[tuple[int, int]]
    ) -> Iterator[Chunk]:
        """Yield the bytes of `spans`; those of a full chunk are a view that the next one overwrites.

        Args:
            fd: the file.
            number: of its entry.
            status: of the file.
            spans: from this byte up to that one; ascending and disjoint.

        Raises:
            ShortFileError: the file is shorter.
            OSError: the file system failed.
        """
        sparse = self._holes and status.st_blocks * _BLOCK_BYTES < status.st_size
        for start, end in spans:
            for begin, stop, is_hole in _segments(fd, start, end) if sparse else [(start, end, False)]:
                if is_hole and not self.descriptors:
                    yield Chunk(number, begin, hole=stop - begin)
                    continue
                position = begin
                while position < stop:
                    if self.descriptors and end - position >= _WORTH_A_DESCRIPTOR_BYTES:
                        # All up to the end of the span: the receiver keeps its holes itself.
                        yield Chunk(number, position, descriptor_bytes=end - position)
                        break
                    wanted = min(self._chunk_bytes, stop - position)
                    data = self._read(fd, position, wanted)
                    yield Chunk(number, position, chunk_digest(data), data)
                    position += wanted
                else:
                    continue
                break

    def _read(self, fd: int, offset: int, wanted: int) -> bytes | memoryview:
        """Return `wanted` bytes at `offset`; a full chunk is a view that the next one overwrites."""
        if wanted < self._chunk_bytes:
            data = os.pread(fd, wanted, offset)
            if len(data) == wanted:
                return data
        filled, target = 0, self._buffer[:wanted]
        while filled < wanted:
            count = os.preadv(fd, [target[filled:]], offset + filled)
            if not count:
                raise ShortFileError
            filled += count
        return target if wanted == self._chunk_bytes else bytes(target)


def _segments(fd: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield data and holes between `start` and `end`: where they begin, where they end, which they are."""
    position = start
    while position < end:
        try:
            data = min(os.lseek(fd, position, os.SEEK_DATA), end)
        except OSError as error:
            # ENXIO: no data up to the end of the file, which may be before `end` by now.
            if error.errno == errno.ENXIO and os.fstat(fd).st_size >= end:
                yield position, end, True
                return
            yield position, end, False
            return
        if data > position:
            yield position, data, True
        if data < end:
            try:
                position = min(os.lseek(fd, data, os.SEEK_HOLE), end)
            except OSError:
                position = end  # it ends before `data` by now, which whoever reads will find
            yield data, position, False
        else:
            position = end
