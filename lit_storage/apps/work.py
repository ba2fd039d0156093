"""`Work`: a named process that owns files.

One class stands on three grounds, and `Internals` says on which a copy stands: being made (no
name yet), in the Flow's process (a `Supervisor` is set: `run` is a call to another process), or
in the Work's own process (`on_assign` is set: assignments are told to the Flow).
"""

from __future__ import annotations

import abc
import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from lit_storage.apps.arguments import pack
from lit_storage.apps.paths_in_values import Copies, replace_paths
from lit_storage.apps.plain_paths import warnings_of
from lit_storage.apps.supervisor import Status, Supervisor
from lit_storage.executors import Resources
from lit_storage.paths import home
from lit_storage.paths.mistypes import warn_of_mistyped_value
from lit_storage.paths.origin import Origin
from lit_storage.paths.path import Path, attach, with_consumer, with_origin
from lit_storage.sessions import session
from lit_storage_proto.limits import check_timeout
from lit_storage_proto.uri import SCHEME


@dataclass(slots=True)
class Internals:
    """What a Work is to the product, apart from its attributes."""

    origin: Origin = field(default_factory=Origin)
    parallel: bool = False
    persist: str = "stop"
    symlinks: Literal["keep", "follow"] = "keep"
    resources: Resources = field(default_factory=Resources)
    supervisor: Supervisor | None = None
    on_assign: Callable[[Work, str], None] | None = None


class _WorkType(abc.ABCMeta):
    """Marks the time in which a Work's ``__init__`` runs: no files can be moved then."""

    if not TYPE_CHECKING:  # a checker would take the type of every Work for what this returns

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            with session.constructing():
                return super().__call__(*args, **kwargs)


class Work(metaclass=_WorkType):
    """A named process that owns files; subclass it and write `run`.

    Its public attributes are the state of the Work, which the Flow sees: JSON-like values, Paths, and
    containers of nothing but these. Containers are list, tuple, dict, set, frozenset, deque, named
    tuples, and plain objects, such as dataclasses, whose class the other process can import.
    An attribute that is a str starting with ``lit://`` becomes a `Path` of this Work. Such a str among the
    attributes of the class becomes a `Path` of each instance when the App is built; ``ClassVar`` and the
    bare text ``lit://`` stay text.

    Args:
        parallel: `run` returns at once, and `wait` waits for it.
        persist: when its own Paths among its attributes are published, so that others can read them
            when it does not run any more: "stop", when it stops, however that comes about, or "run",
            also each time that `run` returns.
        symlinks: what others get of symbolic links among this Work's files, in hand-overs and of what is
            published: "keep", links that stay in the tree as links, or "follow", what a link means, if
            that lies in this Work's storage root or below a path that it declared. Any other link is left
            out, and named in `Transfer.skipped`.
        num_cpus: what the executor "ray" reserves on a node for this Work, from its start until it is
            stopped; as of `ray.remote`. The executor "process" passes over it, and over the next two.
        num_gpus: the same; `run` finds its own GPUs in CUDA_VISIBLE_DEVICES.
        resources: the same, of what the nodes' operator named, such as ``{"big_disk": 1}``.

    Raises:
        ValueError: `persist` or `symlinks` is neither of its words, or an amount is negative or not for
            `resources`.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Give the Work its internals before any ``__init__``, which may forget to call ours."""
        work = super().__new__(cls)
        object.__setattr__(work, "_lit", Internals())
        return work

    def __init__(
        self,
        *,
        parallel: bool = False,
        persist: Literal["stop", "run"] = "stop",
        symlinks: Literal["keep", "follow"] = "keep",
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        if persist not in ("stop", "run"):
            raise ValueError(f"persist={persist!r} is neither 'stop' nor 'run'")
        if symlinks not in ("keep", "follow"):
            raise ValueError(f"symlinks={symlinks!r} is neither 'keep' nor 'follow'")
        internals(self).parallel = parallel
        internals(self).symlinks = symlinks
        internals(self).persist = persist
        internals(self).resources = _checked(Resources(num_cpus, num_gpus, dict(resources or {})))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "run" in cls.__dict__:
            cls.run = _dispatched(cls.__dict__["run"])  # type: ignore[method-assign]

    @abc.abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work. What it returns reaches the Flow if it could be state."""

    @property
    def status(self) -> Status:
        """What the Work is doing, as its Flow sees it."""
        supervisor = internals(self).supervisor
        return supervisor.status if supervisor else Status.NOT_STARTED

    @property
    def exception(self) -> BaseException | None:
        """What the last `run` raised, with the Work's traceback as its cause; None if nothing."""
        supervisor = internals(self).supervisor
        return supervisor.exception if supervisor else None

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until a parallel `run` has ended; return what it returned.

        Args:
            timeout: seconds; None waits as long as the process lives.

        Raises:
            TimeoutError: it still runs after `timeout`; it goes on, and wait() may be called again.
            TypeError, ValueError: `timeout` is not a number, or is negative or NaN.
            BaseException: what `run` raised, with the Work's traceback as its cause.
        """
        check_timeout(timeout)
        supervisor = internals(self).supervisor
        return supervisor.wait(timeout) if supervisor else None

    def stop(self) -> None:
        """End the Work's process. A later `run` starts a new one."""
        supervisor = internals(self).supervisor
        if supervisor is not None:
            supervisor.stop()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_lit":
            raise AttributeError("'_lit' is kept for lit-storage; choose another name for this attribute")
        if isinstance(value, Work):
            raise TypeError(
                f"{name!r} cannot hold a Work: assign it to the Flow, and pass its Paths to run()"
            )
        object.__setattr__(self, name, _converted(self, value))
        self._tell(name)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._tell(name)

    if not TYPE_CHECKING:  # a checker would take every misspelt attribute for one of type Any

        def __getattr__(self, name: str) -> Any:
            """Say of an attribute that is missing here whether the Work's own process has it."""
            supervisor = None if name == "_lit" else internals(self).supervisor
            if supervisor is not None and name in supervisor.withheld:
                raise AttributeError(
                    f"{name!r} is a {supervisor.withheld[name]} and stays in the process of "
                    f"{supervisor.name!r}; only JSON-like values, Paths and "
                    "containers of these reach the Flow"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        own = internals(self)
        attributes = {name: value for name, value in vars(self).items() if name != "_lit"}
        return _rebuild, (type(self), own.parallel, own.persist, own.resources, attributes, own.symlinks)

    def _tell(self, name: str) -> None:
        own = internals(self)
        if own.supervisor is not None:
            own.supervisor.assigned(name)
        if own.on_assign is not None:
            own.on_assign(self, name)


_adopters: list[Callable[[Work], None]] = []


@contextlib.contextmanager
def adopting(adopt: Callable[[Work], None]) -> Iterator[None]:
    """While the block runs, a Work of this process that is called before it was named goes to `adopt`."""
    _adopters.append(adopt)
    try:
        yield
    finally:
        _adopters.remove(adopt)


def internals(work: Work) -> Internals:
    """Return what `work` is to the product."""
    own: Internals = work.__dict__["_lit"]
    return own


def own_paths(work: Work, name: str | None = None) -> Copies:
    """Make this Work the origin of each Path that has none in its attributes, also in containers.

    Args:
        work: the Work.
        name: look at this attribute alone.

    Returns:
        The immutable containers that were copied.
    """
    attributes, origin = vars(work), internals(work).origin
    copies: Copies = {}
    for each in [name] if name is not None else list(attributes):
        if each != "_lit" and each in attributes:
            owned = replace_paths(attributes[each], lambda path: with_origin(path, origin), copies)
            if owned is not attributes[each]:
                attributes[each] = owned
    return copies


def _checked(resources: Resources) -> Resources:
    """Return `resources`.

    Raises:
        ValueError: an amount is negative, or named where it does not belong.
    """
    amounts = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus, **resources.custom}
    for name, amount in amounts.items():
        if name in ("CPU", "GPU"):
            raise ValueError(f"resources={{{name!r}: …}} has a name of its own: use num_{name.lower()}s=")
        if amount is not None and not 0 <= amount < float("inf"):
            raise ValueError(f"{name}={amount!r} is no amount; use a number that is not negative")
    return resources


def _rebuild(
    cls: type[Work],
    parallel: bool,
    persist: str,
    resources: Resources,
    attributes: dict[str, Any],
    symlinks: Literal["keep", "follow"] = "keep",  # of a pickle from before there was a choice
) -> Work:
    work = cls.__new__(cls)
    internals(work).parallel = parallel
    internals(work).persist = persist
    internals(work).symlinks = symlinks
    internals(work).resources = resources
    vars(work).update(attributes)
    return work


def _converted(work: Work, value: Any) -> Any:
    """Return `value`, a ``lit://`` str as a Path, and a Path with this Work as origin or consumer."""
    if isinstance(value, str):
        warn_of_mistyped_value(value)
        value = Path(value) if value.startswith(SCHEME) else value
    if not isinstance(value, Path):
        return value
    origin = internals(work).origin
    if value.origin_name == origin.name is not None:
        return value
    if value._origin is not None:
        return with_consumer(value, origin)
    here = home.current()
    value = with_origin(value, origin)
    return attach(value, origin, here) if here is not None and origin.name is not None else value


def _dispatched(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return `run` such that in the Flow's process it is called in the Work's process."""

    @functools.wraps(run)
    def call(self: Work, *args: Any, **kwargs: Any) -> Any:
        return _call(run, self, args, kwargs)  # it is found by name where `call` is sent by value

    return call


def _call(run: Callable[..., Any], work: Work, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    own = internals(work)
    if own.supervisor is None and own.on_assign is None and _adopters:
        _adopters[-1](work)
    if own.supervisor is None:
        return run(work, *args, **kwargs)
    arguments = pack(args, kwargs, own.supervisor.name)
    for warning in warnings_of(arguments, type(work).__name__):
        warnings.warn(warning, stacklevel=3)
    return own.supervisor.run(arguments)
