"""Who may publish for a Work: one process at a time, and for a Work that died nobody while it lives.

Invariant: a lock is held through flock(2), which ends with the process that holds it, whatever ends that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from lit_storage_core.system.file_lock import unlock, wait_for_lock
from lit_storage_proto.errors import TransferTimeout

_PAUSE_SECONDS = 0.05


@contextlib.contextmanager
def alone(storage_root: str, name: str, deadline: float) -> Iterator[None]:
    """Be the only one that publishes from a storage root, for the length of a ``with`` block.

    flock(2) of the directory ends with the process that holds it.

    Args:
        storage_root: of the Work.
        name: of the Work.
        deadline: when to give up, on the clock of time.monotonic().

    Raises:
        TransferTimeout: another process goes on publishing.
        OSError: the storage root is gone.
    """
    fd = os.open(storage_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Where the file system has no locks two may publish: two whole versions.
        if not wait_for_lock(fd, deadline, pause_seconds=_PAUSE_SECONDS):
            raise TransferTimeout(
                f"another process goes on publishing what {name!r} declared; see Limits.publish_seconds"
            )
        yield
    finally:
        with contextlib.suppress(OSError):
            unlock(fd)  # a child that was forked meanwhile holds the descriptor too
        os.close(fd)
