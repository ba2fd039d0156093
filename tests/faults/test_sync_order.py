"""What a durable get asks the kernel to write, and when; strace tells it."""

import os
import re
import shutil
import subprocess
import sys

import pytest

CALLS = "syncfs,fsync,fdatasync,sync,rename,renameat,renameat2,linkat"
GET = """
import sys
import lit_storage
from lit_storage import Path
root, uri, durable, to = sys.argv[1:]
with lit_storage.connect(root=root):
    Path(uri).get(overwrite=True, durable=durable == "True", to=to or None)
"""
SYNC, RENAME, FSYNC = "syncfs of the staging", "rename to the target", "fsync of the target's directory"
INSIDE, MADE = "rename into new parents", "fsync of a new parent"


@pytest.fixture(scope="module", autouse=True)
def strace():
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no process may be traced here: {tried.stderr.strip()}")


@pytest.fixture
def calls(origin, root, tmp_path):
    """Get under strace, and return what was done to the staging and the target, in order."""
    os.makedirs(f"{origin.files}/t/sub")
    for name in ("one", "sub/two"):
        with open(f"{origin.files}/t/{name}", "w") as file:
            file.write(name)

    def run(*, durable, to="", path="t", placed=""):
        log = tmp_path / "log"
        traced = ["strace", "-f", "-y", "-s", "256", "-e", f"trace={CALLS}", "-o", str(log)]
        arguments = [root, f"lit://@origin/{path}", str(durable), to]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run(
            [*traced, sys.executable, "-c", GET, *arguments], env=environment, check=True, timeout=100
        )
        target = to or f"{root}/connect/@origin/{path}"
        return [found for line in lines(log) if (found := what(line, *os.path.split(placed or target)))]

    return run


def lines(log):
    """The calls in the order in which they returned; one that was cut in two is put together."""
    begun = {}
    for line in log.read_text().splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif "resumed>" in call:
            yield begun.pop(thread) + call.partition("resumed>")[2]
        else:
            yield call


def what(call, directory, name):
    """Name a call that succeeded, where it is about the copy and not about the registry and the like."""
    if not re.search(r"\) += 0$", call):
        return None
    if re.match(r"syncfs\(\d+<[^>]*(/\.staging/|/\.lit-staging-)[^/>]*\.swapping>", call):
        return SYNC
    if call.startswith("renameat2(") and re.search(rf'"(tree|parents)", \d+<{directory}>, "{name}"', call):
        return RENAME
    if call.startswith("renameat") and '"tree"' in call and "/parents" in call:
        return INSIDE
    if re.match(r"fsync\(\d+<[^>]*\.swapping/parents", call):
        return MADE
    if re.match(rf"fsync\(\d+<{re.escape(directory)}>\)", call):
        return FSYNC
    return call if re.match(r"(syncfs|sync)\(", call) else None


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [False, True])
def test_durable(calls, root, tmp_path, chosen):
    """The staged tree is written before the one rename, and the directory after it; also to replace one."""
    os.makedirs(f"{root}/connect/@origin")
    to = str(tmp_path / "chosen") if chosen else ""
    for _ in ("a missing target", "one that is there"):
        assert calls(durable=True, to=to) == [SYNC, RENAME, FSYNC]


def test_durable_in_new_directories(calls, tmp_path):
    """Directories that are made on the way are written before the one rename that shows them too."""
    to, placed = str(tmp_path / "new" / "parents" / "t"), str(tmp_path / "new")
    made = [SYNC, INSIDE, MADE, MADE, RENAME, FSYNC]
    assert calls(durable=True, to=to, placed=placed) == made


@pytest.mark.slow
def test_not_durable(calls, root):
    """Without it nothing is synced, neither for a missing target nor for one that is there."""
    os.makedirs(f"{root}/connect/@origin")
    for _ in ("a missing target", "one that is there"):
        assert calls(durable=False) == [RENAME]


@pytest.mark.slow
def test_a_single_file(calls, root):
    """A file is synced as a tree is."""
    os.makedirs(f"{root}/connect/@origin/t")
    assert calls(durable=True, path="t/one") == [SYNC, RENAME, FSYNC]
