"""The registry of one machine: a file that its processes share.

Invariant: a live record lives exactly while its holder's process does. It is as absent from the
moment that process is gone, and the next `register` replaces it; a stopped process keeps its name.
A holder that cannot be looked up, as one in another container, counts as alive. A row that is no record
hides no other one.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from lit_storage_core.registries.checked import MOST_RECORDS, checked
from lit_storage_core.registries.database import Database
from lit_storage_core.registries.derived import derive_state
from lit_storage_core.system.names import shown
from lit_storage_core.system.process import ProcessIdentity, ProcessWatch
from lit_storage_proto.errors import NameTaken, RegistryUnavailable
from lit_storage_proto.registry import Lease, LiveRecord, WorkRecord, WorkState

_LIVE = "SELECT name, instance_id, endpoint, machine_id, tls_name, holder, custodian FROM live"
_LIVE_OF_NAME = f"{_LIVE} WHERE name = ?"
_WORK = """
    SELECT work.name, work.instance_id, work.state, work.machine_id, work.artifacts_url, live.holder
    FROM work LEFT JOIN live ON live.name = work.name AND live.instance_id = work.instance_id
"""

_INSERT_LIVE = """
    INSERT OR REPLACE INTO live (name, instance_id, endpoint, machine_id, tls_name, holder, custodian)
    VALUES (:name, :instance_id, :endpoint, :machine_id, :tls_name, :holder, :custodian)
"""
# The artifacts of an earlier instance stay as they are.
_BEGIN_WORK = """
    INSERT INTO work (name, instance_id, state, machine_id, artifacts_url)
    VALUES (:name, :instance_id, :state, :machine_id, '')
    ON CONFLICT (name) DO UPDATE
    SET instance_id = excluded.instance_id, state = excluded.state, machine_id = excluded.machine_id
"""
_UPDATE_WORK = """
    UPDATE work SET state = :state, machine_id = :machine_id, artifacts_url = :artifacts_url
    WHERE name = :name AND instance_id = :instance_id
"""

# Names are resolved again and again, and a text always means the same process.
_identity_of = functools.lru_cache(256)(ProcessIdentity.from_text)

_LiveRow = tuple[str, str, str, str, str, str, int]
_WorkRow = tuple[str, str, str, str, str, str | None]

T = TypeVar("T")
Row = TypeVar("Row")

_MOST_TOLD = 1000
_LOG = logging.getLogger("lit_storage.registry")


class SqliteRegistry:
    """``sqlite://PATH``, the default on one machine."""

    def __init__(self, path: str, *, machine_id: str, timeout_seconds: float) -> None:
        """Open the file at `path`, and make it and its directory if they are missing.

        Args:
            path: of the file; a relative one is taken from the current directory.
            machine_id: of this machine; a file that keeps another one is refused.
            timeout_seconds: how long to wait for other threads and processes in one call.

        Raises:
            AccessDenied: this process may not write the file or its directory.
            RegistryUnavailable: the file is damaged, of another machine or a newer version, on a
                network file system, or stays locked.
        """
        self._database = Database(path, machine_id=machine_id, timeout_seconds=timeout_seconds)
        self._watch = ProcessWatch()
        self._told: set[str] = set()

    @property
    def url(self) -> str:
        """The URL that opens the same file in another process, whatever its directory."""
        return f"sqlite://{self._database.path}"

    @property
    def spans_machines(self) -> bool:
        """False: the file refuses other machines."""
        return False

    def register(self, record: LiveRecord) -> None:
        """Make `record` the live record of its name, and its work record ``running``.

        The calling process becomes its holder. The same instance may register anew. What an
        earlier instance published stays recorded.

        Raises:
            NameTaken: another instance holds the name, and its process is not known to be gone.
            RegistryUnavailable: the file cannot be read or written.
        """
        row = {
            **dataclasses.asdict(record),
            "holder": ProcessIdentity.current().to_text(),
            "state": WorkState.RUNNING,
        }
        with self._database.writing() as connection:
            self._refuse_second(connection, record)
            connection.execute(_INSERT_LIVE, row)
            connection.execute(_BEGIN_WORK, row)

    def renew(self, lease: Lease, seconds: float) -> Lease | None:  # noqa: ARG002  # the port's signature
        """Return None: there are no leases here."""
        return None

    def unregister(self, name: str, instance_id: str) -> None:
        """Remove the live record if that instance holds it; else do nothing.

        Raises:
            RegistryUnavailable: the file cannot be read or written.
        """
        with self._database.writing() as connection:
            connection.execute("DELETE FROM live WHERE name = ? AND instance_id = ?", (name, instance_id))

    def resolve(self, name: str, *, fresh: bool = False) -> LiveRecord | None:  # noqa: ARG002  # the port's signature
        """Return the live record of `name`, or None if nobody lives under it.

        Raises:
            RegistryUnavailable: the file cannot be read.
        """
        with self._database.reading() as connection:
            row: _LiveRow | None = connection.execute(_LIVE_OF_NAME, (name,)).fetchone()
        return None if row is None else self._live_of(row)

    def update_work(self, record: WorkRecord) -> bool:
        """Replace the work record if it is of the same instance; say whether it was.

        Raises:
            RegistryUnavailable: the file cannot be read or written.
        """
        with self._database.writing() as connection:
            changed = connection.execute(_UPDATE_WORK, dataclasses.asdict(record)).rowcount
        return changed == 1

    def work(self, name: str) -> WorkRecord | None:
        """Return the work record of `name`; its state is ``failed`` if it says running and nobody lives.

        Raises:
            RegistryUnavailable: the file cannot be read.
        """
        with self._database.reading() as connection:
            row: _WorkRow | None = connection.execute(f"{_WORK} WHERE work.name = ?", (name,)).fetchone()
        return None if row is None else self._work_of(row)

    def live(self) -> Sequence[LiveRecord]:
        """Return all live records, by name.

        Raises:
            RegistryUnavailable: the file cannot be read.
        """
        with self._database.reading() as connection:
            rows: Iterable[_LiveRow] = connection.execute(f"{_LIVE} ORDER BY name")
            return self._readable(rows, self._live_of)

    def works(self) -> Sequence[WorkRecord]:
        """Return all work records, by name, with the same derived state as `work`.

        Raises:
            RegistryUnavailable: the file cannot be read.
        """
        with self._database.reading() as connection:
            rows: Iterable[_WorkRow] = connection.execute(f"{_WORK} ORDER BY work.name")
            return self._readable(rows, self._work_of)

    def end_by(self, deadline: float) -> None:
        """Let no further call wait beyond `deadline`, on ``time.monotonic``: see `Registry.end_by`."""
        self._database.end_by(deadline)

    def close(self) -> None:
        """Close the file in this process; records stay. A second call does nothing."""
        self._database.close()
        self._watch.close()

    def _refuse_second(self, connection: sqlite3.Connection, record: LiveRecord) -> None:
        row: _LiveRow | None = connection.execute(_LIVE_OF_NAME, (record.name,)).fetchone()
        if row is None or row[1] == record.instance_id:
            return
        holder = self._identity(row[5])
        match holder.is_alive():
            case True:
                raise NameTaken(
                    f"the name {record.name!r} is taken by process {holder.pid}, which serves at {row[2]}; "
                    f"stop that process first, or take another name"
                )
            case None:
                raise NameTaken(
                    f"the name {record.name!r} is taken by process {holder.pid} of another container or user "
                    f"that cannot be looked up from here; stop it, or take another name"
                )
            case False:
                return

    def _readable(self, rows: Iterable[Row], record_of: Callable[[Row], T | None]) -> list[T]:
        """Return the records of rows; one that is none is told once, and hides no other."""
        records: list[T] = []
        for row in rows:
            if len(records) >= MOST_RECORDS:
                raise RegistryUnavailable(
                    f"{self._database.path} holds more than {MOST_RECORDS} names; remove those of Works that "
                    "are not needed any more"
                )
            try:
                record = record_of(row)
            except RegistryUnavailable:
                self._tell(row)
                continue
            if record is not None:
                records.append(record)
        return records

    def _tell(self, row: object) -> None:
        name = shown(str(row[0])) if isinstance(row, tuple) else ""
        if name not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(name)
            _LOG.warning("what %s holds of %s is no record, and is passed over", self._database.path, name)

    def _lives(self, holder: str) -> bool:
        return self._watch.is_alive(self._identity(holder)) is not False

    def _identity(self, holder: str) -> ProcessIdentity:
        try:
            return _identity_of(holder)
        except (ValueError, TypeError):
            raise self._database.damaged() from None

    def _live_of(self, row: _LiveRow) -> LiveRecord | None:
        name, instance_id, endpoint, machine_id, tls_name, holder, custodian = row
        if not self._lives(holder):
            return None
        try:
            return checked(
                LiveRecord(name, instance_id, endpoint, machine_id, tls_name, custodian=bool(custodian))
            )
        except ValueError:
            raise self._database.damaged() from None

    def _work_of(self, row: _WorkRow) -> WorkRecord:
        name, instance_id, state, machine_id, artifacts_url, holder = row
        try:
            record = checked(
                WorkRecord(
                    name=name,
                    instance_id=instance_id,
                    state=WorkState(state),
                    machine_id=machine_id,
                    artifacts_url=artifacts_url,
                )
            )
        except ValueError:
            raise self._database.damaged() from None
        return derive_state(record, lives=holder is not None and self._lives(holder))
