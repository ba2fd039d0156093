"""Says of each Path that is handed to a `run` what is not as its caller may think.

An earlier copy of what its origin no longer has is moved aside, so that `run` does not read it. What a
copy leaves out, and a name that no Work has, is warned of. Each warning is given once in a process.
"""

from __future__ import annotations

import logging
import os
import threading

from lit_storage.paths.path import Path
from lit_storage.sessions.known_names import is_known, unknown_name
from lit_storage.sessions.persistence import tell
from lit_storage.sessions.session import Session
from lit_storage_client.fetch import Transfer
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import RegistryUnavailable

_LOG = logging.getLogger("lit_storage.work")

_MOST_SHOWN = 3


class Arrivals:
    """What became of the Paths that one Work was handed. May be used from any thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sentences: set[str] = set()
        self._lock = threading.Lock()

    def copied(self, path: Path, transfer: Transfer) -> None:
        """Warn of what the copy of `path` does not hold."""
        if not transfer.skipped_count:
            return
        first = [shown(name or ".") for name in transfer.skipped[:_MOST_SHOWN]]
        more = transfer.skipped_count - len(first)
        names = ", ".join(first) + (f" and {more} more" if more > 0 else "")
        self._warn(
            f"{names} of {path.uri} {'was' if transfer.skipped_count == 1 else 'were'} left out: links that "
            "lead out of the tree, sockets, FIFOs and devices are not handed over; what links mean is, if "
            'their Work declares it and is made with symlinks="follow"'
        )

    def absent(self, path: Path) -> None:
        """Move an earlier copy of `path` aside, which its origin does not have.

        Raises:
            AccessDenied: the copy cannot be moved.
        """
        place = self._session.move_aside(path._checked_location())
        if place:
            tell(
                [
                    f"{path.uri} is not at its origin any more, so its earlier copy {os.fspath(path)!r} was "
                    f"moved to {place!r}, where it stays until there is a new one"
                ]
            )
        self._tell_why(path, is_new=not place)

    def _tell_why(self, path: Path, *, is_new: bool) -> None:
        name = path.origin_name or ""
        try:
            if is_known(self._session.registry, name):
                sentence = f"{path.uri} is not there yet, so run() starts without it"
                if is_new and self._is_new(sentence):
                    _LOG.info("%s", sentence)
            else:
                self._warn(f"{unknown_name(self._session.registry, name)} ({path.uri} was not handed over)")
        except RegistryUnavailable:  # it has just said that the Work does not live
            _LOG.info("%s is not there, and the registry does not answer any more", path.uri)

    def _warn(self, sentence: str) -> None:
        if self._is_new(sentence):
            tell([sentence])

    def _is_new(self, sentence: str) -> bool:
        with self._lock:
            is_new = sentence not in self._sentences
            self._sentences.add(sentence)
        return is_new
