"""Writes a small file that is never written twice, whoever else writes it at the same time.

Invariant: the file is there whole or not at all, and has one content from then on. A temporary
file is finished first and then linked to the name; link(2) fails where the name is taken.
"""

from __future__ import annotations

import os
import secrets


def write_once(path: str, text: str, *, mode: int) -> None:
    """Write `text`, ASCII, as the file `path` unless there is one; read the file to learn who won.

    Args:
        path: in a directory that exists.
        text: all that the file is to hold.
        mode: permission bits, less the umask.

    Raises:
        OSError: as of open(2), write(2) and link(2), of `path`; that the name is taken is no error.
    """
    try:
        _write(path, f"{path}.{secrets.token_hex(8)}", text, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _write(path: str, temporary: str, text: str, mode: int) -> None:
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a power cut leaves the whole text or none
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # another process was first
    finally:
        os.unlink(temporary)
