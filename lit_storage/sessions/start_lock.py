"""Keeps a storage root from being moved while a process registers that serves it.

Invariant: whoever moves a storage root holds the lock on ``<root>/works`` alone, and looks under the lock
whether the name is taken. A process that registers shares the lock with others, and looks whether the
directory that it serves is still the storage root. So one of the two sees the other. A process may have a
condition of its own under which it registers, which it checks under the lock too.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from lit_storage_core.system.file_lock import unlock, wait_for_lock
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import NameTaken, TransferTimeout
from lit_storage_proto.limits import Limits

_PAUSE_SECONDS = 0.02
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_condition: ContextVar[Callable[[], None] | None] = ContextVar("_condition", default=None)


@contextlib.contextmanager
def registering_only_if(check: Callable[[], None]) -> Iterator[None]:
    """Within the block, let this thread register only if `check` raises nothing under the lock."""
    token = _condition.set(check)
    try:
        yield
    finally:
        _condition.reset(token)


@contextlib.contextmanager
def registering(root: str, storage_root: str, served: os.stat_result, limits: Limits) -> Iterator[None]:
    """Let nobody move a storage root while a process registers that serves it.

    Args:
        root: that the Works of this machine share.
        storage_root: of the Work, without links.
        served: of the directory that the process serves as that.
        limits: deadlines.

    Raises:
        NameTaken: another process moved it before.
        StorageError: as of the condition of `registering_only_if`.
        TransferTimeout: another process starts for too long.
    """
    with _locked(root, limits, shared=True):
        if not _is_at(storage_root, served):
            raise NameTaken(
                f"the storage root {shown(storage_root)} was moved aside by another process that starts "
                "under the same name; stop that process first, or take another name"
            )
        if (check := _condition.get()) is not None:
            check()
        yield


@contextlib.contextmanager
def moving(root: str, limits: Limits) -> Iterator[None]:
    """Let no process register that serves a storage root while that is moved.

    Raises:
        TransferTimeout: another process starts for too long.
    """
    with _locked(root, limits, shared=False):
        yield


def _is_at(path: str, served: os.stat_result) -> bool:
    try:
        return os.path.samestat(served, os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(root: str, limits: Limits, *, shared: bool) -> Iterator[None]:
    fd = -1
    try:
        fd = os.open(os.path.join(root, "works"), _DIRECTORY)
    except PermissionError:
        if not shared:
            raise
    if fd < 0:
        yield  # this user cannot list the directory, and nobody else moves what belongs to this user
        return
    try:
        deadline = time.monotonic() + limits.start_seconds / 2
        if not wait_for_lock(fd, deadline, pause_seconds=_PAUSE_SECONDS, shared=shared):
            raise TransferTimeout(
                f"another process takes too long to start a Work of the root {shown(root)}; end it, and try "
                "again"
            )
        yield
    finally:
        with contextlib.suppress(OSError):
            unlock(fd)  # a child that was forked meanwhile holds the descriptor too
        os.close(fd)
