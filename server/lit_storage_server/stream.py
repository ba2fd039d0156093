"""Turns a tree, or ranges of files, into the encoded frames of one StreamFiles call.

Invariant: the chunks of a file are sent under the version that its entry carries. The status is
taken from the descriptor that is read, before the first byte and again after the last one; where
the two differ the call ends with SourceChanged and without its summary, so that nobody takes the
copy for whole.

Small files are packed many to a frame. Every frame stays within MAX_FRAME_BYTES.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lit_storage_proto.digest import DIGEST_BYTES, chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation, SourceChanged
from lit_storage_proto.frames import Chunk, Frame, Summary, encode_frame
from lit_storage_proto.limits import KIB, MAX_FRAME_BYTES, MAX_RANGES
from lit_storage_server.shares import Shares
from lit_storage_server.walk import Found, entry_of, version_of, walk

# More than what encodes a chunk's numbers, digest and lengths, or an entry's but for its names.
_CHUNK_OVERHEAD = 32 + DIGEST_BYTES
_ENTRY_OVERHEAD = 128
_MAX_CHUNK_BYTES = MAX_FRAME_BYTES - KIB


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Part of one file, as a request names it."""

    path: str
    """Relative to the request's path; "" where that is the file."""
    offset: int
    length: int | None
    """None means up to the end of the file."""
    version: bytes
    """Empty means whatever is there."""


class FrameStream:
    """The frames of one call, as encoded messages, in order.

    Args:
        shares: what may be read.
        origin: name and instance id of who sends.
        chunk_bytes: largest run of bytes of one file in one message.
    """

    def __init__(self, shares: Shares, origin: tuple[str, str], chunk_bytes: int) -> None:
        self._shares = shares
        self._origin = origin
        self._chunk_bytes = max(1, min(chunk_bytes, _MAX_CHUNK_BYTES))
        # One buffer for all full chunks: it stays in the processor's cache, and fresh memory
        # would cost a page fault every 4 KiB.
        self._buffer = memoryview(bytearray(self._chunk_bytes))
        self._packer = _Packer(self._chunk_bytes)

    def tree(self, path: str) -> Iterator[bytes]:
        """Yield all that lies at `path`, in one pass.

        Raises:
            StorageError: as of `Shares.open`, `Shares.open_regular` and `walk`.
            SourceChanged: a file changed while it was read.
            OSError: the file system failed; its file name is the path.
        """
        with self._shares.open(path) as opened:
            yield encode_frame(Frame(origin=self._origin))
            for found in walk(opened, describe_files=False):
                if found.entry is None:
                    yield from self._file(found, path)
                else:
                    yield from self._packer.put_entry(found.entry)
        yield self._packer.finish()

    def ranges(self, path: str, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """Yield the ranges of files below `path`, one entry a file.

        Raises:
            ProtocolViolation: there are too many ranges, they do not ascend, or one lies outside its
                file or names no regular file.
            SourceChanged: a file has, or gets, another version than the one asked for.
            StorageError, OSError: as of `tree`.
        """
        by_file = _by_file(ranges)
        yield encode_frame(Frame(origin=self._origin))
        for name, wanted in by_file.items():
            yield from self._file_ranges(name, _join(path, name), wanted)
        yield self._packer.finish()

    def _file(self, found: Found, path: str) -> Iterator[bytes]:
        shown = _join(path, found.path)
        opened = self._shares.open_regular(found.directory, found.name, shown)
        if opened is None:
            return
        fd, status = opened
        try:
            entry = entry_of(found.path, status)
            yield from self._packer.put_entry(entry)
            yield from self._chunks(fd, shown, 0, entry.size)
            _check_unchanged(fd, entry, shown)
        finally:
            os.close(fd)

    def _file_ranges(self, name: str, shown: str, wanted: Sequence[ByteRange]) -> Iterator[bytes]:
        with self._shares.open(shown) as opened:
            if entry_of(name, opened.status).kind is not Kind.FILE:
                raise ProtocolViolation(f"a range of {shown!r} was asked for, which is no regular file")
            read = self._shares.open_regular(opened.fd, "", shown)
        if read is None:
            raise _changed(shown)
        fd, status = read
        try:
            entry = entry_of(name, status)
            spans = [_span(item, entry, shown) for item in wanted]
            yield from self._packer.put_entry(entry)
            for start, end in spans:
                yield from self._chunks(fd, shown, start, end)
            _check_unchanged(fd, entry, shown)
        finally:
            os.close(fd)

    def _chunks(self, fd: int, shown: str, start: int, end: int) -> Iterator[bytes]:
        number, offset = self._packer.last_entry, start
        while offset < end:
            wanted = min(self._chunk_bytes, end - offset)
            data = self._read(fd, shown, offset, wanted)
            yield from self._packer.put_chunk(Chunk(number, offset, chunk_digest(data), data))
            offset += wanted

    def _read(self, fd: int, shown: str, offset: int, wanted: int) -> bytes | memoryview:
        """Return `wanted` bytes at `offset`; a full chunk is a view that the next one overwrites."""
        try:
            if wanted < self._chunk_bytes:
                data = os.pread(fd, wanted, offset)
                if len(data) == wanted:
                    return data
            filled, target = 0, self._buffer[:wanted]
            while filled < wanted:
                count = os.preadv(fd, [target[filled:]], offset + filled)
                if not count:
                    raise _changed(shown)
                filled += count
        except OSError as error:
            error.filename = shown
            raise
        return target if wanted == self._chunk_bytes else bytes(target)


class _Packer:
    """Gathers entries and chunks until a frame is full, and counts them.

    A chunk as large as `full_bytes` makes its frame full at once, so its data may be a view into
    a buffer that is then filled anew.
    """

    def __init__(self, full_bytes: int) -> None:
        self._full_bytes = full_bytes
        self._entries: list[Entry] = []
        self._chunks: list[Chunk] = []
        self._held = 0
        self._sent_entries = self._sent_chunks = self._sent_bytes = self._skipped = 0

    @property
    def last_entry(self) -> int:
        """The number of the entry that was put last."""
        return self._sent_entries - 1

    def put_entry(self, entry: Entry) -> Iterator[bytes]:
        self._sent_entries += 1
        self._skipped += entry.kind is Kind.SKIPPED
        names = entry.path + entry.link_target
        cost = _ENTRY_OVERHEAD + len(names) * (1 if names.isascii() else 4)
        if self._held + cost > MAX_FRAME_BYTES:
            yield self._flush()
        self._entries.append(entry)
        self._held += cost
        if self._held >= self._full_bytes:
            yield self._flush()

    def put_chunk(self, chunk: Chunk) -> Iterator[bytes]:
        self._sent_chunks += 1
        self._sent_bytes += len(chunk.data)
        cost = _CHUNK_OVERHEAD + len(chunk.data)
        if self._held + cost > MAX_FRAME_BYTES:
            yield self._flush()
        self._chunks.append(chunk)
        self._held += cost
        if self._held >= self._full_bytes:
            yield self._flush()

    def finish(self) -> bytes:
        """Return the last frame, with what is held and the summary."""
        return self._flush(
            Summary(self._sent_entries, self._sent_chunks, self._sent_bytes, self._skipped),
        )

    def _flush(self, summary: Summary | None = None) -> bytes:
        message = encode_frame(Frame(entries=self._entries, chunks=self._chunks, summary=summary))
        self._entries, self._chunks, self._held = [], [], 0
        return message


def _by_file(ranges: Sequence[ByteRange]) -> dict[str, list[ByteRange]]:
    """Return the ranges of each file, which ascend and are disjoint."""
    if len(ranges) > MAX_RANGES:
        raise ProtocolViolation(
            f"{len(ranges)} ranges were asked for in one request; {MAX_RANGES} are allowed, so send several"
        )
    by_file: dict[str, list[ByteRange]] = {}
    for item in ranges:
        if item.path.startswith("/"):
            raise ProtocolViolation(f"the range of {item.path!r} must be relative to the path of the request")
        of_file = by_file.setdefault(item.path, [])
        if of_file:
            before = of_file[-1]
            if before.length is None or item.offset < before.offset + before.length:
                raise ProtocolViolation(
                    f"the ranges of {item.path!r} must ascend and be disjoint, and only the last one may "
                    "lack a length"
                )
        of_file.append(item)
    return by_file


def _span(wanted: ByteRange, entry: Entry, shown: str) -> tuple[int, int]:
    if wanted.version and wanted.version != entry.version:
        raise _changed(shown)
    end = entry.size if wanted.length is None else wanted.offset + wanted.length
    if wanted.offset > entry.size or end > entry.size:
        raise ProtocolViolation(
            f"bytes {wanted.offset} to {end} of {shown!r} were asked for; it has {entry.size}"
        )
    return wanted.offset, end


def _check_unchanged(fd: int, entry: Entry, shown: str) -> None:
    if version_of(os.fstat(fd)) != entry.version:
        raise _changed(shown)


def _changed(shown: str) -> SourceChanged:
    return SourceChanged(f"{shown!r} changed while it was read; get it again when it rests")


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory and name else directory or name
