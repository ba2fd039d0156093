"""Asks a Work for its files, or where it does not live any more what it left: its artifacts.

Invariant: a live Work is never passed over for its artifacts, and one that is registered but silent, or
a store that does not answer, is an error and never a "no". Absent is what neither has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from lit_storage_client.names import shown
from lit_storage_client.remote import Remote, no_file
from lit_storage_client.tree_call import TreeCall, TreeOptions
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import OriginUnavailable, PathNotFound, TransferTimeout
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry
from lit_storage_proto.uri import Location

if TYPE_CHECKING:
    from lit_storage_client.artifacts.artifact import Artifact
    from lit_storage_client.artifacts.store import ArtifactStore
    from lit_storage_client.artifacts.stream import ArtifactStream

T = TypeVar("T")


class Origins:
    """The Works that one session can ask, living or not. May be used from any thread.

    Args:
        remote: asks those that live.
        registry: knows where the others left their files.
        machine_id: of this machine.
        limits: deadlines and sizes.
    """

    def __init__(self, remote: Remote, registry: Registry, machine_id: str, limits: Limits) -> None:
        self._remote = remote
        self._registry = registry
        self._machine_id = machine_id
        self.limits = limits
        self._stores: dict[tuple[str, str], ArtifactStore] = {}
        self._opening = threading.Lock()

    def exists(self, location: Location) -> bool:
        """Say whether the Work has this path, or left it.

        Raises:
            OriginUnavailable: the Work is live by the registry and cannot be reached, or its store cannot.
            TransferTimeout: the Work, or its store, is silent.
            RegistryUnavailable: the registry does not answer.
            AccessDenied: the Work, or its store, does not take what this session shows it.
            IntegrityError: what it left is damaged.
            InvalidURI: what its store needs is not installed here.
        """
        if self._remote.exists(location):
            return True
        if self._lives(location):
            return self._remote.exists(location)
        try:
            return self._left(location) is not None
        except PathNotFound:
            return False

    def stat(self, location: Location) -> Entry:
        """Return the entry of a path; its own `path` is "".

        Raises:
            PathNotFound: the Work has no such path, or does not run and left none.
            StorageError: as of `exists`.
        """
        return self._either(location, lambda: self._remote.stat(location), lambda left: left.entry)

    def list(self, location: Location, *, recursive: bool = True) -> Iterator[Entry]:
        """Return the entries of a tree, a directory before what it holds. As of `Remote.list`.

        Raises:
            PathNotFound: the Work has no such path, or does not run and left none.
            StorageError: as of `exists`; also while iterating.
        """
        return self._either(
            location,
            lambda: self._remote.list(location, recursive=recursive),
            lambda left: left.entries(recursive=recursive),
        )

    def stream(
        self, location: Location, options: TreeOptions | None = None, *, deadline: float | None = None
    ) -> TreeCall | ArtifactStream:
        """Return the frames of a whole tree. As of `Remote.stream`.

        Raises:
            PathNotFound: the Work has no such path, or does not run and left none.
            StorageError: as of `exists`; also while iterating.
        """

        def live() -> TreeCall | ArtifactStream:
            return self._remote.stream(location, options, deadline=deadline)

        return self._either(
            location, live, lambda left: left.stream(options or TreeOptions(), deadline), deadline
        )

    def stream_part(self, location: Location, offset: int, length: int | None) -> TreeCall | ArtifactStream:
        """Return the frames of a part of one file; what lies behind its end is passed over.

        Raises:
            PathNotFound: the Work has no such path, or does not run and left none.
            IsADirectoryError: it is no file.
            StorageError: as of `exists`; also while iterating.
        """

        def live() -> TreeCall | ArtifactStream:
            return self._remote.stream_part(location, offset, length)

        def of(left: Artifact) -> TreeCall | ArtifactStream:
            if left.entry.kind is not Kind.FILE:
                raise no_file(location)
            return left.stream_part(offset, length)

        return self._either(location, live, of)

    def store(self, name: str) -> ArtifactStore | None:
        """Return the store of what a Work left, None if it never published anything.

        Raises:
            OriginUnavailable: it is on another machine.
            InvalidURI: its URL is none, or what it needs is not installed here.
            RegistryUnavailable: the registry does not answer.
        """
        work = self._registry.work(name)
        if work is None or not work.artifacts_url:
            return None
        from lit_storage_client.artifacts.urls import machine_of, open_store

        machine = machine_of(work.artifacts_url)
        if machine and machine != self._machine_id:
            raise OriginUnavailable(
                f"what {name!r} left is in place on another machine ({machine}), and is not served from "
                "there; name a store that all machines reach with LIT_STORAGE_ARTIFACTS"
            )
        with self._opening:
            key = (work.artifacts_url, name)
            if key not in self._stores:
                self._stores[key] = open_store(work.artifacts_url, name, limits=self.limits)
            return self._stores[key]

    def close(self) -> None:
        """Ask no store any more. A second call does nothing."""
        with self._opening:
            while self._stores:
                self._stores.popitem()[1].close()

    def _either(
        self,
        location: Location,
        live: Callable[[], T],
        of: Callable[[Artifact], T],
        deadline: float | None = None,
    ) -> T:
        try:
            return live()
        except PathNotFound:
            if self._lives(location):
                return live()
            left = self._left(location, deadline)
            if left is None:
                raise
        return of(left)

    def _lives(self, location: Location) -> bool:
        """Say whether a Work lives that said no, or did not live; if it does it is to be asked once more.

        It may have ended after its "no", with all that it had then, or begun after nobody was there.
        """
        return location.origin is not None and self._registry.resolve(location.origin) is not None

    def _left(self, location: Location, deadline: float | None = None) -> Artifact | None:
        """Return what a Work left that does not live; None if it never left anything.

        Raises:
            PathNotFound: it did not leave this.
        """
        store = self.store(location.origin or "")
        if store is None:
            return None
        from lit_storage_client.artifacts.artifact import Artifact

        if deadline is None:
            return Artifact.find(store, location)
        from lit_storage_client.artifacts.lanes import Lanes, LateError

        lanes = Lanes(1, "lit-storage-find")
        try:
            return lanes.call(lambda: Artifact.find(store, location), max(0.0, deadline - time.monotonic()))
        except LateError:
            raise TransferTimeout(
                f"the store of {shown(str(location))} gave no answer within the timeout; give it more time"
            ) from None
        finally:
            lanes.close()
