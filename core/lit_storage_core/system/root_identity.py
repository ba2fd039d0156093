"""How a root is recognised as a copy: inode numbers that are kept in it, and that a copy does not have.

A root that was moved within its file system keeps the inode of its directory and of its registry. In a copy
both are new. The number of the device is not looked at: it may change when a container or a machine
restarts.

Invariant: a root counts as a copy until `keep_identity` was called for it as the last step of making it a
root of its own. So whatever was interrupted before is done again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from lit_storage_core.system.file_lock import unlock, wait_for_lock
from lit_storage_core.system.mounts import file_system_of, spans_machines
from lit_storage_core.system.names import is_id, shown
from lit_storage_core.system.replace_file import replace_file
from lit_storage_proto.errors import AccessDenied, StorageError, TransferTimeout

IDENTITY_FILE = "root-identity"

_LOG = logging.getLogger("lit_storage.root")
_VERSION = 1
_MOST_BYTES = 256 * 1024
_MOST_KEPT = 16  # former paths, and former machine ids
_LOCK_SECONDS = 10.0
# With some options or servers, these number the inodes anew at each mount.
_CLIENT_INODES = frozenset({"cifs", "smb3", "smbfs", "9p", "vboxsf", "vmhgfs"})
_NO_REGISTRY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES)
_SHORT_SECONDS = 1.0  # for what can be done the next time as well
_PAUSE_SECONDS = 0.01


class Likeness(Enum):
    """How a root compares with the one of which the file in it was written."""

    SAME = "same"
    """It is that one, wherever it is by now, or nothing is known."""
    COPY = "copy"
    """It is a copy, and so is its registry."""
    COPY_BESIDE_REGISTRY = "copy beside registry"
    """It is a copy that goes on with the registry of the original, which lies elsewhere."""


@dataclass(frozen=True, slots=True)
class RootIdentity:
    """What is kept of a root, in its file ``root-identity``."""

    root_inode: int
    registry_inode: int
    """Of the file of its sqlite registry; 0 if it has none yet."""
    file_inode: int
    """Of the file ``root-identity`` itself: the second witness of a root that has no registry."""
    paths: tuple[str, ...] = ()
    """Real paths at which this root was opened, the latest last."""
    former_ids: tuple[str, ...] = ()
    """Machine ids of the roots that this one was copied from, the latest last."""

    def after_copying(self, former_id: str) -> RootIdentity:
        """Return the identity with one more former machine id, unless that is empty."""
        kept = [each for each in self.former_ids if each != former_id]
        return replace(self, former_ids=tuple([*kept, former_id][-_MOST_KEPT:])) if former_id else self


def read_identity(root: str) -> RootIdentity | None:
    """Return what is kept of `root`; None if nothing is, or nothing that can be understood.

    Raises:
        AccessDenied: the file cannot be read by this process.
        StorageError: a newer version of this product wrote it.
        OSError: the disk fails.
    """
    found = _read(root)
    return None if found is None else found[0]


def is_copy(root: str, registry_file: str | None) -> bool:
    """Say whether `root` is a copy, which is to be made a root of its own before anything in it is used.

    What a root that is none is recognised by is kept.

    Args:
        root: the root, without links.
        registry_file: the database file of the registry in use; None if that registry uses no file.

    Raises:
        AccessDenied, StorageError, OSError: as of `read_identity`.
    """
    found, kept = compare(root, registry_file)
    if found is Likeness.SAME and not _is_current(root, registry_file, kept):
        try:
            with root_lock(root, seconds=_SHORT_SECONDS):
                found, kept = compare(root, registry_file)
                if found is Likeness.SAME:
                    keep_identity(root, registry_file, kept)
        except OSError as error:  # a full disk must not keep anybody from reading what is there
            _LOG.warning("a copy of the root %s could not be recognised as one: %s", shown(root), error)
    return found is not Likeness.SAME


def compare(root: str, registry_file: str | None) -> tuple[Likeness, RootIdentity | None]:
    """Compare a root with what is kept in it, and return that too; change nothing.

    Args and errors: as of `is_copy`.
    """
    found = _read(root)
    if found is None:
        return Likeness.SAME, None
    return _likeness(root, registry_file, *found), found[0]


def _likeness(root: str, registry_file: str | None, kept: RootIdentity, file_inode: int) -> Likeness:
    if kept.root_inode == os.stat(root).st_ino:
        return Likeness.SAME
    is_other_file = kept.file_inode != file_inode
    if kept.registry_inode and registry_file is not None:
        is_other_registry = kept.registry_inode != _inode_of(registry_file)
    else:
        is_other_registry = is_other_file
    if not (is_other_registry or is_other_file) or not _has_stable_inodes(root):
        return Likeness.SAME
    return Likeness.COPY if is_other_registry else Likeness.COPY_BESIDE_REGISTRY


def keep_identity(root: str, registry_file: str | None, former: RootIdentity | None) -> None:
    """Keep by what `root` is recognised, which ends its being a copy.

    Args:
        root: the root, without links.
        registry_file: as of `is_copy`.
        former: what was kept before, of which paths and former machine ids stay.

    Raises:
        OSError: the disk is full, and the like.
    """
    registry_inode = _inode_of(registry_file) if registry_file is not None else 0
    before = former or RootIdentity(0, 0, 0)
    new = RootIdentity(
        os.stat(root).st_ino,
        registry_inode or before.registry_inode,
        0,
        tuple([*(path for path in before.paths if path != root), root][-_MOST_KEPT:]),
        before.former_ids,
    )
    replace_file(_path(root), lambda inode: _text(replace(new, file_inode=inode)), mode=0o644)


def keep_former_id(root: str, copied: RootIdentity, former_id: str) -> RootIdentity:
    """Note the machine id that a copy has of its original; it counts as a copy as before.

    Raises:
        OSError: the disk is full, and the like.
    """
    noted = replace(copied.after_copying(former_id), file_inode=0)  # which is the number of no file
    if noted.former_ids != copied.former_ids:
        replace_file(_path(root), lambda _inode: _text(noted), mode=0o644)
    return noted


@contextlib.contextmanager
def root_lock(root: str, *, seconds: float = _LOCK_SECONDS) -> Iterator[int]:
    """Hold the lock on a root, for the length of a ``with`` block; yields a descriptor of its directory.

    flock(2) of the directory ends with the process. Where the file system has no locks, two processes may
    be in the block at once.

    Raises:
        TransferTimeout: another process holds the lock for too long.
        OSError: the root cannot be opened.
    """
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + seconds
        if not wait_for_lock(fd, deadline, pause_seconds=_PAUSE_SECONDS):
            raise TransferTimeout(
                f"another process has held a lock on the directory {root} for {seconds:g} s; end that "
                "process, and try again"
            )
        yield fd
    finally:
        with contextlib.suppress(OSError):
            unlock(fd)  # a child that was forked meanwhile holds the descriptor too
        os.close(fd)


def _is_current(root: str, registry_file: str | None, kept: RootIdentity | None) -> bool:
    """Say whether what is kept of a root, which is no copy, is all that can be kept of it now."""
    if kept is None or kept.root_inode != os.stat(root).st_ino or root not in kept.paths:
        return False
    registry_inode = _inode_of(registry_file) if registry_file is not None else 0
    return registry_inode in (0, kept.registry_inode)


def _has_stable_inodes(root: str) -> bool:
    """Say whether a file has one inode number for all machines and mounts."""
    file_system = file_system_of(root)
    return not (
        file_system in _CLIENT_INODES or (file_system.startswith("fuse.") and spans_machines(file_system))
    )


def _path(root: str) -> str:
    return os.path.join(root, IDENTITY_FILE)


def _inode_of(path: str) -> int:
    """Return the inode of a registry, 0 where there is none: whoever opens it says what is wrong with it."""
    try:
        return os.stat(path).st_ino
    except OSError as error:
        if error.errno not in _NO_REGISTRY:
            raise
        return 0


def _text(identity: RootIdentity) -> str:
    kept = {
        "version": _VERSION,
        "root_inode": identity.root_inode,
        "registry_inode": identity.registry_inode,
        "file_inode": identity.file_inode,
        "paths": identity.paths,
        "former_ids": identity.former_ids,
    }
    return json.dumps(kept) + "\n"


def _read(root: str) -> tuple[RootIdentity, int] | None:
    """Return what is kept, and the inode of the file in which it is."""
    path = _path(root)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or a socket
            return None
        if isinstance(error, PermissionError):
            raise AccessDenied(
                f"{path} cannot be read, which tells whether this root is a copy; check who owns {root}"
            ) from None
        raise
    try:
        status = os.fstat(fd)
        data = os.read(fd, _MOST_BYTES) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(fd)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    identity = _parsed(found, path)
    return None if identity is None else (identity, status.st_ino)


def _parsed(found: dict[Any, Any], path: str) -> RootIdentity | None:
    version = found.get("version")
    if isinstance(version, int) and version > _VERSION:
        raise StorageError(
            f"{path} was written by a newer lit-storage (version {version}, here {_VERSION}); "
            "upgrade this one"
        )
    inodes = [found.get(name) for name in ("root_inode", "registry_inode", "file_inode")]
    paths, former_ids = found.get("paths"), found.get("former_ids")
    if version != _VERSION or not all(isinstance(inode, int) for inode in inodes):
        return None
    if not (_is_texts(paths) and _is_texts(former_ids) and all(is_id(each) for each in former_ids or ())):
        return None
    if not all(path.startswith("/") for path in paths or ()):
        return None
    root_inode, registry_inode, file_inode = (int(inode or 0) for inode in inodes)
    return RootIdentity(root_inode, registry_inode, file_inode, tuple(paths or ()), tuple(former_ids or ()))


def _is_texts(found: object) -> bool:
    return (
        isinstance(found, list) and len(found) <= _MOST_KEPT and all(isinstance(each, str) for each in found)
    )
