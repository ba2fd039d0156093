"""Writes a staged tree through directory descriptors.

Invariant: each path was allowed by `plan`; each name is made anew in a directory that was made
here, and never opened through a link (O_EXCL and O_NOFOLLOW throughout). A file has its mode and
time when its last byte is written, a directory when all below it is done, so that read-only
directories can be filled; until then a directory can be used by its owner, whoever that is.

Few descriptors are open at a time, however deep or wide the tree: the last used ones.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from lit_storage_core.system.beneath import open_beneath
from lit_storage_core.system.copy_span import Copied, copy_span
from lit_storage_core.system.names import shown
from lit_storage_core.system.spans import Span
from lit_storage_proto.entry import Entry
from lit_storage_proto.errors import ProtocolViolation, StorageError
from lit_storage_proto.frames import Pack

_OPEN_DIRECTORIES = 48
_OPEN_FILES = 16
_OWNER = 0o700  # what filling a directory needs

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class TreeWriter:
    """The tree called `name` in the directory `parent_fd`; `label` stands for it in errors.

    Every method raises the OSError of the system, with the path below `label` as its file name; for a name
    that is taken, ProtocolViolation.
    """

    def __init__(self, parent_fd: int, name: str, label: str) -> None:
        self._parent_fd = parent_fd
        self._name = name
        self._label = label
        self._directories: dict[str, Entry] = {}  # each before what it holds
        self._directory_fds: OrderedDict[str, int] = OrderedDict()
        self._file_fds: OrderedDict[str, int] = OrderedDict()
        self._unfinished: set[str] = set()  # files that were made for their first part
        self.files = 0
        """Files that are finished."""
        self.bytes = 0
        """Bytes in them."""

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
            raise self._named(error, entry.path, stat.S_IFDIR) from None
        self._directories[entry.path] = entry

    def touch_directory(self, entry: Entry) -> None:
        """Take another mode and time for a directory that was made."""
        self._directories[entry.path] = entry

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
        self.files += 1
        self.bytes += len(data)

    def write_pack(self, directory: str, names: Sequence[bytes], pack: Pack) -> None:
        """Make the files of a pack; their number and sizes were checked."""
        name, position, data = b"", 0, memoryview(pack.data)
        try:
            directory_fd = self._directory(directory)
            for name, size, mode, mtime_ns in zip(names, pack.sizes, pack.modes, pack.mtimes_ns, strict=True):
                fd = os.open(name, _NEW_FILE, 0o600, dir_fd=directory_fd)
                try:
                    if size:
                        end = position + size
                        if os.write(fd, data[position:end]) != size:
                            _write(fd, data[position:end], 0)
                        position = end
                    os.fchmod(fd, mode)
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
                finally:
                    os.close(fd)
        except OSError as error:
            raise self._named(error, _join(directory, os.fsdecode(name))) from None
        self.files += len(names)
        self.bytes += position

    def write(self, entry: Entry, offset: int, data: bytes | memoryview, *, new: bool, last: bool) -> None:
        """Write a part of a file; a `new` one is made, and the `last` part finishes it."""
        try:
            fd = self._file(entry.path, new=new)
            if data:
                _write(fd, data, offset)
            if last:
                self._finish_file(fd, entry)
        except OSError as error:
            raise self._named(error, entry.path) from None

    def copy(
        self, entry: Entry, source_fd: int, span: Span, *, new: bool, last: bool, tick: Callable[[int], None]
    ) -> Copied:
        """Copy a part of a file from a descriptor; else do as `write`.

        Args:
            entry: the file.
            source_fd: the file at its origin.
            span: where the part begins, and where it ends.
            new: whether the file is to be made.
            last: whether it is finished then.
            tick: called now and then with the position, to show that the copy goes on.
        """
        try:
            fd = self._file(entry.path, new=new)
            copied = copy_span(source_fd, fd, span, size=entry.size, tick=tick)
            if last and copied.end == span[1]:
                self._finish_file(fd, entry)
        except StorageError:
            raise  # what `tick` found
        except OSError as error:
            raise self._named(error, entry.path) from None
        return copied

    def take_over(self, entry: Entry, held_fd: int, name: str, *, whole: bool) -> None:
        """Move a file that holds some of the bytes to its place; `whole` says whether it has all.

        Args:
            entry: the file.
            held_fd: the directory in which it lies, in the same mount.
            name: its name there.
            whole: whether it is finished then.
        """
        try:
            parent_fd, place = self._place(entry.path)
            try:
                os.stat(place, dir_fd=parent_fd, follow_symlinks=False)
            except FileNotFoundError:
                os.rename(name, place, src_dir_fd=held_fd, dst_dir_fd=parent_fd)
            else:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._unfinished.add(entry.path)
            if whole:
                self._finish_file(self._file(entry.path, new=False), entry)
        except OSError as error:
            raise self._named(error, entry.path) from None

    def remove(self, path: str, gone: Sequence[str]) -> None:
        """Remove what is there, if anything, with all below it; it is not counted any more.

        It is moved out of the tree into the directory that the tree lies in, whose owner removes it.

        Args:
            path: what is removed.
            gone: the directories and unfinished files that go with it, among other paths.
        """
        for below in [known for known in self._file_fds if _is_within(known, path)]:
            os.close(self._file_fds.pop(below))
        for below in [known for known in self._directory_fds if _is_within(known, path)]:
            os.close(self._directory_fds.pop(below))
        for known in gone:
            self._directories.pop(known, None)
        try:
            parent_fd, name = self._place(path)
            removed = f"removed-{secrets.token_hex(8)}"
            os.rename(name, removed, src_dir_fd=parent_fd, dst_dir_fd=self._parent_fd)
            for below, size in _file_sizes(self._parent_fd, removed):
                if path + below not in self._unfinished:
                    self.files -= 1
                    self.bytes -= size
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._named(error, path) from None
        self._unfinished.difference_update(gone)

    def make_link(self, entry: Entry) -> None:
        """Make a symbolic link, to the letter."""
        try:
            parent_fd, name = self._place(entry.path)
            os.symlink(entry.link_target, name, dir_fd=parent_fd)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)
        except OSError as error:
            raise self._named(error, entry.path, stat.S_IFLNK) from None

    def finish_directories(self) -> None:
        """Give directories their modes and times, the root last and always usable by its owner.

        The owner's permissions stay on the root: to rename a directory into another one takes
        write permission on itself, so its own mode is for the one who renames it to set.
        """
        for entry in reversed(self._directories.values()):
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
            if new:
                self._unfinished.add(path)
        return fd

    def _finish_file(self, fd: int, entry: Entry) -> None:
        if os.fstat(fd).st_size != entry.size:
            os.ftruncate(fd, entry.size)  # it ends in a hole, or in what an origin added since
        _finish(fd, entry)
        os.close(self._file_fds.pop(entry.path))
        self._unfinished.discard(entry.path)
        self.files += 1
        self.bytes += entry.size

    def _named(self, error: OSError, path: str, made: int = stat.S_IFREG) -> OSError:
        name = f"{self._label}/{path}" if path else self._label
        if not isinstance(error, FileExistsError):
            return OSError(error.errno, error.strerror, name)
        if self._is_as_made(path, made):
            # The kernel makes a call again that ended with ESTALE, and this one met what the first had made.
            return OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)
        return ProtocolViolation(  # a caller would take the system's error for a target that is there
            f"the peer sent {shown(path)} twice, or another name that is the same on this file system"
        )

    def _is_as_made(self, path: str, kind: int) -> bool:
        """Say whether what is there has this very name and is as a call makes it, not as a peer sent it.

        `plan` lets no name come twice, but for those in packs, which are whole when the next one comes. An
        empty one is known by its time, which is not yet the one it was sent with.
        """
        if path in self._directories or path in self._unfinished:
            return False
        try:
            parent_fd, name = self._place(path)
            status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            if stat.S_IFMT(status.st_mode) != kind:
                return False
            if kind == stat.S_IFREG and (status.st_size > 0 or status.st_mtime_ns != status.st_ctime_ns):
                return False
            with os.scandir(parent_fd) as items:
                return any(item.name == name for item in items)
        except OSError:
            return True  # the disk still fails


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


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _is_within(path: str, tree: str) -> bool:
    return path == tree or path.startswith(tree + "/")


def _file_sizes(parent_fd: int, name: str) -> Iterator[tuple[str, int]]:
    """Yield the size of each regular file at `name` and below it, each with its path behind `name`."""
    directories = []
    status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if stat.S_ISREG(status.st_mode):
        yield "", status.st_size
    elif stat.S_ISDIR(status.st_mode):
        directories.append("")
    while directories:
        path = directories.pop()
        reached = open_beneath(parent_fd, name + path, follow_last=False)
        try:
            fd = os.open(".", _DIRECTORY, dir_fd=reached)
        finally:
            os.close(reached)
        with os.scandir(fd) as items:
            for item in items:
                below = f"{path}/{item.name}"
                if item.is_dir(follow_symlinks=False):
                    directories.append(below)
                elif item.is_file(follow_symlinks=False):
                    yield below, item.stat(follow_symlinks=False).st_size
        os.close(fd)
