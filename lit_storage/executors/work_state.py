"""The state of a Work: which of its attributes both processes know, and how they stay the same.

State is the public attributes of JSON-like types, Paths, and containers of nothing but these, plain objects
among them (`lit_storage.executors.containers`).
A `Ledger` remembers, pickled, what the other side last knew of each; whatever differs from it is
a change, whether it was assigned or altered in place. Nothing here sends anything.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_storage.executors import by_value
from lit_storage.executors.containers import Kind, kind_of
from lit_storage.paths.path import Path

MOST_LEVELS = 250
"""How deep state may be nested. A level takes three frames of the 1000 that Python allows by default."""

_SCALARS = frozenset({type(None), bool, int, float, str})
_SCALAR_BASES = (str, int, float, Path)
_BEING_COPIED = object()


class NotState(TypeError):
    """A value that only the process knows in which it was made."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What one side must tell the other."""

    assigned: Mapping[str, bytes] = field(default_factory=dict)
    """Pickled values by attribute."""
    withheld: Mapping[str, str] = field(default_factory=dict)
    """Names of types, by attributes that are not state."""
    deleted: tuple[str, ...] = ()


def is_public(name: str) -> bool:
    """Say whether an attribute of this name may be state."""
    return not name.startswith("_")


def to_state(value: Any) -> Any:
    """Return a copy of `value` in the types that travel.

    Subclasses of scalars, list, dict, set and deque become what they are a kind of, such as a dict.
    So do scalars of numpy: a ``numpy.float64`` is a float already, and other numbers become the bool, int or
    float of the same value. Named tuples and plain objects keep their type. Containers are copied,
    so that other threads may go on changing the ones of `value`.

    Raises:
        NotState: something in it is of another type, it holds itself, or it is nested too deeply.
    """
    try:
        return _Copier().copy(value)
    except RecursionError:
        raise NotState(type(value).__name__) from None


def pickled_state(value: Any) -> bytes:
    """Return `to_state` of `value`, pickled.

    Raises:
        NotState: as of `to_state`, or pickle or a method of the user's class refuses it.
    """
    file = io.BytesIO()
    try:
        _StatePickler(file).dump(to_state(value))
    except NotState:
        raise
    except Exception as error:  # noqa: BLE001  hashing and pickling call code of the user
        raise NotState(f"{type(value).__name__}: {error}") from None
    return file.getvalue()


def is_state(value: Any, known: dict[int, tuple[Any, bool]] | None = None) -> bool:
    """Say whether `to_state` takes `value`. Nothing is copied.

    Args:
        value: anything.
        known: the answers for containers by id; answers are added, so that no container is judged twice.
    """
    try:
        return _is_state(value, {} if known is None else known)
    except RecursionError:
        return False


def is_too_deep(value: Any) -> bool:
    """Say whether `value` would be state if it were not nested more than `MOST_LEVELS` deep."""
    if type(value) in _SCALARS:
        return False
    levels = list(levels_of(value))
    return len(levels) > MOST_LEVELS and all(_may_be_state(part) for level in levels for part in level)


def levels_of(value: Any) -> Iterator[list[Any]]:
    """Yield what is in `value` level by level, first `value` itself.

    A container is entered once, and not at all if it holds plain scalars alone.
    """
    entered: dict[int, Any] = {}  # with the containers, so that no other one gets the id of one of them
    level = [value]
    while level:
        yield level
        parts: list[Any] = []
        for item in level:
            kind = kind_of(type(item))
            if kind is not None and not is_flat(held := kind.parts(item)) and id(item) not in entered:
                entered[id(item)] = item
                parts += held
        level = parts


def _may_be_state(value: Any) -> bool:
    cls = type(value)
    is_scalar = cls in _SCALARS or issubclass(cls, _SCALAR_BASES) or number_type(cls) is not None
    return is_scalar or kind_of(cls) is not None


def number_type(cls: type) -> type[bool | int | float] | None:
    """Return what numbers of a scalar type of numpy become, or None for any other type.

    They become nothing else where a number would say less: a ``longdouble`` has more digits than a float, and
    a ``timedelta64`` has a unit.
    """
    numpy = sys.modules.get("numpy")  # no value is a scalar of numpy before it is loaded
    if numpy is None or not issubclass(cls, getattr(numpy, "generic", ())):
        return None
    if issubclass(cls, (numpy.longdouble, numpy.timedelta64)):
        return None
    bases = ((numpy.bool_, bool), (numpy.integer, int), (numpy.floating, float))
    return next((plain for base, plain in bases if issubclass(cls, base)), None)


def is_flat(values: Iterable[Any]) -> bool:
    """Say whether all `values` are plain scalars, so that there is nothing to look for in them."""
    return _SCALARS.issuperset(map(type, values))


def _is_state(value: Any, known: dict[int, tuple[Any, bool]]) -> bool:
    cls = type(value)
    if cls in _SCALARS or issubclass(cls, _SCALAR_BASES):
        return True
    kind = kind_of(cls)
    if kind is None:
        return number_type(cls) is not None
    if id(value) in known:
        return known[id(value)][1]
    parts = kind.parts(value)
    if is_flat(parts):
        return True
    known[id(value)] = value, False  # stays so for what holds itself
    answer = all(_is_state(part, known) for part in parts)
    known[id(value)] = value, answer
    return answer


class _StatePickler(pickle.Pickler):
    """Pickles a named tuple such that it is a plain tuple where its class cannot be imported."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._is_importable = functools.cache(by_value.is_importable)  # there may be very many of one class

    def reducer_override(self, value: Any) -> Any:
        cls = type(value)
        if not issubclass(cls, tuple):
            return by_value.reduced(value)
        if not self._is_importable(cls):
            return tuple.__new__, (cls, tuple(value))
        return _tuple_of, (cls.__module__, cls.__qualname__, tuple(value))


def _tuple_of(module: str, qualname: str, items: tuple[Any, ...]) -> tuple[Any, ...]:
    try:
        cls: Any = functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
    except Exception:  # noqa: BLE001  a module of the user may raise anything
        return items
    return tuple.__new__(cls, items)


class _Copier:
    """Copies one value; each container of containers in it once, however often it is held."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}
        """By id, with the original: while it is held here, no other object gets its id."""

    def copy(self, value: Any) -> Any:
        cls = type(value)
        if cls in _SCALARS or issubclass(cls, Path):
            return value
        if issubclass(cls, str):
            return str.__str__(value)  # and not str(value), to which an Enum gives another meaning
        if issubclass(cls, int):
            return int.__int__(value)
        if issubclass(cls, float):
            return float.__float__(value)
        kind = kind_of(cls)
        if kind is None:
            plain = number_type(cls)
            if plain is None:
                raise NotState(cls.__name__)
            return plain(value)
        parts = kind.parts(value)
        return kind.copy(value, parts) if is_flat(parts) else self._copy_nested(value, kind, parts)

    def _copy_nested(self, value: Any, kind: Kind, parts: list[Any]) -> Any:
        _, copy = self._copies.get(id(value), (None, None))
        if copy is _BEING_COPIED:
            raise NotState(type(value).__name__)
        if copy is None:
            self._copies[id(value)] = value, _BEING_COPIED
            copy = kind.copy(value, [self.copy(part) for part in parts])
            self._copies[id(value)] = value, copy
        return copy


class Ledger:
    """What the other side last knew of each attribute."""

    def __init__(self) -> None:
        self._known: dict[str, bytes | None] = {}  # None: the other side knows that it is withheld

    def changes(self, attributes: Mapping[str, Any], only: Collection[str] | None = None) -> Changes:
        """Return how the public ones of `attributes` differ from what is known, and know them.

        Args:
            attributes: all attributes of one side.
            only: look at these names alone; None looks at all, and so finds in-place changes.
        """
        assigned: dict[str, bytes] = {}
        withheld: dict[str, str] = {}
        looked_at = {*self._known, *attributes} if only is None else set(only)
        public = {name: attributes[name] for name in looked_at if name in attributes and is_public(name)}
        for name, value in public.items():
            try:
                pickled = pickled_state(value)
            except NotState:
                if name not in self._known or self._known[name] is not None:
                    depth = " that is nested too deeply" if is_too_deep(value) else ""
                    withheld[name] = type(value).__name__ + depth
                    self._known[name] = None
                continue
            if self._known.get(name) != pickled:
                assigned[name] = self._known[name] = pickled
        deleted = tuple(name for name in looked_at if name in self._known and name not in attributes)
        for name in deleted:
            del self._known[name]
        return Changes(assigned, withheld, deleted)

    def note(self, name: str, value: Any) -> None:
        """Know that both sides have `value` now."""
        try:
            self._known[name] = pickled_state(value)
        except NotState:
            self._known[name] = None

    def forget(self, name: str) -> None:
        """Know that neither side has the attribute."""
        self._known.pop(name, None)
