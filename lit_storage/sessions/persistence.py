"""Keeps what a Work declared readable when the Work has stopped.

Invariant: whatever becomes of publishing, the Work ends as it would have: what could not be published is
told in a warning that names it, and in no exception.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lit_storage.paths.home import Home
from lit_storage_core.artifacts.urls import check_store, is_in_place, is_on_disk
from lit_storage_core.system.interpreter import find_interpreter
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_proto.errors import SourceChanged, StorageError, TransferTimeout
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry

if TYPE_CHECKING:
    from lit_storage_server.publishing.custody import Outcome
    from lit_storage_server.publishing.notes import Declaration

_LOG = logging.getLogger("lit_storage.work")
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from lit_storage_server.publishing.custody import main; main(sys.argv[1:4])"
)
_START_SECONDS = 10.0
_MOST_NAMED = 5  # paths in one sentence


class Persistence:
    """What one instance of a Work declared, and where it is published.

    Args:
        root: the root that the Works of this machine share.
        home: who the Work is.
        instance_id: of the Work.
        url: of the store.
        limits: deadlines and sizes.
        symlinks: "keep" or "follow": what is published of symbolic links.

    Raises:
        InvalidURI: what the store needs is not installed.
    """

    def __init__(
        self, root: str, home: Home, instance_id: str, url: str, limits: Limits, symlinks: str = "keep"
    ) -> None:
        check_store(url)
        self._root = root
        self._home = home
        self._instance_id = instance_id
        self.url = url
        self._limits = limits
        self._symlinks = symlinks
        self._shared: dict[str, None] = {}
        self._seen: dict[str, bool] = {}
        self._lock = threading.RLock()  # a signal handler may declare, and publish, too
        self._publishing = threading.Lock()  # two at once would be two versions of one number
        self._publisher = 0  # the thread that does it
        self._is_left = False
        self._holder = ProcessIdentity.current()
        self.keeper: ProcessIdentity | None = None
        """The App that publishes what this process leaves a note of, if there is one."""
        self.has_published = False
        """Whether there is something of this instance to be read."""

    @property
    def paths(self) -> Mapping[str, bool]:
        """The declared paths, and whether each was there once."""
        return self._seen

    def declare(self, path: str, *, seen: bool) -> None:
        """Take one more path, and note it for whoever publishes in place of a Work that was killed.

        Args:
            path: relative to the storage root, or absolute.
            seen: whether it is there now.
        """
        from lit_storage_server.publishing.notes import Note

        with self._lock:
            if path in self._seen and self._seen[path] >= seen:
                return
            note, is_first = Note(self._root, self._instance_id), not self._seen
            self._seen[path] = seen
            try:
                if is_first:
                    note.begin(self._declaration({}), hold=True)
                note.add(path, seen=seen)
            except OSError as error:  # the disk is full, and the like; it counts only if the Work is killed
                _LOG.warning("that %r is declared cannot be noted: %s", path, error)

    def share(self, path: str) -> None:
        """Take an absolute path that is shared, and not published: what is published may link to it."""
        from lit_storage_server.publishing.notes import Note

        with self._lock:
            if path in self._shared or path in self._seen:
                return
            self._shared[path] = None
            try:
                if self._seen:  # else there is no note yet, and the first path begins one with all of these
                    Note(self._root, self._instance_id).share(path)
            except OSError as error:  # as in `declare`
                _LOG.warning("that %r is shared cannot be noted: %s", path, error)

    @contextlib.contextmanager
    def becoming(self, instance_id: str) -> Iterator[None]:
        """Be another instance after the block, which makes it known, unless it raises.

        There is a note of either instance meanwhile: the registry names one of the two.
        """
        from lit_storage_server.publishing.notes import Note

        former = self._instance_id
        with self._lock:
            if self._seen:
                with contextlib.suppress(OSError):  # as in `declare`
                    declaration = dataclasses.replace(self._declaration(self._seen), instance_id=instance_id)
                    Note(self._root, instance_id).begin(declaration, beside=former, hold=True)
            try:
                yield
            except BaseException:
                Note(self._root, instance_id).remove()
                raise
            self._instance_id = instance_id
            Note(self._root, former).remove()

    def publish(self) -> bool:
        """Publish all paths, and warn of those that could not be; say whether there is something new."""
        from lit_storage_server.publishing.custody import sentences

        declaration, outcome = self._publish()
        tell(sentences(declaration, outcome, missing=False))  # those may come to be
        return outcome.changed_store

    def publish_last(self, *, at_exit: bool) -> None:
        """Publish when the Work ends. Call `finish` when the registry knows of it.

        Args:
            at_exit: whether the interpreter is ending. No executors can be had any more then, which file
                systems of fsspec need (https://github.com/fsspec/s3fs/issues/543), so that another
                process publishes.
        """
        from lit_storage_server.publishing.custody import sentences
        from lit_storage_server.publishing.notes import Note

        if not self._seen:
            return
        try:
            if at_exit and not is_on_disk(self.url):
                self._publish_elsewhere()
            else:
                declaration, outcome = self._publish()
                left = self._left_to_app(outcome)
                if left:
                    note = Note(self._root, self._instance_id)
                    note.begin(dataclasses.replace(declaration, paths=left, has_left=True), hold=True)
                    self._is_left = True
                tell(sentences(declaration, outcome.without(left)))
        except Exception as error:  # noqa: BLE001  a Work that ended well has ended well
            tell([f"{self._what_was_declared} could not be published to {self.url}: {error}"])

    def warn_unrecorded(self, registry_url: str) -> None:
        """Warn that nobody finds what was published, if it was meant to be found elsewhere."""
        if self.has_published and not is_in_place(self.url):
            tell(
                [
                    f"what {self._home.name!r} published to {self.url} is not recorded in {registry_url}, "
                    "which keeps no records of Works or has one of another instance by now"
                ]
            )

    def finish(self) -> None:
        """Know that nobody needs to publish for this instance any more, but for what `publish_last` left."""
        from lit_storage_server.publishing.notes import Note

        if self._seen and not self._is_left:
            Note(self._root, self._instance_id).remove()

    @property
    def _what_was_declared(self) -> str:
        return f"what {self._home.name!r} declared ({listed(list(self._seen))})"

    @property
    def pending(self) -> Mapping[str, bool]:
        """The declared paths that a note still names, for whoever publishes in place of this instance.

        There are none where the note cannot be read: nothing is known of it then.
        """
        from lit_storage_server.publishing.notes import Note

        if not self._seen:
            return {}
        try:
            is_noted = Note(self._root, self._instance_id).read() is not None
        except OSError:
            return {}
        return dict(self._seen) if is_noted else {}

    def _left_to_app(self, outcome: Outcome) -> dict[str, bool]:
        """Return what the App publishes when this process is gone, and tells of.

        It is what did not rest. In place it is all: whatever is still written, as when libraries flush at
        the end of a program, would else be other than what was published.
        """
        if self.keeper is None:
            return {}
        if is_in_place(self.url):
            return dict(self._seen)
        return {
            path: self._seen[path] for path, why in outcome.failed.items() if isinstance(why, SourceChanged)
        }

    def _publish(self) -> tuple[Declaration, Outcome]:
        from lit_storage_server.publishing.custody import Outcome, publish_all

        with self._lock:
            declaration = self._declaration(dict(self._seen))
        if self._publisher == threading.get_ident():  # in a signal handler, which must not wait for itself
            tell([f"what {declaration.name!r} declared is being published already"])
            return declaration, Outcome()
        with self._publishing:
            self._publisher = threading.get_ident()
            try:
                outcome = publish_all(declaration, limits=self._limits)
            finally:
                self._publisher = 0
        for manifest in outcome.published:
            self.declare(manifest.path, seen=True)
        self.has_published |= outcome.changed_store
        return declaration, outcome

    def _publish_elsewhere(self) -> None:
        arguments = [self._root, self._instance_id, json.dumps(dataclasses.asdict(self._limits))]
        try:
            python = find_interpreter()
        except OSError as error:
            raise StorageError(
                "this program has ended before its session was closed, and no process can be started that "
                f"publishes in its place, since {error.strerror}; use join() as a context manager, or close()"
            ) from None
        flags = [f"-Xutf8={sys.flags.utf8_mode}"]  # paths are decoded there as they are here
        try:
            done = subprocess.run(  # noqa: S603  this interpreter and this program
                [python, *flags, "-c", _PROGRAM, *arguments, *(entry for entry in sys.path if entry)],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=self._limits.publish_seconds + _START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TransferTimeout("the process that does it did not end in time") from None
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise StorageError(f"the process that does it failed: {last}")
        changed, told = json.loads(done.stdout)
        self.has_published |= changed
        tell(told)

    def _declaration(self, paths: Mapping[str, bool]) -> Declaration:
        from lit_storage_server.publishing.notes import Declaration

        home = self._home
        assert home.name is not None
        return Declaration(
            home.name,
            self._instance_id,
            home.machine_id,
            home.storage_root,
            self.url,
            holder=self._holder.to_text(),
            keeper=self.keeper.to_text() if self.keeper is not None else "",
            symlinks=self._symlinks,
            shared=tuple(path for path in self._shared if path not in paths),
            paths=paths,
        )


def see_to_end(root: str, registry: Registry, name: str, instance_id: str | None, limits: Limits) -> None:
    """Do for a Work whose process has ended what it did not do itself; never raise.

    Its name is given back, which a lease would hold for some time, and what it left is published.

    Args:
        root: the root that the Works of this machine share.
        registry: that it joined.
        name: of the Work.
        instance_id: that it joined with; None if it did not.
        limits: deadlines and sizes.
    """
    from lit_storage_server.publishing.custody import publish_left

    try:
        if instance_id is not None:
            registry.unregister(name, instance_id)
        tell(publish_left(root, registry, name, limits=limits))
    except Exception as error:  # noqa: BLE001  whatever it is, the Flow is to hear of the Work's end
        tell([f"what {name!r} declared could not be published in its place: {error}"])


def listed(paths: Sequence[str]) -> str:
    """Return the first of some paths for a sentence, and how many more there are."""
    more = len(paths) - _MOST_NAMED
    named = ", ".join(repr(path) for path in paths[:_MOST_NAMED])
    return f"{named} and {more} more" if more > 0 else named


def tell(sentences: Iterable[str]) -> None:
    """Warn, with no line of code to blame; never raise, also where warnings are errors."""
    for sentence in sentences:
        try:
            # No line of code is to blame, so none is shown.
            warnings.warn_explicit(sentence, UserWarning, "<lit-storage>", 1)
        except Warning:
            _LOG.warning("%s", sentence)
