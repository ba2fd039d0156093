"""`Work`: a named process that owns files.

One class stands on three grounds, and its `Internals` say on which a copy stands: being made (no
name yet), in the Flow's process (a `Supervisor` is set: `run` is a call to another process), or
in the Work's own process (`on_assign` is set: assignments are told to the Flow).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from lit_storage.apps.assignments import accepted, assign, followed, report_assignment
from lit_storage.apps.attributes import INTERNALS
from lit_storage.apps.dispatch import Dispatcher
from lit_storage.apps.internals import Internals, internals
from lit_storage.apps.pickling import default_state, rebuild, reduced, restore
from lit_storage.apps.supervisor import Status
from lit_storage.executors import Resources
from lit_storage.sessions import session
from lit_storage_proto.limits import check_timeout


class _WorkType(abc.ABCMeta):
    """Gives each class its `Dispatcher`, and notes when ``__init__`` runs: no files can be moved then."""

    if not TYPE_CHECKING:  # a checker would take the type of every Work for what this returns

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            with session.constructing():
                return super().__call__(*args, **kwargs)

        def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **_: Any) -> None:
            super().__init__(name, bases, namespace)
            if any(isinstance(base, _WorkType) for base in bases):
                own = vars(cls)
                super().__setattr__("run", Dispatcher(cls, own["run"]) if "run" in own else Dispatcher(cls))
                if "__setattr__" in own:
                    cls.__setattr__ = own["__setattr__"]

        def __setattr__(cls, name: str, value: Any) -> None:
            if name == "__setattr__":
                value = followed(value)
            super().__setattr__(name, Dispatcher(cls, value) if name == "run" else value)
            if name == "run":
                abc.update_abstractmethods(cls)

        def __delattr__(cls, name: str) -> None:
            super().__delattr__(name)
            if name == "run":
                super().__setattr__(name, Dispatcher(cls))


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
        object.__setattr__(work, INTERNALS, Internals())
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
        if name == INTERNALS:
            raise AttributeError("'_lit' is kept for lit-storage; choose another name for this attribute")
        value = accepted(self, name, value)
        assign(self, name, lambda: super(Work, self).__setattr__(name, value), is_accepted=True)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        internals(self).managed.discard(name)
        report_assignment(self, name)

    if not TYPE_CHECKING:  # a checker would take every misspelt attribute for one of type Any

        def __getattr__(self, name: str) -> Any:
            """Say of an attribute that is missing here whether the Work's own process has it."""
            supervisor = None if name == INTERNALS else internals(self).supervisor
            if supervisor is not None and name in supervisor.withheld:
                raise AttributeError(
                    f"{name!r} is a {supervisor.withheld[name]} and stays in the process of "
                    f"{supervisor.name!r}; only JSON-like values, Paths and "
                    "containers of these reach the Flow"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> Any:
        return default_state(self)

    def __setstate__(self, state: Any) -> None:
        restore(self, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)


def _rebuild(
    cls: type[Work],
    parallel: bool,
    persist: str,
    resources: Resources,
    attributes: dict[str, Any],
    symlinks: Literal["keep", "follow"] = "keep",
) -> Work:
    """Return a Work of a pickle of 0.1.0 from before there were `lit_storage.apps.pickling` and symlinks."""
    settings = Internals(parallel=parallel, persist=persist, resources=resources, symlinks=symlinks)
    work: Work = rebuild(cls, settings, (), {}, attributes)
    return work


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
