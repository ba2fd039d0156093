"""The attributes of a Work or a Flow by name, wherever Python stores them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Final

INTERNALS = "_lit"
"""The name under which a Work keeps what is no attribute of the user."""


class Attributes(MutableMapping[str, Any]):
    """A live view of the attributes of one object.

    Attributes lie in its ``__dict__`` and in slots; these are read and written without any code of the user.
    *Managed* attributes were assigned through a property or another descriptor of the user, and are read and
    written through it. One whose getter raises counts as absent.

    Args:
        holder: an instance of a class with ``__dict__``, with or without ``__slots__``.
        managed: the names of its managed attributes; extended here.
    """

    def __init__(self, holder: object, managed: set[str] | None = None) -> None:
        self._holder = holder
        self._slots = slots_of(type(holder))
        self._managed = set() if managed is None else managed

    @property
    def _dict(self) -> dict[str, Any]:
        return vars(self._holder)  # which a class may replace

    def __getitem__(self, name: str) -> Any:
        if name in self._slots:
            return self._read(self._slots[name].__get__, name)
        if name in self._managed and name not in self._dict:
            return self._read(lambda holder: getattr(holder, name), name)
        if name == INTERNALS:
            raise KeyError(name)
        return self._dict[name]

    def _read(self, read: Any, name: str) -> Any:
        try:
            return read(self._holder)
        except Exception:  # noqa: BLE001  a getter of the user may raise anything
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._slots:
            self._slots[name].__set__(self._holder, value)
        elif is_managed(type(self._holder), name):
            object.__setattr__(self._holder, name, value)
            self.note(name)
        else:
            self._dict[name] = value

    def __delitem__(self, name: str) -> None:
        if name in self._slots:
            self._slots[name].__delete__(self._holder)
        elif name in self._dict:
            del self._dict[name]
        else:
            self._managed.discard(name)
            if is_managed(type(self._holder), name):
                self._read(lambda holder: object.__delattr__(holder, name), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        return len(self.snapshot())

    def stored(self) -> dict[str, Any]:
        """Return a copy of what lies in ``__dict__`` and in slots."""
        found = self._dict.copy()
        found.pop(INTERNALS, None)
        return found | {name: self[name] for name in self._slots if name in self}

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of all attributes, which other threads do not change."""
        return self.stored() | {name: self[name] for name in list(self._managed) if name in self}

    def note(self, name: str) -> None:
        """Know that an attribute was assigned, which is a managed one unless it is stored or private."""
        if name not in self._dict and name not in self._slots and not name.startswith("_"):
            self._managed.add(name)


Slots = Mapping[str, types.MemberDescriptorType]


def _slots_of(cls: type) -> Slots:
    found: dict[str, types.MemberDescriptorType] = {}
    for each in reversed(cls.__mro__[:-1]):
        for name, member in vars(each).items():
            is_slot = isinstance(member, types.MemberDescriptorType) and "__slots__" in vars(each)
            if is_slot and name not in ("__dict__", "__weakref__"):
                found[name] = member
            else:
                found.pop(name, None)
    return types.MappingProxyType(found)


slots_of: Final[Callable[[type], Mapping[str, types.MemberDescriptorType]]] = functools.lru_cache(4096)(
    _slots_of
)
"""Returns the slots of a class and its bases that an instance reaches by name."""


def is_managed(cls: type, name: str) -> bool:
    """Say whether a class has a descriptor of this name that takes assignments, other than a slot."""
    found = next((vars(each)[name] for each in cls.__mro__ if name in vars(each)), None)
    return hasattr(type(found), "__set__") and not isinstance(found, types.MemberDescriptorType)
