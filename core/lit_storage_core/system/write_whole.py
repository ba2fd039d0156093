"""Writes all of some bytes, or raises."""

from __future__ import annotations

import os


def write_whole(fd: int, data: bytes) -> None:
    """Write `data` where `fd` stands; a signal, or a disk that is nearly full, can cut a write short.

    Raises:
        OSError: as of write(2); some of it may be written then.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
