"""The attributes of a Work or a Flow by name, wherever Python stores them."""

from __future__ import annotations

import contextlib
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
                with contextlib.suppress(Exception):  # without a deleter, a property keeps its value
                    object.__delattr__(self._holder, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        return len(self.snapshot())

    def stored(self, name: str | None = None) -> dict[str, Any]:
        """Return a copy of what lies in ``__dict__`` and in slots, or of the one attribute `name` there."""
        if name is not None:
            return {name: self[name]} if self.is_stored(name) and name in self else {}
        found = self._dict.copy()
        found.pop(INTERNALS, None)
        return found | {name: self[name] for name in self._slots if name in self}

    def restore(self, before: Mapping[str, Any], name: str | None = None) -> None:
        """Let ``__dict__`` and slots hold what `stored` returned `before`, of the same attributes."""
        for each in self.stored(name).keys() - before.keys():
            del self[each]
        for each, value in before.items():
            self[each] = value

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of all attributes, which other threads do not change."""
        return self.stored() | {name: self[name] for name in list(self._managed) if name in self}

    def is_stored(self, name: str) -> bool:
        """Say whether an attribute is read and written without code of the user."""
        return name in self._slots or name in self._dict

    def note(self, name: str) -> None:
        """Know that an attribute was assigned: a public one may be a managed one."""
        if not self.is_stored(name) and not name.startswith("_") and is_managed(type(self._holder), name):
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


def setter_refused(work: str, name: str, error: Exception) -> str:
    """Return the warning for an attribute whose setter raised for what its getter returned elsewhere."""
    return (
        f"attribute {name!r} of {work!r} stays as it is in this process, since its setter refused the value "
        f"that the other process has ({error!r}); let the setter take what the getter returns"
    )
