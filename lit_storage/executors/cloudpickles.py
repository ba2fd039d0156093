"""Has cloudpickle take what the app's file defines by value.

In a Work's process the file is the module ``__mp_main__``, which those who receive a pickle do not have:
workers of joblib, Ray or Dask. cloudpickle takes ``__main__`` by value, and other modules if they are
registered with it. It is copied into joblib, Ray and PySpark, and each copy has a register of its own.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

_NAME = "cloudpickle"


def pickle_by_value(module: types.ModuleType) -> None:
    """Register `module` with each copy of cloudpickle, now or when it is imported."""
    for name, each in list(sys.modules.items()):
        if _is_cloudpickle(name):
            _register(each, module.__name__)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    sys.meta_path.insert(0, _Finder(module.__name__))


def _is_cloudpickle(name: str) -> bool:
    return name.rpartition(".")[2] == _NAME


def _register(copy: types.ModuleType, name: str) -> None:
    register = getattr(copy, "register_pickle_by_value", None)
    if register is not None:
        with contextlib.suppress(ValueError):  # the user took the module away
            register(sys.modules.get(name))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds copies of cloudpickle as the other finders do, and registers the module once one is loaded."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _is_cloudpickle(fullname):
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: importlib.machinery.ModuleSpec | None = find(fullname, path, target) if find else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self._name)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """The loader of one copy, in whose place it stands until the copy is loaded."""

    def __init__(self, loader: Any, name: str) -> None:
        self._loader = loader
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        module: types.ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register(module, self._name)
