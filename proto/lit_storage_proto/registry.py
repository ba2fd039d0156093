"""The Registry port: where a name is resolved, and the two records that a name has.

Adapters live in ``lit_storage_core.registries``; each passes the one suite in
``tests/conformance/test_registry.py``.

Rules of the port

 1. At most one live record a name. `register` refuses a second one while the first one lives.
 2. A live record outlives neither its holder's process nor, where there are leases, its lease.
 3. Every write carries an instance id and takes effect only for the instance that holds the
    name: a process that lost its name cannot undo what its successor wrote.
 4. A registry that cannot answer raises RegistryUnavailable. None is an answer: nobody.
 5. Where there are leases, `register` returns one, and its holder renews it (`renew`) or is gone
    before it ends: by then somebody else may have the name. Who holds it stops serving first.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class WorkState(enum.StrEnum):
    """What a Work last said of itself."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LiveRecord:
    """Who serves under a name now. Held by a lease or by the life of a process."""

    name: str
    instance_id: str
    endpoint: str
    """``host:port`` that consumers dial."""
    machine_id: str
    tls_name: str = ""
    """The name that the endpoint's certificate carries; empty without TLS. Told for people: a client asks
    for a certificate of the Work's own name, whatever stands here."""
    custodian: bool = False
    """Whether it also serves what stopped Works of its machine left, under ``@NAME/PATH``."""


@dataclass(frozen=True, slots=True)
class WorkRecord:
    """What is known of the Work last started under a name. It stays when the Work is gone."""

    name: str
    instance_id: str
    state: WorkState
    machine_id: str
    artifacts_url: str = ""
    """Where what was declared under the name can be read when nobody lives under it; empty if nothing was
    ever published. Until this instance publishes, it is what an earlier one did."""


@dataclass(frozen=True, slots=True)
class Lease:
    """For how long a live record stays if its holder says nothing more."""

    id: int
    seconds: float
    since: float
    """On this machine's clock that counts suspension too (CLOCK_BOOTTIME), before it was asked for: the
    registry's own count began later."""

    @property
    def end(self) -> float:
        """When the registry may give the name away, at the earliest, on the same clock."""
        return self.since + self.seconds


class Registry(Protocol):
    """Resolves names. Every method may be called from any thread."""

    @property
    def url(self) -> str:
        """The URL that opens the same registry in another process."""
        ...

    @property
    def spans_machines(self) -> bool:
        """Whether processes on other machines use it, so that a loopback endpoint is useless."""
        ...

    def register(self, record: LiveRecord) -> Lease | None:
        """Make `record` the live record of its name, and its work record ``running``.

        The work record keeps the `artifacts_url` of the former one: what an earlier instance
        published stays readable until `update_work` names something newer.

        Returns:
            What the holder has to renew; None where the record lives as long as its process.

        Raises:
            NameTaken: another live process holds the name.
            RegistryUnavailable: the registry cannot be reached or written.
        """
        ...

    def renew(self, lease: Lease, seconds: float) -> Lease | None:
        """Return the lease with a new end, or None if it has ended. Any process may do it for its holder.

        Args:
            lease: as of `register`, or of this.
            seconds: how long it may take.

        Raises:
            RegistryUnavailable: whether it goes on is not known.
        """
        ...

    def unregister(self, name: str, instance_id: str) -> None:
        """Remove the live record if that instance holds it; else do nothing.

        Raises:
            RegistryUnavailable: the registry cannot be reached or written.
        """
        ...

    def resolve(self, name: str, *, fresh: bool = False) -> LiveRecord | None:
        """Return the live record of `name`, or None if nobody lives under it.

        Args:
            name: of a Work.
            fresh: ask the registry itself, also where it has told this process of all changes so far:
                the last of them may be on their way.

        Raises:
            RegistryUnavailable: the registry cannot be reached.
        """
        ...

    def update_work(self, record: WorkRecord) -> bool:
        """Replace the work record if it is of the same instance; say whether it was.

        Raises:
            RegistryUnavailable: the registry cannot be reached or written.
        """
        ...

    def work(self, name: str) -> WorkRecord | None:
        """Return the work record of `name`; its state is ``failed`` if it says running and nobody lives.

        Raises:
            RegistryUnavailable: the registry cannot be reached.
        """
        ...

    def live(self) -> Sequence[LiveRecord]:
        """Return all live records, by name.

        Raises:
            RegistryUnavailable: the registry cannot be reached.
        """
        ...

    def works(self) -> Sequence[WorkRecord]:
        """Return all work records, by name, with the same derived state as `work`.

        Raises:
            RegistryUnavailable: the registry cannot be reached.
        """
        ...

    def end_by(self, deadline: float) -> None:
        """Let no further call wait beyond a moment, as at the end of a program.

        Args:
            deadline: on ``time.monotonic``; a call that has no answer by then raises RegistryUnavailable.
        """
        ...

    def close(self) -> None:
        """Release what this process holds open; records stay. A second call does nothing."""
        ...
