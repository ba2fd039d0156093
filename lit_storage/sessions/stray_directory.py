"""Notices a directory named ``lit:`` that comes to be in the working directory.

``open("lit://x", "w")`` and ``os.makedirs("lit://x")`` do not know URIs, and make one.
"""

from __future__ import annotations

import contextlib
import os

from lit_storage_proto.uri import SCHEME

_NAME = SCHEME.rstrip("/")


class StrayDirectory:
    """Compares the working directory at the end with the one at the beginning."""

    def __init__(self) -> None:
        self._before = _working_directory()
        self._was_there = os.path.lexists(os.path.join(self._before, _NAME))

    def sentences(self) -> list[str]:
        """Return a sentence for each such directory that is new; a second call returns none."""
        before, now = self._before, _working_directory()
        new = [] if self._was_there else [before]
        if now != before:
            new.append(now)
        self._was_there = True
        return [_sentence(directory) for directory in new if os.path.isdir(os.path.join(directory, _NAME))]


def _sentence(directory: str) -> str:
    return (
        f"a directory named {_NAME!r} is in {directory!r}: '{SCHEME}…' was given to open(), os.makedirs() or "
        f"the like, which take it for a plain path; give them lit_storage.Path('{SCHEME}…'), and remove it"
    )


def _working_directory() -> str:
    with contextlib.suppress(OSError):  # it was removed
        return os.getcwd()
    return ""
