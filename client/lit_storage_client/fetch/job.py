"""One get from beginning to end: the steps, and what is done when contact is lost between them.

Invariant: an attempt goes on from what an earlier one verified, whether that was in this process or in
one that was killed, and never splices two versions of a file: what is held counts only if the
origin says that the file still has the version under which it was sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from lit_storage_client.fetch.commit import STREAM, commit, seal
from lit_storage_client.fetch.confine import Destination, choose, confine
from lit_storage_client.fetch.discards import Discards, target_in
from lit_storage_client.fetch.parents import place_with_parents
from lit_storage_client.fetch.patience import Patience
from lit_storage_client.fetch.protection import refuse_protected
from lit_storage_client.fetch.report import Report
from lit_storage_client.fetch.source import Frames, Source
from lit_storage_client.fetch.staging import Staging
from lit_storage_client.fetch.staging_area import StagingArea, area_for
from lit_storage_client.fetch.stream import Received, receive
from lit_storage_client.fetch.swap_lock import exclusive
from lit_storage_client.fetch.transfer import Transfer
from lit_storage_core.staging.names import TREE
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import (
    IntegrityError,
    NotAttached,
    OriginUnavailable,
    PathNotFound,
    ProtocolViolation,
    RegistryUnavailable,
    StorageError,
    TransferTimeout,
)
from lit_storage_proto.frames import Frame
from lit_storage_proto.tree_options import Held, TreeOptions
from lit_storage_proto.uri import Location


@dataclass(slots=True)
class _Sealed:
    """What is to be put in place."""

    status: os.stat_result | None = None
    """Of the staged tree, once it is whole."""

    def is_at(self, destination: Destination) -> bool:
        """Say whether it is in its place; raise OSError if nothing is there."""
        if self.status is None or destination.missing:
            return False
        now = os.stat(destination.name, dir_fd=destination.anchor_fd, follow_symlinks=False)
        return os.path.samestat(self.status, now)


@dataclass(frozen=True, slots=True)
class Job:
    """One get, as it was asked for; the fields are the arguments of `fetch`."""

    remote: Source
    location: Location
    root: str | None
    session_root: str
    target: str
    overwrite: bool
    durable: bool
    accept_changes: bool
    symlinks: str | None
    progress: Report | None
    discards: Discards | None
    started: float
    timeout: float | None

    @property
    def deadline(self) -> float | None:
        """When it must have ended, on the clock of time.monotonic()."""
        return None if self.timeout is None else self.started + self.timeout

    def run(self) -> Transfer:
        """Do it; raises as `fetch` does."""
        with self._destination() as destination:
            destination.check_place()
            if self.root is None:
                name = os.path.basename(self.location.path) or self.location.origin or ""
                refuse_protected(destination, self.session_root, copy_name=name)
            if not self.overwrite:
                destination.check_absent()
            area, sealed = self._area(destination), _Sealed()
            try:
                area.discard_dead(self.remote.limits.staging_seconds)
                received, how = self._copy(destination, area, sealed)
            except KeyboardInterrupt as interrupt:
                interrupt.add_note(self._completed(sealed) or self._kept(area))
                raise
            finally:
                area.close()
        if self.progress is not None:
            self.progress(received.bytes, received.bytes)
        return Transfer(
            received.files,
            received.bytes,
            time.monotonic() - self.started,
            how,
            received.skipped.names,
            received.skipped.count,
            received.hard_linked,
            received.unsettled,
            received.unsettled_count,
        )

    def _completed(self, sealed: _Sealed) -> str:
        """Return what a person who interrupted the get after its last step is to know; "" before that."""
        with suppress(StorageError, OSError), self._destination() as destination:
            if sealed.is_at(destination):
                what = shown(str(self.location))
                return f"interrupted: the copy of {what} at {shown(self.target)} is complete"
        return ""

    def _kept(self, area: StagingArea) -> str:
        """Return what a person who interrupted the get is to know."""
        kept = area.kept_bytes(self.remote.limits.staging_seconds)
        what = shown(str(self.location))
        if not kept:
            return f"interrupted: no part of an unfinished copy of {what} is kept; get it again to begin anew"
        return (
            f"interrupted: {shown(self.target)} is as it was; {_decimal(kept)} of {what} are verified and "
            "kept, and the same get goes on from them"
        )

    def make_room(self) -> bool:
        """Remove what is only kept for others, and say whether there was any."""
        removed = self.discards is not None and self.discards.discard_all()
        with self._destination() as destination:
            area = self._area(destination)
            try:
                return area.discard_dead(self.remote.limits.staging_seconds, keep=False) or removed
            finally:
                area.close()

    def _destination(self) -> Destination:
        if self.location.origin is None:
            raise NotAttached(f"{shown(str(self.location))} names no Work that it could be copied from")
        if self.root is None:
            return choose(self.target)
        return confine(self.root, self.location.origin, self.target)

    def _area(self, destination: Destination) -> StagingArea:
        # A staging of another choice about links holds another tree.
        follow_links = None if self.symlinks is None else self.symlinks == "follow"
        copied = {"from": str(self.location), "to": destination.path, "follow_links": follow_links}
        return area_for(destination, confined=self.root is not None, copied=copied)

    def _copy(self, destination: Destination, area: StagingArea, sealed: _Sealed) -> tuple[Received, str]:
        patience = Patience(self.remote.limits, self.remote.return_seconds, self.deadline)

        def advance(done: int, total: int | None) -> None:
            """Be told how far it is, after each frame and pack: one can take long to write."""
            self.check_deadline()
            if patience.advance(done) and self.progress is not None:
                self.progress(done, total)

        with ExitStack() as stack:
            staging = area.adopt(self.remote.limits.staging_seconds)
            if staging is not None:
                stack.enter_context(staging)
            while True:
                try:
                    with self._stream(staging) as frames:
                        if staging is None:
                            staging = stack.enter_context(area.create())
                            self._discard_kept(destination)
                        received = receive(
                            self._noticing(patience.weigh(frames)),
                            staging.fd,
                            TREE,
                            label=self.target,
                            progress=advance,
                            descriptors=frames,
                            journal=staging.journal,
                        )
                    break
                except (OriginUnavailable, PathNotFound, RegistryUnavailable) as error:
                    patience.wait(error)
                    assert staging is not None  # there was contact before
                    with patience.paused():  # it reads all that is held
                        staging.salvage()
            self.check_deadline()
            if received.unsettled_count and not self.accept_changes:
                raise ProtocolViolation(
                    "the peer ended with files that were still changing, which it was not asked to accept"
                )
            return received, self._put_in_place(received, area, staging, sealed)

    def _stream(self, staging: Staging | None) -> Frames:
        held = [] if staging is None else staging.journal.held
        options = TreeOptions(
            packs=True,
            holes=True,
            settle=True,
            accept_changes=self.accept_changes,
            follow_links=self.symlinks == "follow",
            links_as_origin=self.symlinks is None,
            held=[Held(noted.path, noted.version, noted.spans) for noted in held],
            direct=True,
        )
        return self.remote.stream(self.location, options, deadline=self.deadline)

    def _noticing(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield the frames, and tell the report where the origin follows links."""
        for frame in frames:
            if frame.follows_links and self.progress is not None:
                self.progress.follow_links()
            yield frame

    def _discard_kept(self, destination: Destination) -> None:
        if self.discards is not None and not destination.missing:
            self.discards.discard(target_in(destination.anchor_fd, destination.name))

    def _put_in_place(self, received: Received, area: StagingArea, staging: Staging, sealed: _Sealed) -> str:
        seal(staging, label=self.target, durable=self.durable)
        sealed.status = os.stat(TREE, dir_fd=staging.fd, follow_symlinks=False)
        with exclusive(area.fd, self.target), self._destination() as destination, ExitStack() as stack:
            # Opened anew: a get of a tree that this target lies in may have replaced the directory.
            how = STREAM
            parent_fd = place_with_parents(staging, received.root, destination, durable=self.durable)
            if parent_fd is not None:
                stack.callback(os.close, parent_fd)
            else:
                parent_fd = destination.open_parent()
                stack.callback(os.close, parent_fd)
                how = commit(
                    staging,
                    received.root,
                    parent_fd,
                    destination.name,
                    label=self.target,
                    overwrite=self.overwrite,
                    durable=self.durable,
                )
            self._check_place(parent_fd)
            if self.discards is not None and (old := staging.give_away()) is not None:
                self.discards.keep(target_in(parent_fd, destination.name), old)
        return received.how + how.removeprefix(STREAM)

    def _check_place(self, parent_fd: int) -> None:
        """Make sure that the target's directory is still where it was, also where locks do nothing."""
        with self._destination() as now:
            if now.missing or not os.path.samestat(os.fstat(now.anchor_fd), os.fstat(parent_fd)):
                raise IntegrityError(
                    f"the directory of {shown(self.target)} was replaced at the same time; get it again"
                )

    def check_deadline(self) -> None:
        """Raise TransferTimeout if it must have ended."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TransferTimeout(
                f"the transfer of {shown(str(self.location))} did not end within {self.timeout:g} s"
            )


def _decimal(size_bytes: int) -> str:
    """Return a size in the units of progress bars, such as ``1.5 MB``."""
    size, unit = float(size_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size_bytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
