"""Refuses targets of the caller's own choice that a process, a user or the product depends on.

Invariant: no `get` replaces the working directory, a home directory, a root or a storage root, nor a
directory that holds one of them. Targets are compared by inode, so that their spelling does not
matter. A link to such a directory is refused too: the caller wrote the name of the directory.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import stat
from collections.abc import Iterator, Sequence

from lit_storage_client.fetch.aside import ASIDE
from lit_storage_client.fetch.confine import Destination
from lit_storage_core.artifacts.former_root import FORMER
from lit_storage_core.system.names import shown
from lit_storage_core.system.root_identity import IDENTITY_FILE
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.uri import STAGING

_DEFAULT_NAME = ".lit"
_STORAGE_ROOTS = ("works", "flow", "connect")
_ROOT_FILES = ("registry.db", "machine-id", "token", IDENTITY_FILE)
_ROOT_DIRECTORIES = ("artifacts", "declared", FORMER)
_ROOT_NAMES = frozenset(
    (*_STORAGE_ROOTS, *_ROOT_FILES, *_ROOT_DIRECTORIES, "registry.db-wal", "registry.db-shm", ".gitignore")
)
_KEPT_NAMES = (STAGING, ASIDE)  # directly in a storage root

_Identity = tuple[int, int]


def refuse_protected(destination: Destination, root: str, *, copy_name: str) -> None:
    """Raise if `destination` must not be replaced.

    Args:
        destination: where the copy is to be placed.
        root: the root of the session; "" where there is none.
        copy_name: a name that a copy below the target could have.

    Raises:
        InvalidURI: the target is protected; the text names a path that can be used.
    """
    reason = _reason(destination, root)
    if reason:
        is_of_user = reason.endswith(("working directory", "home directory"))
        below = os.path.join(destination.label, copy_name)
        way_out = f"copy into it, as {shown(below)}, or " if is_of_user else ""
        raise InvalidURI(
            f"{shown(destination.label)} {reason}, so get() does not replace it; {way_out}choose another path"
        )


def _reason(destination: Destination, root: str) -> str:
    """Return why the target is protected, "" where it is not."""
    anchor = f"/proc/self/fd/{destination.anchor_fd}"
    if _belongs_to_root(anchor, "" if destination.missing else destination.name, root):
        return "belongs to the root of an App"
    if destination.missing:
        return ""
    if _is_in(anchor, "works", root):
        return "is the storage root of a Work"
    if destination.name in _KEPT_NAMES and _is_storage_root(anchor):
        return "is kept for copies in the storage root of a Work"
    target = os.path.join(anchor, destination.name)
    identities = {_identity(status) for status in _directories(target)}
    if not identities:
        return ""  # nothing is there, or a file
    for protected, noun in _protected(root):
        for depth, identity in enumerate(_identities(protected)):
            if identity in identities:
                return f"holds {noun}" if depth else f"is {noun}"
    if _is_root(target):
        return "is the root of an App"
    if _is_root(os.path.join(target, _DEFAULT_NAME)):
        return "holds the root of an App"
    if _is_storage_root(target) or _is_work_of(root, identities):
        return "is the storage root of a Work"
    return "is a home directory" if _is_home(target) else ""


def _directories(path: str) -> Iterator[os.stat_result]:
    """Yield the status of `path`, and of what it means where it is a link, as far as they are directories."""
    for follow in (False, True):
        with contextlib.suppress(OSError):
            status = os.stat(path, follow_symlinks=follow)
            if stat.S_ISDIR(status.st_mode):
                yield status


def _protected(root: str) -> Iterator[tuple[str, str]]:
    """Yield each directory that this process depends on, and what it is called."""
    with contextlib.suppress(OSError):  # the working directory was removed
        yield os.getcwd(), "the working directory"
    if root:
        yield root, "the root of this session"
    yield os.path.expanduser("~"), "a home directory"
    with contextlib.suppress(KeyError):  # a user without an entry, as in containers
        yield pwd.getpwuid(os.geteuid()).pw_dir, "a home directory"


def _identities(path: str) -> Iterator[_Identity]:
    """Yield the identity of a directory, and of each directory above it, nearest first."""
    path = os.path.realpath(path)
    for each in (path, *map(str, pathlib.PurePosixPath(path).parents)):
        with contextlib.suppress(OSError):
            yield _identity(os.stat(each))


def _is_home(path: str) -> bool:
    """Say whether a directory is the home of the user that owns it."""
    try:
        return os.path.samefile(pwd.getpwuid(os.stat(path).st_uid).pw_dir, path)
    except (KeyError, OSError):
        return False


def _is_root(path: str) -> bool:
    """Say whether a directory is the root of an App or of a session, by what it holds."""
    is_named = os.path.basename(os.path.realpath(path)) == _DEFAULT_NAME  # with etcd it may hold no file
    return _holds(path, _STORAGE_ROOTS) and (is_named or _holds(path, _ROOT_FILES))


def _is_storage_root(path: str) -> bool:
    """Say whether a directory is R of a Work, of a Flow or of a session that only connected."""
    above, name = os.path.split(os.path.realpath(path))
    if os.path.basename(above) == "works":
        return _is_root(os.path.dirname(above))
    return name in ("flow", "connect") and _is_root(above)


def _belongs_to_root(directory: str, name: str, root: str) -> bool:
    """Say whether a name in a directory is one that a root keeps, or lies in what it keeps."""
    if name in _ROOT_NAMES and (_is_root(directory) or _is_same(directory, root)):
        return True
    path = os.path.realpath(directory)
    while path != os.path.dirname(path):
        above, last = os.path.split(path)
        if last in _ROOT_DIRECTORIES and (_is_root(above) or _is_same(above, root)):
            return True
        path = above
    return False


def _is_in(directory: str, name: str, root: str) -> bool:
    """Say whether a directory has this name in a root: what is in it need not be where its link leads."""
    above, last = os.path.split(os.path.realpath(directory))
    return last == name and (_is_root(above) or _is_same(above, root))


def _is_work_of(root: str, identities: set[_Identity]) -> bool:
    """Say whether a directory is a storage root that a link below the root of this session leads to."""
    with contextlib.suppress(OSError), os.scandir(os.path.join(root, "works")) as works:
        for work in works:
            with contextlib.suppress(OSError):
                if work.is_symlink() and _identity(os.stat(work.path)) in identities:
                    return True
    return False


def _holds(path: str, names: Sequence[str]) -> bool:
    return any(os.path.lexists(os.path.join(path, name)) for name in names)


def _is_same(path: str, other: str) -> bool:
    try:
        return bool(other) and os.path.samefile(path, other)
    except OSError:
        return False


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
