"""The Paths in a value of this process: found and replaced, in every container that can be state.

A list, tuple, dict, set or deque is searched whatever else it holds. A plain object is searched only if it is
state as a whole: what it would mean to change any other object is known to its own class alone.
"""

from __future__ import annotations

import collections
import types
from collections.abc import Callable
from typing import Any

from lit_storage.executors.containers import Kind, fields, kind_of
from lit_storage.executors.work_state import is_flat, is_state, levels_of
from lit_storage.paths.path import Path

_MOST_OBJECTS = 1000  # that a search for a hidden Path looks at: a few milliseconds in each assignment


def find_paths(value: Any) -> list[Path]:
    """Return each Path in `value`, in its order; what is in a container twice is returned twice."""
    found: list[Path] = []
    searched: dict[int, Any] = {}  # with the containers, so that no other one gets the id of one of them
    judged: dict[int, tuple[Any, bool]] = {}
    rest = [value]
    while rest:
        item = rest.pop()
        if issubclass(type(item), Path):
            found.append(item)
            continue
        kind = kind_of(type(item))
        if kind is None or id(item) in searched:
            continue
        parts = kind.parts(item)
        if not is_flat(parts) and (not kind.is_object or is_state(item, judged)):
            searched[id(item)] = item
            rest.extend(reversed(parts))
    return found


Copies = dict[int, tuple[Any, Any]]
"""Immutable containers with their copies, by the id of the container."""


def replace_paths(value: Any, change: Callable[[Path], Path], copies: Copies | None = None) -> Any:
    """Return `value` with each Path in it passed through `change`.

    Mutable containers are changed in place, so that others who hold them see the new Paths. Immutable ones
    are copied: tuples, frozensets and frozen objects. Where no Path changes, nothing is touched. A value that
    is nested too deeply stays as it is.

    Args:
        value: anything.
        change: returns the very same Path where nothing changes.
        copies: used wherever their originals are met, and extended. So who holds an immutable container
            together with another value gets the same copy.
    """
    if not _may_hold_path(value):
        return value
    try:
        return _Replacement(change, {} if copies is None else copies).replaced(value)
    except RecursionError:
        return value


def _may_hold_path(value: Any) -> bool:
    """Say whether there is a Path in `value`, also in plain objects that are no state."""
    return any(issubclass(type(item), Path) for level in levels_of(value) for item in level)


class _Replacement:
    """One replacement; a container that is met twice is replaced once."""

    def __init__(self, change: Callable[[Path], Path], copies: Copies) -> None:
        self._change = change
        self._copies = copies
        self._changes = 0
        self._judged: dict[int, tuple[Any, bool]] = {}
        self._replaced: dict[int, tuple[Any, Any]] = {}

    def replaced(self, value: Any) -> Any:
        if issubclass(type(value), Path):
            new = self._change(value)
            self._changes += new is not value
            return new
        kind = kind_of(type(value))
        if kind is None:
            return value
        for replaced in (self._copies, self._replaced):
            if id(value) in replaced:
                return replaced[id(value)][1]
        parts = kind.parts(value)
        if is_flat(parts) or (kind.is_object and not is_state(value, self._judged)):
            return value
        self._replaced[id(value)] = value, value  # stays so for what holds itself
        new = self._replaced_container(value, kind, parts)
        self._replaced[id(value)] = value, new
        return new

    def _replaced_container(self, value: Any, kind: Kind, parts: list[Any]) -> Any:
        changes = self._changes
        new = [self.replaced(part) for part in parts]
        is_other = any(after is not before for after, before in zip(new, parts, strict=True))
        if not is_other and not (kind.is_hashed and self._changes > changes):
            return value
        if kind.fill is None:
            assert kind.remake is not None
            self._copies[id(value)] = value, kind.remake(value, new)
            return self._copies[id(value)][1]
        kind.fill(value, parts, new)
        return value


def first_hidden_path(value: Any, is_hidden: Callable[[Path], bool]) -> Path | None:
    """Return a Path below `value`, an object of any class, for which `is_hidden` holds; the nearest one.

    Containers and instance attributes are searched, up to a number of objects. No code of the user runs.
    """
    rest: collections.deque[Any] = collections.deque([value])
    searched: dict[int, Any] = {}
    while rest and len(searched) < _MOST_OBJECTS:
        item = rest.popleft()
        if issubclass(type(item), Path):
            if is_hidden(item):
                return item  # type: ignore[no-any-return]
        elif id(item) not in searched and not issubclass(type(item), (type, types.ModuleType)):
            searched[id(item)] = item
            kind = kind_of(type(item))
            parts = kind.parts(item) if kind is not None else fields(item)
            if not is_flat(parts):
                rest.extend(parts[:_MOST_OBJECTS])
    return None
