"""Copies one path of another Work to this disk, wholly or not at all.

Invariant: whatever happens, the target is as it was or is the whole new copy. Nothing else of this
get stays on the disk but, where contact was lost, what another attempt can go on from. The steps,
put together in `job`, each in a module of its own:

 1. `confine` says where the target lies, and refuses what could not be put there, and `protection` what
    must not be replaced: nothing moved yet.
 2. a `source` opens the stream: the origin is live, is the one asked, and has the path, or left it.
 3. `stream` plans, verifies and writes into a `staging`.
 4. `commit` puts the whole copy in the place of the target in one step.
"""

from __future__ import annotations

import errno
import os
import time

from lit_storage_client.fetch.discards import Discards
from lit_storage_client.fetch.job import Job
from lit_storage_client.fetch.report import Report
from lit_storage_client.fetch.source import Source
from lit_storage_client.fetch.stream import Progress
from lit_storage_client.fetch.transfer import Transfer
from lit_storage_proto.errors import StorageError
from lit_storage_proto.uri import Location

__all__ = ["Discards", "Progress", "Transfer", "fetch"]


def fetch(
    remote: Source,
    location: Location,
    *,
    root: str | None,
    target: str,
    session_root: str = "",
    overwrite: bool = False,
    timeout: float | None = None,
    durable: bool = True,
    on_change: str = "raise",
    symlinks: str | None = None,
    progress: Progress | None = None,
    discards: Discards | None = None,
) -> Transfer:
    """Copy `location` to `target`.

    Args:
        remote: who can be asked for the files.
        location: whose files, and which.
        root: the storage root R, within which the target must lie in ``R/@origin``; None for a
            target of the caller's own choice.
        target: an absolute path if `root` is given. Missing parents are made.
        session_root: the root of the session, which a target of the caller's own choice must not be.
        overwrite: whether a target that is there, file or directory, is replaced.
        timeout: seconds for all of it; None for as long as there is progress.
        durable: whether the copy survives a power cut once this has returned.
        on_change: what to do about files that still change at their origin after all was sent anew
            three times: "raise" SourceChanged, or "accept" them. Then a file that only grew is taken
            at the size that it had, and the others are named in the Transfer.
        symlinks: what becomes of symbolic links: "keep" those that stay in the tree as they are, or
            "follow" them, and copy what they mean as far as the origin shares it; None is what the
            Work that owns the files has set for them.
        progress: called in this thread with the bytes done so far, which never become fewer, and
            those in all, or None while that is unknown; it is asked beside the transfer. Both are
            the same in the last call alone, when the copy is in its place. What it raises ends the
            get, which leaves the target as it was.
        discards: keeps the tree that is replaced for its readers; None removes it at once.

    Raises:
        PathExists: the target is there and `overwrite` is false, or a file is in its way.
        PathNotFound: the Work has no such path, or does not run and left none.
        AccessDenied: the target cannot be written or replaced, or the origin refuses the path.
        OriginUnavailable: the Work is live by the registry, or its artifacts are, but cannot be reached.
        TransferTimeout: `timeout` passed, or nothing new came for `Limits.progress_seconds`, or less than
            `Limits.least_bytes_per_second` for longer than that.
        RegistryUnavailable: the registry does not answer.
        SourceChanged: files went on changing while they were copied.
        IntegrityError: bytes were damaged, or are missing.
        ProtocolViolation: the peer breaks the rules of the wire.
        InvalidURI: the target is outside of ``R/@origin``; or it was chosen by the caller and is the working
            directory, a home directory, a root or a storage root, or holds one of them.
        ValueError: `on_change` or `symlinks` is unknown.
        OSError: the disk is full, and the like; its file name is the target, or a path below it.
        KeyboardInterrupt: with a note that says what of the copy is kept.
    """
    if symlinks not in (None, "keep", "follow"):
        raise ValueError(f"symlinks={symlinks!r} is unknown; it can be None, 'keep' or 'follow'")
    report = None
    if progress is not None:
        report = Report(progress, remote, location, follow_links=symlinks == "follow")
    job = Job(
        remote,
        location,
        root,
        session_root,
        target,
        overwrite=overwrite,
        durable=durable,
        accept_changes=_is(on_change, "accept", "raise", "on_change"),
        symlinks=symlinks,
        progress=report,
        discards=discards,
        started=time.monotonic(),
        timeout=timeout,
    )
    return _done(job) if report is None else report.during(lambda: _done(job))


def _done(job: Job) -> Transfer:
    try:
        try:
            return job.run()
        except OSError as error:
            # What is only kept for readers, or for a later attempt, must not be what a disk is full of.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not job.make_room():
                raise
        return job.run()
    except StorageError:
        raise
    except OSError as error:
        # What lies around a copy while it grows has names that say nothing to the caller, or none.
        name = error.filename  # a number where a descriptor was all that was asked with
        if error.errno is None or (isinstance(name, str | bytes) and os.path.isabs(name)):
            raise
        raise OSError(error.errno, error.strerror, job.target) from None


def _is(value: str, wanted: str, default: str, name: str) -> bool:
    if value not in (wanted, default):
        raise ValueError(f"{name}={value!r} is unknown; it can be {default!r} or {wanted!r}")
    return value == wanted
