import errno
import json
import os
import subprocess
import sys
import threading

import pytest

from lit_storage_client.fetch.commit import STREAM, TWICE, commit, seal
from lit_storage_client.fetch.confine import choose, confine
from lit_storage_client.fetch.staging_area import area_for
from lit_storage_core.staging.names import TREE
from lit_storage_core.system.libc import renameat2, sync_file_system
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import AccessDenied, IntegrityError, PathExists

ROOT = Entry("", Kind.DIRECTORY, mode=0o755)


def cannot_exchange(old_fd, old, new_fd, new, flags):
    """A file system that knows no flags of renameat2, as NFS and many of FUSE."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


class Swap:
    """Puts a staged directory that holds `new` in the place of a target."""

    def __init__(self, root):
        self.target = str(root / "target")

    def __call__(self, *, overwrite=True, durable=False, **options):
        with choose(self.target) as destination:
            area = area_for(destination, confined=False)
            with area.create() as staging:
                os.mkdir(TREE, dir_fd=staging.fd)
                os.mkdir(f"{TREE}/new", dir_fd=staging.fd)
                seal(staging, label=self.target, durable=durable)
                how = commit(
                    staging,
                    ROOT,
                    destination.anchor_fd,
                    destination.name,
                    label=self.target,
                    overwrite=overwrite,
                    durable=durable,
                    **options,
                )
            area.close()
        return how


@pytest.fixture
def swap(tmp_path):
    return Swap(tmp_path)


@pytest.fixture(params=["exchange", "twice"])
def rename(request):
    """How names change: as this kernel does, and where the file system cannot exchange."""
    return {} if request.param == "exchange" else {"rename": cannot_exchange}


@pytest.mark.parametrize("target", ["missing", "present"])
@pytest.mark.parametrize("durable", [True, False])
def test_durable_is_synced_around_the_swap(swap, tmp_path, monkeypatch, durable, target):
    """A durable swap syncs all bytes before and the target's directory after it; another syncs nothing."""
    steps = []

    def note(step):
        return lambda fd: steps.append((step, os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))[:5]))

    def rename(*arguments):
        renameat2(*arguments)
        steps.append("swap")

    monkeypatch.setattr(sys.modules[commit.__module__], "sync_file_system", note("syncfs"))
    monkeypatch.setattr(os, "fsync", note("fsync"))
    if target == "present":
        os.mkdir(swap.target)
    swap(durable=durable, rename=rename)
    synced = [("syncfs", ".lit-"), "swap", ("fsync", tmp_path.name[:5])]
    assert steps == (synced if durable else ["swap"])


def test_journal_of_a_durable_swap_is_synced_first(swap, monkeypatch):
    """Where names cannot be exchanged, the journal is on the disk before the old tree is moved."""
    steps, real = [], os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append("fsync"))
    monkeypatch.setattr(os, "rename", lambda *a, **k: (steps.append("rename"), real(*a, **k)))
    os.mkdir(swap.target)
    swap(durable=True, rename=cannot_exchange)
    first, last = steps.index("fsync"), len(steps) - steps[::-1].index("fsync")
    assert steps[first:last] == ["fsync", "fsync", "rename", "rename", "fsync"]


def test_syncing_a_file_system(tmp_path):
    """The file system of a descriptor can be synced, and what goes wrong is raised."""
    fd = os.open(tmp_path, os.O_RDONLY)
    sync_file_system(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        sync_file_system(fd)


@pytest.mark.parametrize("durable", [True, False])
def test_missing_target(swap, tmp_path, durable):
    """A missing target is made by one rename, and nothing else stays."""
    assert swap(durable=durable) == STREAM
    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(swap.target) == ["new"]


def test_directory_is_replaced(swap, rename, tmp_path):
    """The whole old directory is gone, and nothing else stays."""
    os.makedirs(f"{swap.target}/old/deep")
    swap(**rename)
    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(swap.target) == ["new"]


def test_file_is_replaced_by_directory(swap, rename):
    """A directory may take the place of a file."""
    with open(swap.target, "w"):
        pass
    swap(**rename)
    assert os.listdir(swap.target) == ["new"]


def test_link_is_itself_replaced(swap, rename, tmp_path):
    """A link is replaced, and what it leads to stays."""
    (tmp_path / "real" / "kept").mkdir(parents=True)
    os.symlink("real", swap.target)
    swap(**rename)
    assert not os.path.islink(swap.target)
    assert os.listdir(tmp_path / "real") == ["kept"]


def test_existing_target_without_overwrite(swap, rename):
    """A target that has come to be there meanwhile is not replaced without `overwrite`."""
    os.makedirs(f"{swap.target}/old")
    with pytest.raises(PathExists, match="overwrite=True"):
        swap(overwrite=False, **rename)
    assert os.listdir(swap.target) == ["old"]


def test_how_says_that_it_could_not_exchange(swap):
    """Where names cannot be exchanged, `how` says so."""
    os.mkdir(swap.target)
    assert swap(rename=cannot_exchange) == TWICE


def test_races_over_the_target(swap):
    """Several that replace one target at once all succeed, and the last copy is whole."""
    failures = []

    def replace():
        try:
            for _ in range(20):
                swap()
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=replace) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(swap.target) == ["new"]


def test_readers_see_one_tree_or_the_other(swap):
    """While a target is replaced again and again, no look-up of it fails."""
    swap()
    done = threading.Event()
    misses = []

    def look():
        while not done.is_set():
            if not os.path.exists(f"{swap.target}/new"):
                misses.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(100):
        swap()
    done.set()
    reader.join()
    assert misses == []


@pytest.mark.root
def test_mount_point(swap, tmp_path):
    """A mount point that came to be there meanwhile is refused, and the staging goes."""
    os.mkdir(swap.target)
    subprocess.run(["mount", "-t", "tmpfs", "none", swap.target], check=True)
    try:
        with pytest.raises(AccessDenied, match="mount point"):
            swap()
    finally:
        subprocess.run(["umount", swap.target], check=True)
    assert os.listdir(tmp_path) == ["target"]


DEAD = """
import json, os, sys
from lit_storage_core.system.process import ProcessIdentity
staging, journal = sys.argv[1:]
os.makedirs(f"{staging}/tree")
os.chmod(staging, 0o1700)
open(f"{staging}/owner", "w").write(ProcessIdentity.current().to_text())
if journal:
    os.makedirs(f"{staging}/old/kept")
    open(f"{staging}/swap", "w").write(json.dumps({"path": journal}))
"""


@pytest.fixture
def leave_behind():
    """Make a staging whose owner is dead, in the middle of two renames if a journal is given."""

    def leave(staging, journal=""):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", DEAD, str(staging), journal], env=environment, check=True)

    return leave


def discard_dead(target, root=None, seconds=3600):
    destination = choose(target) if root is None else confine(root, "trainer", target)
    with destination:
        area = area_for(destination, confined=root is not None)
        area.discard_dead(seconds)
        area.close()


def test_staging_of_the_dead_is_removed(leave_behind, tmp_path):
    """The next get beside it removes what a killed one left."""
    leave_behind(tmp_path / ".lit-staging-1")
    discard_dead(str(tmp_path / "target"))
    assert os.listdir(tmp_path) == []


def test_staging_of_the_living_stays(tmp_path):
    """What a running process stages is left alone."""
    staging = tmp_path / ".lit-staging-1"
    staging.mkdir(0o1700)
    (staging / "owner").write_text(ProcessIdentity.current().to_text())
    discard_dead(str(tmp_path / "target"), seconds=0)
    assert staging.exists()


@pytest.mark.parametrize("owner", ["", "{", json.dumps({"pid": 1})])
def test_staging_of_who_knows_whom(tmp_path, owner):
    """A staging whose owner cannot be looked up is removed when it is old, and not before."""
    staging = tmp_path / ".lit-staging-1"
    staging.mkdir(0o1700)
    (staging / "owner").write_text(owner)
    discard_dead(str(tmp_path / "target"), seconds=3600)
    assert staging.exists()
    discard_dead(str(tmp_path / "target"), seconds=-1)
    assert not staging.exists()


@pytest.mark.root
def test_staging_of_another_user_stays(leave_behind, tmp_path):
    """In a directory that several users can write, nobody removes what another one left, however old."""
    staging = tmp_path / ".lit-staging-1"
    leave_behind(staging, "target")
    os.chown(staging, 65534, 65534)
    discard_dead(str(tmp_path / "target"), seconds=-1)
    assert sorted(os.listdir(staging)) == ["old", "owner", "swap", "tree"]
    assert not os.path.exists(tmp_path / "target")


def test_old_tree_is_put_back(leave_behind, tmp_path):
    """A get that was killed between two renames is undone by the next one."""
    leave_behind(tmp_path / ".lit-staging-1", "target")
    discard_dead(str(tmp_path / "other"))
    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(tmp_path / "target") == ["kept"]


def test_old_tree_is_put_back_in_the_storage_root(leave_behind, tmp_path):
    """The same holds for a target below R/@origin."""
    (tmp_path / "@trainer").mkdir()
    leave_behind(tmp_path / ".staging" / "1", "@trainer/target")
    discard_dead(f"{tmp_path}/@trainer/other", root=str(tmp_path))
    assert os.listdir(tmp_path / "@trainer") == ["target"]
    assert os.listdir(tmp_path / ".staging") == []


def test_old_tree_gives_way_to_the_new_one(leave_behind, tmp_path):
    """Where the new tree is in its place, the old one is removed."""
    (tmp_path / "target" / "new").mkdir(parents=True)
    leave_behind(tmp_path / ".lit-staging-1", "target")
    discard_dead(str(tmp_path / "target"))
    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(tmp_path / "target") == ["new"]


def test_failed_second_rename_is_undone_at_once(swap, tmp_path):
    """Where the new tree cannot take the place, the old one is back before the error is raised."""
    os.makedirs(f"{swap.target}/old")

    def lose_the_tree(old_fd, old, new_fd, new, flags):
        os.rename("tree", "lost", src_dir_fd=old_fd, dst_dir_fd=old_fd)
        cannot_exchange(old_fd, old, new_fd, new, flags)

    with pytest.raises(IntegrityError, match="removed at the same time"):
        swap(rename=lose_the_tree)
    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(swap.target) == ["old"]


def test_deep_old_tree_is_removed(swap, tmp_path):
    """An old tree deeper than any path may be long is removed."""
    os.makedirs(swap.target)
    fd = os.open(swap.target, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d" * 20, dir_fd=fd)
        deeper = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    swap()
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.root
def test_read_only_trees_are_replaced(as_nobody, public_directory):
    """Without the rights of root, a tree whose directories nobody may write is replaced and removed."""
    said = as_nobody(
        """
        from lit_storage_client.fetch.confine import choose
        from lit_storage_client.fetch.commit import commit
        from lit_storage_client.fetch.staging_area import area_for
        from lit_storage_proto.entry import Entry, Kind
        """,
        """
        os.makedirs(f"{sys.argv[1]}/target/old/d")
        for path in ("target/old/d", "target/old", "target"):
            os.chmod(f"{sys.argv[1]}/{path}", 0o500)
        with choose(sys.argv[1] + "/target") as destination:
            area = area_for(destination, confined=False)
            with area.create() as staging:
                os.mkdir("tree", dir_fd=staging.fd)
                root = Entry("", Kind.DIRECTORY, mode=0o555)
                options = {"label": "x", "overwrite": True, "durable": True}
                commit(staging, root, destination.anchor_fd, "target", **options)
        os.chdir(sys.argv[1])
        print(os.listdir(), os.listdir("target"), oct(os.stat("target").st_mode))
        """,
        public_directory,
    )
    assert said == "['target'] [] 0o40555"
