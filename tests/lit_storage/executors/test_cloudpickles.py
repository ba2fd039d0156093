"""Copies of cloudpickle learn of a module that they are to take by value, before or after their import."""

import importlib
import sys
import types

import pytest

from lit_storage.executors.cloudpickles import pickle_by_value

COPY = """
registered = []
def register_pickle_by_value(module):
    registered.append(module)
"""


@pytest.fixture
def module(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    module = types.ModuleType("__mp_main__")
    monkeypatch.setitem(sys.modules, "__mp_main__", module)
    return module


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A package that has a copy of cloudpickle."""
    package = tmp_path / "vendoring"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cloudpickle.py").write_text(COPY)
    (package / "other.py").write_text(COPY)
    monkeypatch.syspath_prepend(tmp_path)
    yield "vendoring.cloudpickle"
    for name in [name for name in sys.modules if name.partition(".")[0] == "vendoring"]:
        del sys.modules[name]


def test_a_copy_that_is_imported_already(module, copy):
    """It is told at once."""
    imported = importlib.import_module(copy)
    pickle_by_value(module)
    assert imported.registered == [module]


def test_a_copy_that_is_imported_later(module, copy):
    """It is told when it is loaded, and is otherwise as if nobody had looked."""
    pickle_by_value(module)
    imported = importlib.import_module(copy)
    assert imported.registered == [module]
    assert type(imported.__loader__).__name__ == "SourceFileLoader"
    assert imported.__spec__.loader is imported.__loader__


def test_other_modules_are_told_nothing(module, copy):
    """Not even one that has such a function."""
    pickle_by_value(module)
    assert importlib.import_module("vendoring.other").registered == []


def test_a_copy_that_does_not_exist(module):
    """The error is Python's own."""
    pickle_by_value(module)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        importlib.import_module("no_such_package.cloudpickle")


def test_a_module_that_has_no_register(module, copy, tmp_path):
    """A module of the user may have that name."""
    (tmp_path / "vendoring" / "cloudpickle.py").write_text("value = 1")
    pickle_by_value(module)
    assert importlib.import_module(copy).value == 1


def test_a_copy_is_told_once(module, copy):
    """Also where the main module is loaded twice."""
    pickle_by_value(module)
    pickle_by_value(module)
    assert importlib.import_module(copy).registered == [module]
