"""Disks without room, by bytes and by inodes, under all that is written beside a copy itself."""

import contextlib
import errno
import os
import subprocess
import sys
import warnings

import pytest

import lit_storage
from lit_storage_core.registries.sqlite import SqliteRegistry
from lit_storage_core.security.settings import root_token
from lit_storage_core.system.machine import machine_id
from lit_storage_proto.errors import RegistryUnavailable, StorageError
from lit_storage_proto.registry import LiveRecord
from tests.faults.leaving import left_by
from tests.waiting import within

FULL = {"bytes": "size=128k", "inodes": "size=8m,nr_inodes=12"}
pytestmark = pytest.mark.root


def fill(place, by):
    """Take all the room that a small file system has; return what to remove to have it again."""
    filler = f"{place}/filler"
    os.mkdir(filler)
    with pytest.raises(OSError, match="No space left"):
        for number in range(1 << 20):
            with open(f"{filler}/{number}", "wb") as file:
                if by == "bytes":
                    while True:
                        file.write(bytes(4096))
                        file.flush()
    return filler


def free(filler):
    subprocess.run(["rm", "-rf", filler], check=True)


@pytest.fixture(params=FULL)
def full(request, mounted):
    """A file system without room: where it is, and what has to go to have some again."""
    place = mounted("full", FULL[request.param])
    return place, fill(place, request.param)


@pytest.mark.parametrize("make", [root_token, machine_id], ids=["token", "machine-id"])
def test_a_token_or_id(full, make):
    """A token or machine id that has no room is ENOSPC with its path, and is no empty file afterwards."""
    place, filler = full
    with pytest.raises(OSError, match=place) as caught:
        make(place)
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, StorageError)
    free(filler)
    assert make(place) == make(place)
    assert len(os.listdir(place)) == 1


def test_a_new_registry(full):
    """A registry that has no room to begin says so with its path, and begins once there is some."""
    place, filler = full
    with pytest.raises(RegistryUnavailable, match=f"{place}.*(free|see that its disk works)"):
        SqliteRegistry(f"{place}/registry.db", machine_id="here", timeout_seconds=2.0)
    free(filler)
    SqliteRegistry(f"{place}/registry.db", machine_id="here", timeout_seconds=2.0).close()
    assert os.listdir(place) == ["registry.db"]


def test_a_registry_in_use(mounted):
    """A registry that becomes full tells who writes, answers who reads, and goes on with some room."""
    place = mounted("full", "size=256k")
    registry = SqliteRegistry(f"{place}/registry.db", machine_id="here", timeout_seconds=2.0)
    registry.register(LiveRecord("before", "i", "127.0.0.1:1", "here"))
    filler = fill(place, "bytes")
    with pytest.raises(RegistryUnavailable, match="free"):
        for number in range(10_000):
            registry.register(LiveRecord(f"work-{number}", "i" * 60, "127.0.0.1:1", "here"))
    assert registry.resolve("before") is not None
    free(filler)
    registry.register(LiveRecord("after", "i", "127.0.0.1:1", "here"))
    assert registry.resolve("after") is not None
    registry.close()


@pytest.mark.slow
@pytest.mark.parametrize("by", FULL)
def test_a_store(mounted, tmp_path, by):
    """A Work whose store is full ends well and warns; the next one publishes, and no part stays behind."""
    place = mounted("full", "size=256k" if by == "bytes" else "size=8m,nr_inodes=24")
    store = f"file://{place}/store"
    assert left_by(tmp_path / "root", store) == []
    filler = fill(place, by)
    before = sorted(os.walk(f"{place}/store"))
    (told,) = left_by(tmp_path / "root", store, "other" * 10_000)
    assert "No space left" in told
    assert [each[2] for each in sorted(os.walk(f"{place}/store"))][: len(before)] == [
        each[2] for each in before
    ]
    free(filler)
    assert left_by(tmp_path / "root", store, "another") == []


@pytest.mark.slow
@pytest.mark.parametrize("by", FULL)
def test_a_root(mounted, by):
    """A Work whose whole root is full in the middle of its life ends, and the next one starts."""
    place = mounted("full", "size=512k" if by == "bytes" else "size=8m,nr_inodes=40")
    left_by(place)
    session = lit_storage.join("work", root=place)
    filler = fill(place, by)
    with warnings.catch_warnings(record=True), contextlib.suppress(RegistryUnavailable):
        warnings.simplefilter("always")
        session.declare(lit_storage.Path("lit://file"))
        session.close()
    free(filler)
    assert left_by(place) == []


@pytest.mark.slow
def test_the_daemon_when_its_log_has_no_room(tmp_path):
    """A daemon whose log goes to a full disk serves, and ends as ever."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("content")
    root = str(tmp_path / "root")
    command = [sys.executable, "-c", "from lit_storage.cli.main import main; main()", "serve", "--root", root]
    command += ["--name", "store", "--share", f"data={tmp_path}/data"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with open("/dev/full", "w") as full:
        daemon = subprocess.Popen(command, stdout=full, stderr=full, env=environment)
    try:
        with lit_storage.connect(root=root) as session:
            within(60)(lambda: daemon.poll() is not None or session.registry.resolve("store") is not None)
            lit_storage.Path("lit://@store/data/file").get(to=tmp_path / "to")
        daemon.terminate()
        assert daemon.wait(30) == 0
    finally:
        daemon.kill()
        daemon.wait()
    assert (tmp_path / "to").read_text() == "content"
