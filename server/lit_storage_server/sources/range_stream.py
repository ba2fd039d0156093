"""Turns ranges of files into the frames of one StreamFiles call.

Invariant: the chunks of a file are sent under the version that its entry carries. The status is
taken from the descriptor that is read, before the first byte and again after the last one; where
the two differ the call ends with SourceChanged and without its summary, so that nobody takes the
copy for whole.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from lit_storage_core.system.version_token import version_of
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation, SourceChanged
from lit_storage_proto.frames import Frame
from lit_storage_server.sources.assembly import Assembly
from lit_storage_server.sources.reader import Reader, ShortFileError
from lit_storage_server.sources.shares import Shares, join
from lit_storage_server.sources.walk import entry_of


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


class RangeStream:
    """The frames of ranges of files below one path.

    Args:
        shares: what may be read.
        path: below which the files lie, or of the only one.
        ranges: what of them is sent.
        chunk_bytes: largest run of bytes of one file in one frame.
    """

    def __init__(self, shares: Shares, path: str, ranges: Sequence[ByteRange], chunk_bytes: int) -> None:
        self._shares = shares
        self._path = path
        self._ranges = ranges
        self._assembly = Assembly(chunk_bytes)
        self._reader = Reader(self._assembly.capacity, holes=False)

    def frames(self) -> Generator[Frame, None, None]:
        """Yield the frames, with one entry a file; the data of one stay until the next is asked for.

        Raises:
            ProtocolViolation: there are too many ranges, they do not ascend, or one lies outside its
                file or names no regular file.
            SourceChanged: a file has, or gets, another version than the one asked for.
            StorageError: as of `Shares.open` and `Shares.open_regular`.
            OSError: the file system failed; its file name is the path.
        """
        for name, wanted in by_file(self._ranges).items():
            yield from self._file(name, join(self._path, name), wanted)
        yield from self._assembly.finish()

    def _file(self, name: str, shown: str, wanted: Sequence[ByteRange]) -> Iterator[Frame]:
        with self._shares.open(shown) as opened:
            if entry_of(name, opened.status).kind is not Kind.FILE:
                raise ProtocolViolation(f"a range of {shown!r} was asked for, which is no regular file")
            read = self._shares.open_regular(opened.fd, "", shown)
        if read is None:
            raise _changed(shown)
        fd, status = read
        try:
            entry = entry_of(name, status)
            spans = [span_of(item, entry, shown) for item in wanted]
            yield from self._assembly.put_entry(entry)
            for chunk in self._reader.chunks(fd, self._assembly.last_entry, status, spans):
                yield from self._assembly.put_chunk(chunk)
            if version_of(os.fstat(fd)) != entry.version:
                raise _changed(shown)
        except ShortFileError:
            raise _changed(shown) from None
        except OSError as error:
            error.filename = error.filename or shown
            raise
        finally:
            os.close(fd)


def by_file(ranges: Sequence[ByteRange]) -> dict[str, list[ByteRange]]:
    """Return the ranges of each file, which ascend and are disjoint.

    Raises:
        ProtocolViolation: they do not.
    """
    files: dict[str, list[ByteRange]] = {}
    for item in ranges:
        if item.path.startswith("/"):
            raise ProtocolViolation(f"the range of {item.path!r} must be relative to the path of the request")
        of_file = files.setdefault(item.path, [])
        if of_file:
            before = of_file[-1]
            if before.length is None or item.offset < before.offset + before.length:
                raise ProtocolViolation(
                    f"the ranges of {item.path!r} must ascend and be disjoint, and only the last one may "
                    "lack a length"
                )
        of_file.append(item)
    return files


def span_of(wanted: ByteRange, entry: Entry, shown: str) -> tuple[int, int]:
    """Return from which byte up to which one a range of a file is.

    Raises:
        SourceChanged: the file has another version than the one asked for.
        ProtocolViolation: the range is not within the file.
    """
    if wanted.version and wanted.version != entry.version:
        raise _changed(shown)
    end = entry.size if wanted.length is None else wanted.offset + wanted.length
    if wanted.offset > entry.size or end > entry.size:
        raise ProtocolViolation(
            f"bytes {wanted.offset} to {end} of {shown!r} were asked for; it has {entry.size}"
        )
    return wanted.offset, end


def _changed(shown: str) -> SourceChanged:
    return SourceChanged(f"{shown!r} changed while it was read; get it again when it rests")
