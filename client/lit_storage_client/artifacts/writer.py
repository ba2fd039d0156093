"""Writes one version of an artifact: chunks into objects, several on their way at once, the manifest last.

Invariant: the manifest is put only when every object that it names is in the store, and one that named
objects of an earlier version which was removed meanwhile is taken back. Memory is bounded: a chunk is
taken only once there is room for its object.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from lit_storage_client.artifacts.lanes import Lanes, LateError, Pending, remaining
from lit_storage_client.artifacts.objects import Objects
from lit_storage_proto.artifact import Manifest
from lit_storage_proto.errors import StorageError, TransferTimeout
from lit_storage_proto.limits import OBJECT_BYTES
from lit_storage_proto.manifest_codec import encode_manifest

_DATA = "data"


class FormerRemovedError(Exception):
    """The version that this one was built upon was removed meanwhile; it is to be written as a whole."""


class Writer:
    """One version under way; a context manager that removes what it wrote unless it was committed.

    Args:
        objects: where it is written.
        manifest_key: of its manifest.
        prefix: of the keys of its objects, within the data of the store.
        former: the version before it, whose objects it may name.
        former_key: of the manifest of that one.
        replaced: keys that are removed once it is committed.
        keeps_bytes: whether chunks are written at all.
        seconds: the longest wait for one object.
        requests: how many objects are on their way at once.
        deadline: when it must be committed, on the clock of time.monotonic().
    """

    def __init__(
        self,
        objects: Objects,
        manifest_key: str,
        prefix: str,
        *,
        former: Manifest | None,
        former_key: str | None,
        replaced: Sequence[str],
        keeps_bytes: bool,
        seconds: float,
        requests: int,
        deadline: float | None,
    ) -> None:
        self._objects = objects
        self._manifest_key = manifest_key
        self._prefix = prefix
        self.former = former
        self._former_key = former_key
        self._replaced = replaced
        self.keeps_bytes = keeps_bytes
        self._seconds = seconds
        self._requests = requests
        self._deadline = deadline
        self._lanes = Lanes(requests, "lit-storage-publish")
        self._under_way: deque[Pending[None]] = deque()
        self._buffer = bytearray()
        self._committed = False
        self.sizes: dict[str, int] = {}
        """Of the objects written so far, by key; the last one may still grow."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            self._take_back([self._manifest_key] if isinstance(error, FormerRemovedError) else [])
        self._lanes.close()

    def put(self, data: bytes | memoryview) -> tuple[str, int]:
        """Add a chunk, which is copied; return the key of its object and its position there.

        Raises:
            TransferTimeout: there is no time left, or the store takes too long.
            OSError: an object could not be written; as of `Objects.put`.
        """
        if self._buffer and len(self._buffer) + len(data) > OBJECT_BYTES:
            self._send()
        key = f"{self._prefix}-{len(self.sizes) - bool(self._buffer):05}"
        position = len(self._buffer)
        self._buffer += data
        self.sizes[key] = len(self._buffer)
        return key, position

    def commit(self, manifest: Manifest) -> None:
        """Make the version visible, all of it in this moment.

        Raises:
            FormerRemovedError: an older version whose objects it names is gone.
            TransferTimeout, OSError: as of `put`.
        """
        if self._buffer:
            self._send()
        while self._under_way:
            self._wait(self._under_way.popleft())
        self.check_deadline()
        data = encode_manifest(manifest)
        self._wait(self._lanes.submit(lambda: self._objects.put(self._manifest_key, data)))
        if self._former_key is not None and any(key not in self.sizes for key, _ in manifest.objects):
            key = self._former_key
            try:
                self._wait(self._lanes.submit(lambda: _touch(self._objects, key)))
            except FileNotFoundError:
                raise FormerRemovedError from None
        self._committed = True
        if self._replaced:
            self._wait(self._lanes.submit(lambda: self._objects.remove(self._replaced)))

    def check_deadline(self) -> None:
        """See that there is time left.

        Raises:
            TransferTimeout: there is none.
        """
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TransferTimeout("there was no time left to publish it; see Limits.publish_seconds")

    def _send(self) -> None:
        key, data = next(reversed(self.sizes)), self._buffer
        self._buffer = bytearray()
        while len(self._under_way) >= self._requests:
            self._wait(self._under_way.popleft())
        self._under_way.append(self._lanes.submit(lambda: self._objects.put(f"{_DATA}/{key}", data)))

    def _wait(self, pending: Pending[None]) -> None:
        try:
            pending.result(remaining(self._deadline, self._seconds))
        except LateError:
            self.check_deadline()
            raise TransferTimeout(
                f"the store {self._objects.url} took longer than {self._seconds:g} s for one object"
            ) from None

    def _take_back(self, keys: list[str]) -> None:
        """Remove what nobody will ever name. It never raises: it is of no harm, and goes with a prune."""
        for pending in self._under_way:
            pending.drop()
        try:
            for pending in self._under_way:
                pending.result(self._seconds)
        except (LateError, OSError, StorageError):
            pass
        try:
            keys += [f"{_DATA}/{key}" for key in self.sizes]
            Lanes(1, "lit-storage-take-back").call(lambda: self._objects.remove(keys), self._seconds)
        except (LateError, OSError, StorageError):
            pass


def _touch(objects: Objects, key: str) -> None:
    objects.read(key, 0, 1)
