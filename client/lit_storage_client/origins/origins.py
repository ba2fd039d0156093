"""Asks a Work for its files, or where it does not live any more what it left: its artifacts.

What lies on another machine, in place or in a directory, is asked of the custodian of that machine: a
daemon, which hands it out as a live Work would. What is in place in this process's own root is read there,
wherever the root was when the registry was told of it.

Invariant: a live Work is never passed over for its artifacts, and one that is registered but silent, or
a store or a custodian that does not answer, is an error and never a "no". Absent is what neither has.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from lit_storage_client.origins.custodians import Custodians
from lit_storage_client.peers.remote import Remote, no_file
from lit_storage_client.peers.tree_call import TreeCall
from lit_storage_core.system.mounts import file_system_of, spans_machines
from lit_storage_core.system.names import shown
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import OriginUnavailable, PathNotFound, StorageError, TransferTimeout
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord, Registry, WorkRecord
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_proto.uri import LEFT_MANIFESTS, Location

if TYPE_CHECKING:
    from lit_storage_core.artifacts.artifact import Artifact
    from lit_storage_core.artifacts.own_root import OwnRoot
    from lit_storage_core.artifacts.store import ArtifactStore
    from lit_storage_core.artifacts.stream import ArtifactStream

T = TypeVar("T")


class Origins:
    """The Works that one session can ask, living or not. May be used from any thread.

    Args:
        remote: asks those that live.
        registry: knows where the others left their files.
        machine_id: of this machine.
        limits: deadlines and sizes.
        own_root: the root of this process; None if it has none, and each in-place URL is taken to the letter.
    """

    def __init__(
        self,
        remote: Remote,
        registry: Registry,
        machine_id: str,
        limits: Limits,
        own_root: OwnRoot | None = None,
    ) -> None:
        self._remote = remote
        self._registry = registry
        self._machine_id = machine_id
        self._own_root = own_root
        self.limits = limits
        self._stores: dict[tuple[str, str], ArtifactStore] = {}
        self._opening = threading.Lock()
        self._custodians_of = Custodians(registry, limits.watch_seconds)

    @property
    def return_seconds(self) -> float:
        """See `Remote.return_seconds`."""
        return self._remote.return_seconds

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
        work = self._published(location.origin or "")
        if work is None:
            return False
        try:
            self._of_left(work, location, self._remote.stat, lambda left: left)
        except PathNotFound:
            return False
        return True

    def stat(self, location: Location) -> Entry:
        """Return the entry of a path; its own `path` is "".

        Raises:
            PathNotFound: the Work has no such path, or does not run and left none.
            StorageError: as of `exists`.
        """
        return self._either(location, self._remote.stat, lambda left: left.entry)

    def list(self, location: Location, *, recursive: bool = True) -> Iterator[Entry]:
        """Return the entries of a tree, a directory before what it holds. As of `Remote.list`.

        Of a Work that does not run, a directory that holds paths that it left can be listed too.

        Raises:
            PathNotFound: the Work has no such path, or does not run and left none.
            StorageError: as of `exists`; also while iterating.
        """
        try:
            return self._either(
                location,
                lambda at: self._remote.list(at, recursive=recursive),
                lambda left: left.entries(recursive=recursive),
            )
        except PathNotFound:
            work = self._published(location.origin or "")
            if work is None or self._lives(location) or self._custodians(work):
                raise
            from lit_storage_core.artifacts.parents import entries_at

            return entries_at(self._store_here(work), location, recursive=recursive)

    def stream(
        self, location: Location, options: TreeOptions | None = None, *, deadline: float | None = None
    ) -> TreeCall | ArtifactStream:
        """Return the frames of a whole tree. As of `Remote.stream`.

        Raises:
            PathNotFound: the Work has no such path, or does not run and left none.
            StorageError: as of `exists`; also while iterating.
        """

        def live(at: Location) -> TreeCall | ArtifactStream:
            return self._remote.stream(at, options, deadline=deadline)

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

        def live(at: Location) -> TreeCall | ArtifactStream:
            return self._remote.stream_part(at, offset, length)

        def of(left: Artifact) -> TreeCall | ArtifactStream:
            if left.entry.kind is not Kind.FILE:
                raise no_file(location)
            return left.stream_part(offset, length)

        return self._either(location, live, of)

    def store(self, name: str) -> ArtifactStore | None:
        """Return the store of what a Work left, None if it never published anything.

        Of one on another machine that a custodian hands out, there are the manifests alone, for reading.

        Raises:
            OriginUnavailable: it is on another machine, and no custodian there answers.
            InvalidURI: its URL is none, or what it needs is not installed here.
            RegistryUnavailable: the registry does not answer.
        """
        work = self._published(name)
        if work is None:
            return None
        custodians = self._custodians(work)
        if not custodians:
            return self._store_here(work)
        from lit_storage_client.origins.custodian_objects import CustodianObjects
        from lit_storage_core.artifacts.store import ArtifactStore

        def answering(at: Location) -> str:
            self._remote.stat(Location(at.origin, f"@{name}/{LEFT_MANIFESTS}"))
            return at.origin or ""

        url = work.artifacts_url
        custodian = self._at_custodian(Location(name, ""), custodians, answering)
        objects = CustodianObjects(self._remote, custodian, name, url)
        return ArtifactStore(objects, url=url, name=name, limits=self.limits, in_place=None)

    def close(self) -> None:
        """Ask no store any more. A second call does nothing."""
        with self._opening:
            while self._stores:
                self._stores.popitem()[1].close()

    def _either(
        self,
        location: Location,
        live: Callable[[Location], T],
        of: Callable[[Artifact], T],
        deadline: float | None = None,
    ) -> T:
        try:
            return live(location)
        except PathNotFound:
            if self._lives(location):
                return live(location)
            work = self._published(location.origin or "")
            if work is None:
                raise
        return self._of_left(work, location, live, of, deadline)

    def _published(self, name: str) -> WorkRecord | None:
        """Return the record of a Work that left something; None if it never did."""
        work = self._registry.work(name)
        return work if work is not None and work.artifacts_url else None

    def _of_left(
        self,
        work: WorkRecord,
        location: Location,
        at_custodian: Callable[[Location], T],
        of: Callable[[Artifact], T],
        deadline: float | None = None,
    ) -> T:
        """Ask what a Work left that does not live: its custodian, or the artifact that is read from here.

        Raises:
            PathNotFound: it did not leave this.
            OriginUnavailable: it is in place on another machine, which has no custodian.
        """
        custodians = self._custodians(work)
        if custodians:
            return self._at_custodian(location, custodians, at_custodian)
        return of(self._left(work, location, deadline))

    def _custodians(self, work: WorkRecord) -> Sequence[LiveRecord]:
        """Return those to ask for what a Work left; nobody is to be asked for what can be read from here."""
        machine_id, is_in_place = _machine_of(work)
        if machine_id in ("", self._machine_id):
            return ()
        custodians = self._custodians_of.of(machine_id)
        if is_in_place and not custodians and not self._was_copied_from(work):
            raise OriginUnavailable(
                f"what {work.name!r} left is in place on another machine ({shown(machine_id)[1:-1]}), where "
                "no custodian runs: start 'lit-storage serve' on it, or name a store that all machines reach "
                "with LIT_STORAGE_ARTIFACTS"
            )
        return custodians

    def _at_custodian(
        self, location: Location, custodians: Sequence[LiveRecord], ask: Callable[[Location], T]
    ) -> T:
        """Ask the custodians of one machine, each of which may have another root, until one answers.

        They may have been remembered: where none answers, those that are there by now are asked too.
        """
        try:
            return self._at_one_of(location, custodians, ask)
        except PathNotFound:
            raise
        except StorageError as error:
            machine_id, asked = custodians[0].machine_id, {record.instance_id for record in custodians}
            self._custodians_of.forget(machine_id)
            if not isinstance(error, OriginUnavailable):
                raise
            others = [each for each in self._custodians_of.of(machine_id) if each.instance_id not in asked]
            if not others:
                raise
        return self._at_one_of(location, others, ask)

    def _at_one_of(
        self, location: Location, custodians: Sequence[LiveRecord], ask: Callable[[Location], T]
    ) -> T:
        from lit_storage_client.origins.custodian_objects import path_at_custodian

        lost: OriginUnavailable | None = None
        for custodian in custodians:
            try:
                return ask(Location(custodian.name, path_at_custodian(location)))
            except OriginUnavailable as error:
                lost = error
            except PathNotFound:
                if self._registry.resolve(custodian.name) is None:  # it ended, which is no answer
                    lost = OriginUnavailable(
                        f"{custodian.name!r}, the custodian of what {location.origin!r} left, ended while it "
                        "was asked; try again when it runs"
                    )
                    continue
                raise PathNotFound(
                    f"{shown(str(location))} is not there: {location.origin!r} does not run, and what it "
                    f"left on the machine of {custodian.name!r} does not hold it"
                ) from None
        assert lost is not None
        raise lost

    def _lives(self, location: Location) -> bool:
        """Say whether a Work lives that said no, or did not live; if it does it is to be asked once more.

        It may have ended after its "no", with all that it had then, or begun after nobody was there.
        """
        return location.origin is not None and self._registry.resolve(location.origin) is not None

    def _left(self, work: WorkRecord, location: Location, deadline: float | None) -> Artifact:
        """Return what a Work left that does not live, as it is read from here.

        Raises:
            PathNotFound: it did not leave this.
        """
        store = self._store_here(work)
        if self._was_copied_from(work):
            return self._of_copy(store, location, work, deadline)
        if self._may_be_of_another(work):
            return self._of_another(store, location, work, deadline)
        return _find(store, location, deadline)

    def _store_here(self, work: WorkRecord) -> ArtifactStore:
        from lit_storage_core.artifacts.urls import check_told, open_store

        url = self._url_here(work)
        with self._opening:
            key = (url, work.name)
            if key not in self._stores:
                self._stores[key] = open_store(check_told(url, work.name), work.name, limits=self.limits)
            return self._stores[key]

    def _url_here(self, work: WorkRecord) -> str:
        """Return the URL of the store to open for a record."""
        own = self._own_root
        if own is None:
            return work.artifacts_url
        return own.url if self._was_copied_from(work) else own.url_here(work.artifacts_url, work.name)

    def _was_copied_from(self, work: WorkRecord) -> bool:
        """Say whether a Work left files in place in a root that is gone, and of which this one is a copy."""
        return self._own_root is not None and self._own_root.was_copied_from(work.artifacts_url, work.name)

    def _of_copy(
        self, store: ArtifactStore, location: Location, work: WorkRecord, deadline: float | None
    ) -> Artifact:
        """Return what a copied root holds, if it is what the last instance of the Work published.

        The registry was not copied with the root, so the original may have published something since.

        Raises:
            OriginUnavailable: the copy does not hold it, or holds what an earlier instance published.
        """
        artifact = _find_if_there(store, location, deadline)
        if artifact is not None and artifact.instance_id == work.instance_id:
            return artifact
        raise OriginUnavailable(
            f"what {work.name!r} left is in place in a root that this one was copied from "
            f"({shown(_machine_of(work)[0])[1:-1]}), and this one does not hold it as it was published last: "
            "start 'lit-storage serve' with the original root, or run the Work again here"
        )

    def _may_be_of_another(self, work: WorkRecord) -> bool:
        """Say whether a store of another machine may be another directory than that of its name here."""
        machine_id, _ = _machine_of(work)
        if machine_id in ("", self._machine_id):
            return False
        from lit_storage_core.artifacts.urls import directory_of

        try:
            return not spans_machines(file_system_of(directory_of(work.artifacts_url)))
        except OSError:
            return True

    def _of_another(
        self, store: ArtifactStore, location: Location, work: WorkRecord, deadline: float | None
    ) -> Artifact:
        """Return what is in a directory here, if it is certain that the Work of another machine left it.

        Raises:
            OriginUnavailable: the directory is not there, or holds what another machine left.
        """
        artifact = _find_if_there(store, location, deadline)
        if artifact is not None and artifact.machine_id == work.machine_id:
            return artifact
        raise OriginUnavailable(
            f"what {work.name!r} left is in {shown(store.url)} of another machine ({work.machine_id}), and "
            f"nothing shows that the directory of this name here is the same: start 'lit-storage serve' on "
            "that machine, or keep artifacts on a disk that machines share or in S3"
        )


def _machine_of(work: WorkRecord) -> tuple[str, bool]:
    """Return the machine on which a Work left what it did, "" if all can read it; and whether in place."""
    from lit_storage_core.artifacts.urls import is_in_place, is_on_disk, machine_of

    url = work.artifacts_url
    if is_in_place(url):
        return machine_of(url), True
    return (work.machine_id if is_on_disk(url) else ""), False


def _find_if_there(store: ArtifactStore, location: Location, deadline: float | None) -> Artifact | None:
    with contextlib.suppress(PathNotFound):
        return _find(store, location, deadline)
    return None


def _find(store: ArtifactStore, location: Location, deadline: float | None) -> Artifact:
    from lit_storage_core.artifacts.artifact import Artifact

    if deadline is None:
        return Artifact.find(store, location)
    from lit_storage_core.artifacts.lanes import Lanes, LateError

    lanes = Lanes(1, "lit-storage-find")
    try:
        return lanes.call(lambda: Artifact.find(store, location), max(0.0, deadline - time.monotonic()))
    except LateError:
        raise TransferTimeout(
            f"the store of {shown(str(location))} gave no answer within the timeout; give it more time"
        ) from None
    finally:
        lanes.close()
