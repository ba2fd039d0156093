"""Brings the chunks of pieces from the objects of a store, in their order, ahead of their use.

Pieces are taken in windows of some MiB. What a window needs of one object is one request where that is
close together, so that files which lie scattered, as in a version that builds on an older one, cost few
requests. While one window is used the next one is on its way; no more than two are in memory.

Invariant: the bytes of a chunk leave this module only once their digest was checked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lit_storage_core.artifacts.lanes import Lanes, LateError, Pending, remaining
from lit_storage_core.artifacts.pieces import Piece
from lit_storage_core.artifacts.store import ArtifactStore
from lit_storage_core.system.names import shown
from lit_storage_proto.artifact import Manifest, StoredChunk, data_key
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.errors import IntegrityError, TransferTimeout
from lit_storage_proto.limits import KIB, OBJECT_BYTES

_WINDOW_BYTES = 2 * OBJECT_BYTES
_WINDOW_PIECES = 8192
_WINDOWS = 2
_BRIDGED_BYTES = 256 * KIB  # read in vain rather than by a request of its own


@dataclass(slots=True)
class _Request:
    """One run of one object."""

    object: int
    start: int
    end: int
    wanted: int
    """How many of its bytes are wanted."""
    answer: Pending[bytes] | None = None

    def holds(self, chunk: StoredChunk) -> bool:
        return self.object == chunk.object and self.start <= chunk.position < self.end


class ObjectContents:
    """The bytes of an artifact whose chunks lie in objects.

    Args:
        store: of the artifact.
        manifest: which version of it.
        deadline: when all must be there, on the clock of time.monotonic().
    """

    def __init__(self, store: ArtifactStore, manifest: Manifest, deadline: float | None) -> None:
        self._store = store
        self._manifest = manifest
        self._deadline = deadline
        self._lanes = Lanes(store.limits.store_requests, "lit-storage-artifact")

    def close(self) -> None:
        """Make no more requests. A second call does nothing."""
        self._lanes.close()

    def data(self, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, memoryview]]:
        """Yield each piece with its bytes; those of a hole are empty.

        Raises:
            IntegrityError: an object is missing or was altered.
            TransferTimeout: the store is silent, or the deadline is over.
            AccessDenied, OriginUnavailable, OSError: as of `Objects.read`.
        """
        windows = _windows(pieces)
        ahead = [self._request(window) for window in itertools.islice(windows, _WINDOWS)]
        while ahead:
            window, requests = ahead.pop(0)
            yield from self._use(window, requests)
            requests.clear()
            ahead.extend(self._request(more) for more in itertools.islice(windows, 1))

    def _request(self, window: list[Piece]) -> tuple[list[Piece], list[_Request]]:
        requests = _merged(piece.chunk for piece in window if piece.chunk is not None)
        for request in requests:
            key = data_key(self._manifest.objects[request.object].key)
            start, size = request.start, request.end - request.start
            request.answer = self._lanes.submit(
                lambda key=key, start=start, size=size: self._store.objects.read(key, start, size)  # type: ignore[misc]
            )
        return window, requests

    def _use(self, window: list[Piece], requests: list[_Request]) -> Iterator[tuple[Piece, memoryview]]:
        by_object: dict[int, list[_Request]] = {}
        for each in requests:
            by_object.setdefault(each.object, []).append(each)
        request: _Request | None = None
        data = memoryview(b"")
        for piece in window:
            chunk = piece.chunk
            if chunk is None:
                yield piece, memoryview(b"")
                continue
            if request is None or not request.holds(chunk):
                request = next(each for each in by_object[chunk.object] if each.holds(chunk))
                data = memoryview(self._answer(request, piece))
            begin = chunk.position - request.start
            whole = data[begin : begin + chunk.size]
            if chunk_digest(whole) != chunk.digest:
                raise self._damaged(piece, request, "was altered")
            yield piece, whole[piece.offset - chunk.offset :][: piece.size]

    def _answer(self, request: _Request, piece: Piece) -> bytes:
        assert request.answer is not None
        seconds = self._store.limits.progress_seconds
        try:
            return request.answer.result(remaining(self._deadline, seconds))
        except FileNotFoundError:
            raise self._damaged(piece, request, "is missing") from None
        except LateError:
            raise TransferTimeout(
                f"the store {shown(self._store.url)} brought nothing new in time; see whether it is in reach"
            ) from None

    def _damaged(self, piece: Piece, request: _Request, what: str) -> IntegrityError:
        key = self._manifest.objects[request.object].key
        return IntegrityError(
            f"{shown(piece.stored.entry.path or self._manifest.path)} cannot be read: its object {key} in "
            f"{self._store.url} {what}; run {self._manifest.name!r} again, or remove this version with "
            "'lit-storage artifacts rm'"
        )


def _windows(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    window: list[Piece] = []
    size = 0
    for piece in pieces:
        window.append(piece)
        size += piece.chunk.size if piece.chunk is not None else 0
        if size >= _WINDOW_BYTES or len(window) >= _WINDOW_PIECES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _merged(chunks: Iterable[StoredChunk]) -> list[_Request]:
    """Return as few requests as hold all chunks, each of one object and of bounded size."""
    requests: list[_Request] = []
    for chunk in sorted(set(chunks), key=lambda chunk: (chunk.object, chunk.position)):
        last = requests[-1] if requests else None
        end = chunk.position + chunk.size
        if (
            last is not None
            and last.object == chunk.object
            and chunk.position - last.end <= _BRIDGED_BYTES
            # At most as much is read in vain as is wanted, so that memory stays bounded.
            and end - last.start <= min(OBJECT_BYTES, 2 * (last.wanted + chunk.size))
        ):
            last.end = max(last.end, end)
            last.wanted += chunk.size
        else:
            requests.append(_Request(chunk.object, chunk.position, end, chunk.size))
    return requests
