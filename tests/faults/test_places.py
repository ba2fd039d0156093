"""Targets where there is no room, no permission or another file system, and places that change meanwhile."""

import errno
import os
import subprocess

import pytest

MIB = 1 << 20


@pytest.fixture
def tree(origin):
    """What the origin has as t, of 24 MiB: one large file, and small ones."""
    os.makedirs(f"{origin.files}/t/sub")
    write(f"{origin.files}/t/large", os.urandom(23 * MIB))
    for number in range(64):
        write(f"{origin.files}/t/sub/{number}", os.urandom(16 * 1024))
    write(f"{origin.files}/small", b"small")
    os.makedirs(f"{origin.files}/d/inner")
    write(f"{origin.files}/d/inner/large", os.urandom(23 * MIB))
    return f"{origin.files}/t"


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def old_tree(path):
    os.makedirs(f"{path}/old")
    write(f"{path}/old/file", b"old")


@pytest.mark.slow
@pytest.mark.parametrize("local_copy", [True, False])
def test_another_file_system(tree, get, snapshot, in_memory, left, local_copy):
    """A target on another file system than the storage root is staged beside itself, and replaced as one."""
    to = f"{in_memory}/to"
    for _ in ("a missing target", "one that is there"):
        assert "error" not in get("lit://@origin/t", to=to, local_copy=local_copy)
        assert snapshot(to) == snapshot(tree)
    assert os.listdir(in_memory) == ["to"]
    assert left(in_memory) == []


@pytest.mark.slow
def test_a_way_over_another_file_system(tree, get, snapshot, in_memory, tmp_path):
    """A link on the way to a target of one's own choice is followed, and the copy is staged behind it."""
    os.symlink(in_memory, tmp_path / "link")
    assert "error" not in get("lit://@origin/t", to=f"{tmp_path}/link/new/to")
    assert snapshot(f"{in_memory}/new/to") == snapshot(tree)
    assert os.listdir(in_memory) == ["new"]
    assert os.listdir(f"{in_memory}/new") == ["to"]


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_file_system(tree, get, mounted, there):
    """What cannot be written is refused with a type and a name, and stays as it was."""
    place = mounted("place")
    if there:
        old_tree(f"{place}/to")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    how = get("lit://@origin/t", to=f"{place}/to")
    assert how["error"][0] == "AccessDenied"
    assert f"{place}/to" in how["text"]
    assert os.listdir(place) == (["to"] if there else [])


@pytest.mark.root
def test_an_immutable_directory(tree, get, tmp_path, snapshot):
    """A directory that not even root can change is refused as well; afterwards the same get works."""
    place = str(tmp_path / "place")
    old_tree(f"{place}/to")
    made = subprocess.run(["chattr", "+i", place], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no directory can be made immutable here: {made.stderr.strip()}")
    try:
        how = get("lit://@origin/t", to=f"{place}/to")
    finally:
        subprocess.run(["chattr", "-i", place], check=True)
    assert how["error"][0] == "AccessDenied"
    assert os.listdir(place) == ["to"]
    assert os.listdir(f"{place}/to") == ["old"]
    assert "error" not in get("lit://@origin/t", to=f"{place}/to")
    assert snapshot(f"{place}/to") == snapshot(tree)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("local_copy", [True, False])
@pytest.mark.parametrize(
    ("options", "full"), [("size=16m", "large"), ("size=64m,nr_inodes=30", "sub/")], ids=["blocks", "inodes"]
)
def test_a_full_disk(tree, get, mounted, left, options, full, local_copy):
    """ENOSPC names the file that had no room; nothing stays of the copy, and what was there does."""
    place = mounted("place", options)
    old_tree(f"{place}/to")
    how = get("lit://@origin/t", to=f"{place}/to", local_copy=local_copy)
    assert how.get("errno") == errno.ENOSPC, how
    assert how["filename"].startswith(f"{place}/to/{full}")
    assert os.listdir(place) == ["to"]
    assert os.listdir(f"{place}/to") == ["old"]
    assert left(place) == []
    assert "error" not in get("lit://@origin/small", to=f"{place}/small")


@pytest.mark.slow
@pytest.mark.root
def test_a_full_disk_below_the_storage_root(tree, get, mounted, root, left):
    """The same where the storage root itself is what is full."""
    place = mounted("root/connect", "size=16m")
    old_tree(f"{place}/@origin/t")
    how = get("lit://@origin/t")
    assert how.get("errno") == errno.ENOSPC, how
    assert how["filename"] == f"{place}/@origin/t/large"
    assert os.listdir(f"{place}/@origin/t") == ["old"]
    assert left() == []
    assert "error" not in get("lit://@origin/small")


@pytest.mark.slow
@pytest.mark.root
def test_a_disk_full_of_what_readers_may_hold(tree, fork, root, mounted, snapshot, left):
    """Replaced trees that are only kept for their readers make room for a copy that has none."""
    place = mounted("place", "size=60m")
    targets = [f"{place}/to", f"{place}/to", f"{place}/other"]
    child = fork("get", root=root, uri="lit://@origin/t", to=targets, overwrite=True, durable=False)
    assert child.next() == {"ready": True}
    told = child.rest()
    assert [how.get("bytes") for how in told] == [24 * MIB, 24 * MIB, 24 * MIB, None], told
    assert snapshot(f"{place}/to") == snapshot(f"{place}/other") == snapshot(tree)
    assert left(place) == []


@pytest.mark.slow
@pytest.mark.parametrize("link_to", ["outside", "inside"])
@pytest.mark.parametrize("way", ["there", "missing"])
def test_a_link_on_the_way_to_the_target(tree, fork, root, tmp_path, left, link_to, way):
    """Where a directory on the way becomes a link that leads out, nothing is written there."""
    base = f"{root}/connect/@origin"
    places = {"outside": tmp_path / "outside", "inside": f"{base}/inside"}
    for place in places.values():
        os.makedirs(place)
    if way == "there":
        old_tree(f"{base}/d/inner")
    child = fork(
        "get",
        root=root,
        uri="lit://@origin/d/inner",
        overwrite=True,
        durable=False,
        pause_at_bytes=1,
        local_copy=False,
    )
    assert child.next() == {"ready": True}
    assert child.next()["paused"] > 0
    if way == "there":
        os.rename(f"{base}/d", f"{base}/moved")
    os.symlink(places[link_to], f"{base}/d")
    child.tell()
    how = child.next()
    child.wait()
    assert os.listdir(tmp_path / "outside") == []
    if link_to == "outside":
        assert how["error"][0] == "AccessDenied"
    else:
        assert "error" not in how
        assert os.listdir(f"{base}/inside/inner") == ["large"]
    if way == "there":
        assert os.listdir(f"{base}/moved/inner") == ["old"]
    assert left() == []


@pytest.mark.slow
def test_a_link_in_place_of_the_origins_directory(tree, fork, root, tmp_path, left):
    """R/@origin itself is never a link, also where it becomes one meanwhile."""
    base = f"{root}/connect/@origin"
    old_tree(f"{base}/d/inner")
    os.makedirs(tmp_path / "outside/d")
    child = fork(
        "get", root=root, uri="lit://@origin/d/inner", overwrite=True, durable=False, pause_at_bytes=1
    )
    assert child.next() == {"ready": True}
    assert "paused" in child.next()
    os.rename(base, f"{root}/connect/moved")
    os.symlink(tmp_path / "outside", base)
    child.tell()
    assert child.next()["error"][0] == "AccessDenied"
    child.wait()
    assert os.listdir(tmp_path / "outside/d") == []
    assert os.listdir(f"{root}/connect/moved/d/inner") == ["old"]
    assert left() == []
