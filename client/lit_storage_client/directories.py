"""Makes a directory that may be there, and tells a disk that fails from a file in its place."""

from __future__ import annotations

import os


def make_directory(path: str) -> None:
    """Make the directory `path`, and those that it lies in, unless it is there.

    Raises:
        FileExistsError: something else is there.
        OSError: as of stat(2) and mkdir(2).
    """
    try:
        os.stat(path)  # which tells why, where os.makedirs only says that there is no directory
    except FileNotFoundError:
        pass
    os.makedirs(path, exist_ok=True)
