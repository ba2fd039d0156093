"""Explains why files of a Work are missing: a wrong name, a wrong root, or a path that is not published."""

from __future__ import annotations

import contextlib
import difflib
import os
import time
from collections.abc import Callable, Iterable

from lit_storage_core.artifacts.former_root import former_root_of
from lit_storage_core.system.names import is_id, shown
from lit_storage_proto.errors import StorageError
from lit_storage_proto.registry import Registry, WorkRecord
from lit_storage_proto.uri import SCHEME, Location, check_name, lies_below

_MOST_NAMES = 1000  # that a name is compared with
_SEARCH_SECONDS = 0.05  # whoever can register names chooses what a comparison costs
_LIKENESS = 0.6  # as difflib.get_close_matches has it

_UNDECLARED = (
    "{name!r} has ended and did not declare this path; only declared paths stay readable: the Paths in "
    "the attributes of a Work, and what session.declare(path) names"
)
_FORMER = "; the former storage root {directory} holds it: copy it from there"
_UNPUBLISHED = (
    "what {name!r} declared is not published yet: 'lit-storage serve' on its root publishes it, and so does "
    "the next run of {name!r}"
)
_PARTS = (
    "{name!r} has ended, and only parts of this directory stay readable: list them with "
    "'lit-storage ls {remote}', and copy them one by one"
)
_OTHER_ROOT = "the root here is {root}; if the Work has another one, name that with root= or LIT_STORAGE_ROOT"


def is_known(registry: Registry, name: str) -> bool:
    """Say whether a Work of this name lives or has lived.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """
    return registry.resolve(name) is not None or registry.work(name) is not None


def unknown_name(registry: Registry, name: str) -> str:
    """Return a sentence for a name that no Work has, with the nearest one that some Work has.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """
    names = {record.name for record in registry.live()} | {record.name for record in registry.works()}
    nearest = _nearest(name, names)
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    if not hint and name.lower() == SCHEME.rstrip(":/"):
        hint = f"; a URI of files starts with {SCHEME}@NAME/"
    return f"no Work {name!r} is known{hint}"


def _nearest(name: str, names: Iterable[str]) -> str:
    """Return the name that is most like `name`, "" if none is like it; likely ones are tried first."""
    likely = sorted(names, key=lambda each: (abs(len(each) - len(name)), each[:1] != name[:1], each))
    until = time.monotonic() + _SEARCH_SECONDS
    matcher, best, most = difflib.SequenceMatcher(b=name), "", _LIKENESS
    for each in likely[:_MOST_NAMES]:
        matcher.set_seq1(each)
        if matcher.real_quick_ratio() >= most and matcher.quick_ratio() >= most and matcher.ratio() >= most:
            best, most = each, matcher.ratio()
        if time.monotonic() > until:
            break
    return best


def hint_for_remote(
    registry: Registry,
    location: Location,
    *,
    root: str,
    machine_id: str,
    is_listed: Callable[[], bool] = lambda: False,
) -> str:
    """Return what to add to the error that `location` is not there; "" where nothing helps.

    Args:
        registry: of this session.
        location: of a path of another Work.
        root: of this session.
        machine_id: of this session.
        is_listed: says whether `location` can be listed all the same; it may raise StorageError or OSError.
    """
    name = location.origin or ""
    try:
        if registry.resolve(name) is not None:
            return ""
        if (work := registry.work(name)) is not None:
            return _parts(location, is_listed) or _ended(work, location, root, machine_id)
        hint = unknown_name(registry, name).partition("; ")[2]
    except StorageError:
        return ""
    return hint or (_OTHER_ROOT.format(root=shown(root)) if root in registry.url else "")


def _parts(location: Location, is_listed: Callable[[], bool]) -> str:
    """Return how to read a directory of which an ended Work left parts; "" if it left none."""
    with contextlib.suppress(StorageError, OSError):
        if is_listed():
            remote = f"{location.origin}:{location.path}"
            return _PARTS.format(name=location.origin, remote=shown(remote)[1:-1])
    return ""


def _ended(work: WorkRecord, location: Location, root: str, machine_id: str) -> str:
    """Return why a path of a Work that ended is not there, as far as is known."""
    undeclared = _UNDECLARED.format(name=work.name)
    if work.machine_id != machine_id:
        return "" if work.artifacts_url else undeclared
    if _is_unpublished(root, work, location.path):
        return _UNPUBLISHED.format(name=work.name)
    if os.path.lexists(os.path.join(root, "works", work.name, location.path)):
        return undeclared
    former = former_root_of(root, work.name)
    if not location.path.startswith("/") and os.path.lexists(os.path.join(former, location.path)):
        return undeclared + _FORMER.format(directory=shown(former))
    return ""


def _is_unpublished(root: str, work: WorkRecord, path: str) -> bool:
    """Say whether a Work declared a path, or one above or below it, and nobody has published that yet."""
    from lit_storage_server.publishing.notes import Note

    try:
        declaration = Note(root, work.instance_id).read() if is_id(work.instance_id) else None
    except OSError:
        return False
    if declaration is None or declaration.name != work.name:
        return False
    return any(
        path == declared or lies_below(path, declared) or lies_below(declared, path)
        for declared in declaration.paths
    )


def hint_for_own(registry: Registry, location: Location) -> str:
    """Return what to add to the error that a path of one's own is not there; "" where nothing helps.

    ``lit://trainer/x`` is a path of one's own, and often meant to be one of the Work "trainer".
    """
    name, _, below = location.path.partition("/")
    try:
        is_name = is_known(registry, check_name(name))
    except StorageError:  # no Work can have this name, or the registry does not answer
        return ""
    return f"if the files of the Work {name!r} are meant, write '{Location(name, below)}'" if is_name else ""
