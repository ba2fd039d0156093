"""Warnings of Paths in attributes that are no state."""

import threading
import types
import warnings

import pytest

from lit_storage import Path
from lit_storage.apps.hidden_paths import HiddenPaths


def opaque(path):
    return types.SimpleNamespace(path=path, lock=threading.Lock())


def look(hidden, known=(), **attributes):
    hidden.look(attributes, list(attributes), lambda: known)


def test_an_attribute_that_hides_a_path_is_named():
    """With its type, the Path and the way out."""
    with pytest.warns(
        UserWarning, match="'model' of 'train' is a SimpleNamespace.*'out/best'.*attribute of its own"
    ):
        look(HiddenPaths("train"), model=opaque(Path("out/best")))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "value", [Path("out"), [Path("out")], types.SimpleNamespace(path=Path("out")), threading.Lock(), 1]
)
def test_state_and_what_holds_no_path_is_not_warned_of(value):
    """State is handed over."""
    look(HiddenPaths("train"), value=value)


@pytest.mark.filterwarnings("error")
def test_a_path_that_is_known_from_elsewhere_is_not_warned_of():
    """Nor one below it: an object that is given the Path of an attribute hides nothing."""
    look(HiddenPaths("train"), known=[Path("out")], model=opaque(Path("out/best")))


def test_an_attribute_is_warned_of_once():
    """And again where it gets a value of another type."""
    hidden = HiddenPaths("train")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        look(hidden, model=opaque(Path("a")))
        look(hidden, model=opaque(Path("b")))
        look(hidden, model=[opaque(Path("c"))])
    assert len(caught) == 2
