"""Processes that stand still (SIGSTOP), or are killed while they publish: all waits end, nothing is torn."""

import os
import time

import pytest

from tests.faults.conftest import stopped

MIB = 1 << 20
URI = "lit://@origin/tree"
SHORT = {"progress_seconds": 4.0, "resume_seconds": 4.0, "unary_seconds": 4.0, "connect_seconds": 4.0}


@pytest.fixture
def tree(origin):
    os.makedirs(f"{origin.files}/tree")
    for number in range(30):
        with open(f"{origin.files}/tree/{number}", "wb") as file:
            file.write(os.urandom(MIB))
    return f"{origin.files}/tree"


def test_a_work_that_stands_still(origin, tree, get, snapshot, tmp_path):
    """A Work that stands still goes on being served, for that is done by a process of its own."""
    with stopped(origin.pid):
        assert "error" not in get(URI, to=f"{tmp_path}/to")
    assert snapshot(f"{tmp_path}/to") == snapshot(tree)


@pytest.mark.slow
@pytest.mark.parametrize("local_copy", [True, False], ids=["on this machine", "over the wire"])
def test_a_server_that_stands_still(origin, tree, get, snapshot, tmp_path, until, local_copy):
    """A server that stands still is an error within the limits, and the next get goes well."""
    (server,) = until(origin.children)
    with stopped(server):
        how = get(URI, to=f"{tmp_path}/to", limits=SHORT, local_copy=local_copy)
        assert how["error"][0] in ("OriginUnavailable", "TransferTimeout"), how
        assert how["seconds"] < 30
        assert not os.path.exists(tmp_path / "to")
    until(lambda: "error" not in get(URI, to=f"{tmp_path}/to", local_copy=local_copy))
    assert snapshot(f"{tmp_path}/to") == snapshot(tree)


@pytest.mark.slow
@pytest.mark.parametrize("local_copy", [True, False], ids=["on this machine", "over the wire"])
def test_a_server_that_stands_still_in_mid_transfer(
    origin, tree, fork, root, tmp_path, until, left, local_copy
):
    """A server that stands still while it sends is an error within the limits."""
    options = {"to": f"{tmp_path}/to", "limits": SHORT, "local_copy": local_copy, "pause_at_bytes": 2 * MIB}
    child = fork("get", root=root, uri=URI, overwrite=True, **options)
    assert child.next() == {"ready": True}
    assert child.next()["paused"]
    (server,) = until(origin.children)
    with stopped(server):
        child.tell()
        how = child.next()
    assert "error" not in how or how["error"][0] in ("OriginUnavailable", "TransferTimeout"), how
    assert how["seconds"] < 30


@pytest.mark.slow
def test_a_consumer_that_stands_still(origin, tree, fork, root, snapshot, tmp_path, left):
    """A consumer that stood still for longer than the origin waits gets the whole tree when it goes on."""
    options = {"to": f"{tmp_path}/to", "local_copy": False, "pause_at_bytes": 2 * MIB}
    child = fork("get", root=root, uri=URI, overwrite=True, **options)
    assert child.next() == {"ready": True}
    assert child.next()["paused"]
    with stopped(child.pid):
        child.tell()
        time.sleep(1)  # the origin sends meanwhile, as far as anybody takes it
        assert not os.path.exists(tmp_path / "to")
    assert "error" not in (how := child.next()), how
    assert snapshot(f"{tmp_path}/to") == snapshot(tree)


def published(root, get, to):
    """Return the version that others read, after seeing that all of it is of that one."""
    how = get("lit://@publisher/tree", to=to)
    assert "error" not in how, how
    found = set()
    for part in range(8):
        with open(f"{to}/{part % 2}/{part}") as file:
            found |= set(file.read().split())
    (version,) = found
    return int(version)


def kill_publisher(fork, get, root, tmp_path, seconds, first):
    """Kill a Work that publishes after so long; return what it told and what others read then."""
    store = f"file://{tmp_path}/store"
    child = fork("publish", root=root, store=store, first=first)
    assert child.next() == {"published": first}
    child.kill_after(seconds)
    told = [first, *(said["published"] for said in child.rest())]
    version = published(root, get, f"{tmp_path}/to")
    assert version in (told[-1], told[-1] + 1)
    again = fork("publish", root=root, store=store, first=version + 1, times=1)
    assert again.rest()[-1] == {"left": True}
    assert published(root, get, f"{tmp_path}/to") == version + 1
    return version + 2


@pytest.mark.slow
def test_a_publisher_at_any_time(fork, get, root, tmp_path, seed):
    """A Work that is killed while it publishes leaves the version before or the new one, whole."""
    os.makedirs(tmp_path / "store")
    first = 0
    for _ in range(4):
        first = kill_publisher(fork, get, root, tmp_path, seed.uniform(0, 0.4), first)


@pytest.mark.soak
def test_a_publisher_again_and_again(fork, get, root, tmp_path, seed, soak_seconds, tally):
    """The same for as long as there is time."""
    os.makedirs(tmp_path / "store")
    first, until = 0, time.monotonic() + soak_seconds
    while time.monotonic() < until:
        first = kill_publisher(fork, get, root, tmp_path, seed.uniform(0, 0.5), first)
        tally["kills"] += 1
