"""How a Work is pickled for its process: with its attributes, or as its class says.

``__getstate__``, ``__setstate__``, ``__getnewargs__``, ``__getnewargs_ex__`` and ``__reduce__`` of a class
mean what they mean to pickle. The methods that attrs and dataclasses generate are passed over, for they keep
the fields alone, and a Work may have other attributes.
"""

from __future__ import annotations

import inspect
from typing import Any

from lit_storage.apps.attributes import INTERNALS
from lit_storage.apps.internals import Internals, attributes_of, internals
from lit_storage.executors.containers import base_in_c, is_generated
from lit_storage_proto.errors import InvalidApp


def reduced(work: object) -> tuple[Any, ...]:
    """Return what ``__reduce__`` of a Work returns."""
    cls: Any = type(work)
    args, kwargs = _new_arguments(work)
    made = (cls, Internals(), args, kwargs)
    made[1].take_settings(internals(work))
    if is_generated(cls.__getstate__) or is_generated(cls.__setstate__):
        return rebuild, (*made, attributes_of(work).stored())
    return rebuild, made, _without_internals(work.__getstate__())


def rebuild(
    cls: type[Any],
    settings: Internals,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    attributes: dict[str, Any] | None = None,
) -> Any:
    """Return a Work without calling ``__init__``; what else it has follows by ``__setstate__``."""
    work = cls.__new__(cls, *args, **kwargs)
    internals(work).take_settings(settings)
    attributes_of(work).update(attributes or {})
    return work


def default_state(work: object) -> Any:
    """Return what pickle takes of an object by default: a dict, or two where there are slots."""
    return _without_internals(object.__getstate__(work))


def restore(work: object, state: Any) -> None:
    """Give `work` the attributes of a `default_state`, or of what a user's ``__getstate__`` made of it."""
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    vars(work).update(_without_internals(attributes or {}))
    attributes_of(work).update(slots or {})


def _without_internals(state: Any) -> Any:
    if isinstance(state, tuple):
        return tuple(map(_without_internals, state))
    if type(state) is not dict or INTERNALS not in state:
        return state
    return {name: value for name, value in state.items() if name != INTERNALS}


def refuse_unpicklable_class(name: str, work: object) -> None:
    """Refuse a Work whose class keeps it from being made again in its process.

    Raises:
        InvalidApp: ``__new__`` needs arguments that nobody gives it, or a base keeps contents of its own.
    """
    cls = type(work)
    if _has_own_reduce(cls):
        return
    base = base_in_c(cls)
    if base is not None:
        raise InvalidApp(
            f"{name!r} is a {base.__name__} too, whose contents would not reach its process; "
            f"keep a {base.__name__} in an attribute instead"
        )
    args, kwargs = _new_arguments(work)
    try:
        signature = inspect.signature(cls.__new__)
    except ValueError:  # it is written in C, and does not say
        return
    try:
        signature.bind(cls, *args, **kwargs)
    except TypeError as error:
        raise InvalidApp(
            f"{name!r} cannot be made again in its process, for {cls.__qualname__}.__new__ takes arguments "
            f"({error}); give them defaults, or define __getnewargs__"
        ) from None


def _new_arguments(work: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    cls: Any = type(work)
    if hasattr(cls, "__getnewargs_ex__"):
        args, kwargs = cls.__getnewargs_ex__(work)
        return tuple(args), dict(kwargs)
    return (tuple(cls.__getnewargs__(work)), {}) if hasattr(cls, "__getnewargs__") else ((), {})


def _has_own_reduce(cls: type) -> bool:
    for each in cls.__mro__:
        if "__reduce__" in vars(each) or "__reduce_ex__" in vars(each):
            return each.__module__ != "lit_storage.apps.work"
    return False
