"""Which types are containers, and that their fields are read as they are stored."""

import argparse
import collections
import collections.abc
import copyreg
import logging
import queue
import random
import re
import tempfile
import threading
import types

import pytest

from lit_storage.executors.by_value import is_importable
from lit_storage.executors.containers import fields, kind_of
from tests.lit_storage.apps.containers import KINDS, Plain, Slotted


class Registered(Plain):
    pass


copyreg.pickle(Registered, lambda value: (Registered, (value.item,)))


class Derived(Slotted):
    """Has a slot, and a __dict__ beside it."""


class WithArguments(Plain):
    def __getnewargs__(self):
        raise AssertionError


@pytest.mark.parametrize(
    "cls", [type(make(1)) for make in KINDS.values()] + [types.SimpleNamespace, argparse.Namespace, Derived]
)
def test_containers(cls):
    """The nine kinds, and classes that are written in Python."""
    assert kind_of(cls) is not None


@pytest.mark.parametrize(
    "cls",
    [
        object,
        type,
        bytes,
        str,
        ValueError,
        logging.Logger,
        random.Random,
        re.Pattern,
        threading.local,
        Registered,
    ]
    + [WithArguments, type(threading.Lock()), types.ModuleType, types.FunctionType, queue.SimpleQueue],
)
def test_other_types_are_no_containers(cls):
    """Types of C, and those that pickle by themselves."""
    assert kind_of(cls) is None


def test_parts_hold_every_field():
    """Those of slots and of __dict__; a slot that was never assigned is left out."""
    value = Derived(1)
    value.other = 2
    kind = kind_of(Derived)
    copy = kind.copy(value, kind.parts(value))
    assert (copy.item, copy.other, hasattr(copy, "never_assigned")) == (1, 2, False)
    assert sorted(fields(value)) == [1, 2]


def test_a_container_may_change_while_its_parts_are_used():
    """The parts are a copy."""
    value = collections.deque([1, 2])
    parts = kind_of(collections.deque).parts(value)
    value.clear()
    assert parts == [1, 2]


class Lazy(dict, collections.abc.MutableMapping):
    def items(self):
        raise AssertionError

    __iter__ = __len__ = items


def test_no_method_of_a_subclass_is_called():
    """What is stored counts, whatever a subclass makes of it."""
    assert kind_of(Lazy).parts(Lazy(a=1)) == ["a", 1]


def test_the_length_of_a_deque_stays():
    """A copy drops what the original would drop."""
    value = collections.deque([1], maxlen=3)
    assert kind_of(collections.deque).copy(value, [1]).maxlen == 3


def test_what_pickle_can_name_is_importable():
    """A class within a function is not."""

    class Local:
        pass

    assert is_importable(tempfile.TemporaryDirectory)
    assert not is_importable(Local)
