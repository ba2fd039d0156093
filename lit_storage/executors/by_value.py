"""Sends the classes and functions that the other process cannot import in the pickle itself.

The App's process sends what an interactive session defines, and what is local to a function. A Work's process
names the classes that it was sent, and sends no others: they are the same classes again in the Flow.

Invariant: a class that a process knows is never changed by what arrives.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import io
import pickle
import sys
import threading
import types
import uuid
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from lit_storage.executors.app_file import MAIN_NAMES, main_file
from lit_storage_proto.errors import InvalidApp

_lock = threading.Lock()
_keys: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
_unfinished: set[type] = set()  # created, and without their methods yet
_sends_new_ones = True


def send_known_classes_only() -> None:
    """Make this process the one of a Work."""
    global _sends_new_ones
    _sends_new_ones = False


def dumps(value: Any) -> bytes:
    """Return `value` pickled for the other process, which may load it with `pickle.loads`."""
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


def reduced(value: Any) -> Any:
    """Return what `reducer_override` of a pickler returns for `value`."""
    if not isinstance(value, (type, types.FunctionType)) or is_importable(value):
        return NotImplemented
    if value.__module__ == "builtins":
        return NotImplemented  # pickle knows how, as of the type of None
    if _sends_new_ones:
        return _load, (_dumped(value),)
    key = _key_of_known(value)
    return NotImplemented if key is None else (_known, (key,))


def can_travel(cls: type) -> bool:
    """Return whether the other process can be sent an instance of `cls`."""
    return _sends_new_ones or is_importable(cls) or _key_of_known(cls) is not None


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return reduced(value)


def is_importable(value: type | types.FunctionType) -> bool:
    """Return whether the other process finds `value` by its module and its name."""
    module = value.__module__
    if not isinstance(module, str):
        return True
    if module in MAIN_NAMES and main_file() is None:
        return False
    found: Any = sys.modules.get(module)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value


def _dumped(value: Any) -> bytes:
    file = io.BytesIO()
    _pickler_by_value()(file).dump(value)
    return file.getvalue()


@functools.cache
def _pickler_by_value() -> Any:
    cloudpickle: Any = importlib.import_module("cloudpickle")  # where it is needed alone

    class PicklerByValue(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, (type, types.FunctionType)) and is_importable(value):
                return NotImplemented
            made: Any = super().reducer_override(value)
            if isinstance(value, type) and isinstance(made, tuple) and len(made) == 6:
                return _with_key(value, made)
            return made

    return PicklerByValue


def _with_key(cls: type, made: tuple[Any, ...]) -> tuple[Any, ...]:
    make, arguments, state, _, _, set_state = made
    if "__slots__" in vars(cls) and not issubclass(cls, tuple):
        _keep_slots(cls, arguments[3], state[0])
    return _begin, (_key_of(cls), make, arguments, cls.__qualname__), (set_state, state), None, None, _finish


def _keep_slots(cls: type, namespace: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Have a class made again with its slots, which cloudpickle leaves out."""
    slots = vars(cls)["__slots__"]
    namespace["__slots__"] = slots
    for name in (slots,) if isinstance(slots, str) else slots:  # making the class makes their descriptors
        is_private = name.startswith("__") and not name.endswith("__")
        attributes.pop(f"_{cls.__name__.lstrip('_')}{name}" if is_private else name, None)


def _key_of(cls: type) -> str:
    with _lock:
        key = _keys.get(cls)
        if key is None:
            key = _keys[cls] = uuid.uuid4().hex
            _classes[key] = cls
        return key


def _key_of_known(value: Any) -> str | None:
    try:
        return _keys.get(value)
    except TypeError:  # its metaclass has no hash, or nothing refers to it weakly
        return None


def _load(data: bytes) -> Any:
    try:
        value = pickle.loads(data)  # noqa: S301  from the App that started this process
    except Exception as error:
        raise InvalidApp(
            f"a class or function that has no file cannot be made again in this process ({error}); "
            "write it into a file and import it"
        ) from error
    if isinstance(value, types.FunctionType):
        _show_in_main(value, [value])
    return value


def _known(key: str) -> type:
    return _classes[key]


def _begin(key: str, make: Callable[..., type], arguments: tuple[Any, ...], qualname: str) -> type:
    """Return the class of that key, which is made without its methods if it is not known."""
    cls = _classes.get(key)
    if cls is None:
        cls = make(*arguments)
        cls.__qualname__ = qualname  # cloudpickle gives it the last part alone
        _unfinished.add(cls)
        _keys[cls], _classes[key] = key, cls
    return cls


def _finish(cls: type, state: tuple[Callable[[type, Any], None], Any]) -> None:
    if cls in _unfinished:
        _unfinished.remove(cls)
        set_state, attributes = state
        set_state(cls, attributes)
        _show_in_main(cls, map(_function_of, vars(cls).values()))


def _function_of(attribute: Any) -> Any:
    """Return the function of a method, static method, class method, property, or of the `run` of a Work."""
    function = getattr(attribute, "__func__", getattr(attribute, "fget", attribute))
    function = getattr(function, "__wrapped__", function)
    return inspect.unwrap(function) if isinstance(function, types.FunctionType) else function


def _show_in_main(value: type | types.FunctionType, functions: Iterable[Any]) -> None:
    """Put what came from an interactive session where it was, so that `run` can pickle it by its name."""
    main = vars(sys.modules["__main__"])
    if value.__module__ != "__main__" or "__file__" in main:
        return
    if "." not in value.__qualname__:
        main.setdefault(value.__name__, value)
    for function in functions:
        if isinstance(function, types.FunctionType) and function.__globals__.get("__name__") == "__main__":
            for name, each in function.__globals__.items():
                if not name.startswith("__"):
                    main.setdefault(name, each)
