"""Puts a copy in its place together with the directories that were missing on the way to it.

Invariant: they appear in one rename, with the copy in them, so that whatever is killed when leaves no
empty directories, and no copy where the next get of that target would not look for it: at most the
empty staging.
"""

from __future__ import annotations

import contextlib
import os

from lit_storage_client.fetch.commit import Rename, root_directory, sync_directory
from lit_storage_client.fetch.confine import Destination
from lit_storage_client.fetch.staging import Staging
from lit_storage_core.staging.names import TREE
from lit_storage_core.system.libc import RENAME_NOREPLACE, renameat2
from lit_storage_proto.entry import Entry

_PARENTS = "parents"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def place_with_parents(
    staging: Staging, root: Entry, destination: Destination, *, durable: bool, rename: Rename = renameat2
) -> int | None:
    """Make what `destination` lacks, and the staged tree in it, after `seal`.

    Args:
        staging: holds a whole TREE, and was sealed.
        root: the entry of its root.
        destination: some of whose parents may be missing.
        durable: whether all of it survives a power cut once this has returned.
        rename: how names are changed.

    Returns:
        The target's directory, open; None if nothing was done, because no directory is missing, because
        somebody else began to make them, or because the file system cannot do it.

    Raises:
        OSError: the disk fails, and the like.
    """
    if not destination.missing:
        return None
    with contextlib.ExitStack() as stack:
        parents = _make(staging.fd, [_PARENTS, *destination.missing[1:]], stack)
        with root_directory(staging, root) as root_fd:
            os.rename(TREE, destination.name, src_dir_fd=staging.fd, dst_dir_fd=parents[-1])
            if durable:
                for fd in parents:
                    os.fsync(fd)
            try:
                rename(staging.fd, _PARENTS, destination.anchor_fd, destination.missing[0], RENAME_NOREPLACE)
            except OSError:  # if it is one that matters, whoever now makes the directories meets it too
                os.rename(destination.name, TREE, src_dir_fd=parents[-1], dst_dir_fd=staging.fd)
                return None
            if root_fd >= 0:
                os.fchmod(root_fd, root.mode)
            if durable:
                sync_directory(destination.anchor_fd, staging.fd)
        return os.dup(parents[-1])


def _make(fd: int, names: list[str], stack: contextlib.ExitStack) -> list[int]:
    """Make directories in each other; return them, open."""
    made = []
    for name in names:
        os.mkdir(name, dir_fd=fd)
        fd = os.open(name, _DIRECTORY, dir_fd=fd)
        stack.callback(os.close, fd)
        made.append(fd)
    return made
