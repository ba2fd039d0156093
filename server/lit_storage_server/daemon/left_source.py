"""Hands out what stopped Works of this machine left, to whoever asks for ``@NAME/PATH``.

    @train/out/x        out/x of the Work "train"
    @train/@/data/x     /data/x, which "train" declared
    @train/@manifests   the manifests of its artifacts, by which they are listed

Invariant: nothing is sent but what a manifest of the Work names, in the store that the registry records
for it, and only where that store is this machine's: in place below the root of this custodian, or a
directory. In place, where a manifest says which files are read, only those count that this user wrote.
What lies elsewhere is never fetched for others with this machine's rights. No error tells where on this
machine anything lies, but for paths that the Work declared.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from lit_storage_core.artifacts.artifact import Artifact
from lit_storage_core.artifacts.own_root import OwnRoot
from lit_storage_core.artifacts.parents import entries_at
from lit_storage_core.artifacts.store import ArtifactStore, Kept
from lit_storage_core.artifacts.stream import ArtifactStream
from lit_storage_core.artifacts.urls import is_in_place, is_on_disk, open_store
from lit_storage_core.system.names import shown
from lit_storage_proto.artifact import MANIFESTS
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import (
    AccessDenied,
    OriginUnavailable,
    PathNotFound,
    ProtocolViolation,
    RegistryUnavailable,
    StorageError,
)
from lit_storage_proto.frames import Chunk, Frame
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry
from lit_storage_proto.tree_options import Held
from lit_storage_proto.tree_options import TreeOptions as ArtifactOptions
from lit_storage_proto.uri import LEFT_ABSOLUTE, LEFT_MANIFESTS, Location, check_name
from lit_storage_server.sources.assembly import Assembly
from lit_storage_server.sources.range_stream import ByteRange, by_file, span_of
from lit_storage_server.sources.shares import check_wire_path, join
from lit_storage_server.sources.source import Tree
from lit_storage_server.sources.tree_stream import TreeOptions

_LOG = logging.getLogger("lit_storage.server")

_MOST_STORES = 4  # each keeps decoded manifests, which may be of tens of MiB
_LABEL = "the custodian's store"  # who asks may not know where on this machine it lies


class LeftSource:
    """Reads what stopped Works left; a `Source` of paths that begin with ``@``.

    Args:
        root: that the Works of this machine share.
        machine_id: of this machine.
        registry: knows where each Work left what.
        limits: deadlines and sizes.
    """

    def __init__(self, root: str, machine_id: str, registry: Registry, limits: Limits) -> None:
        self._machine_id = machine_id
        self._own_root = OwnRoot(root, machine_id, registry.url)
        self._registry = registry
        self._limits = limits
        self._stores: OrderedDict[tuple[str, str], ArtifactStore] = OrderedDict()
        self._lock = threading.Lock()

    def exists(self, path: str) -> bool:
        """See `Source.exists`."""
        try:
            self.stat(path)
        except PathNotFound:
            return False
        return True

    def stat(self, path: str) -> Entry:
        """See `Source.stat`."""
        name, below = split(path)
        with _withheld(name):
            if _is_manifests(below):
                return next(iter(self._manifest_entries(name, below, recursive=False)))
            return self._find(name, below).entry

    def entries(self, path: str, *, recursive: bool) -> Generator[Entry, None, None]:
        """See `Source.entries`."""
        name, below = split(path)
        with _withheld(name):
            if _is_manifests(below):
                yield from self._manifest_entries(name, below, recursive=recursive)
            else:
                yield from entries_at(self._store(name), Location(name, below), recursive=recursive)

    def ranges(self, path: str, ranges: Sequence[ByteRange]) -> Generator[Frame, None, None]:
        """See `Source.ranges`."""
        assembly = Assembly(self._limits.chunk_bytes)
        for file, wanted in by_file(ranges).items():
            name, below = split(join(path, file))
            with _withheld(name):
                if _is_manifests(below):
                    yield from self._send_manifest(assembly, name, below, file, wanted)
                else:
                    yield from self._send_ranges(assembly, name, below, file, wanted)
        yield from assembly.finish()

    def tree(self, path: str, options: TreeOptions) -> Tree:
        """See `Source.tree`."""
        return _LeftTree(self, path, options, self._limits.chunk_bytes)

    def artifact(self, path: str) -> Artifact:
        """Return what a path of a request means.

        Raises:
            ProtocolViolation, InvalidURI: it is no such path.
            PathNotFound: the Work left nothing there.
            OriginUnavailable: what it left is not this custodian's to hand out.
            StorageError: as of `Artifact.find`.
        """
        return self._find(*split(path))

    def close(self) -> None:
        """Read no more."""
        with self._lock:
            while self._stores:
                self._stores.popitem()[1].close()

    def _find(self, name: str, below: str) -> Artifact:
        return Artifact.find(self._store(name), Location(name, below))

    def _store(self, name: str) -> ArtifactStore:
        try:
            work = self._registry.work(name)
        except RegistryUnavailable as error:
            _LOG.warning("%s", error)
            raise RegistryUnavailable(f"this custodian cannot ask its registry for {name!r} now") from None
        if work is None or not work.artifacts_url:
            raise PathNotFound(f"{name!r} is no Work that left anything, by the registry of this custodian")
        url = self._own_root.url_here(work.artifacts_url, name)
        if is_in_place(url) and url != self._own_root.url:
            raise OriginUnavailable(f"what {name!r} left lies below another root than that of this custodian")
        if not is_in_place(url) and work.machine_id != self._machine_id:
            raise OriginUnavailable(f"{name!r} ran on another machine than that of this custodian")
        if not is_on_disk(url):
            raise AccessDenied(f"what {name!r} left is in a store that is read without a custodian")
        with self._lock:
            store = self._stores.get((url, name))
            if store is None:
                store = open_store(url, name, limits=self._limits, own=True, label=_LABEL)
                self._stores[url, name] = store
            self._stores.move_to_end((url, name))
            if len(self._stores) > _MOST_STORES:
                self._stores.popitem(last=False)
            return store

    def _send_ranges(
        self, assembly: Assembly, name: str, below: str, file: str, wanted: Sequence[ByteRange]
    ) -> Iterator[Frame]:
        artifact = self._find(name, below)
        entry = artifact.entry
        if entry.kind is not Kind.FILE:
            raise ProtocolViolation(f"a range of {below!r} was asked for, which is no regular file")
        spans = [span_of(item, entry, below) for item in wanted]
        yield from assembly.put_entry(replace(entry, path=file))
        with artifact.stream_spans([span for span in spans if span[0] < span[1]]) as stream:
            yield from _put_chunks(assembly, stream, assembly.last_entry)

    def _manifest_entries(self, name: str, below: str, *, recursive: bool) -> Iterator[Entry]:
        """Yield the manifests of a Work as files: `below` is of them all, of a unit, or of one."""
        key, files = _key(below), self._manifests(name)
        if key in files:
            yield _manifest_entry("", files[key])
            return
        if key:
            raise PathNotFound(f"{name!r} left no version {shown(key)}")
        yield Entry("", Kind.DIRECTORY, 0, 0o555)
        units = dict.fromkeys(kept.unit for kept in files.values())
        for unit in units:
            yield Entry(unit, Kind.DIRECTORY, 0, 0o555)
            for path, kept in files.items() if recursive else ():
                if kept.unit == unit:
                    yield _manifest_entry(path, kept)

    def _manifests(self, name: str) -> dict[str, Kept]:
        """Return the manifests of a Work by their paths below ``@manifests``."""
        prefix = f"{MANIFESTS}/"
        versions = self._store(name).versions()
        return {kept.key.removeprefix(prefix): kept for kept in versions if kept.key.startswith(prefix)}

    def _send_manifest(
        self, assembly: Assembly, name: str, below: str, file: str, wanted: Sequence[ByteRange]
    ) -> Iterator[Frame]:
        store, key = self._store(name), _key(below)
        kept = self._manifests(name).get(key)
        if kept is None:
            if not key:
                raise ProtocolViolation(f"a range of {shown(below)} was asked for, which is no regular file")
            raise PathNotFound(f"{name!r} left no version {shown(key)}")
        try:
            store.manifest(kept)  # what is none is not handed out
            data = memoryview(store.objects.read(kept.key))
        except FileNotFoundError:
            raise PathNotFound(f"{name!r} left no version {shown(key)} any more") from None
        entry = _manifest_entry(file, kept)
        yield from assembly.put_entry(entry)
        for item in wanted:
            start, end = span_of(item, entry, below)
            for begin in range(start, end, self._limits.chunk_bytes):
                part = bytes(data[begin : min(begin + self._limits.chunk_bytes, end)])
                yield from assembly.put_chunk(Chunk(assembly.last_entry, begin, chunk_digest(part), part))


class _LeftTree:
    """The frames of one artifact, as `TreeStream` has those of a tree."""

    def __init__(self, source: LeftSource, path: str, options: TreeOptions, chunk_bytes: int) -> None:
        self._source = source
        self._path = path
        self._options = options
        self._chunk_bytes = chunk_bytes
        self.descriptor = -1
        # What the Work followed has no links any more.
        self.follows_links = options.follow_links

    def pass_descriptors(self) -> None:
        """Do nothing: the bytes are sent."""

    def frames(self) -> Generator[Frame, None, None]:
        """See `Tree.frames`."""
        name, below = split(self._path)
        if _is_manifests(below):
            yield from self._source.ranges(self._path, [ByteRange("", 0, None, b"")])
            return
        options = self._options
        held = [Held(path, version, spans) for path, (version, spans) in options.held.items()]
        asked = ArtifactOptions(holes=options.holes, follow_links=options.follow_links, held=held)
        assembly = Assembly(self._chunk_bytes)
        with _withheld(name), self._source.artifact(self._path).stream(asked, None) as stream:
            for frame in stream:
                for entry in frame.entries:
                    yield from assembly.put_entry(entry)
                for chunk in frame.chunks:
                    yield from _put_chunk(assembly, chunk)
        yield from assembly.finish()


@contextlib.contextmanager
def _withheld(name: str) -> Iterator[None]:
    """Have errors of the system tell whose files failed, and not where on this machine they lie."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"what {name!r} left") from error


def split(path: str) -> tuple[str, str]:
    """Return the name of a Work and the path at it, of a path that begins with ``@``.

    Raises:
        ProtocolViolation: a part is empty, "." or "..", or holds NUL.
        InvalidURI: no Work can have this name.
    """
    check_wire_path(path)
    name, _, below = path.removeprefix("@").partition("/")
    check_name(name)
    return name, "/" + below[len(LEFT_ABSOLUTE) :] if f"{below}/".startswith(LEFT_ABSOLUTE) else below


def _is_manifests(below: str) -> bool:
    return f"{below}/".startswith(LEFT_MANIFESTS + "/")


def _key(below: str) -> str:
    """Return the path of a manifest below ``@manifests``, "" of them all."""
    return below.removeprefix(LEFT_MANIFESTS).lstrip("/")


def _manifest_entry(path: str, kept: Kept) -> Entry:
    return Entry(path, Kind.FILE, kept.size, 0o444, int(kept.modified * 1e9))


def _put_chunks(assembly: Assembly, stream: ArtifactStream, number: int) -> Iterator[Frame]:
    for frame in stream:
        for chunk in frame.chunks:
            yield from _put_chunk(assembly, replace(chunk, entry=number))


def _put_chunk(assembly: Assembly, chunk: Chunk) -> Iterator[Frame]:
    """Put a chunk of an artifact, whose data are good until the next one is asked for."""
    capacity, size = assembly.capacity, len(chunk.data)
    if size == capacity:
        yield from assembly.put_chunk(chunk)
    elif size < capacity:
        yield from assembly.put_chunk(replace(chunk, data=bytes(chunk.data)))
    else:  # it was published with larger ones than are sent here
        for begin in range(0, size, capacity):
            part = bytes(chunk.data[begin : begin + capacity])
            piece = Chunk(chunk.entry, chunk.offset + begin, chunk_digest(part), part)
            yield from assembly.put_chunk(piece)
