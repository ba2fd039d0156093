"""A registry within one process, for tests.

Invariant: the records of one name of registry are shared by all who open it in this process, and
each method is one step under one lock. What a forked child writes, only that child sees.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from lit_storage_core.registries.derived import derive_state
from lit_storage_proto.errors import NameTaken
from lit_storage_proto.registry import Lease, LiveRecord, WorkRecord, WorkState


@dataclass(slots=True)
class _Records:
    lock: threading.Lock = field(default_factory=threading.Lock)
    live: dict[str, LiveRecord] = field(default_factory=dict[str, LiveRecord])
    work: dict[str, WorkRecord] = field(default_factory=dict[str, WorkRecord])


_shared: dict[str, _Records] = {}


def _renew_locks() -> None:
    """Give a forked child locks of its own: another thread may have held them at the fork."""
    for records in _shared.values():
        records.lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


class MemoryRegistry:
    """``memory:NAME``: gone with its process."""

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._records = _shared.setdefault(name, _Records())

    @property
    def url(self) -> str:
        """The URL that opens the same registry within this process."""
        return f"memory:{self._name}"

    @property
    def spans_machines(self) -> bool:
        """False: it does not even span processes."""
        return False

    def register(self, record: LiveRecord) -> None:
        """Make `record` the live record of its name, and its work record ``running``.

        What an earlier instance published stays recorded.

        Raises:
            NameTaken: another instance holds the name.
        """
        with self._records.lock:
            holder = self._records.live.get(record.name)
            if holder is not None and holder.instance_id != record.instance_id:
                raise NameTaken(
                    f"the name {record.name!r} is taken by a Work of this process at {holder.endpoint}; "
                    f"stop that one first, or take another name"
                )
            former = self._records.work.get(record.name)
            self._records.live[record.name] = record
            self._records.work[record.name] = WorkRecord(
                name=record.name,
                instance_id=record.instance_id,
                state=WorkState.RUNNING,
                machine_id=record.machine_id,
                artifacts_url=former.artifacts_url if former is not None else "",
            )

    def renew(self, lease: Lease, seconds: float) -> Lease | None:  # noqa: ARG002  # the port's signature
        """Return None: there are no leases here."""
        return None

    def unregister(self, name: str, instance_id: str) -> None:
        """Remove the live record if that instance holds it; else do nothing."""
        with self._records.lock:
            if self._lives(name, instance_id):
                del self._records.live[name]

    def resolve(self, name: str, *, fresh: bool = False) -> LiveRecord | None:  # noqa: ARG002  # the port's signature
        """Return the live record of `name`, or None if nobody lives under it."""
        with self._records.lock:
            return self._records.live.get(name)

    def update_work(self, record: WorkRecord) -> bool:
        """Replace the work record if it is of the same instance; say whether it was."""
        with self._records.lock:
            kept = self._records.work.get(record.name)
            if kept is None or kept.instance_id != record.instance_id:
                return False
            self._records.work[record.name] = record
            return True

    def work(self, name: str) -> WorkRecord | None:
        """Return the work record of `name`; its state is ``failed`` if it says running and nobody lives."""
        with self._records.lock:
            kept = self._records.work.get(name)
            return None if kept is None else self._derived(kept)

    def live(self) -> Sequence[LiveRecord]:
        """Return all live records, by name."""
        with self._records.lock:
            return [record for _, record in sorted(self._records.live.items())]

    def works(self) -> Sequence[WorkRecord]:
        """Return all work records, by name, with the same derived state as `work`."""
        with self._records.lock:
            return [self._derived(record) for _, record in sorted(self._records.work.items())]

    def end_by(self, deadline: float) -> None:
        """Do nothing: no call waits for anybody."""

    def close(self) -> None:
        """Do nothing: records stay, and nothing else is held."""

    def _lives(self, name: str, instance_id: str) -> bool:
        holder = self._records.live.get(name)
        return holder is not None and holder.instance_id == instance_id

    def _derived(self, record: WorkRecord) -> WorkRecord:
        return derive_state(record, lives=self._lives(record.name, record.instance_id))
