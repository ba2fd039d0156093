"""The nine kinds of containers in which users keep Paths, and more of each, for tests."""

import collections
import dataclasses
import typing

import attrs


class Pair(typing.NamedTuple):
    item: object


@dataclasses.dataclass
class Box:
    item: object


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenBox:
    item: object


@attrs.define
class AttrsBox:
    item: object


@attrs.frozen(cache_hash=True)
class FrozenAttrsBox:
    item: object


class Plain:
    def __init__(self, item):
        self.item = item


class Slotted:
    __slots__ = ("item", "never_assigned")

    def __init__(self, item):
        self.item = item


KINDS = {
    "list": lambda item: [item],
    "named tuple": Pair,
    "set": lambda item: {item},
    "deque": lambda item: collections.deque([item], maxlen=3),
    "dict key": lambda item: {item: 1},
    "dataclass": Box,
    "attrs": AttrsBox,
    "__dict__": Plain,
    "__slots__": Slotted,
}
IMMUTABLE = {
    "named tuple": Pair,
    "tuple": lambda item: (item,),
    "frozenset": lambda item: frozenset({item}),
    "frozen dataclass": FrozenBox,
    "frozen attrs": FrozenAttrsBox,
}


def item_of(container):
    """Return the one item of a container of any kind."""
    return container.item if hasattr(container, "item") else next(iter(container))
