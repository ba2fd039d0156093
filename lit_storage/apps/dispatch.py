"""A call of a Work's ``run`` in the Flow's process becomes a call in the Work's process.

Each class of Works has a `Dispatcher` as its ``run``, whether or not it defines one. So the ``run``
of a Work may come from its class, a base or a mixin, or from an assignment to the class or to the Work.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

from lit_storage.apps.arguments import pack
from lit_storage.apps.internals import internals
from lit_storage.apps.plain_paths import warnings_of

_INHERITED: Final = object()

_adopters: list[Callable[[Any], None]] = []


@contextlib.contextmanager
def adopting(adopt: Callable[[Any], None]) -> Iterator[None]:
    """While the block runs, a Work of this process that is called before it was named goes to `adopt`."""
    _adopters.append(adopt)
    try:
        yield
    finally:
        _adopters.remove(adopt)


class Dispatcher:
    """The ``run`` of one class of Works.

    Args:
        owner: the class.
        run: what the class defines as ``run``, of any kind that Python can call on an instance. Without it,
            the owner has the ``run`` of the next class in the order of inheritance.
    """

    def __init__(self, owner: type, run: Any = _INHERITED) -> None:
        self._owner = owner
        # dataclass(slots=True) and attrs make a second class from the attributes of the first one.
        self._run: Any = run._run if isinstance(run, Dispatcher) else run
        self._dispatching: tuple[Any, Callable[..., Any]] | None = None

    def __get__(self, work: object | None, owner: type | None = None) -> Any:
        cls = type(work) if work is not None else owner or self._owner
        # Only `work.run` comes to the class of `work` itself; `super().run` comes to one of its bases.
        if work is not None and cls is self._owner and "run" in vars(work):
            return _bound(work, vars(work)["run"])
        run = self._find(cls)
        if isinstance(run, types.FunctionType):
            call = self._dispatching_function(run)
            return call if work is None else types.MethodType(call, work)
        found = run.__get__(work, cls) if hasattr(type(run), "__get__") else run
        return found if work is None else _bound(work, found)

    def __set__(self, work: object, run: Any) -> None:
        vars(work)["run"] = run

    def __delete__(self, work: object) -> None:
        if "run" not in vars(work):
            raise AttributeError("run")
        del vars(work)["run"]

    def __reduce__(self) -> tuple[Any, ...]:
        # cloudpickle takes a class apart. The function that dispatches is of this process.
        return Dispatcher, (self._owner,) if self._run is _INHERITED else (self._owner, self._run)

    @property
    def __isabstractmethod__(self) -> bool:
        return bool(getattr(self._find(self._owner), "__isabstractmethod__", False))

    @property
    def __wrapped__(self) -> Any:
        """The user's function: ``dataclass(slots=True)`` corrects its ``super()``."""
        if self._run is _INHERITED:
            raise AttributeError("__wrapped__")
        return self._run

    @property
    def __closure__(self) -> Any:
        """As `__wrapped__`, for attrs."""
        return getattr(self._run, "__closure__", None)

    def _find(self, cls: type) -> Any:
        """Return what the user defined as the ``run`` of an instance of `cls`."""
        if self._run is not _INHERITED:
            return self._run
        order = cls.__mro__
        following = order[order.index(self._owner) + 1 :]
        found = next(vars(each)["run"] for each in following if "run" in vars(each))
        return found._find(cls) if isinstance(found, Dispatcher) else found

    def _dispatching_function(self, run: types.FunctionType) -> Callable[..., Any]:
        if self._dispatching is None or self._dispatching[0] is not run:
            self._dispatching = run, _dispatched(run)
        return self._dispatching[1]


def _dispatched(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def call(work: object, /, *args: Any, **kwargs: Any) -> Any:
        return _dispatch(work, functools.partial(run, work), args, kwargs)

    return call


def _bound(work: object, run: Callable[..., Any]) -> Callable[..., Any]:
    if internals(work).supervisor is None and not _adopters:
        return run  # outside of an App it is what the user put there, such as a mock, with all its attributes

    @functools.wraps(run, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        return _dispatch(work, run, args, kwargs)

    return call


def _dispatch(work: object, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    own = internals(work)
    if own.supervisor is None and (own.on_assign is not None or not _adopters):
        return run(*args, **kwargs)  # in the Work's own process, or outside of any App
    if is_generator_function(run):
        raise TypeError(
            f"the run() of {type(work).__name__} has a yield, so a call would not do its work; do it without "
            "yield, and assign what the Flow is to see meanwhile to attributes"
        )
    if own.supervisor is None:
        _adopters[-1](work)
    supervisor = internals(work).supervisor
    assert supervisor is not None
    arguments = pack(args, kwargs, supervisor.name)
    for warning in warnings_of(arguments, type(work).__name__):
        warnings.warn(warning, stacklevel=3)
    return supervisor.run(arguments)


def is_awaitable_or_generator(value: object) -> bool:
    """Say whether a function returned `value` instead of doing its work."""
    return inspect.isawaitable(value) or isinstance(value, (types.GeneratorType, types.AsyncGeneratorType))


def is_generator_function(run: Callable[..., Any]) -> bool:
    """Say whether a call of `run`, a function or any object that can be called, makes a generator."""
    while isinstance(run, functools.partial):
        run = run.func
    if not inspect.isroutine(run) and not isinstance(run, type):
        run = type(run).__call__
    if inspect.isasyncgenfunction(run):
        return True
    code = getattr(run, "__code__", None)
    is_awaitable = code is not None and code.co_flags & inspect.CO_ITERABLE_COROUTINE
    return inspect.isgeneratorfunction(run) and not is_awaitable
