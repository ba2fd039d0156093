"""What is state, and what the ledger takes for a change."""

import collections
import decimal
import enum
import pickle
import sys
import tempfile
import threading
import types
import typing
import weakref

import pytest

from lit_storage import Path
from lit_storage.executors import by_value
from lit_storage.executors.work_state import (
    MOST_LEVELS,
    Changes,
    Ledger,
    NotState,
    is_state,
    is_too_deep,
    pickled_state,
    to_state,
)
from tests.lit_storage.apps.containers import IMMUTABLE, KINDS, Box, Slotted, item_of


class Level(enum.IntEnum):
    HIGH = 3


class Colour(enum.Enum):
    RED = Path("red")


class Closing:
    """A copy that is thrown away would close what the original uses."""

    def __init__(self):
        self.descriptor = 3

    def __del__(self):
        pass


class WithState:
    def __getstate__(self):
        raise AssertionError


class Unhelpful:
    """Has no field that says so, but its class refuses to be pickled."""

    def __init__(self):
        self.x = 1

    @property
    def __class__(self):
        raise TypeError("a proxy that is not connected")


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
    assert is_state(value)


EVERY = {**KINDS, **IMMUTABLE}


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_containers_keep_their_type(make):
    """A copy travels, and arrives as what it was."""
    value = make(Path("a/b"))
    copy = pickle.loads(pickled_state(value))
    assert type(copy) is type(value)
    assert item_of(copy) == Path("a/b")
    assert is_state(value)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_containers_are_copied(make):
    """Other threads may go on changing what a value holds while the copy is pickled."""
    value = [make((1,))]
    copy = to_state(value)
    assert copy is not value
    assert copy[0] is not value[0]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Loss(0.5), 0.5),
        (Level.HIGH, 3),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
    ],
)
def test_subclasses_travel_as_what_they_are_a_kind_of(value, plain):
    """The other process needs none of the modules that a value came from."""
    assert to_state(value) == plain
    assert type(to_state(value)) is type(plain)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"bytes",
        threading.Lock(),
        threading.Event(),
        [object()],
        {"a": {"b": object()}},
        Box(threading.Lock()),
        Slotted(b""),
        Colour.RED,
        Closing(),
        WithState(),
        decimal.Decimal(1),
        Level,
        weakref.finalize(Level, print),
        tempfile.TemporaryDirectory,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_no_state(value):
    """What is neither is refused, also deep inside."""
    assert not is_state(value)
    with pytest.raises(NotState):
        to_state(value)


@pytest.mark.parametrize("make", [lambda item: [item], Box, Slotted])
def test_what_holds_itself_is_no_state(make):
    """Neither copies run forever."""
    value = make(None)
    if isinstance(value, list):
        value.append(value)
    else:
        value.item = [value]
    assert not is_state(value)
    with pytest.raises(NotState):
        to_state(value)


def test_what_is_nested_too_deeply_is_no_state():
    """No RecursionError reaches the user."""
    value = None
    for _ in range(5000):
        value = Box(value)
    assert not is_state(value)
    with pytest.raises(NotState):
        to_state(value)


def test_what_is_held_twice_is_copied_once():
    """Sixty levels that each hold the next one twice are sixty copies."""
    value = Box(None)
    for _ in range(60):
        value = [value, value]
    copy = to_state(value)
    assert copy[0] is copy[1]


def test_instances_of_a_local_class_are_no_state_of_a_work(monkeypatch):
    """The Flow cannot import it; a named tuple travels as a tuple."""
    monkeypatch.setattr(by_value, "_sends_new_ones", False)

    class Local:
        pass

    with pytest.raises(NotState):
        to_state([Local()])
    local = collections.namedtuple("local", "x")  # noqa: PYI024
    assert to_state(local(1)) == (1,)
    assert type(to_state(local(1))) is tuple


def test_what_pickle_refuses_is_withheld():
    """A class that cannot be pickled after all does not keep the other attributes from travelling."""
    changes = Ledger().changes({"bad": Box(Unhelpful()), "good": 1})
    assert set(changes.assigned) == {"good"}
    assert changes.withheld == {"bad": "Box"}


def test_equal_sets_of_different_order_lose_no_change():
    """Pickles may differ by the order alone; an item that is added is always told."""
    ledger, items = Ledger(), {f"item {number}" for number in range(100)}
    ledger.changes({"items": items})
    items.add("another")
    assert pickle.loads(ledger.changes({"items": items}).assigned["items"]) == items


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


class Key:
    """Hashes by a field that a copy does not have yet when it is put into a set."""

    def __init__(self):
        self.table = {"x": 1}
        self.name = "x"

    def __hash__(self):
        return hash(self.table[self.name])

    def __eq__(self, other):
        return self is other


def test_an_error_of_a_class_of_the_user_is_no_error_of_the_run():
    """What cannot be copied, for whatever reason, is withheld."""
    key = Key()
    value = {key}
    key.name = "gone"
    assert Ledger().changes({"a": value}).withheld == {"a": "set"}


def test_a_named_tuple_of_an_unknown_class_arrives_as_a_tuple(monkeypatch):
    """The other side may lack its module."""
    module = types.ModuleType("plugin_of_the_work")
    module.Best = typing.NamedTuple("Best", [("epoch", int), ("loss", float)])
    module.Best.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, "plugin_of_the_work", module)
    pickled = pickled_state(module.Best(3, 0.1))
    assert pickle.loads(pickled).epoch == 3
    monkeypatch.delitem(sys.modules, "plugin_of_the_work")
    assert pickle.loads(pickled) == (3, 0.1)


def test_numbers_of_numpy_are_numbers():
    """Each arrives as the bool, int or float of its value, so that the Flow needs no numpy; also as a key."""
    numpy = pytest.importorskip("numpy")
    values = [numpy.float32(0.5), numpy.float64(0.1), numpy.int64(-3), numpy.uint8(255), numpy.bool_(True)]
    assert [to_state(value) for value in values] == [0.5, 0.1, -3, 255, True]
    assert [type(to_state(value)) for value in values] == [float, float, int, int, bool]
    assert to_state({values[2]: values[:1]}) == {-3: [0.5]}
    assert is_state(values)


@pytest.mark.parametrize("name", ["longdouble", "timedelta64", "complex64", "datetime64", "array"])
def test_what_no_number_of_python_holds_is_no_state(name):
    """It would lose digits or its unit; an array, also one of no dimensions, may be changed in place."""
    numpy = pytest.importorskip("numpy")
    arguments = {"datetime64": ("2020",), "timedelta64": (1, "s")}.get(name, (1,))
    value = getattr(numpy, name)(*arguments)
    assert not is_state([value])
    with pytest.raises(NotState):
        to_state([value])


def test_what_is_too_deep():
    """State of more levels than `MOST_LEVELS`, and nothing that is no state for another reason."""

    def nested(levels, value=1):
        for _ in range(levels):
            value = [value]
        return value

    assert not is_too_deep(nested(MOST_LEVELS))
    assert is_too_deep(nested(MOST_LEVELS + 1))
    assert not is_too_deep(nested(MOST_LEVELS + 1, b""))
    assert to_state(nested(MOST_LEVELS)) == nested(MOST_LEVELS)
    assert Ledger().changes({"tree": nested(5000)}).withheld == {"tree": "list that is nested too deeply"}
