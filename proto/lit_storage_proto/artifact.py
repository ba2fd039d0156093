"""What a stopped Work left of one declared path, as values; `manifest_codec` takes them to bytes and back.

Terms, and how a store is laid out, are written in ``v1/artifact.proto``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import xxhash

from lit_storage_proto.digest import DIGEST_BYTES
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError

MANIFESTS, DATA = "manifests", "data"
"""What the keys of a store begin with."""

UNFINISHED = ".tmp-"
"""What the names of files begin with that are still being written."""

IN_PLACE = -1
"""Stands for the object of a chunk whose bytes are in the file itself."""

_VERSION = re.compile(r"([0-9]{8,18})-([A-Za-z0-9_-]{1,64})", re.ASCII)
_UNIT = re.compile(r"[A-Za-z0-9_.-]{1,120}", re.ASCII)
_KEY = re.compile(rf"({_VERSION.pattern})/({_UNIT.pattern})-[0-9]{{5,12}}", re.ASCII)
_SLUG_CHARACTERS = 60


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Which publication of a Work: the greatest one is the newest."""

    number: int
    instance_id: str

    def __str__(self) -> str:
        return f"{self.number:08}-{self.instance_id}"

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """Return the version that `text` is the name of, None if it is none."""
        match = _VERSION.fullmatch(text)
        return None if match is None else cls(int(match[1]), match[2])


def unit_of(path: str) -> str:
    """Return the name that a declared path has in a store: readable, and different for each path.

    The hash is that of the path's bytes; xxHash is enough, for all paths of a Work are its own.
    """
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", path).strip("._") or "root"
    return f"{slug[-_SLUG_CHARACTERS:]}-{xxhash.xxh3_128_hexdigest(os.fsencode(path))}"


def is_unit(text: str) -> bool:
    """Say whether `text` can be the name of a declared path in a store."""
    return _UNIT.fullmatch(text) is not None and not text.startswith(".")


def key_version(key: str) -> Version | None:
    """Return the version that wrote the object `key`, None if that is no key of an object."""
    match = _KEY.fullmatch(key)
    return None if match is None else Version.parse(match[1])


def manifest_key(unit: str, version: Version) -> str:
    """Return where in a store the manifest of a version is."""
    return f"{MANIFESTS}/{unit}/{version}"


def is_unfinished(key: str) -> bool:
    """Say whether a key is of a file that was still being written when it was listed."""
    return key.rpartition("/")[2].startswith(UNFINISHED)


def data_key(key: str) -> str:
    """Return where in a store the object is that manifests name `key`."""
    return f"{DATA}/{key}"


class StoredChunk(NamedTuple):
    """A run of bytes of one file, and where it lies."""

    offset: int
    """In the file."""
    size: int
    object: int
    """Its number among the objects of the manifest, or IN_PLACE."""
    position: int
    """In the object."""
    digest: bytes


class Extent(NamedTuple):
    """A run of an object, of one or more chunks of one file."""

    object: int
    position: int
    size: int


class StoredObject(NamedTuple):
    """A run of bytes in a store."""

    key: str
    size: int


@dataclass(slots=True)
class StoredEntry:
    """An entry of an artifact, and where its bytes are."""

    entry: Entry
    spans: Sequence[tuple[int, int]] = ()
    """Runs that are not holes, from this byte up to that one. Empty: see `data`."""
    extents: Sequence[Extent] = ()
    """Empty where the bytes are in place."""
    digests: bytes = b""
    """Those of all chunks, joined."""
    place: str = ""
    """Where a file or directory lies that is in place, and not at its path.

    Relative to the storage root, which is ".", or absolute.
    """

    @property
    def data(self) -> Sequence[tuple[int, int]]:
        """The runs of the file that are not holes."""
        if self.spans or not self.digests:
            return self.spans
        return ((0, self.entry.size),)

    def count_chunks(self, chunk_bytes: int) -> int:
        """Return how many chunks its runs have."""
        return sum(-(-(end - start) // chunk_bytes) for start, end in self.data)

    def chunks(self, chunk_bytes: int) -> Iterator[StoredChunk]:
        """Yield its chunks, from the first byte to the last.

        Raises:
            IntegrityError: what is said of the chunks does not fit together.
        """
        if self.entry.size <= chunk_bytes and len(self.extents) == 1 and not self.spans and self.digests:
            number, position, size = self.extents[0]  # most files are one chunk
            if size != self.entry.size or len(self.digests) != DIGEST_BYTES:
                raise self._damaged()
            yield StoredChunk(0, size, number, position, self.digests)
            return
        yield from self._chunks(chunk_bytes)

    def _chunks(self, chunk_bytes: int) -> Iterator[StoredChunk]:
        extents = iter(self.extents)
        number, position, left = IN_PLACE, 0, 0
        index = 0
        for start, end in self.data:
            while start < end:
                size = min(chunk_bytes, end - start)
                digest = self.digests[index : index + DIGEST_BYTES]
                index += DIGEST_BYTES
                if self.extents:
                    if not left:
                        number, position, left = next(extents, (0, 0, 0))
                    if left < size:
                        raise self._damaged()
                    yield StoredChunk(start, size, number, position, digest)
                    position, left = position + size, left - size
                else:
                    yield StoredChunk(start, size, IN_PLACE, start, digest)
                start += size
        if index != len(self.digests) or left or next(extents, None) is not None:
            raise self._damaged()

    def _damaged(self) -> IntegrityError:
        return IntegrityError(f"the chunks of {self.entry.path!r} do not fit together")


@dataclass(slots=True)
class Manifest:
    """One version of an artifact."""

    name: str
    path: str
    """The declared path: relative to the storage root, or absolute."""
    version: Version
    published_ns: int
    machine_id: str
    chunk_bytes: int
    entries: Sequence[StoredEntry] = ()
    """A directory before what it holds; the first is the path itself."""
    objects: Sequence[StoredObject] = ()
    in_place: str = ""
    """The storage root below which the bytes are, by the path that it had when this was published; empty if
    they are in objects."""
    unclean: bool = False
    """Whether the Work died, and this was published for it."""
    removed: bool = False
    """Whether the Work had removed the path."""
    _by_path: dict[str, StoredEntry] | None = field(default=None, repr=False, compare=False)

    @property
    def by_path(self) -> dict[str, StoredEntry]:
        """The entries by their paths."""
        if self._by_path is None:
            self._by_path = {stored.entry.path: stored for stored in self.entries}
        return self._by_path

    @property
    def files(self) -> int:
        """How many regular files it has."""
        return sum(stored.entry.kind is Kind.FILE for stored in self.entries)

    @property
    def bytes(self) -> int:
        """Bytes of all its files."""
        return sum(stored.entry.size for stored in self.entries)
