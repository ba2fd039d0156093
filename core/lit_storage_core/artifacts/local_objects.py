"""Objects as files of a directory: a store on this machine, or on a disk that machines share.

Invariant: a name stands for a whole file that is on the disk. A file is written under a name that
nobody reads, flushed, and then linked to its own, which fails where that is taken: link(2).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator

from lit_storage_core.artifacts.objects import Found
from lit_storage_core.system.names import shown
from lit_storage_proto.artifact import UNFINISHED
from lit_storage_proto.errors import AccessDenied, IntegrityError, OriginUnavailable

_RACES = 16
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalObjects:
    """``file:///DIRECTORY``.

    Args:
        root: the directory, absolute.
        create: whether it is made where it is missing; else a missing one is a store out of reach.
        own: whether only what this process's user wrote is read; what others wrote counts as damaged.
        label: what errors call it; "" for its URL.
    """

    def __init__(self, root: str, *, create: bool = False, own: bool = False, label: str = "") -> None:
        self._root = root
        self._label = label
        self._own = own
        self._create = create

    @property
    def url(self) -> str:
        """See `Objects.url`."""
        return self._label or f"file://{self._root}"

    def put(self, key: str, data: bytes) -> None:
        """See `Objects.put`. The object survives a power cut once this has returned."""
        path = self._path(key)
        directory, name = os.path.split(path)
        temporary = os.path.join(directory, UNFINISHED + secrets.token_hex(8))
        try:
            fd = self._open_new(temporary)
            try:
                with os.fdopen(fd, "wb", buffering=0) as file:
                    rest = memoryview(data)
                    while rest:
                        rest = rest[file.write(rest) :]
                    os.fsync(fd)
                _name(temporary, path)
            finally:
                _unlink(temporary)
            _sync_directory(directory)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, "it is there already", name) from None
        except OSError as error:
            raise self._typed(error) from None

    def read(self, key: str, start: int = 0, size: int | None = None) -> bytes:
        """See `Objects.read`."""
        try:
            fd = os.open(self._path(key), _OLD_FILE)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise IntegrityError(f"{shown(key)} in {self.url} is no file")
                if self._own and status.st_uid != os.geteuid():
                    raise IntegrityError(
                        f"{shown(key)} in {self.url} was written by user {status.st_uid}, for whom user "
                        f"{os.geteuid()} reads nothing"
                    )
                wanted = status.st_size - start if size is None else size
                data = os.pread(fd, max(wanted, 0), start)
                while 0 < len(data) < wanted and (
                    more := os.pread(fd, wanted - len(data), start + len(data))
                ):
                    data += more
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key) from None
        except OSError as error:
            raise self._typed(error) from None
        if len(data) != wanted:
            raise IntegrityError(f"{shown(key)} in {self.url} is shorter than it was")
        return data

    def list(self, prefix: str) -> list[Found]:
        """See `Objects.list`."""
        try:
            if self._create:
                _make_directories(self._root)
            os.stat(self._root)  # a store that is gone is no empty one
            return sorted(_files(self._path(prefix), prefix))
        except OSError as error:
            raise self._typed(error) from None

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects.remove`. Directories that are empty then are removed too."""
        try:
            directories = set()
            for key in keys:
                _unlink(path := self._path(key))
                directories.add(os.path.dirname(path))
            for directory in directories:
                self._prune(directory)
        except OSError as error:
            raise self._typed(error) from None

    def close(self) -> None:
        """See `Objects.close`."""

    def _open_new(self, path: str) -> int:
        for _ in range(_RACES):
            try:
                _make_directories(os.path.dirname(path))
                return os.open(path, _NEW_FILE, 0o444)
            except FileNotFoundError:
                pass  # another process removed a directory, which was empty
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _path(self, key: str) -> str:
        return os.path.join(self._root, key)

    def _prune(self, directory: str) -> None:
        while directory.startswith(self._root + "/"):
            try:
                os.rmdir(directory)
            except OSError:
                return  # it holds something, or another process was first
            directory = os.path.dirname(directory)

    def _typed(self, error: OSError) -> OSError:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return AccessDenied(
                f"the store {shown(self.url)} may not be used by this process: {error.strerror}"
            )
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return OriginUnavailable(
                f"the store {shown(self.url)} is not there ({error.strerror}); is its disk mounted?"
            )
        error.filename = error.filename or self._root
        return error


def _make_directories(directory: str) -> None:
    missing = []
    while not os.path.isdir(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    for each in reversed(missing):
        try:
            os.mkdir(each, 0o775)
        except FileExistsError:
            continue  # another process was first
        _sync_directory(os.path.dirname(each))


def _name(temporary: str, path: str) -> None:
    """Give a finished file its name, unless that is taken."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.rename(temporary, path)  # a file system without hard links, where two may win at once


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _files(directory: str, prefix: str) -> Iterator[Found]:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):  # a link is none of ours
        return
    try:
        found = list(_looked_at(fd))
    except OSError as error:
        error.filename = directory  # it names a descriptor's number, or a name without its directory
        raise
    finally:
        os.close(fd)
    for name, status in found:
        key = f"{prefix}/{name}"
        if stat.S_ISDIR(status.st_mode):
            yield from _files(os.path.join(directory, name), key)
        elif stat.S_ISREG(status.st_mode):
            yield Found(key, status.st_size, status.st_mtime)


def _looked_at(fd: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what the very directory of a descriptor holds, whatever is at its path by now."""
    with os.scandir(fd) as items:
        for item in items:
            try:
                yield item.name, item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
