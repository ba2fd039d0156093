"""Suggests the name of a Work that was probably meant, where a name is known to nobody."""

from __future__ import annotations

import difflib

from lit_storage_proto.errors import StorageError
from lit_storage_proto.registry import Registry
from lit_storage_proto.uri import SCHEME, Location

_MOST_NAMES = 10_000  # that a name is compared with


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
    nearest = difflib.get_close_matches(name, sorted(names)[:_MOST_NAMES], n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    if not hint and name.lower() == SCHEME.rstrip(":/"):
        hint = f"; a URI of files starts with {SCHEME}@NAME/"
    return f"no Work {name!r} is known{hint}"


def hint_for_remote(registry: Registry, location: Location) -> str:
    """Return what to add to the error that `location` is not there; "" where nothing helps."""
    name = location.origin or ""
    try:
        return "" if is_known(registry, name) else unknown_name(registry, name).partition("; ")[2]
    except StorageError:
        return ""


def hint_for_own(registry: Registry, location: Location) -> str:
    """Return what to add to the error that a path of one's own is not there; "" where nothing helps.

    ``lit://trainer/x`` is a path of one's own, and often meant to be one of the Work "trainer".
    """
    name, _, below = location.path.partition("/")
    try:
        is_name = bool(name) and is_known(registry, name)
    except StorageError:
        return ""
    return f"if the files of the Work {name!r} are meant, write '{Location(name, below)}'" if is_name else ""
