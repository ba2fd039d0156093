"""The arguments of ``run`` on their way to the Work: pickled once, and their Paths collected meanwhile.

So a Path is found wherever pickle finds it, and what is found is what arrives. Each Path is a pickle of its
own within the pickle, so that its text is not mistaken for a str of the user. An older release can load this,
and what an older release wrote is loaded as well.
"""

from __future__ import annotations

import io
import os
import pathlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lit_storage.executors import by_value
from lit_storage.paths import path as paths
from lit_storage.paths.origin import Origin
from lit_storage.paths.origin_path import mark
from lit_storage.paths.path import Path


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one call."""

    pickled: bytes
    """``(args, kwargs)``, which a plain ``pickle.loads`` loads as well."""
    paths: list[pathlib.PurePath]
    """Each path object of any class, once."""
    texts: list[str]
    """Each different str with a separator of paths in it."""


def pack(args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Arguments:
    """Return arguments for the Work `name`.

    Raises:
        TypeError: one of them cannot be pickled.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump((args, kwargs))
    except Exception as error:
        raise TypeError(f"an argument of run() cannot be sent to the process of {name!r}: {error}") from error
    return Arguments(file.getvalue(), pickler.paths, list(pickler.texts))


def unpack(pickled: bytes, consumer: Origin) -> tuple[tuple[Any, ...], dict[str, Any], list[Path]]:
    """Return args, kwargs and each Path in them that has an origin, marked with its consumer.

    Args:
        pickled: what `pack` made.
        consumer: the Work that is given the arguments.
    """
    found: list[Path] = []
    args, kwargs = _Unpickler(pickled, consumer, found).load()
    return args, kwargs, found


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.paths: list[pathlib.PurePath] = []
        self.texts: dict[str, None] = {}

    def persistent_id(self, value: Any) -> None:
        """Look at every object; called for each item of a list as well, so it does little."""
        if type(value) is str and os.sep in value:
            self.texts[value] = None

    def reducer_override(self, value: Any) -> Any:
        if not issubclass(type(value), pathlib.PurePath):
            return by_value.reduced(value)
        self.paths.append(value)
        return pickle.loads, (pickle.dumps(value),)


class _Loads:
    """``pickle.loads``, which collects Paths while arguments are loaded, and may be an argument itself."""

    def __init__(self, unpickler: _Unpickler) -> None:
        self._unpickler = unpickler

    def __call__(self, data: Any, /, **options: Any) -> Any:
        if options or not self._unpickler.is_loading:
            return pickle.loads(data, **options)  # noqa: S301  the user's own call
        return self._unpickler.load_nested(data)

    def __reduce__(self) -> tuple[Any, ...]:
        return _plain_loads, ()


def _plain_loads() -> Callable[..., Any]:
    return pickle.loads


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, consumer: Origin, found: list[Path]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._consumer = consumer
        self._found = found
        self.is_loading = True

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if found is pickle.loads:
            return _Loads(self)
        return self._collecting(found) if found is paths._unpickle else found

    def load(self) -> Any:
        try:
            return super().load()
        finally:
            self.is_loading = False

    def load_nested(self, pickled: bytes) -> Any:
        """Load one Path, or whatever an object of the user keeps in a pickle of its own."""
        value = _Unpickler(pickled, self._consumer, self._found).load()
        return self._collect(value)

    def _collecting(self, make: Callable[..., Path]) -> Callable[..., Path]:
        return lambda *arguments: self._collect(make(*arguments))

    def _collect(self, value: Any) -> Any:
        is_new = not self._found or self._found[-1] is not value
        if is_new and issubclass(type(value), Path) and value.origin_name is not None:
            mark(value, value._origin, self._consumer, is_lit=value._unattached)
            self._found.append(value)
        return value
