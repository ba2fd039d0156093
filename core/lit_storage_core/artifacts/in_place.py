"""Reads the bytes of an artifact where its Work wrote them.

Invariant: a file that still has the version token of the manifest is the file that was published. Of
any other the bytes are checked against its digests, and where they differ that is SourceChanged: such
files are never taken for what the Work left. Links on the way are followed as the Work followed them:
within its storage root, or within the path that it declared. Of a file to which the Work followed a link
elsewhere, the manifest has the place, and there no link is followed at all: whoever changes a link after the
Work has stopped leads to no other file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator

from lit_storage_core.artifacts.pieces import Piece
from lit_storage_core.system.beneath import open_beneath, open_without_links
from lit_storage_core.system.names import check_path, shown
from lit_storage_core.system.version_token import version_of
from lit_storage_proto.artifact import Manifest, StoredEntry
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.errors import AccessDenied, SourceChanged

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_REGULAR = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class PlacedFile:
    """One file, open."""

    def __init__(self, fd: int, stored: StoredEntry) -> None:
        self.fd = fd
        self.stored = stored

    def is_unchanged(self) -> bool:
        """Say whether it is known to be the file that was published."""
        return version_of(os.fstat(self.fd)) == self.stored.entry.version


class PlacedContents:
    """The bytes of an artifact that is in place.

    Args:
        manifest: which version of it.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._base = manifest.path if manifest.path.startswith("/") else manifest.in_place
        self._root_fd = -1
        self._file: PlacedFile | None = None
        self._buffer = memoryview(b"")

    def close(self) -> None:
        """Close what is open. A second call does nothing."""
        self._close_file()
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def is_there(self, stored: StoredEntry) -> bool:
        """Say whether something is where the entry was; what it is by now is not looked at."""
        try:
            os.close(self._open_path(stored, follow_last=False))
        except (FileNotFoundError, NotADirectoryError, AccessDenied):
            return False
        return True

    def file(self, stored: StoredEntry) -> PlacedFile:
        """Return a file, open until the next one is asked for.

        Raises:
            SourceChanged: it is gone, or is none any more.
            OSError: it cannot be read.
        """
        if self._file is not None and self._file.stored is stored:
            return self._file
        self._close_file()
        try:
            path_fd = self._open_path(stored, follow_last=not stored.entry.path)
            try:
                if not stat.S_ISREG(os.fstat(path_fd).st_mode):
                    raise self.changed(stored)
                fd = os.open(f"/proc/self/fd/{path_fd}", _REGULAR)
            finally:
                os.close(path_fd)
        except (FileNotFoundError, NotADirectoryError, AccessDenied):
            raise self.changed(stored) from None
        self._file = PlacedFile(fd, stored)
        return self._file

    def data(self, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, memoryview]]:
        """Yield each piece with its bytes, which are good until the next one is asked for.

        Raises:
            SourceChanged: a file is not what was published.
            OSError: a file cannot be read.
        """
        for piece in pieces:
            yield piece, memoryview(b"") if piece.chunk is None else self._read(piece)

    def changed(self, stored: StoredEntry) -> SourceChanged:
        """Return the error of a file that is not what was published."""
        path, name = self._path_at_origin(stored), self._manifest.name
        return SourceChanged(
            f"{shown(path)} of {name!r} was changed after {name!r} had stopped, and no copy of it is kept; "
            f"run {name!r} again, and name a store with LIT_STORAGE_ARTIFACTS to keep copies"
        )

    def _path_at_origin(self, stored: StoredEntry) -> str:
        return "/".join(part for part in (self._manifest.path, stored.entry.path) if part)

    def _read(self, piece: Piece) -> memoryview:
        chunk = piece.chunk
        assert chunk is not None
        if not self._buffer:
            self._buffer = memoryview(bytearray(self._manifest.chunk_bytes))
        fd, filled = self.file(piece.stored).fd, 0
        while filled < chunk.size:
            count = os.preadv(fd, [self._buffer[filled : chunk.size]], chunk.position + filled)
            if not count:
                raise self.changed(piece.stored)
            filled += count
        data = self._buffer[: chunk.size]
        if chunk_digest(data) != chunk.digest:
            raise self.changed(piece.stored)
        return data[piece.offset - chunk.offset :][: piece.size]

    def _open_path(self, stored: StoredEntry, *, follow_last: bool) -> int:
        """Return an ``O_PATH`` descriptor of what stands where the entry was."""
        check_path(stored.entry.path)
        if stored.place:
            return self._open_place(stored.place)
        if self._base != self._manifest.path:
            path = self._path_at_origin(stored)
            root_fd = self._open_storage_root()
        elif stored.entry.path:
            path, root_fd = stored.entry.path, os.open(self._base, _DIRECTORY)
        else:
            return os.open(self._base, os.O_PATH | os.O_CLOEXEC)
        try:
            return open_beneath(root_fd, path, root_path=self._base, follow_last=follow_last)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self.changed(stored) from None
            raise
        finally:
            os.close(root_fd)

    def _open_place(self, place: str) -> int:
        """Return an ``O_PATH`` descriptor of what is at a place; no link on the way is followed."""
        if place.startswith("/"):
            return open_without_links(place, directory=False)
        root_fd = self._open_storage_root()
        try:
            return open_without_links(place, below=root_fd, directory=False)
        finally:
            os.close(root_fd)

    def _open_storage_root(self) -> int:
        """Return a descriptor of the storage root, which belongs to the caller.

        The directory is kept open, because it may be moved while its files are read.
        """
        if self._root_fd < 0:
            self._root_fd = os.open(self._manifest.in_place, _DIRECTORY)
        return os.dup(self._root_fd)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file.fd)
            self._file = None
