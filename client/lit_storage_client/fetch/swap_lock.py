"""Lets one get after the other change names below one storage root.

A get may put a tree in the place of one in which another get is about to put its own. The lock is
that of the directory in which both are staged: flock(2), which ends with the process that holds it.
Where a file system does nothing for it, the gets notice afterwards.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from lit_storage_core.system.file_lock import wait_for_lock
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import TransferTimeout

_SECONDS = 30.0  # a change of names takes milliseconds, and syncing before it as long as the disk takes
_PAUSE_SECONDS = 0.01


@contextlib.contextmanager
def exclusive(directory_fd: int, label: str, seconds: float = _SECONDS) -> Iterator[None]:
    """Hold the lock of a directory for the length of a ``with`` block.

    Args:
        directory_fd: of the directory; may be O_PATH.
        label: what is waited for, in errors.
        seconds: how long to wait for it.

    Raises:
        TransferTimeout: another get holds it for longer.
    """
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    except PermissionError:
        yield  # it cannot be listed, and so not be locked
        return
    try:
        if not wait_for_lock(fd, time.monotonic() + seconds, pause_seconds=_PAUSE_SECONDS):
            raise TransferTimeout(
                f"{shown(label)} could not be put in place: another get beside it takes too long"
            )
        yield
    finally:
        os.close(fd)
