"""Walks a tree through descriptors of its directories, and says what each name in it is.

Invariant: no name is looked up but in the directory that was scanned, and no link is followed, so
that the walk stays below the directory it began at. It neither recurses nor holds more than
`HELD_DIRECTORIES` descriptors, however deep the tree is.

A directory comes before what it holds; its files come before its subdirectories. What vanishes
while the walk goes on is left out.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

from lit_storage_client.beneath import open_beneath
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import AccessDenied, InvalidURI, SourceChanged
from lit_storage_proto.limits import MAX_PATH_BYTES
from lit_storage_proto.uri import is_reserved
from lit_storage_server.shares import Opened

# Times the streams of one server this stays well below the customary limit of 1024 descriptors.
HELD_DIRECTORIES = 32

_NAME_MAX = 255
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_VERSION = struct.Struct("<QqQQ")


class Found(NamedTuple):
    """What a name in the tree is, and where it was found while the walk stands at it."""

    path: str
    """Relative to where the walk began."""
    entry: Entry | None
    """None of a regular file that was left for others to describe."""
    directory: int
    """Descriptor of the directory that holds it; of the path itself where `name` is empty."""
    name: str


def version_of(status: os.stat_result) -> bytes:
    """Return what changes whenever the content of a file may have changed."""
    return _VERSION.pack(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def entry_of(path: str, status: os.stat_result, link_target: str | None = None) -> Entry:
    """Return the entry of what has `status`; a link without `link_target` is one to skip."""
    kind, size = Kind.SKIPPED, 0
    if stat.S_ISREG(status.st_mode):
        kind, size = Kind.FILE, status.st_size
    elif stat.S_ISDIR(status.st_mode):
        kind = Kind.DIRECTORY
    elif link_target is not None:
        kind = Kind.SYMLINK
    mode = status.st_mode & 0o777
    return Entry(path, kind, size, mode, status.st_mtime_ns, link_target or "", version_of(status))


def walk(opened: Opened, *, recursive: bool = True, describe_files: bool = True) -> Iterator[Found]:
    """Yield what was opened, and if it is a directory what lies below it.

    Args:
        opened: where to begin; it stays open.
        recursive: False yields direct children only.
        describe_files: False leaves regular files to whoever opens them, to be described from what
            was opened: to do it here as well would be a sixth of the work on a tree of small files.

    Raises:
        AccessDenied: a directory cannot be read.
        SourceChanged: a directory was replaced while the walk was in it.
        InvalidURI: a path is too long to be sent.
        OSError: the file system failed.
    """
    entry = entry_of("", opened.status)
    is_left = entry.kind is Kind.FILE and not describe_files
    yield Found("", None if is_left else entry, opened.fd, "")
    if opened.is_directory:
        tree = _Tree(opened, recursive, describe_files)
        try:
            yield from tree.run()
        finally:
            tree.close()


class _Level:
    """A directory on the way from the root of the walk to where it stands."""

    __slots__ = ("fd", "identity", "path", "pending")

    def __init__(self, fd: int, path: str, status: os.stat_result) -> None:
        self.fd = fd
        self.path = path
        self.identity = (status.st_dev, status.st_ino)
        self.pending: list[str] = []
        """Names of subdirectories that are still to be walked."""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _Tree:
    def __init__(self, opened: Opened, recursive: bool, describe_files: bool) -> None:
        self._opened = opened
        self._recursive = recursive
        self._describe_files = describe_files
        self._levels: list[_Level] = []

    def close(self) -> None:
        for level in self._levels:
            level.close()

    def run(self) -> Iterator[Found]:
        first = self._open(self._opened.fd, ".", "")
        if first is None:
            return
        self._levels.append(first[0])
        yield from self._scan(first[0])
        while self._levels:
            level = self._levels[-1]
            if not level.pending:
                self._levels.pop().close()
                continue
            name = level.pending.pop()
            path = _join(level.path, name)
            child = self._open(self._held(level), name, path)
            if child is None:
                continue
            below, status = child
            self._enter(level, below)
            yield Found(path, entry_of(path, status), below.fd, "")
            yield from self._scan(below)

    def _enter(self, level: _Level, below: _Level) -> None:
        """Make `below` the innermost level, and let go of what is not needed, or not soon."""
        if not level.pending:
            self._levels.pop().close()
        self._levels.append(below)
        if len(self._levels) > HELD_DIRECTORIES:
            self._levels[-HELD_DIRECTORIES - 1].close()

    def _open(self, directory: int, name: str, path: str) -> tuple[_Level, os.stat_result] | None:
        if len(path) * 4 > MAX_PATH_BYTES and len(os.fsencode(path)) + _NAME_MAX >= MAX_PATH_BYTES:
            raise InvalidURI(
                f"the directory {path[:100]!r}… is too deep: paths of {MAX_PATH_BYTES} bytes can be sent"
            )
        try:
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
        except FileNotFoundError:
            return None
        except PermissionError:
            shown = _join(self._opened.path, path)
            raise AccessDenied(f"the directory {shown!r} cannot be read; check its mode and owner") from None
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise self._changed(path) from None
            raise
        status = os.fstat(fd)
        return _Level(fd, path, status), status

    def _held(self, level: _Level) -> int:
        """Return the descriptor of a level, opened anew if it was let go."""
        if level.fd < 0:
            reached = open_beneath(self._opened.fd, level.path, follow_last=False)
            try:
                again = self._open(reached, ".", level.path)
            finally:
                os.close(reached)
            if again is None or again[0].identity != level.identity:
                if again is not None:
                    again[0].close()
                raise self._changed(level.path)
            level.fd = again[0].fd
        return level.fd

    def _scan(self, level: _Level) -> Iterator[Found]:
        """Yield what a directory holds but its subdirectories, which become pending."""
        at_storage_root = self._opened.is_storage_root and not level.path
        with os.scandir(level.fd) as names:
            for item in names:
                if at_storage_root and is_reserved(item.name):
                    continue
                if self._recursive and item.is_dir(follow_symlinks=False):
                    level.pending.append(item.name)
                    continue
                if not self._describe_files and item.is_file(follow_symlinks=False):
                    yield Found(_join(level.path, item.name), None, level.fd, item.name)
                    continue
                found = self._describe(level, item)
                if found is not None:
                    yield found

    def _describe(self, level: _Level, item: os.DirEntry[str]) -> Found | None:
        path = _join(level.path, item.name)
        target = None
        try:
            status = item.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                text = os.readlink(item.name, dir_fd=level.fd)
                target = text if self._stays(level.path, text) else None
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:  # a link when it was looked at, and now none
                raise self._changed(path) from None
            raise
        is_left = stat.S_ISREG(status.st_mode) and not self._describe_files  # it was none when it was scanned
        return Found(path, None if is_left else entry_of(path, status, target), level.fd, item.name)

    def _stays(self, directory: str, target: str) -> bool:
        """Say whether a link in `directory` means, to the letter, something in what is copied."""
        if target.startswith("/"):
            return False
        reached = directory.split("/") if directory else []
        for part in target.split("/"):
            if part == "..":
                if not reached:
                    return False
                reached.pop()
            elif part not in ("", "."):
                reached.append(part)
        return not (self._opened.is_storage_root and reached and is_reserved(reached[0]))

    def _changed(self, path: str) -> SourceChanged:
        shown = _join(self._opened.path, path)
        return SourceChanged(f"{shown!r} was replaced while it was listed; try again when it rests")


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory and name else directory or name
