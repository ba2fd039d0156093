"""What is state, and what the ledger takes for a change."""

import collections
import enum
import pickle
import threading
import typing

import pytest

from lit_storage import Path
from lit_storage.executors.work_state import Changes, Ledger, NotState, to_state


class Level(enum.IntEnum):
    HIGH = 3


class Point(typing.NamedTuple):
    x: int
    y: int


class Loss(float):
    """Stands for the floats of numeric libraries, which are subclasses."""


@pytest.mark.parametrize(
    "value",
    [None, True, 1, 1.5, "text", [1, [2]], (1, "a"), {"a": [None]}, {1: 2.5}, Path("a/b"), [Path("x")]],
)
def test_plain_types_travel_as_they_are(value):
    """JSON-like values, Paths and containers of these are state."""
    assert to_state(value) == value
    assert type(to_state(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Loss(0.5), 0.5),
        (Level.HIGH, 3),
        (Point(1, 2), (1, 2)),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
    ],
)
def test_subclasses_travel_as_what_they_are_a_kind_of(value, plain):
    """The other process needs none of the modules that a value came from."""
    assert to_state(value) == plain
    assert type(to_state(value)) is type(plain)


@pytest.mark.parametrize(
    "value", [object(), b"bytes", {1, 2}, threading.Lock(), [object()], {"a": {"b": object()}}]
)
def test_other_types_are_no_state(value):
    """What is neither is refused, also deep inside."""
    with pytest.raises(NotState):
        to_state(value)


def test_only_what_differs_is_a_change():
    """The first look tells all, the second nothing."""
    ledger = Ledger()
    assert set(ledger.changes({"a": 1, "b": 2}).assigned) == {"a", "b"}
    assert ledger.changes({"a": 1, "b": 2}) == Changes()


def test_a_change_in_place_is_a_change():
    """A list that grew is told, though nothing was assigned."""
    ledger, values = Ledger(), [1]
    ledger.changes({"values": values})
    values.append(2)
    assert pickle.loads(ledger.changes({"values": values}).assigned["values"]) == [1, 2]


def test_private_attributes_are_no_state():
    """A leading underscore keeps an attribute in its process."""
    assert Ledger().changes({"_a": 1}) == Changes()


def test_a_deleted_attribute_is_a_change():
    """What is gone here goes there."""
    ledger = Ledger()
    ledger.note("a", 1)
    assert ledger.changes({}).deleted == ("a",)
    assert ledger.changes({}) == Changes()


def test_a_value_that_is_no_state_is_told_once():
    """The other side hears its type, and not again while it stays so."""
    ledger, attributes = Ledger(), {"lock": threading.Lock()}
    assert ledger.changes(attributes).withheld == {"lock": "lock"}
    assert ledger.changes(attributes) == Changes()


def test_a_look_at_one_name_tells_of_no_other():
    """While run goes on, one assignment costs one attribute."""
    assert set(Ledger().changes({"a": 1, "b": 2}, only=["b"]).assigned) == {"b"}
