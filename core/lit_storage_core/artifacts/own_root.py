"""Whether what a Work left in place lies in the root that is read, wherever that root is by now.

An in-place URL names the machine id and the path of a root as they were when it was written. The root may
have been moved since, may be reached by another path, or may be a copy.

Cases, in this order, of a URL with the machine id of the root that is read:

 1. Its path is that of this root, by name or by inode: this root.
 2. The registry lies in this root, and so does the machine id, or this root or its original was at that path,
    as it keeps or as a manifest of the Work in it says: this root.
 3. Another root is at its path: that one.
 4. Nothing is there, and this root was at that path, as in 2: this root, which was moved.
 5. Otherwise the URL means what it says, and whoever opens it reports what is missing.

Invariant: a root that was copied never reads the files of its original through a registry that was copied
with it.
"""

from __future__ import annotations

import contextlib
import functools
import os

from lit_storage_core.artifacts.urls import directory_of, in_place_url, is_in_place, machine_of
from lit_storage_core.system.machine import kept_machine_id
from lit_storage_core.system.root_identity import RootIdentity, read_identity
from lit_storage_proto.errors import IntegrityError, StorageError


class OwnRoot:
    """The root that this process uses, as in-place URLs are compared with it. May be used from any thread.

    Args:
        root: without links.
        machine_id: of this process.
        registry_url: of the registry in use. If that lies in the root, it is moved and copied with it.
    """

    def __init__(self, root: str, machine_id: str, registry_url: str) -> None:
        self.root = root
        self.machine_id = machine_id
        self._has_registry = registry_url == f"sqlite://{os.path.join(root, 'registry.db')}"

    @functools.cached_property
    def _paths(self) -> tuple[str, ...]:
        """At which this root, or its original, was opened."""
        return self._kept.paths if self._kept is not None else ()

    @functools.cached_property
    def _former_ids(self) -> tuple[str, ...]:
        """Machine ids of the roots that this one was copied from."""
        return self._kept.former_ids if self._kept is not None else ()

    @functools.cached_property
    def _kept(self) -> RootIdentity | None:
        with contextlib.suppress(StorageError, OSError):
            return read_identity(self.root)
        return None

    @functools.cached_property
    def _has_kept_id(self) -> bool:
        """Whether the machine id is the one that is kept in this root, so that no other root has it."""
        with contextlib.suppress(StorageError, OSError):
            return kept_machine_id(self.root) == self.machine_id
        return False

    @functools.cached_property
    def url(self) -> str:
        """The URL of what Works leave in place in this root."""
        return in_place_url(self.root, self.machine_id)

    def url_here(self, url: str, name: str) -> str:
        """Return the URL to open for a URL of a record: that of this root if it means this root.

        Args:
            url: of a store, as a registry holds it.
            name: of the Work that left something there.
        """
        if not is_in_place(url) or url == self.url or machine_of(url) != self.machine_id:
            return url
        path = _root_of(url)
        return self.url if path and self._is_meant(path, name) else url

    def was_copied_from(self, url: str, name: str) -> bool:
        """Say whether a URL means a root of which this one is a copy, and which is not on this machine now.

        Args and cases: as of `url_here`.
        """
        if not is_in_place(url) or machine_of(url) not in self._former_ids:
            return False
        path = _root_of(url)
        return bool(path) and not self._is_another(path, machine_of(url), name) and self._was_at(path, name)

    def _is_meant(self, path: str, name: str) -> bool:
        if _is_same(path, self.root):
            return True
        if self._has_registry and (self._has_kept_id or self._was_at(path, name)):
            return True
        return not self._is_another(path, self.machine_id, name) and self._was_at(path, name)

    def _is_another(self, path: str, machine_id: str, name: str) -> bool:
        """Say whether another root is at a path, of that machine id, in which the Work left something."""
        if _is_same(path, self.root) or not os.path.isdir(os.path.join(path, "artifacts", name)):
            return False
        try:
            kept_id = kept_machine_id(path)
        except (StorageError, OSError):
            return True
        # A random id is that of one root. One of the environment may stand for all roots of a machine.
        is_of_one_root = self._has_kept_id or machine_id in self._former_ids
        return not is_of_one_root or kept_id in ("", machine_id)

    def _was_at(self, path: str, name: str) -> bool:
        """Say whether this root was, or its original is, at a path, and the Work left something in it."""
        directory = os.path.join(self.root, "artifacts", name)
        if not os.path.isdir(directory):
            return False
        return path in self._paths or _was_published_at(directory, os.path.join(path, "works", name))


@functools.lru_cache(256)
def _was_published_at(directory: str, storage_root: str) -> bool:
    """Say whether a manifest in a directory of artifacts was published from a storage root."""
    # Protobuf's messages are loaded only where they are used.
    from lit_storage_core.artifacts.local_objects import LocalObjects
    from lit_storage_proto.artifact import MANIFESTS
    from lit_storage_proto.limits import MAX_MANIFEST_BYTES
    from lit_storage_proto.manifest_codec import decode_manifest

    objects = LocalObjects(directory)
    try:
        for found in objects.list(MANIFESTS):
            if found.size <= MAX_MANIFEST_BYTES:
                with contextlib.suppress(IntegrityError, FileNotFoundError):
                    data = objects.read(found.key, 0, found.size)
                    if decode_manifest(data, where=found.key).in_place == storage_root:
                        return True
    except (StorageError, OSError):
        return False  # whoever reads the artifacts reports it
    return False


def _root_of(url: str) -> str:
    """Return the path of the root that an in-place URL names; "" if it can name none."""
    try:
        path = os.path.dirname(directory_of(url))
    except ValueError:
        return ""
    return "" if "\0" in path else path


def _is_same(path: str, root: str) -> bool:
    if path == root:
        return True
    try:
        return os.path.samefile(path, root)
    except OSError:
        return False
