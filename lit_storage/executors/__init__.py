"""Where the processes of Works come from: the Executor port and what is said across it.

An executor starts a Work somewhere and carries messages both ways, nothing more: what they mean
is known to `lit_storage.apps.supervisor` (the Flow's side) and `lit_storage.apps.work_host` (the Work's
side). Messages arrive in the order in which they were sent. They hold pickles; both ends belong
to one App and one user, and no message ever comes from the network of peers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lit_storage.executors.app_file import AppFile
from lit_storage.executors.work_state import Changes
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits


@dataclass(frozen=True, slots=True)
class Resources:
    """What a Work asks of the node that it runs on. An executor of one machine passes over it."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    custom: Mapping[str, float] = field(default_factory=dict[str, float])
    """Amounts by name, of what the operator of the nodes named so."""


@dataclass(frozen=True, slots=True)
class Start:
    """To the Work: who it is, and what it is made of."""

    name: str
    root: str
    registry: str
    security: Security
    limits: Limits
    file: AppFile
    """Where the Work's class is found."""
    work: bytes
    """The Work, pickled. Unpickled only after it has joined, so that its Paths find their place."""
    artifacts: str | None = None
    """URL of the store in which what the Work declares stays readable; None is what `join` takes."""
    bind: str | None = None
    """Address to listen on; None is what `join` takes."""
    resources: Resources = Resources()
    symlinks: Literal["keep", "follow"] = "keep"
    """What `join` takes."""
    fresh_run_id: str = ""
    """Of the run of the App, if the Work finds an empty storage root at its first start in it."""
    persist: str | None = None
    """As of the Work; None is what its pickle says, which a class may make by its own rules."""


@dataclass(frozen=True, slots=True)
class Run:
    """To the Work: call ``run``."""

    arguments: bytes
    """``(args, kwargs)``, pickled."""
    changes: Changes


@dataclass(frozen=True, slots=True)
class Stop:
    """To the Work: unwind ``run`` if it goes on, leave, and end."""


Command = Start | Run | Stop


@dataclass(frozen=True, slots=True)
class Joined:
    """From the Work: it is registered and serves."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class Changed:
    """From the Work: attributes were assigned while ``run`` goes on."""

    changes: Changes


@dataclass(frozen=True, slots=True)
class Publishing:
    """From the Work to its executor alone: ``run`` has ended, and what it declared is being published.

    It takes `Limits.publish_seconds` at the most, in which the Work is not to be killed for not stopping.
    It is over with the next report.
    """


@dataclass(frozen=True, slots=True)
class Returned:
    """From the Work: ``run`` returned."""

    changes: Changes
    value: bytes
    """What it returned, pickled; None where that was no state."""


@dataclass(frozen=True, slots=True)
class Raised:
    """From the Work: it could not start, or ``run`` raised. The Work has left and ends."""

    changes: Changes
    exception: bytes
    """The exception, pickled; empty where it cannot be."""
    summary: str
    """``Type: message``."""
    traceback: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """From the Work: it was stopped, and has left and ends."""

    changes: Changes


Report = Joined | Changed | Returned | Raised | Stopped
Message = Report | Publishing
"""What a Work says to its executor, which passes reports on."""


class Worker(Protocol):
    """One started Work."""

    @property
    def advice(self) -> str:
        """What to do where it does not start in time; "" where there is nothing to say."""
        ...

    def send(self, command: Command) -> None:
        """Hand `command` over; silently dropped if the Work has ended, of which `ended` tells."""
        ...

    def stop(self, grace_seconds: float) -> None:
        """Ask it to stop; kill it after half of `grace_seconds`; return when it has ended.

        A Work that says that it is `Publishing` has `Limits.publish_seconds` for that in addition.
        """
        ...

    def kill(self) -> None:
        """End it and all processes that it started, now."""
        ...


class Executor(Protocol):
    """Starts Works. One suite, ``tests/conformance/test_executor.py``, holds every executor to this."""

    def start(self, start: Start, receive: Callable[[Report], None], ended: Callable[[str], None]) -> Worker:
        """Start a Work.

        Args:
            start: its first command.
            receive: called with each report, in order, from one thread.
            ended: called once, after the last report, with how the process ended.
        """
        ...

    def close(self) -> None:
        """Release what the executor holds; every Work that it started has ended."""
        ...
