"""Keeps the earlier copy of a path that its origin no longer has, out of the way of readers.

The copy lies in ``R/@.aside/<origin>:<path, percent-encoded>/<last name>``. Names that start with "@" are
reserved in a storage root, so nobody is served it, and no Work can be named ".aside".

Invariant: of each path at most one copy is kept, but for a moment. It is removed when a whole new copy of
the path is in its place, and not before.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes

from lit_storage_client.fetch.commit import movable
from lit_storage_client.fetch.confine import confine
from lit_storage_client.fetch.removal import remove
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import AccessDenied
from lit_storage_proto.uri import Location

ASIDE = "@.aside"

_MOST_NAME_BYTES = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def move_aside(root: str, location: Location, target: str) -> str:
    """Move the copy at `target` aside.

    Args:
        root: the storage root R.
        location: whose files the copy is of, and which.
        target: ``R/@origin``, or a path below it.

    Returns:
        Where the copy lies now; "" if there is none.

    Raises:
        AccessDenied: the copy cannot be moved.
    """
    with confine(root, location.origin or "", target) as destination:
        if not destination.is_there:
            return ""
        name = destination.name.removeprefix("@") or "@"
        try:
            with _entry(root, location) as entry_fd:
                former = _set_former_apart(entry_fd, name)
                with movable(destination.anchor_fd, destination.name):
                    os.rename(destination.name, name, src_dir_fd=destination.anchor_fd, dst_dir_fd=entry_fd)
                if former:
                    remove(entry_fd, former)
        except OSError as error:
            raise AccessDenied(
                f"{shown(target)} is a copy of what {location.origin!r} no longer has, and cannot be moved "
                f"aside ({_why(error)}); remove it"
            ) from None
    return os.path.join(root, ASIDE, _entry_name(location), name)


def discard_aside(root: str, location: Location, target: str) -> None:
    """Remove what was moved aside of a path, and of what lies below it, of which there are whole new copies.

    Args:
        root: the storage root R.
        location: whose files were copied, and which.
        target: where the new copy is.
    """
    with contextlib.suppress(OSError):  # nothing was moved aside, or it is in use: it harms nobody
        aside_fd = os.open(os.path.join(root, ASIDE), _DIRECTORY)
        try:
            for name in _entries_below(aside_fd, location, target):
                _discard(aside_fd, name)
        finally:
            os.close(aside_fd)


@contextlib.contextmanager
def _entry(root: str, location: Location) -> Iterator[int]:
    """Hold the directory of one path open; it is made if it is missing."""
    with contextlib.ExitStack() as stack:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        for name in (ASIDE, _entry_name(location)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=fd)
            fd = os.open(name, _DIRECTORY, dir_fd=fd)
            stack.callback(os.close, fd)
        yield fd


def _set_former_apart(entry_fd: int, name: str) -> str:
    """Give an earlier copy that lies in an entry another name; return that, "" if there is none."""
    former = f"former-{secrets.token_hex(8)}"
    try:
        os.rename(name, former, src_dir_fd=entry_fd, dst_dir_fd=entry_fd)
    except FileNotFoundError:
        return ""
    return former


def _entry_name(location: Location) -> str:
    """Return the name of the entry of a path: readable, unless it is too long for a name."""
    path = quote(os.fsencode(location.path), safe="").replace("~", "%7E")  # "~" marks a shortened name
    name = f"{location.origin}:{path}"
    if len(name) <= _MOST_NAME_BYTES:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    return f"{name[: _MOST_NAME_BYTES - len(digest) - 1]}~{digest}"


def _entries_below(aside_fd: int, location: Location, target: str) -> Iterator[str]:
    """Yield the entry of a path, and those of paths below it that are in its new copy too."""
    own = _entry_name(location)
    below = own if own.endswith(":") else f"{own}%2F"
    for name in os.listdir(aside_fd):
        is_below = name.startswith(below) and "~" not in name  # a shortened name does not say its path
        if name == own or (is_below and os.path.lexists(f"{target}/{_decoded(name[len(below) :])}")):
            yield name


def _decoded(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))


def _discard(aside_fd: int, name: str) -> None:
    entry_fd = os.open(name, _DIRECTORY, dir_fd=aside_fd)
    try:
        for each in os.listdir(entry_fd):
            remove(entry_fd, each)
    finally:
        os.close(entry_fd)
    os.rmdir(name, dir_fd=aside_fd)


def _why(error: OSError) -> str:
    if error.errno in (errno.EXDEV, errno.EBUSY):
        return "it is a mount point, or on another mount"
    return error.strerror or str(error)
