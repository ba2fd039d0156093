"""Saves what an interrupted copy has of large files: verified anew, and laid aside for the next attempt.

Invariant: a span is held only if the bytes that are on the disk have the digests that were sent with
them. A file that anyone else could have changed meanwhile (another owner, a second name, a link) is
not looked at. Sizes prove nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from lit_storage_client.fetch.removal import remove
from lit_storage_core.staging.journal import HELD, Noted, Run, read_journal, write_journal
from lit_storage_core.system.beneath import open_beneath
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.errors import StorageError
from lit_storage_proto.limits import MAX_FRAME_BYTES

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def salvage(staging_fd: int, tree: str, copied: Mapping[str, Any]) -> dict[str, Noted]:
    """Lay aside what the journal of a staging says is there, and remove its tree.

    Args:
        staging_fd: the staging; it is the caller's.
        tree: the name of the tree in it.
        copied: what the journal must be of.

    Returns:
        By path in the tree: the files, whose bytes then lie in ``held/<number>``.

    Raises:
        OSError: the disk failed.
    """
    held: dict[str, Noted] = {}
    try:
        os.mkdir(HELD, 0o700, dir_fd=staging_fd)
    except FileExistsError:
        pass
    for noted in read_journal(staging_fd, copied):
        directory = _find(staging_fd, tree, noted)
        if directory is None:
            continue
        directory_fd, name, is_held = directory
        try:
            noted.runs = _verified(directory_fd, name, noted)
            if noted.runs:
                if not is_held:
                    os.rename(name, f"{HELD}/{noted.number}", src_dir_fd=directory_fd, dst_dir_fd=staging_fd)
                held[noted.path] = noted
        finally:
            os.close(directory_fd)
    write_journal(staging_fd, copied, held)
    remove(staging_fd, tree)
    return held


def _find(staging_fd: int, tree: str, noted: Noted) -> tuple[int, str, bool] | None:
    """Return the directory of a file, open, its name there, and whether it was laid aside before."""
    parent, _, name = (f"{tree}/{noted.path}" if noted.path else tree).rpartition("/")
    for path, last, is_held in ((HELD, str(noted.number), True), (parent, name, False)):
        try:
            directory_fd = open_beneath(staging_fd, path)
        except (OSError, StorageError):
            continue
        try:
            if stat.S_ISREG(os.stat(last, dir_fd=directory_fd, follow_symlinks=False).st_mode):
                return directory_fd, last, is_held
        except OSError:
            pass
        os.close(directory_fd)
    return None


def _verified(directory_fd: int, name: str, noted: Noted) -> list[Run]:
    """Return the runs whose bytes are on the disk."""
    try:
        fd = os.open(name, _FILE, dir_fd=directory_fd)
    except OSError:
        return []
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
            return []
        os.fchmod(fd, 0o600)  # it may be finished, and read-only
        buffer = memoryview(bytearray(MAX_FRAME_BYTES))
        return [run for run in noted.runs if _is_there(fd, run, status.st_size, buffer)]
    finally:
        os.close(fd)


def _is_there(fd: int, run: Run, size: int, buffer: memoryview) -> bool:
    if not run.digest:
        # A hole: nothing was written, and what was not written yet may end the file before it.
        return _is_hole(fd, run.offset, min(run.offset + run.size, size))
    if run.size > len(buffer):
        return False
    filled = 0
    while filled < run.size:
        count = os.preadv(fd, [buffer[filled : run.size]], run.offset + filled)
        if not count:
            return False
        filled += count
    return chunk_digest(buffer[: run.size]) == run.digest


def _is_hole(fd: int, start: int, end: int) -> bool:
    if start >= end:
        return True
    try:
        return os.lseek(fd, start, os.SEEK_DATA) >= end
    except OSError:
        return True  # no data behind `start`
