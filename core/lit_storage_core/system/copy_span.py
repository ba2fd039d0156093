"""Copies a part of a file from one descriptor to another: as a reflink, in the kernel, or by hand.

The first way that the two file systems allow is taken. A reflink shares the blocks of the source, so
it costs the same for a byte and for a terabyte. Holes stay holes in each.

Calls: ioctl_ficlone(2), copy_file_range(2), lseek(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import NamedTuple

from lit_storage_proto.limits import MIB

REFLINK, COPY = "reflink", "copy"

_FICLONE = 0x40049409
_NO_REFLINK = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ENOSYS)
_NO_COPY_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_STEP_BYTES = 16 * MIB  # a fraction of a second between two ticks
_BUFFER_BYTES = 1 * MIB


class Copied(NamedTuple):
    """What a copy did."""

    end: int
    """Up to where the bytes are there: short of what was asked for, if the source ends before."""
    how: str
    """REFLINK or COPY."""


def copy_span(
    source_fd: int, target_fd: int, span: tuple[int, int], *, size: int, tick: Callable[[int], None]
) -> Copied:
    """Copy the bytes of `span`, which begins where those that the target has end.

    Args:
        source_fd: open for reading.
        target_fd: open for writing; in `span` it has no bytes yet.
        span: where the part begins, and where it ends.
        size: of the whole file: if it ends with the span, all of it may be cloned, so that what
            the target has of it already is replaced by the same bytes.
        tick: called after each step of at most 16 MiB, with the position up to where the bytes are there.

    Raises:
        OSError: the disk is full, and the like.
    """
    if span[1] == size and _clone(source_fd, target_fd):
        return Copied(min(os.fstat(target_fd).st_size, size), REFLINK)
    position, end = span
    copy = _copy_range
    while position < end:
        data, hole = _next_data(source_fd, position, end)
        if data is None:
            return Copied(position if hole is None else end, COPY)
        position = data
        limit = hole if hole is not None else end
        while position < limit:
            try:
                count = copy(source_fd, target_fd, position, min(_STEP_BYTES, limit - position))
            except OSError as error:
                if copy is _copy_range and error.errno in _NO_COPY_RANGE:
                    copy = _read_and_write
                    continue
                raise
            if not count:
                return Copied(position, COPY)
            position += count
            tick(position)
    return Copied(end, COPY)


def is_readable(fd: int) -> bool:
    """Say whether a descriptor, which another process may have sent, can be read."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    return flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR) and not flags & os.O_PATH


def _clone(source_fd: int, target_fd: int) -> bool:
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True


def _next_data(fd: int, position: int, end: int) -> tuple[int | None, int | None]:
    """Return where the next data begins and ends.

    The first is None if none comes before `end`; then the second is None too if the file ends first.
    """
    try:
        data = os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole up to the end of the file, or behind it
            return None, (end if os.fstat(fd).st_size >= end else None)
        return position, end  # a file system that knows no holes
    if data >= end:
        return None, end
    try:
        hole = min(os.lseek(fd, data, os.SEEK_HOLE), end)
    except OSError:
        hole = end  # it became shorter: whoever reads finds that
    # A file system may be another user's program, and answer anything.
    return (data, hole) if position <= data < hole else (position, end)


def _copy_range(source_fd: int, target_fd: int, position: int, count: int) -> int:
    return os.copy_file_range(source_fd, target_fd, count, position, position)


def _read_and_write(source_fd: int, target_fd: int, position: int, count: int) -> int:
    data = os.pread(source_fd, min(count, _BUFFER_BYTES), position)
    written = 0
    while written < len(data):
        written += os.pwrite(target_fd, data[written:], position + written)
    return written
