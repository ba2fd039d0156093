"""What of large files was verified and written, so that another attempt need not ask for it again.

A staging holds one journal: lines of JSON, each followed by its own checksum. The first names what is
copied and in which format; then come files, and the runs of bytes that were written of them. It says
where to look and never what is there: whoever reads it hashes the bytes again.

Invariant: a line is written only after the bytes it speaks of. A journal that was cut short or damaged
is good up to the first line that is not; one of another format or another copy is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import xxhash

from lit_storage_core.system.names import raw
from lit_storage_core.system.write_whole import write_whole
from lit_storage_proto.entry import Entry
from lit_storage_proto.frames import Chunk
from lit_storage_proto.limits import MAX_MESSAGE_BYTES, MIB

JOURNAL = "journal"
HELD = "held"

FORMAT = 1
SMALLEST_BYTES = 8 * MIB  # what is smaller is sooner sent than remembered
_RUN_BYTES, _FILE_BYTES = 20, 32  # what a run, and a file, takes at most beside its names
MOST_FILES = 10_000  # as many as one request may name

_BUFFERED_LINES = 16
_MOST_BYTES = 256 * MIB  # of a journal that is read: over it, nobody of ours has written it
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Run:
    """A run of bytes of one file."""

    offset: int
    size: int
    digest: bytes
    """XXH3-128 of the bytes; empty for a hole."""


@dataclass(slots=True)
class Noted:
    """A file of a journal."""

    number: int
    path: str
    """In the tree."""
    size: int
    version: bytes
    runs: list[Run] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        """The runs, ascending, and joined where they touch."""
        spans: list[Span] = []
        for run in sorted(self.runs, key=lambda run: run.offset):
            start, end = run.offset, run.offset + run.size
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return spans


class Journal:
    """The journal of one staging, while it is filled.

    Args:
        staging_fd: the staging.
        copied: what is copied, and how: whatever another attempt must agree in.
        held: what an earlier attempt left, by path; its bytes lie in ``held/<number>``.
    """

    def __init__(
        self, staging_fd: int, copied: Mapping[str, Any], held: Mapping[str, Noted] | None = None
    ) -> None:
        self._staging_fd = staging_fd
        self._copied = copied
        self._held = dict(held or {})
        self._held_fd = -1
        self._numbers = max((noted.number for noted in self._held.values()), default=-1) + 1
        self._lines: list[bytes] = []
        self._fd = -1

    @property
    def held(self) -> list[Noted]:
        """What was not taken up yet."""
        return list(self._held.values())

    def take_held(self, entry: Entry) -> tuple[int, str, list[Span]] | None:
        """Return directory, name and spans of a file that holds verified bytes of this very version."""
        noted = self._held.get(entry.path)
        if noted is None or (noted.version, noted.size) != (entry.version, entry.size):
            return None
        if self._held_fd < 0:
            self._held_fd = os.open(
                HELD, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._staging_fd
            )
        return self._held_fd, str(noted.number), noted.spans

    def begin(self, entry: Entry, held: list[Span]) -> int | None:
        """Note a file whose parts are to come; return its number, None if it is not worth it."""
        if held:
            return self._held.pop(entry.path).number
        # Of a file without a version nobody could say later whether it is still the same one.
        if entry.size < SMALLEST_BYTES or not entry.version or self._numbers >= MOST_FILES:
            return None
        number, self._numbers = self._numbers, self._numbers + 1
        self._put(_file_line(Noted(number, entry.path, entry.size, entry.version)))
        return number

    def wrote(self, number: int, chunk: Chunk) -> None:
        """Note that a part of a file was verified and written."""
        if chunk.data or chunk.hole:
            self._put(_run_line(number, Run(chunk.offset, chunk.size, chunk.digest if chunk.data else b"")))

    def close(self) -> None:
        """Write what is held back, and close it. A second call does nothing."""
        try:
            if self._lines:
                self._flush()
        finally:
            for fd in (self._fd, self._held_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._held_fd = -1

    def _put(self, line: str) -> None:
        self._lines.append(_sealed(line))
        if len(self._lines) >= _BUFFERED_LINES:
            self._flush()

    def _flush(self) -> None:
        if self._fd < 0:
            try:
                self._fd = os.open(
                    JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._staging_fd
                )
            except FileNotFoundError:
                self._fd = os.open(JOURNAL, _NEW_FILE | os.O_APPEND, 0o600, dir_fd=self._staging_fd)
                self._lines.insert(0, _header(self._copied))
        write_whole(self._fd, b"".join(self._lines))
        self._lines.clear()


def write_journal(staging_fd: int, copied: Mapping[str, Any], held: Mapping[str, Noted]) -> None:
    """Put a journal of what is held in the place of the one there is."""
    lines = [_header(copied)]
    for noted in held.values():
        lines.append(_sealed(_file_line(noted)))
        lines += [_sealed(_run_line(noted.number, run)) for run in noted.runs]
    name = f"{JOURNAL}.new"
    fd = os.open(
        name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=staging_fd
    )
    with os.fdopen(fd, "wb") as file:
        file.write(b"".join(lines))
    os.rename(name, JOURNAL, src_dir_fd=staging_fd, dst_dir_fd=staging_fd)


def read_journal(staging_fd: int, copied: Mapping[str, Any] | None) -> list[Noted]:
    """Return the files of a journal that have a run, largest first.

    Args:
        staging_fd: the staging.
        copied: what the journal must be of; None for whatever it is of.

    Returns:
        Nothing where there is no journal, or one of another format or copy.
    """
    lines = _lines(staging_fd)
    header = next(lines, None)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        return []
    if copied is not None and header.get("copied") != dict(copied):
        return []
    noted: dict[int, Noted] = {}
    for line in lines:
        match line:
            case ["file", int(number), str(path), int(size), str(version)]:
                noted[number] = Noted(number, path, size, bytes.fromhex(version))
            case ["run", int(number), int(offset), int(size), str(digest)] if number in noted:
                if 0 <= offset < offset + size <= noted[number].size:
                    noted[number].runs.append(Run(offset, size, bytes.fromhex(digest)))
    found = sorted((each for each in noted.values() if each.runs), key=lambda each: -each.size)
    return list(_within_a_request(found[:MOST_FILES]))


def _within_a_request(files: list[Noted]) -> Iterator[Noted]:
    """Yield as many of the files as one request can name, beside what else is in it."""
    room = MAX_MESSAGE_BYTES // 2
    for noted in files:
        room -= len(raw(noted.path)) + len(noted.version) + _RUN_BYTES * len(noted.runs) + _FILE_BYTES
        if room < 0:
            return
        yield noted


def _lines(staging_fd: int) -> Iterator[Any]:
    """Yield the lines of a journal up to the first that is damaged."""
    try:
        fd = os.open(JOURNAL, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=staging_fd)
    except OSError:
        return
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_size > _MOST_BYTES:
            return
        for line in file:
            text, _, seal = line.rstrip(b"\n").rpartition(b" ")
            if not line.endswith(b"\n") or xxhash.xxh3_64_hexdigest(text).encode() != seal:
                return
            try:
                yield json.loads(text)
            except ValueError:
                return


def _header(copied: Mapping[str, Any]) -> bytes:
    return _sealed(json.dumps({"format": FORMAT, "copied": dict(copied)}))


def _file_line(noted: Noted) -> str:
    return json.dumps(["file", noted.number, noted.path, noted.size, noted.version.hex()])


def _run_line(number: int, run: Run) -> str:
    return f'["run", {number}, {run.offset}, {run.size}, "{run.digest.hex()}"]'


def _sealed(text: str) -> bytes:
    line = text.encode("ascii")
    return line + b" " + xxhash.xxh3_64_hexdigest(line).encode() + b"\n"
