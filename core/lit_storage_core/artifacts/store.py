"""What one Work left, in one store: versions of its declared paths, each whole or not there.

Invariant: a manifest is put after all objects that it names, and under a name that no other version
has; so whoever finds one finds all, and no version that is kept ever changes. What a reader may need is
removed after the manifests that name it, and only once no other manifest does.

In place there is one version of a path, and its bytes are where the Work wrote them: below its storage root,
wherever that is when the manifest is read. The path that the manifest names is where it was when it was
published. A Work that began with an empty storage root left the bytes of earlier versions in its former one
(`former_root.py`).
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from lit_storage_core.artifacts.former_root import FormerInstances
from lit_storage_core.artifacts.objects import Found, Objects
from lit_storage_core.artifacts.writer import Writer
from lit_storage_core.system.names import check_path, shown
from lit_storage_proto.artifact import (
    DATA,
    MANIFESTS,
    Manifest,
    Version,
    data_key,
    is_unfinished,
    is_unit,
    key_version,
    manifest_key,
    unit_of,
)
from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import IntegrityError, OriginUnavailable, ProtocolViolation
from lit_storage_proto.limits import MAX_MANIFEST_BYTES, Limits
from lit_storage_proto.manifest_codec import decode_manifest

_LOG = logging.getLogger("lit_storage.artifacts")
_LISTINGS = 5
_KEPT_MANIFESTS = 4  # decoded, by each store: that of a large tree takes tens of MiB


class Kept(NamedTuple):
    """A version of a declared path, as the store lists it."""

    unit: str
    version: Version
    size: int
    """Of its manifest, in bytes."""
    modified: float
    """When that was written, by the store: in seconds since 1970-01-01 UTC; 0 where that is not known."""

    @property
    def key(self) -> str:
        """Of its manifest."""
        return manifest_key(self.unit, self.version)


class ArtifactStore:
    """The artifacts of one Work. May be used from any thread.

    Args:
        objects: where they are, for this Work alone.
        url: of the store, as other processes are told of it; or what stands for it in errors.
        name: of the Work.
        limits: deadlines, and how much is under way at once.
        in_place: the storage root of the Work if the bytes stay where it wrote them, else ""; None if
            whoever hands out the manifests has seen to it.
        former_root: where the former storage root of the Work would be; "" if the bytes are not in place.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        url: str,
        name: str,
        limits: Limits,
        in_place: str | None,
        former_root: str = "",
    ) -> None:
        self.objects = objects
        self.url = url
        self.name = name
        self.limits = limits
        self.in_place = in_place
        self._former_root = former_root
        self._former_instances = FormerInstances(former_root)
        self._decoded: OrderedDict[str, Manifest] = OrderedDict()
        self._lock = threading.Lock()

    def versions(self) -> list[Kept]:
        """Return all versions of all paths, the newest first.

        Raises:
            AccessDenied, OriginUnavailable, TransferTimeout, OSError: as of `Objects`.
        """
        return sorted(_kept(self.objects.list(MANIFESTS)), key=lambda kept: kept.version, reverse=True)

    def next_version(self, instance_id: str) -> Version:
        """Return a version that is newer than all that are there.

        Raises:
            IntegrityError: somebody put one there after which no other can come.
            AccessDenied, OriginUnavailable, TransferTimeout, OSError: as of `Objects`.
        """
        kept = self.versions()
        version = Version(kept[0].version.number + 1 if kept else 1, instance_id)
        if kept and Version.parse(str(version)) is None:
            raise IntegrityError(
                f"{shown(kept[0].key)} in {self.url} has the greatest number that a version can have; remove "
                f"it with 'lit-storage artifacts rm {self.name} --version {kept[0].version.number}'"
            )
        return version

    def covering(self, path: str) -> Manifest | None:
        """Return the newest whole version of a declared path that is `path`, or holds it.

        Of paths that were published together, the one closest to `path` counts.

        Raises:
            IntegrityError: no version of it is whole.
            AccessDenied, OriginUnavailable, TransferTimeout, OSError: as of `Objects`.
        """
        units = {unit_of(above): len(above) for above in _with_parents(path)}
        for attempt in range(_LISTINGS):
            candidates = [kept for kept in self.versions() if kept.unit in units]
            candidates.sort(key=lambda kept: (kept.version, units[kept.unit]), reverse=True)
            try:
                return self._first_whole(candidates)
            except FileNotFoundError as error:
                # What was listed is gone: something newer took its place, and is listed by now.
                if attempt + 1 == _LISTINGS:
                    raise OriginUnavailable(
                        f"what {self.name!r} left at {self.url} changes faster than it can be read: {error}"
                    ) from None
        raise AssertionError("the last listing returns or raises")

    def manifest(self, kept: Kept) -> Manifest:
        """Return the manifest of one version.

        Raises:
            FileNotFoundError: it was removed.
            IntegrityError: it is damaged.
            AccessDenied, OriginUnavailable, TransferTimeout, OSError: as of `Objects`.
        """
        with self._lock:
            found = self._decoded.get(kept.key)
        if found is None:
            found = self._decode(kept)
        if found.in_place and self.in_place and found.in_place != (place := self.place_of(found)):
            found = dataclasses.replace(found, in_place=place)
        with self._lock:
            self._decoded[kept.key] = found
            self._decoded.move_to_end(kept.key)
            if len(self._decoded) > _KEPT_MANIFESTS:
                self._decoded.popitem(last=False)
        return found

    def place_of(self, manifest: Manifest) -> str:
        """Return the storage root in which the files of a version are now; "" if they are not in place."""
        if not manifest.in_place or not self.in_place:
            return manifest.in_place
        is_former = self._former_root and manifest.version.instance_id in self._former_instances.get()
        return self._former_root if is_former else self.in_place

    def _decode(self, kept: Kept) -> Manifest:
        where = f"{shown(f'{self.name}/{kept.key}')} in {self.url}"
        if kept.size > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"the manifest {where} is larger than any can be")
        found = decode_manifest(self.objects.read(kept.key, 0, kept.size), where=where)
        self._check(found, kept, where)
        return found

    def begin(self, path: str, version: Version, *, deadline: float | None = None) -> Writer:
        """Begin a new version of a declared path; nobody sees it before `Writer.commit`."""
        unit = unit_of(path)
        kept = [each for each in self.versions() if each.unit == unit]
        former = self._former(kept)
        return Writer(
            self.objects,
            unit,
            version,
            former,
            limits=self.limits,
            deadline=deadline,
            replaces=[each.key for each in kept] if self.in_place else None,
        )

    def close(self) -> None:
        """Make no more requests. A second call does nothing."""
        self.objects.close()

    def remove(self, versions: Collection[Kept], *, now: float | None = None) -> int:
        """Remove versions, and the bytes that no other one needs; return how many bytes that were.

        What an unfinished publication left counts as unneeded once it is old.

        Raises:
            AccessDenied, OriginUnavailable, TransferTimeout, OSError: as of `Objects`.
        """
        objects = {each.key.removeprefix(data_key("")): each for each in self.objects.list(DATA)}
        named = {key for kept in versions for key in self._named(kept, objects)}
        self.objects.remove([kept.key for kept in versions])
        with self._lock:
            for kept in versions:
                self._decoded.pop(kept.key, None)
        # What is published meanwhile is listed here, and names its objects, or finds that what it was
        # built upon is gone: see `Writer.commit`.
        manifests = self.objects.list(MANIFESTS)
        needed = {key for kept in _kept(manifests) for key in self._named(kept, objects)}
        oldest = (now or time.time()) - self.limits.staging_seconds
        unneeded = [
            each
            for key, each in objects.items()
            if key_version(key) and key not in needed and (key in named or 0 < each.modified < oldest)
        ]
        # Files that were cut short before they had their names.
        unfinished = [
            each
            for each in (*manifests, *objects.values())
            if is_unfinished(each.key) and 0 < each.modified < oldest
        ]
        self.objects.remove([each.key for each in (*unneeded, *unfinished)])
        return sum(each.size for each in unneeded)

    def _named(self, kept: Kept, objects: Iterable[str]) -> list[str]:
        """Return the keys of the objects that a version names; of a damaged one those that it wrote."""
        try:
            return [each.key for each in self.manifest(kept).objects]
        except FileNotFoundError:
            return []
        except IntegrityError:
            return [key for key in objects if key.startswith(f"{kept.version}/{kept.unit}-")]

    def _check(self, found: Manifest, kept: Kept, where: str) -> None:
        """See that a manifest is the one that was asked for, and that it leads nowhere else."""
        if found.name != self.name or unit_of(found.path) != kept.unit or found.version != kept.version:
            raise IntegrityError(f"the manifest {where} is that of another artifact")
        if not found.removed and self.in_place is not None and not self._may_be_placed(found.in_place):
            raise IntegrityError(f"the manifest {where} says that its files are where they are not kept")
        directories, seen = {""}, set[str]()
        for stored in found.entries:
            path, kind = stored.entry.path, stored.entry.kind
            try:
                check_path(path)
            except ProtocolViolation:
                raise IntegrityError(f"the manifest {where} names {shown(path)}, which is no name") from None
            parent = path.rpartition("/")[0]
            if path in seen or parent not in directories or bool(path) != bool(seen) or kind is Kind.REMOVED:
                raise IntegrityError(f"the manifest {where} names {shown(path)} where it cannot be")
            seen.add(path)
            if kind is Kind.DIRECTORY:
                directories.add(path)
            elif not path:
                directories.clear()

    def _may_be_placed(self, in_place: str) -> bool:
        """Say whether a manifest with this storage root can be of this store: the root may have moved."""
        if not self.in_place or in_place == self.in_place:
            return in_place == self.in_place
        return in_place.endswith(f"/works/{self.name}")

    def _former(self, kept: Iterable[Kept]) -> Manifest | None:
        """Return what a new version may build upon; one that is damaged is none."""
        try:
            former = self._first_whole(kept)
        except (IntegrityError, FileNotFoundError):
            return None
        return None if former is None or former.removed else former

    def _first_whole(self, candidates: Iterable[Kept]) -> Manifest | None:
        damaged: IntegrityError | None = None
        for kept in candidates:
            try:
                return self.manifest(kept)
            except IntegrityError as error:
                damaged = damaged or error
                _LOG.warning("%s; an older version counts if there is one", error)
        if damaged is not None:
            raise damaged
        return None


def _kept(found: Iterable[Found]) -> Iterator[Kept]:
    for each in found:
        parts = each.key.split("/")
        version = Version.parse(parts[-1])
        if len(parts) == 3 and is_unit(parts[1]) and version is not None:
            yield Kept(parts[1], version, each.size, each.modified)


def _with_parents(path: str) -> Iterator[str]:
    """Yield `path` and all that it lies in, down to the storage root or a name directly in "/"."""
    is_relative = not path.startswith("/")
    while path:
        yield path
        path = path.rpartition("/")[0]
    if is_relative:
        yield ""
