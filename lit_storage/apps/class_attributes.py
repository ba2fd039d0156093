"""``lit://`` text and Paths among the attributes of a class, which each instance has as Paths of its own."""

from __future__ import annotations

import inspect
import re
import sys
import typing
import warnings
from typing import Any

from lit_storage.apps.attributes import Attributes
from lit_storage.paths.path import Path
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.uri import SCHEME

_CLASS_VARIABLE = re.compile(r"([\w.]+\.)?ClassVar\b")


def class_paths(instance: object) -> dict[str, Path]:
    """Return a new Path, by name, for each ``lit://`` text that `instance` has from its class or a base.

    Left out are attributes of the instance itself, ``ClassVar``, and the bare text ``lit://``. Text that is
    no valid URI is left out with a warning.
    """
    found: dict[str, Path] = {}
    known = set(Attributes(instance))
    for cls in type(instance).__mro__:
        for name, value in list(vars(cls).items()):
            if name not in known:
                known.add(name)
                if _is_path(name, value) and not _is_class_variable(type(instance), name):
                    found.update(_path(cls, name, value))
    return found


def _is_path(name: str, value: Any) -> bool:
    """Say whether an attribute is ``lit://`` text, or a Path of it that belongs to no Work yet."""
    is_text = type(value) is str and value.startswith(SCHEME) and value != SCHEME
    is_path = isinstance(value, Path) and value._unattached and value._origin is None
    return (is_text or is_path) and not (name.startswith("__") and name.endswith("__"))


def _path(cls: type, name: str, value: str | Path) -> dict[str, Path]:
    try:
        return {name: Path(value)}
    except InvalidURI as error:
        warnings.warn(f"{cls.__name__}.{name} stays a str: {error}", stacklevel=2)
        return {}


def _is_class_variable(cls: type, name: str) -> bool:
    annotations = map(_annotations, cls.__mro__)
    annotation = next((each[name] for each in annotations if name in each), None)
    if isinstance(annotation, str):
        return _CLASS_VARIABLE.match(annotation) is not None
    return annotation is typing.ClassVar or typing.get_origin(annotation) is typing.ClassVar


def _annotations(cls: type) -> dict[str, Any]:
    """Return the annotations of `cls`, without evaluating what may not be imported here."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.STRING)
    return inspect.get_annotations(cls)
