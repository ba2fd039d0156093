"""CPython's own tests of pathlib, with our Path in the place of theirs."""

import importlib
import unittest

import pytest

from lit_storage.paths.path import Path

CLASSES = ("PurePosixPathTest", "PurePathTest", "PosixPathTest", "PathTest", "PathSubclassTest")
# These cannot hold for a class of another module: they evaluate the repr among the names of pathlib, check
# the concrete class, or compare docstrings with those of pathlib's abstract classes.
EXEMPT = (
    "test_repr_common",
    "test_repr_roundtrips",
    "test_concrete_class",
    "test_matches_pathbase_api",
    "test_matches_writablepath_docstrings",
)


def cpython_tests():
    """Return the module of CPython's tests. It was a file until 3.12; some systems package it separately."""
    for name in ("test.test_pathlib.test_pathlib", "test.test_pathlib"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    pytest.skip("this Python comes without its own tests", allow_module_level=True)


def with_our_path(case: type[unittest.TestCase]) -> type[unittest.TestCase]:
    exempt = {name: None for name in EXEMPT if hasattr(case, name)}
    return type(case.__name__, (case,), {"cls": Path, **exempt})


_module = cpython_tests()
globals().update({name: with_our_path(getattr(_module, name)) for name in CLASSES if hasattr(_module, name)})
