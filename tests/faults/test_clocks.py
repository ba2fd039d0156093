"""The clock of the wall jumps, and files bear odd times: nothing young is discarded, and nothing hangs."""

import dataclasses
import os
import subprocess
import sys
import time

import pytest

from lit_storage import Limits
from lit_storage_client.fetch.staging_area import StagingArea
from lit_storage_core.artifacts.local_objects import LocalObjects
from lit_storage_core.artifacts.store import ArtifactStore
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_server.daemon.custodian import Custodian
from lit_storage_server.publishing.notes import Declaration, Note, noted
from lit_storage_server.publishing.publish import publish
from lit_storage_server.sources.shares import Shares

YEAR = 365 * 24 * 3600.0
DAY = 24 * 3600.0
JUMPS = {"forward": 10 * YEAR, "back": -10 * YEAR, "to 1970": -56 * YEAR, "a day forward": DAY + 60}


@pytest.fixture
def jump(monkeypatch):
    """Let the clock of the wall of this process jump by so many seconds."""
    told, told_ns = time.time, time.time_ns

    def by(seconds):
        monkeypatch.setattr(time, "time", lambda: told() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: told_ns() + int(seconds * 1e9))

    return by


@pytest.fixture
def area(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield StagingArea(fd, "", fd, "target", {})
    os.close(fd)


def in_another_container(area, **fields):
    """Make a staging whose owner cannot be looked up from here."""
    staging = area.create()
    owner = dataclasses.replace(ProcessIdentity.current(), pid_namespace="pid:[1]", **fields)
    with open(f"/proc/self/fd/{staging.fd}/owner", "w") as file:
        file.write(owner.to_text())
    return staging


@pytest.mark.parametrize("seconds", JUMPS.values(), ids=JUMPS)
def test_a_young_copy_in_another_container(area, jump, tmp_path, seconds):
    """A copy that another container began just now is not discarded, however the clock jumps."""
    staging = in_another_container(area)
    jump(seconds)
    assert not area.discard_dead(DAY)
    assert len(os.listdir(tmp_path)) == 1
    staging.remove()


def test_an_old_copy_in_another_container(area, jump, tmp_path):
    """A copy whose owner began more than a day ago by both clocks, and which rested as long, is discarded."""
    staging = in_another_container(area, boot_id="of before")
    jump(DAY + 60)
    assert area.discard_dead(DAY)
    assert os.listdir(tmp_path) == []
    staging.close()


def test_a_copy_of_the_future(area, jump, tmp_path):
    """A copy that was written while a clock was years ahead gets old from when it is found."""
    staging = in_another_container(area, boot_id="of before")
    os.utime(staging.fd, (time.time() + 80 * YEAR,) * 2)
    assert not area.discard_dead(DAY)
    jump(DAY + 60)
    assert area.discard_dead(DAY)
    assert os.listdir(tmp_path) == []
    staging.close()


@pytest.fixture
def store(tmp_path):
    made = ArtifactStore(
        LocalObjects(str(tmp_path / "store"), create=True),
        url=f"file://{tmp_path}/store",
        name="work",
        limits=Limits(),
        in_place=None,
    )
    yield made
    made.close()


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/file").write_bytes(os.urandom(100_000))
    shares = Shares(str(tmp_path / "files"), name="work")
    yield shares
    shares.close()


def published(store, files, instance="i1"):
    return publish(store, files, "file", store.next_version(instance), machine_id="here")


@pytest.mark.parametrize("seconds", JUMPS.values(), ids=JUMPS)
def test_the_newest_version(store, files, tmp_path, jump, seconds):
    """The newest version is the one that was published last, whatever the clock said when."""
    published(store, files)
    jump(seconds)
    (tmp_path / "files/file").write_text("newest")
    newest = published(store, files)
    assert store.covering("file").version == newest.version
    jump(-seconds)
    assert store.covering("file").version == newest.version


@pytest.mark.parametrize("seconds", JUMPS.values(), ids=JUMPS)
def test_versions_that_are_kept(store, files, jump, seconds):
    """Where old versions are removed, none that is kept loses its bytes, however the clock jumped."""
    first = published(store, files)
    second = published(store, files)
    jump(seconds)
    store.remove([kept for kept in store.versions() if kept.version == first.version])
    (kept,) = store.versions()
    assert kept.version == second.version
    for each in store.manifest(kept).objects:
        assert len(store.objects.read(f"data/{each.key}")) == each.size


def test_a_version_under_way_while_a_clock_is_ahead(store, files, monkeypatch):
    """What is being published while a process whose clock is years ahead tidies up is whole in the end."""
    put = store.objects.put

    def interrupted(key, data):
        if key.startswith("manifests"):
            monkeypatch.undo()
            store.remove([], now=time.time() + 10 * YEAR)
        put(key, data)

    monkeypatch.setattr(store.objects, "put", interrupted)
    manifest = published(store, files)
    for each in manifest.objects:
        assert len(store.objects.read(f"data/{each.key}")) == each.size
    assert store.covering("file").version == manifest.version


@pytest.mark.parametrize("seconds", [10 * YEAR, DAY + 60], ids=["years", "a day"])
def test_what_is_still_to_be_published(tmp_path, jump, seconds):
    """A custodian that failed once does not give up since the clock jumped forward."""
    (tmp_path / "works/work").mkdir(parents=True)
    (tmp_path / "works/work/file").write_text("left")
    (tmp_path / "blocked").write_text("in the way of a store")
    url = f"file://{tmp_path}/blocked/store"
    left = Declaration("work", "i1", "here", str(tmp_path / "works/work"), url, paths={"file": True})
    Note(str(tmp_path), "i1").begin(left)
    custodian = Custodian(str(tmp_path), "here", MemoryRegistry(), Limits(custody_seconds=0.0))
    custodian.look()
    jump(seconds)
    custodian.look()
    assert [each.instance_id for each in noted(str(tmp_path))] == ["i1"]


TIMES = {"before 1970": -(2**33), "1970": 0, "2100": 4102444800, "2300": 2**33 + 2**31, "the last": 2**62}


@pytest.mark.slow
@pytest.mark.parametrize("seconds", TIMES.values(), ids=TIMES)
def test_times_of_files(origin, get, in_memory, seconds):
    """A file of any year is copied; a time that cannot be sent becomes the nearest one that can."""
    os.mkdir(f"{origin.files}/tree")
    for name in ("small", "large"):
        with open(f"{origin.files}/tree/{name}", "wb") as file:
            file.write(bytes(10 if name == "small" else 2 << 20))
        os.utime(f"{origin.files}/tree/{name}", (0, seconds))
    os.utime(f"{origin.files}/tree", (0, seconds))
    assert "error" not in (how := get("lit://@origin/tree", to=f"{in_memory}/to", local_copy=False)), how
    wanted = min(os.stat(f"{origin.files}/tree/small").st_mtime_ns, 2**63 - 1)
    assert {os.stat(f"{in_memory}/to/{name}").st_mtime_ns for name in ("small", "large", ".")} == {wanted}
    assert "error" not in get("lit://@origin/tree/small", to=f"{in_memory}/to")


PROGRAM = """
import sys, time
shift, told, told_ns = float(sys.argv[2]), time.time, time.time_ns
time.time = lambda: told() + shift * (time.monotonic() > jumps)
time.time_ns = lambda: told_ns() + int(shift * 1e9) * (time.monotonic() > jumps)
jumps = time.monotonic() + 0.2
import lit_storage
with lit_storage.connect(root=sys.argv[1]):
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        lit_storage.Path("lit://@origin/file").get(overwrite=True, timeout=20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10 * YEAR, -10 * YEAR], ids=["forward", "back"])
def test_gets_while_the_clock_jumps(origin, root, seconds):
    """Gets go on, within their time, while the clock of their process jumps."""
    with open(f"{origin.files}/file", "wb") as file:
        file.write(os.urandom(1 << 20))
    command = [sys.executable, "-c", PROGRAM, root, str(seconds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("offset", [0, 400 * 24 * 3600], ids=["as here", "a year on"])
def test_another_clock_of_the_boot(origin, start_forks, root, tmp_path, offset):
    """A consumer in a time namespace, whose boot began at another time, gets what it asks for."""
    with open(f"{origin.files}/file", "w") as file:
        file.write("content")
    before = ["unshare", "--time", "--boottime", str(offset), "--monotonic", str(offset), "--fork"]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("no time namespace can be made here")
    forks = start_forks(before)
    try:
        to = [f"{tmp_path}/to"]
        child = forks("get", root=root, uri="lit://@origin/file", to=to, overwrite=True, times=2)
        assert child.next() == {"ready": True}
        assert all("error" not in how for how in child.rest())
        assert (tmp_path / "to").read_text() == "content"
    finally:
        forks.close()
