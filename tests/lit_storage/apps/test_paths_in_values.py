"""Paths in the values of this process: found and replaced in every container that can be state."""

import collections
import threading
import types

import pytest

from lit_storage import Path
from lit_storage.apps.paths_in_values import find_paths, first_hidden_path, replace_paths
from lit_storage.executors.work_state import is_state
from tests.lit_storage.apps.containers import IMMUTABLE, KINDS, Box, FrozenBox, Plain, item_of

NESTED = {"a": [Path("x"), (Path("y"), {"b": Path("z")})], "c": 1}
MUTABLE = {name: make for name, make in KINDS.items() if name not in IMMUTABLE}


def below(path):
    return path / "1"


def test_paths_are_found_in_their_order():
    """Containers within containers are searched."""
    assert [str(path) for path in find_paths(NESTED)] == ["x", "y", "z"]


@pytest.mark.parametrize("make", [*KINDS.values(), *IMMUTABLE.values()], ids=[*KINDS, *IMMUTABLE])
def test_every_kind_is_searched(make):
    """Alone, and within a dataclass in a list."""
    assert find_paths(make(Path("x"))) == find_paths([Box(make(Path("x")))]) == [Path("x")]


@pytest.mark.parametrize("make", MUTABLE.values(), ids=MUTABLE)
def test_a_mutable_container_is_changed_in_place(make):
    """Others who hold it see the new Path."""
    value = make(Path("x"))
    assert replace_paths(value, below) is value
    assert item_of(value) == Path("x/1")


@pytest.mark.parametrize("make", IMMUTABLE.values(), ids=IMMUTABLE)
def test_an_immutable_container_is_copied(make):
    """The copy is of the same type; the original keeps its Path."""
    value = make(Path("x"))
    new = replace_paths(value, below)
    assert (type(new), item_of(new), item_of(value)) == (type(value), Path("x/1"), Path("x"))


@pytest.mark.parametrize("make", [*KINDS.values(), *IMMUTABLE.values()], ids=[*KINDS, *IMMUTABLE])
def test_nothing_is_touched_where_no_path_changes(make):
    """Every container stays the very same object."""
    value = [make(Path("x"))]
    inner = value[0]
    assert replace_paths(value, lambda path: path) is value
    assert value[0] is inner


def test_a_container_that_is_held_twice_is_replaced_once():
    """What two places share they share afterwards."""
    shared = (Path("x"),)
    first, second = replace_paths([shared, shared], below)
    assert first is second


def test_a_container_that_two_values_hold_is_copied_once():
    """Two attributes that share it share its copy, and a search for copies alone finds it as well."""
    shared, copies = (Path("x"),), {}
    first = replace_paths(shared, below, copies)
    assert replace_paths([shared], below, copies)[0] is first
    assert replace_paths({"a": [shared]}, lambda path: path, copies)["a"][0] is first


def test_the_order_of_a_dict_stays_where_a_key_changes():
    """Also of an OrderedDict, which keeps its type."""
    value = collections.OrderedDict([(Path("b"), 1), ("a", Path("c"))])
    assert list(replace_paths(value, below).items()) == [(Path("b/1"), 1), ("a", Path("c/1"))]


def test_a_set_finds_what_changed_in_place_within_it():
    """An item whose hash follows its Path is looked up under the new one."""

    value = {Hashed(Path("x"))}
    replace_paths(value, below)
    assert Hashed(Path("x/1")) in value


class Hashed(Plain):
    def __hash__(self):
        return hash(self.item)

    def __eq__(self, other):
        return self.item == other.item


def test_a_copied_object_forgets_the_hash_that_it_cached():
    """attrs keeps the hash of a frozen object in the object."""
    value = IMMUTABLE["frozen attrs"](Path("x"))
    before = hash(value)
    assert hash(replace_paths(value, below)) == hash(IMMUTABLE["frozen attrs"](Path("x/1"))) != before


def test_a_container_that_holds_itself_is_searched_once():
    """Neither search nor replacement runs forever."""
    value = [Path("x")]
    value.append(value)
    assert find_paths(replace_paths(value, below)) == [Path("x/1")]


def test_a_value_that_is_nested_too_deeply_stays():
    """No RecursionError reaches the user."""
    value = [Path("x")]
    for _ in range(5000):
        value = [value]
    assert replace_paths(value, below) is value
    assert find_paths(value) == [Path("x")]


def test_shared_parts_are_searched_once():
    """Sixty levels that each hold the next one twice are 60 containers, and not 2 ** 60."""
    value = [Path("x")]
    for _ in range(60):
        value = [value, value]
    assert find_paths(replace_paths(value, below)) == [Path("x/1")]


def test_an_object_that_is_no_state_is_left_alone():
    """A list beside a lock is searched, and an object beside a lock is not."""
    assert find_paths([Path("x"), threading.Lock()]) == [Path("x")]
    opaque = types.SimpleNamespace(item=Path("x"), lock=threading.Lock())
    assert find_paths(opaque) == []
    assert replace_paths(opaque, below).item == Path("x")


class Watched(Plain):
    """Says of each access that runs code of the user."""

    @property
    def computed(self):
        raise AssertionError("a property was called")

    def __setattr__(self, name, value):
        assert "item" not in vars(self), f"__setattr__({name!r}) was called"
        object.__setattr__(self, name, value)


class Delegating(Plain):
    """Has what another object has, as proxies do."""

    def __getattr__(self, name):
        raise AssertionError(f"__getattr__({name!r}) was called")


def test_no_code_of_the_user_runs():
    """Fields are read and written as they are stored."""
    value = replace_paths(Watched(Path("x")), below)
    assert find_paths(value) == [Path("x/1")]
    assert first_hidden_path([value], lambda path: True) == Path("x/1")
    assert first_hidden_path([Delegating(Path("x"))], lambda path: True) == Path("x")


def test_an_object_that_delegates_attributes_is_no_state():
    """pickle would call its __getattr__ while it has no fields yet, and recurse without end."""
    assert not is_state(Delegating(Path("x")))


def test_a_hidden_path_is_found_in_any_object():
    """The nearest one, whatever else the object holds, and only one that counts as hidden."""
    value = types.SimpleNamespace(deep=[[FrozenBox(Path("deep"))]], near=Path("near"), lock=threading.Lock())
    assert first_hidden_path(value, lambda path: True) == Path("near")
    assert first_hidden_path(value, lambda path: path != Path("near")) == Path("deep")


def test_the_search_for_a_hidden_path_is_bounded():
    """An endless object does not stop the Work."""
    value = types.SimpleNamespace(lock=threading.Lock())
    for _ in range(20_000):
        value = types.SimpleNamespace(next=value)
    value.__dict__["last"] = [[] for _ in range(20_000)]
    assert first_hidden_path(value, lambda path: True) is None
