"""Writes a staged tree through directory descriptors.

Invariant: each path was allowed by `plan`; each name is made anew in a directory that was made
here, and never opened through a link (O_EXCL and O_NOFOLLOW throughout). A file has its mode and
time when its last byte is written, a directory when all below it is done, so that read-only
directories can be filled; until then a directory can be used by its owner, whoever that is.

Few descriptors are open at a time, however deep or wide the tree: the last used ones.
"""

from __future__ import annotations

import os
from collections import OrderedDict

from lit_storage_proto.entry import Entry

_OPEN_DIRECTORIES = 48
_OPEN_FILES = 16
_OWNER = 0o700  # what filling a directory needs

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class TreeWriter:
    """The tree called `name` in the directory `parent_fd`; `label` stands for it in errors.

    Every method raises the OSError of the system, with the path below `label` as its file name.
    """

    def __init__(self, parent_fd: int, name: str, label: str) -> None:
        self._parent_fd = parent_fd
        self._name = name
        self._label = label
        self._directories: list[Entry] = []
        self._directory_fds: OrderedDict[str, int] = OrderedDict()
        self._file_fds: OrderedDict[str, int] = OrderedDict()

    def close(self) -> None:
        """Close what is open. A second call does nothing."""
        for descriptors in (self._file_fds, self._directory_fds):
            while descriptors:
                os.close(descriptors.popitem()[1])

    def make_directory(self, entry: Entry) -> None:
        """Make a directory, for now with all permissions for its owner."""
        try:
            parent_fd, name = self._place(entry.path)
            os.mkdir(name, _OWNER, dir_fd=parent_fd)
        except OSError as error:
            raise self._named(error, entry.path) from None
        self._directories.append(entry)

    def write_whole(self, entry: Entry, data: bytes | memoryview) -> None:
        """Make a file of which `data` is all."""
        try:
            parent_fd, name = self._place(entry.path)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent_fd)
            try:
                if data:
                    _write(fd, data, 0)
                _finish(fd, entry)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._named(error, entry.path) from None

    def write(self, entry: Entry, offset: int, data: bytes | memoryview, *, last: bool) -> None:
        """Write a part of a file; the part at 0 makes it, and the last one finishes it."""
        try:
            fd = self._file(entry.path, new=offset == 0)
            _write(fd, data, offset)
            if last:
                _finish(fd, entry)
                os.close(self._file_fds.pop(entry.path))
        except OSError as error:
            raise self._named(error, entry.path) from None

    def make_link(self, entry: Entry) -> None:
        """Make a symbolic link, to the letter."""
        try:
            parent_fd, name = self._place(entry.path)
            os.symlink(entry.link_target, name, dir_fd=parent_fd)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)
        except OSError as error:
            raise self._named(error, entry.path) from None

    def finish_directories(self) -> None:
        """Give directories their modes and times, the root last and always usable by its owner.

        The owner's permissions stay on the root: to rename a directory into another one takes
        write permission on itself, so its own mode is for the one who renames it to set.
        """
        for entry in reversed(self._directories):  # a directory came before what it holds
            try:
                fd = self._directory(entry.path)
                mode = entry.mode if entry.path else entry.mode | _OWNER
                if mode != _OWNER:
                    os.fchmod(fd, mode)
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
                os.close(self._directory_fds.pop(entry.path))
            except OSError as error:
                raise self._named(error, entry.path) from None

    def _place(self, path: str) -> tuple[int, str]:
        """Return the directory of `path`, open, and its name there."""
        if not path:
            return self._parent_fd, self._name
        parent, _, name = path.rpartition("/")
        return self._directory(parent), name

    def _directory(self, path: str) -> int:
        fd = self._directory_fds.get(path)
        if fd is not None:
            self._directory_fds.move_to_end(path)
            return fd
        missing = []  # from the deepest up to the first that is open; no recursion, trees are deep
        while path not in self._directory_fds:
            missing.append(path)
            if not path:
                break
            path = path.rpartition("/")[0]
        for path in reversed(missing):
            if path:
                parent, _, name = path.rpartition("/")
                fd = os.open(name, _DIRECTORY, dir_fd=self._directory_fds[parent])
            else:
                fd = os.open(self._name, _DIRECTORY, dir_fd=self._parent_fd)
            _keep(self._directory_fds, path, fd, _OPEN_DIRECTORIES)
        return self._directory_fds[missing[0]]

    def _file(self, path: str, *, new: bool) -> int:
        fd = self._file_fds.get(path)
        if fd is None:
            parent_fd, name = self._place(path)
            fd = os.open(name, _NEW_FILE if new else _OLD_FILE, 0o600, dir_fd=parent_fd)
            _keep(self._file_fds, path, fd, _OPEN_FILES)
        return fd

    def _named(self, error: OSError, path: str) -> OSError:
        return OSError(error.errno, error.strerror, f"{self._label}/{path}" if path else self._label)


def _keep(descriptors: OrderedDict[str, int], path: str, fd: int, most: int) -> None:
    descriptors[path] = fd
    if len(descriptors) > most:
        os.close(descriptors.popitem(last=False)[1])


def _write(fd: int, data: bytes | memoryview, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    while written < len(data):  # a signal or a full disk can cut a write short
        written += os.pwrite(fd, memoryview(data)[written:], offset + written)


def _finish(fd: int, entry: Entry) -> None:
    os.fchmod(fd, entry.mode)
    os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
