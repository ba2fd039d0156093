"""The state of a Work: which of its attributes both processes know, and how they stay the same.

State is the public attributes of JSON-like types, Paths, and lists, tuples and dicts of these.
A `Ledger` remembers, pickled, what the other side last knew of each; whatever differs from it is
a change, whether it was assigned or altered in place. Nothing here sends anything.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_storage.paths.path import Path

_SCALARS = frozenset({type(None), bool, int, float, str})


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
    """Return `value` in the plain types that travel.

    Subclasses become what they are a kind of: a ``numpy.float64`` is a float, a namedtuple a tuple.
    Containers are copied, so that other threads may go on changing the ones of `value`.

    Raises:
        NotState: something in it is of another type, or it holds itself.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise NotState(type(value).__name__) from None


def is_flat(values: Iterable[Any]) -> bool:
    """Say whether all `values` are plain scalars, so that there is nothing to look for in them."""
    return _SCALARS.issuperset(map(type, values))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, Path)):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # and not str(value), to which an Enum gives another meaning
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, (list, tuple)):
        items = list(value)
        if not is_flat(items):
            items = [_plain(item) for item in items]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in list(value.items())}
    raise NotState(type(value).__name__)


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
                pickled = pickle.dumps(to_state(value))
            except NotState:
                if name not in self._known or self._known[name] is not None:
                    withheld[name] = type(value).__name__
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
            self._known[name] = pickle.dumps(to_state(value))
        except NotState:
            self._known[name] = None

    def forget(self, name: str) -> None:
        """Know that neither side has the attribute."""
        self._known.pop(name, None)
