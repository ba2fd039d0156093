"""Which values are containers, what each of them holds, and how it gets other parts.

Containers are list, tuple, dict, set, frozenset and deque with their subclasses, and *plain objects*:
instances of a class written in Python that can be imported or sent, which keep everything in ``__dict__`` and
``__slots__``, and which pickle saves and restores by these fields alone. Fields are read and written as they
are stored: neither properties nor ``__getattr__``, ``__setattr__``, ``__init__`` or ``__new__`` of the user
run.
"""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import functools
import types
from collections.abc import Callable, Iterable
from typing import Any, Final

from lit_storage.executors.by_value import can_travel

_POINTER_BYTES: Final = tuple.__itemsize__
_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_GENERATORS_OF_STATE_METHODS: Final = frozenset({"dataclasses", "attr._make"})
# The last two would run while pickle loads an instance that has no fields yet.
_METHODS_THAT_MEET_LOADING: Final = (
    "__getnewargs__",
    "__getnewargs_ex__",
    "__del__",
    "__getattr__",
    "__getattribute__",
)
_CACHED_HASH: Final = "_attrs_cached_hash"  # frozen attrs with cache_hash=True keep it beside their fields


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """How one type of container is taken apart and put together."""

    parts: Callable[[Any], list[Any]]
    """Return what a value holds, copied at once, so that other threads may go on changing the value.
    Keys and names stand before their values."""
    copy: Callable[[Any, list[Any]], Any]
    """Return a new container like a value, of the type that travels, with other parts."""
    fill: Callable[[Any, list[Any], list[Any]], None] | None
    """Replace parts of a value by others in place; None: the value is immutable."""
    remake: Callable[[Any, list[Any]], Any] | None = None
    """As `copy`, but of the very same type; only of immutable values."""
    is_object: bool = False
    is_hashed: bool = False
    """Whether the container looks its parts up by their hashes."""


def fields(value: Any) -> list[Any]:
    """Return the values of the instance attributes of any object, as they are stored."""
    cls = type(value)
    attributes = _instance_dict(cls)
    found = list(attributes.__get__(value).values()) if attributes is not None else []
    for slot in _slots(cls):
        try:
            found.append(slot.__get__(value))
        except AttributeError:  # never assigned
            continue
    return found


# --- list, tuple, dict, set and deque ---------------------------------------------------------


def _pairs(parts: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(parts[::2], parts[1::2], strict=True)


def _list_parts(value: list[Any]) -> list[Any]:
    return list.__getitem__(value, slice(None))


def _dict_parts(value: dict[Any, Any]) -> list[Any]:
    return [part for pair in list(_dict_base(value).items(value)) for part in pair]


def _dict_base(value: dict[Any, Any]) -> Any:
    """Return the class whose methods are used, whatever a subclass makes of them."""
    is_ordered = issubclass(type(value), collections.OrderedDict)
    return collections.OrderedDict if is_ordered else dict


def _fill_sequence(base: Any, value: Any, old: list[Any], new: list[Any]) -> None:
    """Replace each part that is still where it was: another thread may have moved it."""
    for index, (before, after) in enumerate(zip(old, new, strict=True)):
        is_there = index < base.__len__(value) and base.__getitem__(value, index) is before
        if after is not before and is_there:
            base.__setitem__(value, index, after)


def _fill_dict(value: dict[Any, Any], old: list[Any], new: list[Any]) -> None:
    base = _dict_base(value)
    if any(after is not before for after, before in zip(new[::2], old[::2], strict=True)):
        base.clear(value)  # not one key after the other, which would change their order
        changed = list(_pairs(new))
    else:
        changed = [pair for pair, before in zip(_pairs(new), old[1::2], strict=True) if pair[1] is not before]
    for key, part in changed:
        base.__setitem__(value, key, part)


def _fill_set(value: set[Any], old: list[Any], new: list[Any]) -> None:  # noqa: ARG001
    set.clear(value)  # also of what stays: its hash may have changed with what is in it
    set.update(value, new)


def _remade_tuple(value: tuple[Any, ...], parts: list[Any]) -> Any:
    new = tuple.__new__(type(value), parts)
    if (attributes := _instance_dict(type(value))) is not None:
        attributes.__get__(new).update(attributes.__get__(value))
    return new


def _is_named_tuple(cls: type) -> bool:
    return isinstance(getattr(cls, "_fields", None), tuple) and can_travel(cls)


def _parts_by(base: Any) -> Callable[[Any], list[Any]]:
    return lambda value: list(base.__iter__(value))


_BUILTIN: Final[dict[type, Kind]] = {
    list: Kind(_list_parts, lambda _, parts: parts, functools.partial(_fill_sequence, list)),
    tuple: Kind(_parts_by(tuple), lambda _, parts: tuple(parts), None, _remade_tuple),
    dict: Kind(_dict_parts, lambda _, parts: dict(_pairs(parts)), _fill_dict, is_hashed=True),
    set: Kind(_parts_by(set), lambda _, parts: set(parts), _fill_set, is_hashed=True),
    frozenset: Kind(
        _parts_by(frozenset),
        lambda _, parts: frozenset(parts),
        None,
        lambda value, parts: frozenset.__new__(type(value), parts),
        is_hashed=True,
    ),
    collections.deque: Kind(
        _parts_by(collections.deque),
        lambda value, parts: collections.deque(parts, value.maxlen),
        functools.partial(_fill_sequence, collections.deque),
    ),
}
_named_tuple: Final = Kind(
    _parts_by(tuple), lambda value, parts: tuple.__new__(type(value), parts), None, _remade_tuple
)

# --- Plain objects ----------------------------------------------------------------------------


def _object_kind(cls: type) -> Kind | None:
    attributes, slots = _instance_dict(cls), _slots(cls)
    if not _is_plain(cls, attributes, slots) or not can_travel(cls):
        return None
    may_cache_hash = _lookup(cls, "__attrs_attrs__") is not None
    base: Any = types.SimpleNamespace if issubclass(cls, types.SimpleNamespace) else object

    def parts(value: Any) -> list[Any]:
        """Return names and values; the name of a slot is its number."""
        found: list[Any] = []
        if attributes is not None:
            found = [part for pair in list(attributes.__get__(value).items()) for part in pair]
        for number, slot in enumerate(slots):
            try:
                found += (number, slot.__get__(value))
            except AttributeError:  # never assigned
                continue
        return found

    def put(value: Any, name: Any, part: Any) -> None:
        if type(name) is int:
            slots[name].__set__(value, part)
        else:
            attributes.__get__(value)[name] = part

    def copy(_: Any, parts: list[Any]) -> Any:
        new = base.__new__(cls)
        if slots:
            for name, part in _pairs(parts):
                put(new, name, part)
        else:
            attributes.__get__(new).update(_pairs(parts))
        return without_hash(new) if may_cache_hash else new

    def fill(value: Any, old: list[Any], new: list[Any]) -> None:
        for before, (name, after) in zip(old[1::2], _pairs(new), strict=True):
            if after is not before:
                put(value, name, after)
        if may_cache_hash:
            without_hash(value)

    def without_hash(value: Any) -> Any:
        if attributes is not None and _CACHED_HASH in attributes.__get__(value):
            put(value, _CACHED_HASH, None)
        for number, slot in enumerate(slots):
            if slot.__name__ == _CACHED_HASH:
                put(value, number, None)
        return value

    if _refuses_changes(cls):
        return Kind(parts, copy, None, copy, is_object=True)
    return Kind(parts, copy, fill, is_object=True)


def _is_plain(cls: type, attributes: Any, slots: tuple[Any, ...]) -> bool:
    """Say whether `attributes` and `slots` are all that an instance has, and pickle takes it from there."""
    if cls is types.SimpleNamespace:
        return True
    if not cls.__flags__ & _HEAP_TYPE or (attributes is None and not slots):
        return False  # of C, or without a field: such an object is nothing but its identity
    if _is_opaque(cls, slots):
        return False
    reduce = _lookup(cls, "__reduce__")
    return (
        _lookup(cls, "__reduce_ex__") is None
        and (reduce is None or reduce is vars(types.SimpleNamespace)["__reduce__"])
        and cls not in copyreg.dispatch_table
        and not any(_lookup(cls, name) for name in _METHODS_THAT_MEET_LOADING)
        and all(_is_none_or_generated(_lookup(cls, name)) for name in ("__getstate__", "__setstate__"))
    )


def _is_opaque(cls: type, slots: tuple[Any, ...]) -> bool:
    """Say whether instances keep something where only code in C finds it."""
    words = len(slots) + (cls.__dictoffset__ > 0) + (cls.__weakrefoffset__ > 0)
    return cls.__basicsize__ > object.__basicsize__ + words * _POINTER_BYTES or cls.__itemsize__ > 0


def base_in_c(cls: type) -> type | None:
    """Return the base of `cls`, such as list, that keeps contents outside of ``__dict__`` and slots."""
    if not _is_opaque(cls, _slots(cls)):
        return None
    while cls.__base__ is not None and _is_opaque(cls.__base__, _slots(cls.__base__)):
        cls = cls.__base__
    return cls


def _lookup(cls: type, name: str) -> Any:
    """Return what `cls` or a base has as `name`, but for object itself, and as it is stored."""
    return next((vars(each)[name] for each in cls.__mro__[:-1] if name in vars(each)), None)


def _is_none_or_generated(method: Any) -> bool:
    return method is None or is_generated(method)


def is_generated(method: Any) -> bool:
    """Say whether dataclasses or attrs made a method of the protocol of pickle."""
    return getattr(method, "__module__", None) in _GENERATORS_OF_STATE_METHODS


def _refuses_changes(cls: type) -> bool:
    """Say whether instances are immutable: frozen dataclasses and frozen attrs classes have both methods."""
    methods = [_lookup(cls, "__setattr__"), _lookup(cls, "__delattr__")]
    return all(isinstance(method, types.FunctionType) for method in methods)


def _instance_dict(cls: type) -> Any:
    descriptor = _lookup(cls, "__dict__")
    is_stored = isinstance(descriptor, (types.GetSetDescriptorType, types.MemberDescriptorType))
    return descriptor if is_stored else None


def _slots(cls: type) -> tuple[Any, ...]:
    """Return the slots of `cls` and its bases, also those that a base has under the same name."""
    return tuple(
        member
        for each in cls.__mro__[:-1]
        if "__slots__" in vars(each)
        for name, member in vars(each).items()
        if isinstance(member, types.MemberDescriptorType) and name not in ("__dict__", "__weakref__")
    )


def _kind_of(cls: type) -> Kind | None:
    for base, kind in _BUILTIN.items():
        if issubclass(cls, base):
            return _named_tuple if base is tuple and _is_named_tuple(cls) else kind
    return _object_kind(cls)


# The cache is bounded: a program may make classes without end.
kind_of: Final[Callable[[type], Kind | None]] = functools.lru_cache(maxsize=4096)(_kind_of)
"""Returns how containers of a type are treated, or None if it is no type of containers."""
