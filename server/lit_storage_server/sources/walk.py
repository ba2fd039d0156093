"""Walks a tree through descriptors of its directories, and says what each name in it is.

Invariant: no name is looked up but in the directory that was scanned, and no link is followed, so
that the walk stays below the directory it began at. It neither recurses nor holds more than
`HELD_DIRECTORIES` descriptors, however deep the tree is.

A directory comes before what it holds; its files come before its subdirectories. What vanishes
while the walk goes on is left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from lit_storage_core.system.beneath import open_beneath
from lit_storage_core.system.version_token import version_of
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import AccessDenied, InvalidURI, PathNotFound, SourceChanged
from lit_storage_proto.limits import MAX_LINKED_DIRECTORIES, MAX_PATH_BYTES
from lit_storage_proto.uri import is_reserved
from lit_storage_server.sources.shares import Opened, join, real_path

# Times the streams of one server this stays well below the customary limit of 1024 descriptors.
HELD_DIRECTORIES = 32

Identity: TypeAlias = tuple[int, int]
Follow: TypeAlias = Callable[[str], int]

_NAME_MAX = 255
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """What a name in the tree is."""

    path: str
    """Relative to where the walk began."""
    entry: Entry


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
    linked = kind is Kind.FILE and status.st_nlink > 1
    return Entry(path, kind, size, mode, status.st_mtime_ns, link_target or "", version_of(status), linked)


def walk(opened: Opened, *, recursive: bool = True) -> Iterator[Found]:
    """Yield what was opened, and if it is a directory what lies below it.

    Args:
        opened: where to begin; it stays open.
        recursive: False yields direct children only.

    Raises:
        AccessDenied: a directory cannot be read.
        SourceChanged: a directory was replaced while the walk was in it.
        InvalidURI: a path is too long to be sent.
        OSError: the file system failed.
    """
    yield Found("", entry_of("", opened.status))
    if opened.is_directory:
        yield from _Listing(opened, recursive).run()


class Level:
    """A directory of the walk."""

    __slots__ = ("above", "fd", "identity", "is_linked", "path", "pending", "status")

    def __init__(self, fd: int, path: str, status: os.stat_result) -> None:
        self.fd = fd
        self.path = path
        """Relative to where the walk began."""
        self.status = status
        self.identity = (status.st_dev, status.st_ino)
        self.pending: list[str] = []
        """Names of subdirectories that are still to be walked; for whoever looks into the directory."""
        self.above: frozenset[Identity] = frozenset()
        """The directories on the way to it; only kept where links are followed."""
        self.is_linked = False
        """Whether a link is on the way to it."""

    def close(self) -> None:
        """Let go of the descriptor. A second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Walk:
    """The directories of a tree, one after the other.

    Args:
        opened: where to begin; it stays open.
        follow: opens what a link in the tree means, by its path from where the walk began, or raises
            PathNotFound or AccessDenied where that is nothing by now; None takes no link for a directory.
        strict: whether a directory that was replaced meanwhile ends the walk; else it is passed over.
    """

    def __init__(self, opened: Opened, *, follow: Follow | None = None, strict: bool = True) -> None:
        self._opened = opened
        self._strict = strict
        self._follow = follow
        self._levels: list[Level] = []
        self._linked = 0

    def directories(self) -> Iterator[Level]:
        """Yield each directory, open, a directory before those in it.

        Whoever takes one puts the names of its subdirectories into `Level.pending` before asking
        for the next one.

        Raises:
            AccessDenied: a directory cannot be read, or links lead to too many of them.
            SourceChanged: a directory was replaced while the walk was in it.
            InvalidURI: a path is too long to be sent.
            OSError: the file system failed.
        """
        try:
            level = self._open(self._opened.fd, ".", "")
            if level is None:
                return
            self._levels.append(level)
            yield level
            while self._levels:
                level = self._levels[-1]
                if not level.pending:
                    self._levels.pop().close()
                    continue
                below = self._below(level, level.pending.pop())
                if below is not None:
                    self._enter(level, below)
                    yield below
        finally:
            for level in self._levels:
                level.close()

    def _below(self, level: Level, name: str) -> Level | None:
        path = join(level.path, name)
        try:
            below = self._open_name(level, name, path)
        except SourceChanged:
            if self._strict:
                raise
            return None
        if below is not None and self._follow is not None:
            below.is_linked |= level.is_linked
            below.above = level.above | {level.identity}
        return below

    def _open_name(self, level: Level, name: str, path: str) -> Level | None:
        directory = self._held(level)
        if self._follow is not None and is_link(directory, name):
            return self._open_link(path)
        return self._open(directory, name, path)

    def _open_link(self, path: str) -> Level | None:
        assert self._follow is not None
        self._linked += 1
        if self._linked > MAX_LINKED_DIRECTORIES:
            raise AccessDenied(
                f"symbolic links in {self._opened.path!r} lead to over {MAX_LINKED_DIRECTORIES} directories; "
                "get it without following them"
            )
        try:
            reached = self._follow(path)
        except (PathNotFound, AccessDenied):
            raise changed(join(self._opened.path, path)) from None
        try:
            below = self._open(reached, ".", path)
        finally:
            os.close(reached)
        if below is not None:
            below.is_linked = True
        return below

    def _enter(self, level: Level, below: Level) -> None:
        """Make `below` the innermost level, and let go of what is not needed, or not soon."""
        if not level.pending:
            self._levels.pop().close()
        self._levels.append(below)
        if len(self._levels) > HELD_DIRECTORIES:
            self._levels[-HELD_DIRECTORIES - 1].close()

    def _open(self, directory: int, name: str, path: str) -> Level | None:
        if len(path) * 4 > MAX_PATH_BYTES and len(os.fsencode(path)) + _NAME_MAX >= MAX_PATH_BYTES:
            raise InvalidURI(
                f"the directory {path[:100]!r}… is too deep: paths of {MAX_PATH_BYTES} bytes can be sent"
            )
        try:
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
        except FileNotFoundError:
            return None
        except PermissionError:
            shown = join(self._opened.path, path)
            raise AccessDenied(f"the directory {shown!r} cannot be read; check its mode and owner") from None
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise changed(join(self._opened.path, path)) from None
            raise
        return Level(fd, path, os.fstat(fd))

    def _held(self, level: Level) -> int:
        """Return the descriptor of a level, opened anew if it was let go."""
        if level.fd < 0:
            try:
                reached = self._reach(level)
            except (FileNotFoundError, NotADirectoryError):
                raise changed(join(self._opened.path, level.path)) from None
            try:
                again = self._open(reached, ".", level.path)
            finally:
                os.close(reached)
            if again is None or again.identity != level.identity:
                if again is not None:
                    again.close()
                raise changed(join(self._opened.path, level.path))
            level.fd = again.fd
        return level.fd

    def _reach(self, level: Level) -> int:
        if level.is_linked and self._follow is not None:
            return self._follow(level.path)
        return open_beneath(self._opened.fd, level.path, follow_last=False)


class _Listing:
    def __init__(self, opened: Opened, recursive: bool) -> None:
        self._opened = opened
        self._recursive = recursive

    def run(self) -> Iterator[Found]:
        for level in Walk(self._opened).directories():
            if level.path:
                yield Found(level.path, entry_of(level.path, level.status))
            yield from self._scan(level)

    def _scan(self, level: Level) -> Iterator[Found]:
        """Yield what a directory holds but its subdirectories, which become pending."""
        at_storage_root = self._opened.is_storage_root and not level.path
        with scan(self._opened, level) as names:
            for item in names:
                if at_storage_root and is_reserved(item.name):
                    continue
                if self._recursive and item.is_dir(follow_symlinks=False):
                    level.pending.append(item.name)
                    continue
                entry = describe(self._opened, level, item)
                if entry is not None:
                    yield Found(entry.path, entry)


@contextlib.contextmanager
def scan(opened: Opened, level: Level) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Yield what a directory of the walk holds.

    Raises:
        OSError: the file system failed; its file name is that of the directory, or in it.
    """
    try:
        with os.scandir(level.fd) as items:
            yield items
    except OSError as error:
        if isinstance(error.filename, str):
            raise
        # Of a descriptor the system tells the number, and while it is read nothing.
        raise OSError(error.errno, error.strerror, join(opened.path, level.path)) from None


def is_link(directory: int, name: str) -> bool:
    """Say whether a name in a directory is a symbolic link; what is not there is none."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def describe(opened: Opened, level: Level, item: os.DirEntry[str]) -> Entry | None:
    """Return the entry of what a directory holds, None if it vanished.

    Raises:
        SourceChanged: it became another kind meanwhile.
    """
    path = join(level.path, item.name)
    target = None
    try:
        status = os.stat(item.name, dir_fd=level.fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            text = os.readlink(item.name, dir_fd=level.fd)
            target = _kept_target(opened, level.path, text)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # a link when it was looked at, and now none
            raise changed(join(opened.path, path)) from None
        raise
    return entry_of(path, status, target)


def _kept_target(opened: Opened, directory: str, text: str) -> str | None:
    """Return the text of a link in a copy of the tree; None where the link leaves the tree.

    An absolute link into the tree becomes a relative one: the copy lies elsewhere, and its reader need not
    know where the origin keeps the tree.
    """
    if not text.startswith("/"):
        return text if _stays(opened, directory, text) else None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    for root in (opened.absolute, real_path(opened.fd)):
        above = [part for part in root.split("/") if part]
        if parts[: len(above)] == above:
            relative = _relative(parts[len(above) :], directory)
            return relative if _stays(opened, directory, relative) else None
    return None


def _relative(parts: list[str], directory: str) -> str:
    """Return how a link in a directory of the tree writes a path below the tree's root.

    Names are left out that both have in common: they are directories of the walk, and no links.
    """
    here = directory.split("/") if directory else []
    common = 0
    while common < min(len(here), len(parts)) and here[common] == parts[common]:
        common += 1
    return "/".join([".."] * (len(here) - common) + parts[common:]) or "."


def _stays(opened: Opened, directory: str, target: str) -> bool:
    """Say whether a relative link in `directory` means, to the letter, something in what is copied."""
    reached = directory.split("/") if directory else []
    for part in target.split("/"):
        if part == "..":
            if not reached:
                return False
            reached.pop()
        elif part not in ("", "."):
            reached.append(part)
    return not (opened.is_storage_root and reached and is_reserved(reached[0]))


def changed(shown: str) -> SourceChanged:
    """Return the error of what is another thing than it was a moment ago."""
    return SourceChanged(f"{shown!r} was replaced while it was listed; try again when it rests")
