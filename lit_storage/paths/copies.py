"""The directories that this process has copied.

A directory counts while it is the one that the copy put there: another one may have been made in its
place since, such as the parent of a later copy, and such a directory is not whole.
"""

from __future__ import annotations

import os
import stat

_Identity = tuple[int, int]


class Copies:
    """Directories by path, with the inode that each had when it was copied. May be used from any thread."""

    def __init__(self) -> None:
        self._identities: dict[str, _Identity] = {}

    def add(self, path: str) -> None:
        """Remember the copy at `path`, an absolute path, if it is a directory."""
        identity = _identity_of_directory(path)
        if identity is None:
            self._identities.pop(path, None)
        else:
            self._identities[path] = identity

    def hold(self, path: str) -> bool:
        """Say whether `path`, an absolute path, lies in one of them."""
        above = os.path.dirname(path)
        while above != path:
            identity = self._identities.get(above)
            if identity is not None and not _is_reserved(above, path):
                return identity == _identity_of_directory(above)
            path, above = above, os.path.dirname(above)
        return False


def _is_reserved(above: str, path: str) -> bool:
    """Say whether `path`, directly in `above`, is no part of a copy there: R/@origin/@ is another tree."""
    return os.path.basename(path).startswith("@") and os.path.basename(above).startswith("@")


copies = Copies()


def _identity_of_directory(path: str) -> _Identity | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None
