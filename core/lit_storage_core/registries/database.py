"""The database file of a sqlite registry: how it comes to be, is opened, shared and left.

Invariants

 1. Nobody sees a half-made file: it is made whole under another name and appears by link(2).
 2. A file serves one machine, whose id it keeps, and lies on a file system of that machine.
 3. No connection is open across fork(2), neither in the parent nor in the child: SQLite's locks
    and shared memory do not survive it (https://www.sqlite.org/howtocorrupt.html, section 2.6).
 4. Nothing but SQLite opens the file: closing any other descriptor would drop its POSIX locks
    (same page, section 2.2).
 5. What goes wrong is one typed sentence, never an error of sqlite3.

 6. What another user may have put into the file stays data: a file that holds a view, a trigger or an
    expression of its own is none of ours, no value is larger than a record can be, and no statement goes
    on for longer than it may take, whatever the rows and tables of the file say.

The file is in WAL mode, so that readers never wait for a writer; for that a reader too must be
allowed to write the file and its directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from urllib.parse import quote

from lit_storage_core.system.directories import make_directory, permits
from lit_storage_core.system.mounts import file_system_of, spans_machines
from lit_storage_proto.errors import AccessDenied, RegistryUnavailable
from lit_storage_proto.limits import MIB

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE meta (schema_version INTEGER NOT NULL, machine_id TEXT NOT NULL);
CREATE TABLE live (
    name TEXT PRIMARY KEY, instance_id TEXT NOT NULL, endpoint TEXT NOT NULL, machine_id TEXT NOT NULL,
    tls_name TEXT NOT NULL, holder TEXT NOT NULL, custodian INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE work (
    name TEXT PRIMARY KEY, instance_id TEXT NOT NULL, state TEXT NOT NULL, machine_id TEXT NOT NULL,
    artifacts_url TEXT NOT NULL
) WITHOUT ROWID;
"""

# By the version that a file has, what makes it one of the next version.
_MIGRATIONS = {1: "ALTER TABLE live ADD COLUMN custodian INTEGER NOT NULL DEFAULT 0"}

# A record has 16 KiB at most; the file may hold others' rows, which are then passed over.
_MOST_VALUE_BYTES = 4 * MIB
_STEPS = 10_000  # of SQLite's machine, between two looks at the clock: well below a millisecond
# What of a table is calculated, by functions that whoever wrote the file has chosen.
_EXPRESSION = re.compile(r"\b(check|generated|as|virtual)\b|[(,\s]default\s*[^\s0-9]|/\*|--", re.IGNORECASE)

_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def file_of(url: str) -> str | None:
    """Return the path of the database file of a registry, without links; None if it uses no file."""
    path = url.removeprefix("sqlite://")
    return os.path.realpath(path) if path and path != url else None


class Database:
    """One file that many processes use; any thread of this one may use this object.

    There is one connection, and one lock around it. A call waits at most `timeout_seconds` for
    other threads and as long again for other processes.
    """

    def __init__(self, path: str, *, machine_id: str | None, timeout_seconds: float) -> None:
        """Open the file, and make it if it is missing.

        Args:
            path: of the file.
            machine_id: of this machine; None opens a file that is there, whichever machine it serves.
            timeout_seconds: see above.

        Raises:
            AccessDenied: this process may not write the file or its directory.
            RegistryUnavailable: the file cannot be used; the sentence says why.
        """
        self.path = os.path.realpath(path)
        self._machine_id = machine_id
        self._timeout_seconds = timeout_seconds
        self._turnstile = threading.Lock()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened_by = 0
        self._inode = (0, 0)
        self._closed = False
        self._until = 0.0
        self._end = float("inf")
        _databases.add(self)
        try:
            self._make()
            with self.reading():
                pass
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for statements that each read one state of the file.

        Raises:
            RegistryUnavailable: the file cannot be used, or a statement failed.
        """
        if self._is_inherited():
            raise RegistryUnavailable(
                f"{self.path} was in use while this process was forked, so it cannot be used here; "
                f"start processes with spawn"
            )
        if not self._enter():
            raise self._stays_locked()
        self._turnstile.release()
        try:
            self._until = min(time.monotonic() + 2 * self._timeout_seconds, self._end)
            connection = self._connected()
            if self._end < float("inf"):
                connection.execute(f"PRAGMA busy_timeout={int(1000 * self._wait_seconds())}")
            yield connection
        except sqlite3.Error as error:
            self._disconnect()
            raise self._unavailable(error) from error
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for one transaction that no other process can come between.

        Raises:
            RegistryUnavailable: the file cannot be used, or a statement failed.
        """
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def end_by(self, deadline: float) -> None:
        """Let nobody wait beyond `deadline`, on ``time.monotonic``, for the file or another thread."""
        self._end = deadline

    def damaged(self) -> RegistryUnavailable:
        """Return the error for content that this product did not write."""
        return RegistryUnavailable(
            f"{self.path} is damaged or no registry; stop what uses it, remove it together with its -wal "
            f"and -shm files, and start again"
        )

    def close(self) -> None:
        """Close the connection for good."""
        if self.rest():
            self._closed = True
            _databases.discard(self)
            self.wake()

    def rest(self) -> bool:
        """Close the connection and keep all threads out until `wake`; False if a thread stays in it."""
        if self._is_inherited() or not self._enter():
            return False
        self._disconnect()
        return True

    def wake(self) -> None:
        """Let threads in again; the next one opens a connection of its process."""
        self._lock.release()
        self._turnstile.release()

    def _wait_seconds(self) -> float:
        return max(0.0, min(self._timeout_seconds, self._end - time.monotonic()))

    def _enter(self) -> bool:
        """Take both locks, or neither and return False.

        Who waits for the lock holds the turnstile, so that a thread which comes back at once
        cannot overtake it for ever.
        """
        seconds = self._wait_seconds()
        deadline = time.monotonic() + seconds
        if not self._turnstile.acquire(timeout=seconds):
            return False
        entered = False
        try:
            entered = self._lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            if not entered:
                self._turnstile.release()
        return entered

    def _is_inherited(self) -> bool:
        """Say whether a fork that `rest` could not prepare left this process with its parent's connection."""
        return self._connection is not None and self._opened_by != os.getpid()

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise RegistryUnavailable(f"{self.path} was closed by this process; open the registry again")
        try:
            status = os.stat(self.path)
        except OSError as error:
            self._disconnect()
            raise RegistryUnavailable(
                f"{self.path} went away while it was in use ({os.strerror(error.errno or errno.EIO)}); "
                f"start again what uses it"
            ) from None
        inode = (status.st_dev, status.st_ino)
        if self._connection is None or inode != self._inode:
            self._disconnect()
            self._connection, self._inode, self._opened_by = self._connect(), inode, os.getpid()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _make(self) -> None:
        """Make the file unless it is there."""
        try:
            self._check_place(os.path.dirname(self.path))
            if _exists(self.path):
                _check_access(self.path, os.R_OK | os.W_OK)
            elif _exists(self.path + "-wal") and not _exists(self.path):
                raise self.damaged()  # SQLite would apply what is left of the old file to the new one
            elif self._machine_id is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            else:
                self._link_new_file()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        except (RegistryUnavailable, AccessDenied):
            raise
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO)
            if error.errno in _REFUSALS:
                raise AccessDenied(
                    f"no registry can be kept as {self.path} ({reason}); name another root or registry: "
                    f"its file and directory must be writable, also for who only reads"
                ) from None
            raise RegistryUnavailable(
                f"{self.path} cannot be made ({reason}); free its disk or name another registry"
            ) from error

    def _check_place(self, directory: str) -> None:
        make_directory(directory)
        file_system = file_system_of(directory)
        if spans_machines(file_system):
            raise self._of_other_machines(f"lies on a file system of many machines ({file_system})")
        _check_access(directory, os.W_OK | os.X_OK)

    def _link_new_file(self) -> None:
        temporary = f"{self.path}.{secrets.token_hex(8)}"
        try:
            connection = sqlite3.connect(temporary, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
                meta = (SCHEMA_VERSION, self._machine_id)
                connection.execute("INSERT INTO meta (schema_version, machine_id) VALUES (?, ?)", meta)
            finally:
                connection.close()
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(temporary, self.path)
        finally:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary + suffix)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self.path))}?mode=rw",
            uri=True,
            timeout=self._timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            # A power cut may take the last commits, never the file: who lived is dead then anyway.
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_VALUE_BYTES)
            connection.text_factory = _text
            connection.set_progress_handler(self._is_over, _STEPS)
            self._check_schema(connection)
            if self._check_owner(connection) < SCHEMA_VERSION:
                self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_over(self) -> bool:
        """Say whether the statement that runs is to be ended."""
        return time.monotonic() > self._until

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        """Refuse a file in which a look at a table may run what another one wrote."""
        for kind, name, text in connection.execute("SELECT type, name, sql FROM sqlite_master"):
            is_table = kind == "table" and isinstance(text, str) and not _EXPRESSION.search(text)
            is_index = kind == "index" and isinstance(name, str) and name.startswith("sqlite_autoindex_")
            if not (is_table or is_index):
                raise self.damaged()

    def _check_owner(self, connection: sqlite3.Connection) -> int:
        """Return the version of the schema of a file that this process may use."""
        row = connection.execute("SELECT schema_version, machine_id FROM meta").fetchone()
        version, machine_id = row or (None, None)
        if not isinstance(version, int):
            raise self.damaged()
        if version > SCHEMA_VERSION:
            raise RegistryUnavailable(
                f"{self.path} was made by a newer lit-storage (schema {version}, here {SCHEMA_VERSION}); "
                f"upgrade this one"
            )
        if self._machine_id is not None and machine_id != self._machine_id:
            raise self._of_other_machines("belongs to another machine")
        return version

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Bring a file of an older version up to this one; of many processes that try, one does it."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            for version in range(self._check_owner(connection), SCHEMA_VERSION):
                if version not in _MIGRATIONS:
                    raise self.damaged()  # no version that ever was
                connection.execute(_MIGRATIONS[version])
            connection.execute("UPDATE meta SET schema_version = ?", (SCHEMA_VERSION,))
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _of_other_machines(self, reason: str) -> RegistryUnavailable:
        return RegistryUnavailable(
            f"{self.path} {reason}, and a sqlite registry serves one machine only; "
            f"use a registry that spans machines (etcd://)"
        )

    def _stays_locked(self) -> RegistryUnavailable:
        return RegistryUnavailable(
            f"{self.path} stayed locked for {self._timeout_seconds:g} s; a process that uses it may be stuck "
            f"in the middle of a write: continue or end it, and try again"
        )

    def _unavailable(self, error: sqlite3.Error) -> RegistryUnavailable:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return self._stays_locked()
        if code in _DAMAGED or "no such table" in str(error) or "no such column" in str(error):
            return self.damaged()
        if code == sqlite3.SQLITE_INTERRUPT:
            return RegistryUnavailable(
                f"{self.path} takes too long to be read; it is damaged, or holds more than a registry can"
            )
        if code == sqlite3.SQLITE_FULL:
            return RegistryUnavailable(f"{self.path} cannot grow, for its disk is full; free some space")
        return RegistryUnavailable(
            f"{self.path} cannot be used ({error}); see that its disk works and this process may write it"
        )


def _exists(path: str) -> bool:
    """Say whether there is a file; raise OSError where a disk that fails cannot tell."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _text(raw: bytes) -> str:
    """Return a text of the file: one that is none fails no statement, and is no field of a record."""
    return raw.decode("utf-8", "replace")


def _check_access(path: str, mode: int) -> None:
    if not permits(path, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


_databases: set[Database] = set()
_forking = threading.local()


def _rest_before_fork() -> None:
    _forking.resting = [database for database in sorted(_databases, key=id) if database.rest()]


def _wake_after_fork() -> None:
    for database in _forking.resting:
        database.wake()
    _forking.resting = []


os.register_at_fork(
    before=_rest_before_fork, after_in_parent=_wake_after_fork, after_in_child=_wake_after_fork
)
