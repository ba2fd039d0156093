"""Makes the file of a sqlite registry that was copied with its root the registry of that copy.

Invariant: all of it is one transaction, which is on the disk when it has returned.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from lit_storage_core.registries.checked import MOST_RECORDS
from lit_storage_core.registries.database import Database


@dataclass(frozen=True, slots=True)
class CopiedWork:
    """What a copied registry says of a Work."""

    machine_id: str
    artifacts_url: str


def take_over(
    path: str,
    machine_id: str,
    change: Callable[[CopiedWork, str], CopiedWork],
    *,
    timeout_seconds: float,
) -> None:
    """Remove all live records, and let the file serve this machine.

    Args:
        path: of the file, which is there.
        machine_id: which the copy has from now on.
        change: returns what is to be said of a Work, of what is said of it and the machine id that the file
            had.
        timeout_seconds: how long to wait for other processes.

    Raises:
        AccessDenied: this process may not write the file or its directory.
        RegistryUnavailable: the file is damaged, of a newer version, or stays locked.
    """
    database = Database(path, machine_id=None, timeout_seconds=timeout_seconds)
    try:
        with database.reading() as connection:
            connection.execute("PRAGMA synchronous=FULL")  # a power cut must not bring the live records back
        with database.writing() as connection:
            row = connection.execute("SELECT machine_id FROM meta").fetchone()
            former_id = row[0] if row and isinstance(row[0], str) else ""
            connection.execute("DELETE FROM live")
            connection.execute("UPDATE meta SET machine_id = ?", (machine_id,))
            _change_works(connection, former_id, change)
    finally:
        database.close()


def _change_works(
    connection: sqlite3.Connection, former_id: str, change: Callable[[CopiedWork, str], CopiedWork]
) -> None:
    rows = connection.execute(
        "SELECT name, machine_id, artifacts_url FROM work LIMIT ?", (MOST_RECORDS,)
    ).fetchall()
    for name, *texts in rows:
        if not all(isinstance(text, str) for text in texts):
            continue  # no record; it is passed over wherever it is read
        before = CopiedWork(*texts)
        after = change(before, former_id)
        if after != before:
            connection.execute(
                "UPDATE work SET machine_id = ?, artifacts_url = ? WHERE name = ?",
                (after.machine_id, after.artifacts_url, name),
            )
