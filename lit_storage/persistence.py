"""Keeps what a Work declared readable when the Work has stopped.

Invariant: whatever becomes of publishing, the Work ends as it would have: what could not be published is
told in a warning that names it, and in no exception.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from lit_storage.home import Home
from lit_storage_client.artifacts import check_store
from lit_storage_proto.errors import SourceChanged
from lit_storage_proto.limits import Limits

if TYPE_CHECKING:
    from lit_storage_server.custody import Declaration, Outcome

_LOG = logging.getLogger("lit_storage.work")
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[5:]; from lit_storage_server.custody import main; main(sys.argv[1:5])"
)
_START_SECONDS = 10.0


class Persistence:
    """What one instance of a Work declared, and where it is published.

    Args:
        root: the root that the Works of this machine share.
        home: who the Work is.
        instance_id: of the Work.
        url: of the store.
        limits: deadlines and sizes.

    Raises:
        InvalidURI: what the store needs is not installed.
    """

    def __init__(self, root: str, home: Home, instance_id: str, url: str, limits: Limits) -> None:
        check_store(url)
        self._root = root
        self._home = home
        self._instance_id = instance_id
        self.url = url
        self._limits = limits
        self._seen: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._noted = False
        self.has_published = False
        """Whether there is something of this instance to be read."""

    @property
    def paths(self) -> Mapping[str, bool]:
        """The declared paths: relative to the storage root, or absolute."""
        return self._seen

    def declare(self, path: str, *, seen: bool) -> None:
        """Take one more path, and note it for whoever publishes in place of a Work that was killed.

        Args:
            path: relative to the storage root, or absolute.
            seen: whether it is there now.

        Raises:
            OSError: it cannot be noted: the disk is full, and the like.
        """
        from lit_storage_server.custody import Note

        with self._lock:
            if path in self._seen and self._seen[path] >= seen:
                return
            note = Note(self._root, self._instance_id)
            if not self._noted:
                note.remove_others(self._home.name or "")
                note.begin(self._declaration())
                self._noted = True
            note.add(path, seen=seen)
            self._seen[path] = seen or self._seen.get(path, False)

    def publish(self) -> bool:
        """Publish all paths, and warn of those that could not be; say whether there is something new."""
        from lit_storage_server.custody import sentences

        outcome = self._publish()
        outcome.missing.clear()  # they may come to be
        tell(sentences(self._home.name or "", self.url, outcome))
        return outcome.changed_store

    def publish_last(self, *, at_exit: bool) -> None:
        """Publish when the Work ends: nobody else needs to, whatever comes of it.

        Args:
            at_exit: whether the interpreter is ending. No threads can be had any more then, which file
                systems of fsspec need (https://github.com/fsspec/s3fs/issues/543), so that another
                process publishes.
        """
        from lit_storage_server.custody import Note, sentences

        if not self._seen:
            return
        note = Note(self._root, self._instance_id)
        try:
            if at_exit and not self.url.startswith(("in-place:", "file:")):
                self._publish_elsewhere()
            else:
                outcome = self._publish()
                tell(sentences(self._home.name or "", self.url, outcome))
                changing = [path for path, why in outcome.failed.items() if isinstance(why, SourceChanged)]
                if changing:  # they rest when this process is gone, and then the App publishes them
                    note.replace(self._declaration(), changing)
                    return
        except Exception as error:  # noqa: BLE001  a Work that ended well has ended well
            tell([f"what {self._home.name!r} declared could not be published to {self.url}: {error}"])
        note.remove()

    def _publish(self) -> Outcome:
        from lit_storage_server.custody import publish_all

        with self._lock:
            declaration = self._declaration()
        outcome = publish_all(
            declaration, declaration.paths, limits=self._limits, seconds=self._limits.publish_seconds
        )
        for manifest in outcome.published:
            self._note_seen(manifest.path)
        self.has_published |= outcome.changed_store
        return outcome

    def _publish_elsewhere(self) -> None:
        seconds = self._limits.publish_seconds
        arguments = [self._root, self._instance_id, str(seconds), json.dumps(asdict(self._limits))]
        done = subprocess.run(  # noqa: S603  this interpreter and this program
            [sys.executable, "-c", _PROGRAM, *arguments, *(entry for entry in sys.path if entry)],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            timeout=seconds + _START_SECONDS,
            check=True,
        )
        outcome = json.loads(done.stdout)
        self.has_published |= outcome["changed"]
        tell(outcome["told"])

    def _note_seen(self, path: str) -> None:
        try:
            self.declare(path, seen=True)
        except OSError:
            pass  # what is known here is enough unless the Work is killed

    def _declaration(self) -> Declaration:
        from lit_storage_server.custody import Declaration

        assert self._home.name is not None
        return Declaration(
            self._home.name,
            self._instance_id,
            self._home.machine_id,
            self._home.storage_root,
            self.url,
            dict(self._seen),
        )


def tell(sentences: Iterable[str]) -> None:
    """Warn of what was not published; never raise, also where warnings are errors."""
    for sentence in sentences:
        try:
            # No line of code is to blame, so none is shown.
            warnings.warn_explicit(sentence, UserWarning, "lit-storage", 1)
        except Warning:
            _LOG.warning("%s", sentence)
