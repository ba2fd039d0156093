"""The registry of a machine is locked, damaged or gone: an error with a way out, in time, and it heals."""

import contextlib
import os
import shutil
import sqlite3
import time

import pytest

URI = "lit://@origin/file"
SECONDS = 1.0
LIMITS = {"resolve_seconds": SECONDS, "resume_seconds": SECONDS}


@pytest.fixture
def file(origin, root, tmp_path):
    """Where the registry is that an origin is in, and where its file is got to."""
    with open(f"{origin.files}/file", "w") as file:
        file.write("content")
    return f"{root}/registry.db"


@pytest.fixture
def user(fork, file, root, tmp_path):
    """A session that has used the registry; each word makes it get once more."""
    child = fork("get_when_told", root=root, uri=URI, to=f"{tmp_path}/to", limits=LIMITS)
    assert "error" not in child.next()
    return child


def garbage(path):
    with open(path, "r+b") as file:
        file.write(os.urandom(os.path.getsize(path)))


def truncated(path):
    os.truncate(path, os.path.getsize(path) // 2)


def emptied(path):
    os.truncate(path, 0)


def without_tables(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE live")


def of_another_program(path):
    os.unlink(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")


def of_another_machine(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET machine_id = 'elsewhere'")
        connection.commit()


def of_a_newer_version(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET schema_version = 99")
        connection.commit()


def a_directory(path):
    os.unlink(path)
    os.mkdir(path)


def a_fifo(path):
    os.unlink(path)
    os.mkfifo(path)


def a_link_to_a_device(path):
    os.unlink(path)
    os.symlink("/dev/zero", path)


def a_link_to_itself(path):
    os.unlink(path)
    os.symlink(path, path)


def removed(path):
    os.unlink(path)


DAMAGES = [garbage, truncated, emptied, without_tables, of_another_program, of_another_machine, a_fifo]
DAMAGES += [of_a_newer_version, a_directory, a_link_to_a_device, a_link_to_itself]


@contextlib.contextmanager
def damaged(file, how):
    """Damage a registry for the length of a block, and then have it as it was."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = [(f"{file}{suffix}", f"{file}{suffix}.kept") for suffix in ("", "-wal", "-shm")]
    for path, copy in kept:
        if os.path.exists(path):
            shutil.copyfile(path, copy)
    how(file)
    yield
    for path, copy in kept:
        with contextlib.suppress(IsADirectoryError, FileNotFoundError):
            os.unlink(path)
        if os.path.isdir(path):
            os.rmdir(path)
        if os.path.exists(copy):
            os.rename(copy, path)


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES, ids=lambda how: how.__name__)
def test_a_registry_that_is_damaged(file, get, tmp_path, how):
    """Whoever comes to a damaged registry hears in time which file it is, and the file is not made anew."""
    with damaged(file, how):
        before = os.lstat(file)
        told = get(URI, to=f"{tmp_path}/to", limits=LIMITS, failing=True)
        assert told["error"][0] in ("RegistryUnavailable", "AccessDenied"), told
        assert file in told["text"] or os.path.realpath(file) in told["text"]
        assert told["seconds"] < 20
        assert os.lstat(file).st_ino == before.st_ino
    assert "error" not in get(URI, to=f"{tmp_path}/to")


@pytest.mark.parametrize("how", [*DAMAGES, removed], ids=lambda how: how.__name__)
def test_a_registry_that_is_damaged_in_use(file, user, how):
    """A session whose registry is damaged under it gets what it knows or says what is wrong, and heals."""
    with damaged(file, how):
        user.tell()
        told = user.next()
        assert told.get("error", ["RegistryUnavailable"])[0] in ("RegistryUnavailable", "AccessDenied"), told
        assert "error" not in told or "registry.db" in told["text"] or "/dev/zero" in told["text"], told
    user.tell()
    assert "error" not in (how := user.next()), how


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_registry_that_is_locked(file, user, mode):
    """While another process holds the file in the middle of a write, whoever only reads goes on."""
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute(f"BEGIN {mode}")
        user.tell()
        assert "error" not in (how := user.next()), how


@pytest.mark.slow
def test_a_registry_that_is_locked_against_readers(file, user):
    """Where the file is locked for everybody, for longer than there is time, that is said in time."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        began = time.monotonic()
        try:
            other.execute("BEGIN EXCLUSIVE")
            other.execute("UPDATE meta SET machine_id = machine_id")
        except sqlite3.OperationalError:
            pass  # it cannot be had while others have the file open
        user.tell()
        told = user.next()
        assert "error" not in told or told["error"][0] == "RegistryUnavailable", told
        assert time.monotonic() - began < 20
    user.tell()
    assert "error" not in (how := user.next()), how


@pytest.mark.slow
def test_a_name_cannot_be_taken_while_it_is_locked(file, fork, root):
    """Joining while the file is locked for longer is RegistryUnavailable within its time, and works later."""
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        told = fork("join_once", root=root, name="second", limits=LIMITS).next()
        assert told["error"][0] == "RegistryUnavailable", told
        assert told["seconds"] < 20
    assert "error" not in fork("join_once", root=root, name="second", limits=LIMITS).next()


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_files_beside_it_that_are_gone(file, user, get, tmp_path, suffix):
    """Without the files that SQLite keeps beside it, the registry is used on, or says what is wrong."""
    os.unlink(file + suffix)
    user.tell()
    told = user.next()
    assert "error" not in told or told["error"][0] == "RegistryUnavailable", told
    told = get(URI, to=f"{tmp_path}/to", limits=LIMITS)
    assert "error" not in told or told["error"][0] in ("RegistryUnavailable", "PathNotFound"), told
