"""Copies one path of another Work to this disk, wholly or not at all.

Invariant: whatever happens, the target is as it was or is the whole new copy, and nothing else of
this get stays on the disk. The steps, each in a module of its own:

 1. `confine` says where the target lies, and refuses what could not be put there: nothing moved yet.
 2. `remote` opens the stream: the origin is live, is the one asked, and has the path.
 3. `stream` plans, verifies and writes into a `staging`.
 4. `commit` puts the whole copy in the place of the target in one step.
"""

from __future__ import annotations

import errno
import os
import time

from lit_storage_client.confine import Destination, choose, confine
from lit_storage_client.fetch.commit import commit
from lit_storage_client.fetch.discards import Discards, target_in
from lit_storage_client.fetch.staging import TREE, area_for
from lit_storage_client.fetch.stream import Progress, receive
from lit_storage_client.fetch.transfer import Transfer
from lit_storage_client.names import shown
from lit_storage_client.remote import Remote
from lit_storage_proto.errors import NotAttached, TransferTimeout
from lit_storage_proto.uri import Location

__all__ = ["Discards", "Progress", "Transfer", "fetch"]


def fetch(
    remote: Remote,
    location: Location,
    *,
    root: str | None,
    target: str,
    overwrite: bool = False,
    timeout: float | None = None,
    durable: bool = True,
    on_change: str = "raise",
    symlinks: str = "keep",
    progress: Progress | None = None,
    discards: Discards | None = None,
) -> Transfer:
    """Copy `location` to `target`.

    Args:
        remote: the Works that can be asked.
        location: whose files, and which.
        root: the storage root R, within which the target must lie in ``R/@origin``; None for a
            target of the caller's own choice.
        target: an absolute path if `root` is given. Missing parents are made.
        overwrite: whether a target that is there, file or directory, is replaced.
        timeout: seconds for all of it; None for as long as there is progress.
        durable: whether the copy survives a power cut once this has returned.
        on_change: what to do about files that change at their origin meanwhile: "raise".
        symlinks: what becomes of symbolic links: "keep".
        progress: called with the bytes done so far and None, after each message.
        discards: keeps the tree that is replaced for its readers; None removes it at once.

    Raises:
        PathExists: the target is there and `overwrite` is false, or a file is in its way.
        PathNotFound: the Work does not run, or has no such path.
        AccessDenied: the target cannot be written or replaced, or the origin refuses the path.
        OriginUnavailable: the Work is live by the registry, but cannot be reached.
        TransferTimeout: `timeout` passed, or nothing new came for `Limits.progress_seconds`.
        RegistryUnavailable: the registry does not answer.
        SourceChanged: a file changed while it was copied.
        IntegrityError: bytes were damaged, or are missing.
        ProtocolViolation: the peer breaks the rules of the wire.
        InvalidURI: the target is outside of ``R/@origin``.
        ValueError: `on_change` or `symlinks` is unknown.
        OSError: the disk is full, and the like.
    """
    _check_options(on_change, symlinks)
    started = time.monotonic()
    deadline = None if timeout is None else started + timeout

    def copy() -> Transfer:
        return _copy(
            remote, location, root, target, overwrite, started, deadline, durable, progress, discards
        )

    try:
        return copy()
    except OSError as error:
        # What is only kept for readers must not be what a disk is full of.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or discards is None or not discards.discard_all():
            raise
    return copy()


def _copy(
    remote: Remote,
    location: Location,
    root: str | None,
    target: str,
    overwrite: bool,
    started: float,
    deadline: float | None,
    durable: bool,
    progress: Progress | None,
    discards: Discards | None,
) -> Transfer:
    with _destination(location, root, target) as destination:
        destination.check(overwrite=overwrite)
        area = area_for(destination, confined=root is not None)
        try:
            area.discard_dead(remote.limits.staging_seconds)
            with remote.stream(location, deadline=deadline) as frames, area.create() as staging:
                if discards is not None and not destination.missing:
                    discards.discard(target_in(destination.anchor_fd, destination.name))
                received = receive(frames, staging.fd, TREE, label=target, progress=progress)
                if deadline is not None and time.monotonic() > deadline:
                    raise TransferTimeout(
                        f"the transfer of {shown(str(location))} did not end within {deadline - started:g} s"
                    )
                parent_fd = destination.open_parent()
                try:
                    how = commit(
                        staging,
                        received.root,
                        parent_fd,
                        destination.name,
                        label=target,
                        overwrite=overwrite,
                        durable=durable,
                    )
                    if discards is not None and (old := staging.give_away()) is not None:
                        discards.keep(target_in(parent_fd, destination.name), old)
                finally:
                    os.close(parent_fd)
        finally:
            area.close()
    seconds = time.monotonic() - started
    skipped = received.skipped
    return Transfer(received.files, received.bytes, seconds, how, skipped.names, skipped.count)


def _check_options(on_change: str, symlinks: str) -> None:
    if on_change != "raise":
        raise ValueError(f"on_change={on_change!r} is unknown; files that change meanwhile can only 'raise'")
    if symlinks != "keep":
        raise ValueError(f"symlinks={symlinks!r} is unknown; symbolic links can only be kept: 'keep'")


def _destination(location: Location, root: str | None, target: str) -> Destination:
    if location.origin is None:
        raise NotAttached(f"{shown(str(location))} names no Work that it could be copied from")
    return choose(target) if root is None else confine(root, location.origin, target)
