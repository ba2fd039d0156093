"""Holes cost nothing: not on the wire, and not on the disk."""

import os
import shutil
import subprocess

import pytest

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE = 10 * GIB
PIECE = 256 * KIB
PLACES = (0, 3 * GIB + 64 * KIB, 7 * GIB, SIZE - 1 * GIB)  # 1 MiB in all, and it ends in a hole
WAYS = {"descriptor": {"local_copy": True}, "tcp": {"local_copy": False}, "grpc": {"grpc_only": True}}


@pytest.fixture(scope="module")
def warm(request):
    """Processes in a network of their own, whose loopback nobody else uses."""
    for command in ("unshare", "ip"):
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed, without which nobody counts what goes over the wire")
    apart = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    tried = subprocess.run([*apart, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no network of its own can be made here: {tried.stderr.strip()}")
    forks = request.getfixturevalue("start_forks")(apart)
    yield forks
    forks.close()


@pytest.fixture
def content(origin):
    """A file of 10 GiB as t/sparse, and what is in it where."""
    pieces = {place: os.urandom(PIECE) for place in PLACES}
    os.mkdir(f"{origin.files}/t")
    with open(f"{origin.files}/t/sparse", "wb") as file:
        file.truncate(SIZE)
        for place, piece in pieces.items():
            file.seek(place)
            file.write(piece)
    if os.stat(f"{origin.files}/t/sparse").st_blocks * 512 > 2 * MIB:
        pytest.skip("this file system keeps no holes")
    return pieces


def bytes_on_the_wire(pid):
    """All that the loopback of a process's network has received."""
    with open(f"/proc/{pid}/net/dev") as file:
        (line,) = [line for line in file if line.strip().startswith("lo:")]
    return int(line.split(":")[1].split()[0])


def pieces_in(path):
    """What is in a file, by place; pieces that touch are one."""
    found = {}
    with open(path, "rb") as file:
        start = 0
        while True:
            try:
                start = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError:
                return found
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found[start] = os.pread(file.fileno(), end - start, start)
            start = end


def check_copy(path, content):
    """Its size, its bytes and its holes are those of the original, and it takes no more room."""
    assert os.stat(path).st_size == SIZE
    assert pieces_in(path) == content
    assert os.stat(path).st_blocks * 512 < 1.25 * MIB


@pytest.mark.parametrize("way", ["tcp", "grpc"])
@pytest.mark.parametrize("path", ["t", "t/sparse"])
def test_over_the_wire(origin, get, content, root, way, path):
    """10 GiB of which 1 MiB is there take 1 MiB of the wire, and of the disk."""
    before = bytes_on_the_wire(origin.pid)
    how = get(f"lit://@origin/{path}", **WAYS[way])
    wire = bytes_on_the_wire(origin.pid) - before
    assert (how.get("how"), how.get("bytes")) == ("stream", SIZE), how
    check_copy(f"{root}/connect/@origin/t/sparse", content)
    assert 1 * MIB <= wire < 1.25 * MIB


def test_by_descriptor(origin, get, content, root):
    """On one machine the kernel passes over holes; what goes before a descriptor is of another file."""
    os.renames(f"{origin.files}/t/sparse", f"{origin.files}/tree/below/sparse")
    with open(f"{origin.files}/tree/first", "wb") as file:
        file.write(os.urandom(32 * MIB))
    for _ in range(10):  # where a machine is busy, all may have gone before there is a way for descriptors
        before = bytes_on_the_wire(origin.pid)
        how = get("lit://@origin/tree", **WAYS["descriptor"])
        if how.get("how") != "stream":
            break
    assert how.get("how") in ("copy", "reflink"), how
    check_copy(f"{root}/connect/@origin/tree/below/sparse", content)
    assert bytes_on_the_wire(origin.pid) - before < 32.5 * MIB


@pytest.mark.parametrize("way", WAYS)
def test_nothing_but_a_hole(origin, get, root, way):
    """A file without any data is a hole at its origin and here."""
    with open(f"{origin.files}/hole", "wb") as file:
        file.truncate(SIZE)
    before = bytes_on_the_wire(origin.pid)
    assert get("lit://@origin/hole", **WAYS[way]).get("bytes") == SIZE
    copy = os.stat(f"{root}/connect/@origin/hole")
    assert (copy.st_size, copy.st_blocks) == (SIZE, 0)
    assert bytes_on_the_wire(origin.pid) - before < 0.1 * MIB
