"""A disk that fails under a root, a registry or a store: an error that names it, and then all goes well."""

import errno
import os

import pytest

import lit_storage
from lit_storage_core.artifacts.local_objects import LocalObjects
from lit_storage_core.registries.sqlite import SqliteRegistry
from lit_storage_core.security.settings import root_token
from lit_storage_core.system.machine import machine_id
from lit_storage_proto.errors import PathNotFound, RegistryUnavailable, StorageError
from lit_storage_proto.registry import LiveRecord
from tests.faults.leaving import left_by

FAILURES = [errno.EIO, errno.ENOSPC, errno.EDQUOT]
NAMES = errno.errorcode.get
SECONDS = 2.0


@pytest.mark.parametrize("number", FAILURES, ids=NAMES)
@pytest.mark.parametrize("operation", ["create", "write", "flush", "fsync", "link"])
@pytest.mark.parametrize("make", [root_token, machine_id], ids=["token", "machine-id"])
def test_a_file_that_is_written_once(failing, make, operation, number):
    """A token or machine id that the disk fails is an OSError with its file, and the next one makes it."""
    failing.fails(operation, number=number)
    with pytest.raises(OSError) as caught:
        make(failing.place)
    assert failing.lift() > 0
    assert caught.value.errno == number
    assert failing.place in str(caught.value)
    assert not isinstance(caught.value, StorageError)
    assert make(failing.place) == make(failing.place)
    assert len(os.listdir(failing.place)) == 1


@pytest.mark.parametrize("operation", ["open", "read", "getattr"])
def test_a_token_that_cannot_be_read(failing, operation):
    """A token that the disk does not give is never made anew: others have the one that is there."""
    token = root_token(failing.place)
    failing.fails(operation, path="token")
    with pytest.raises(OSError):
        root_token(failing.place)
    assert failing.lift() > 0
    assert root_token(failing.place) == token


def registry(failing):
    return SqliteRegistry(f"{failing.place}/registry.db", machine_id="here", timeout_seconds=SECONDS)


def refusal(call, failing):
    """Return the class of what a call raises, which names the disk; None if it goes well."""
    try:
        call()
    except Exception as error:
        return type(error) if failing.place in str(error) else error
    return None


def record(name):
    return LiveRecord(name, f"instance-of-{name}", "127.0.0.1:1", "here")


@pytest.mark.parametrize("number", FAILURES, ids=NAMES)
@pytest.mark.parametrize("operation", ["create", "write", "link", "open", "read", "getattr", "truncate"])
def test_a_registry_that_is_opened(failing, operation, number):
    """A registry that cannot be made or opened says so with its path, and opens once the disk is well."""
    failing.fails(operation, number=number)
    assert refusal(lambda: registry(failing).close(), failing) in (None, RegistryUnavailable)
    failing.lift()
    opened = registry(failing)
    opened.register(record("work"))
    opened.close()
    assert [name for name in os.listdir(failing.place) if not name.startswith("registry.db")] == []
    assert set(os.listdir(failing.place)) <= {"registry.db", "registry.db-wal", "registry.db-shm"}


@pytest.mark.parametrize("number", FAILURES, ids=NAMES)
@pytest.mark.parametrize("operation", ["write", "read", "getattr", "truncate", "fsync", "open", "unlink"])
def test_a_registry_in_use(failing, operation, number):
    """A registry whose disk fails says so or works on, and knows afterwards all that it knew before."""
    used = registry(failing)
    used.register(record("before"))
    failing.fails(operation, number=number)
    for call in (lambda: used.register(record("meanwhile")), lambda: used.resolve("before"), used.works):
        assert refusal(call, failing) in (None, RegistryUnavailable)
    failing.lift()
    used.register(record("after"))
    assert {each.name for each in used.live()} >= {"before", "after"}
    used.close()


@pytest.mark.parametrize("number", FAILURES, ids=NAMES)
@pytest.mark.parametrize("operation", ["mkdir", "create", "write", "flush", "fsync", "link", "fsyncdir"])
def test_an_object_that_is_put(failing, operation, number):
    """An object that the disk fails is an OSError with a path, and is whole or not there; nothing else is."""
    objects = LocalObjects(f"{failing.place}/store", create=True)
    failing.fails(operation, number=number)
    with pytest.raises(OSError) as caught:
        objects.put("data/one/part", b"content" * 1000)
    assert failing.lift() > 0
    assert caught.value.errno == number
    assert failing.place in str(caught.value)
    there = [name for _, _, names in os.walk(failing.backing) for name in names]
    assert there in ([], ["part"])
    if there:
        assert objects.read("data/one/part") == b"content" * 1000
    else:
        objects.put("data/one/part", b"content")


@pytest.mark.parametrize("operation", ["read", "open", "getattr", "readdir"])
def test_an_object_that_is_read(failing, operation):
    """An object that the disk does not give is an OSError with a path, and never a missing one."""
    objects = LocalObjects(f"{failing.place}/store", create=True)
    objects.put("data/one", b"content" * 1000)
    failing.fails(operation)
    with pytest.raises(OSError) as caught:
        objects.read("data/one") if operation != "readdir" else objects.list("data")
    assert failing.lift() > 0
    assert caught.value.errno == errno.EIO
    assert failing.place in str(caught.value)
    assert objects.read("data/one") == b"content" * 1000


def read_by_another(root, to):
    with lit_storage.connect(root=root, limits=lit_storage.Limits(resume_seconds=1.0)):
        lit_storage.Path("lit://@work/file").get(to=to, overwrite=True)
    with open(to) as file:
        return file.read()


@pytest.mark.slow
@pytest.mark.parametrize("number", FAILURES[1:2], ids=NAMES)
@pytest.mark.parametrize("operation", ["create", "write", "fsync", "link"])
def test_a_store_that_fails(failing, tmp_path, operation, number):
    """A Work whose store fails ends well and warns with the path; what was there before is still read."""
    store = f"file://{failing.place}/store"
    assert left_by(tmp_path / "root", store, "first") == []
    failing.fails(operation, number=number)
    (told,) = left_by(tmp_path / "root", store, "second")
    assert "file" in told
    assert os.strerror(number) in told
    assert failing.lift() > 0
    assert read_by_another(tmp_path / "root", tmp_path / "to") == "first"
    assert left_by(tmp_path / "root", store, "third") == []
    assert read_by_another(tmp_path / "root", tmp_path / "to") == "third"
    assert not [name for _, _, names in os.walk(failing.backing) for name in names if name.startswith(".tmp")]


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["read", "open", "getattr", "readdir"])
def test_a_store_that_cannot_be_read(failing, tmp_path, operation):
    """What lies in a store that fails is unknown, and not absent: a get raises, and is no PathNotFound."""
    store = f"file://{failing.place}/store"
    left_by(tmp_path / "root", store, "first")
    failing.fails(operation)
    with pytest.raises(OSError) as caught:
        read_by_another(tmp_path / "root", tmp_path / "to")
    assert failing.lift() > 0
    assert not isinstance(caught.value, PathNotFound)
    assert read_by_another(tmp_path / "root", tmp_path / "to") == "first"


@pytest.mark.slow
@pytest.mark.parametrize("number", FAILURES[:1], ids=NAMES)
@pytest.mark.parametrize("operation", ["create", "write", "mkdir"])
def test_what_is_declared_cannot_be_noted(failing, tmp_path, operation, number):
    """A Work whose note cannot be written goes on, and what it declared is published when it ends."""
    root = f"{failing.place}/root"
    assert left_by(root, None, "first") == []
    with lit_storage.join("work", root=root) as session:
        with open(f"{session.storage_root}/file", "w") as file:
            file.write("second")
        failing.fails(operation, number=number, path="declared")
        session.declare(lit_storage.Path("lit://file"))
        failing.lift()
    assert read_by_another(root, tmp_path / "to") == "second"


@pytest.mark.slow
@pytest.mark.parametrize("number", FAILURES[:1], ids=NAMES)
@pytest.mark.parametrize("operation", ["mkdir", "create", "write", "link", "getattr", "open"])
def test_a_root_that_fails(failing, operation, number):
    """A process that cannot make its root says which path and why, and can once the disk is well."""
    failing.fails(operation, number=number)
    with pytest.raises((OSError, RegistryUnavailable)) as caught:
        lit_storage.join("work", root=f"{failing.place}/root")
    assert failing.lift() > 0
    assert failing.place in str(caught.value)
    lit_storage.join("work", root=f"{failing.place}/root").close()
