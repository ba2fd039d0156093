"""Writes one version of an artifact: chunks into objects, several on their way at once, the manifest last.

Invariant: the manifest is put only when every object that it names is in the store, and one that named
objects of an earlier version which was removed meanwhile is taken back. Memory is bounded: a chunk is
taken only once there is room for its object.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from lit_storage_core.artifacts.lanes import Lanes, LateError, Pending, remaining
from lit_storage_core.artifacts.objects import Objects
from lit_storage_proto.artifact import Manifest, Version, data_key, manifest_key
from lit_storage_proto.errors import StorageError, TransferTimeout
from lit_storage_proto.limits import OBJECT_BYTES, Limits
from lit_storage_proto.manifest_codec import check_places, encode_manifest

_TAKE_BACK_SECONDS = 2.0


class FormerRemovedError(Exception):
    """The version that this one was built upon was removed meanwhile; it is to be written as a whole."""


class Writer:
    """One version under way; a context manager that removes what it wrote unless it was committed.

    Args:
        objects: where it is written.
        unit: the name of the declared path in the store.
        version: that of this one.
        former: the version before it, whose objects it may name.
        limits: the longest wait for one object, and how many are on their way at once.
        deadline: when it must be committed, on the clock of time.monotonic().
        replaces: keys of manifests that go when it is committed, where bytes stay in place; None where
            they are written.
    """

    def __init__(
        self,
        objects: Objects,
        unit: str,
        version: Version,
        former: Manifest | None,
        *,
        limits: Limits,
        deadline: float | None,
        replaces: Sequence[str] | None,
    ) -> None:
        self._objects = objects
        self._manifest_key = manifest_key(unit, version)
        # Another attempt at this version, as of whoever publishes in place of a Work that was killed while it
        # did, must not meet the objects of the first one.
        self._prefix = f"{version}/{unit}-{secrets.token_hex(4)}"
        self.former = former
        self._former_key = None if former is None else manifest_key(unit, former.version)
        self._replaces = replaces
        self.keeps_bytes = replaces is None
        """Whether chunks are written at all."""
        self._seconds = limits.store_seconds
        self._requests = limits.store_requests
        self._deadline = deadline
        self._lanes = Lanes(self._requests, "lit-storage-publish")
        self._under_way: deque[Pending[None]] = deque()
        self._buffer = bytearray()
        self._decided = False
        self.sizes: dict[str, int] = {}
        """Of the objects written so far, by key; the last one may still grow."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._decided:
            self._take_back()
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
            FormerRemovedError: an older version whose objects it names is gone, or its own objects are.
            IntegrityError: it places an entry where no reader looks for it.
            TransferTimeout, OSError: as of `put`.
        """
        if self._buffer:
            self._send()
        while self._under_way:
            self._wait(self._under_way.popleft())
        self.check_deadline()
        check_places(manifest)  # before it takes the place of a version that can be read
        data = encode_manifest(manifest)
        # From here on others may see it, also where no answer comes in time: what it names must stay.
        self._decided = True
        self._wait(self._lanes.submit(lambda: self._put(self._manifest_key, data)))
        if self._replaces:
            replaced = [key for key in self._replaces if key != self._manifest_key]
            self._wait(self._lanes.submit(lambda: self._objects.remove(replaced)))
            return
        if self._former_key is not None and any(key not in self.sizes for key, _ in manifest.objects):
            self._check(self._former_key)
        if self.sizes:  # whose clock is days ahead may have taken them for those of somebody who was killed
            self._check(data_key(next(iter(self.sizes))))

    def check_deadline(self) -> None:
        """See that there is time left.

        Raises:
            TransferTimeout: there is none.
        """
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TransferTimeout("there was no time left to publish it; see Limits.publish_seconds")

    def _send(self) -> None:
        while len(self._under_way) >= self._requests:
            self._wait(self._under_way.popleft())
        key, data = next(reversed(self.sizes)), bytes(self._buffer)
        self._buffer.clear()
        self._under_way.append(self._lanes.submit(lambda: self._put(data_key(key), data)))

    def _put(self, key: str, data: bytes) -> None:
        try:
            self._objects.put(key, data)
        except FileExistsError:
            # No other instance has this name: a client that asked again when no answer came finds its own.
            if self._objects.read(key) != data:
                raise

    def _wait(self, pending: Pending[Any]) -> None:
        try:
            pending.result(remaining(self._deadline, self._seconds))
        except LateError:
            self.check_deadline()
            raise TransferTimeout(
                f"the store {self._objects.url} took longer than {self._seconds:g} s for one object"
            ) from None

    def _check(self, key: str) -> None:
        try:
            self._wait(self._lanes.submit(lambda: self._objects.read(key, 0, 1)))
        except BaseException as error:
            # Not known to be whole is not whole. Its objects go with it only if it is certainly gone.
            self._wait(self._lanes.submit(lambda: self._objects.remove([self._manifest_key])))
            self._decided = False
            if isinstance(error, FileNotFoundError):
                raise FormerRemovedError from None
            raise

    def _take_back(self) -> None:
        """Remove what nobody will ever name. It never raises: it does no harm, and goes with a prune."""
        for pending in self._under_way:
            pending.drop()
        until = time.monotonic() + _TAKE_BACK_SECONDS
        keys = [data_key(key) for key in self.sizes]
        for wait in [pending.result for pending in self._under_way]:
            with contextlib.suppress(LateError, OSError, StorageError):
                wait(remaining(until, _TAKE_BACK_SECONDS))
        with contextlib.suppress(LateError, OSError, StorageError):
            self._lanes.call(lambda: self._objects.remove(keys), remaining(until, _TAKE_BACK_SECONDS))
