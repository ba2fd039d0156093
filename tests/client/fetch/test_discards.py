"""Old trees stay readable for a while after a get replaced them, and are gone after that."""

import os
import subprocess
import sys
import threading

import pytest

from lit_storage_client.fetch import Discards, fetch
from lit_storage_client.fetch.confine import choose
from lit_storage_client.fetch.discards import target_in
from lit_storage_client.fetch.staging_area import area_for
from lit_storage_proto.uri import Location
from tests.waiting import within

wait_until = within(20)

LONG = 600.0


class Get:
    """Gets `t` of a Work again and again, each time with other content."""

    def __init__(self, remote, origin, root, discards):
        self.remote = remote
        self.origin = origin
        self.root = root
        self.discards = discards
        self.target = f"{root}/@trainer/t"

    def __call__(self, content, **options):
        os.makedirs(f"{self.origin}/t/sub", exist_ok=True)
        for name in ("t/a", "t/sub/b"):
            with open(f"{self.origin}/{name}", "w") as file:
                file.write(content)
        return self.now("t", **options)

    def now(self, name, **options):
        options = {"root": self.root, "target": f"{self.root}/@trainer/{name}", **options}
        return fetch(
            self.remote,
            Location("trainer", name),
            overwrite=True,
            durable=False,
            discards=self.discards,
            **options,
        )

    def kept(self):
        """The stagings that are there."""
        return [f"{self.root}/.staging/{name}" for name in os.listdir(f"{self.root}/.staging")]


@pytest.fixture
def discards():
    opened = Discards(LONG)
    yield opened
    opened.close()


@pytest.fixture
def get(trainer, remote_of, tmp_path, discards):
    return Get(remote_of(trainer.record), trainer.root, str(tmp_path / "R"), discards)


@pytest.fixture
def old_tree(tmp_path):
    """Make a replaced tree that was given away, as a get leaves it."""

    def make():
        with choose(str(tmp_path / "x")) as destination:
            area = area_for(destination, confined=False)
            with area.create() as staging:
                os.mkdir("tree", dir_fd=staging.fd)
                given = staging.give_away()
            area.close()
        return given

    return make


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "lit-storage-discards"]


def join():
    for thread in threads():
        thread.join(30)


def read(directory, name):
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    with os.fdopen(fd) as file:
        return file.read()


def test_reader_goes_on_in_the_old_tree(get):
    """Who holds the directory reads every file of the old tree after it was replaced."""
    get("old")
    held = os.open(get.target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        get("new")
        assert [read(held, name) for name in ("a", "sub/b")] == ["old", "old"]
    finally:
        os.close(held)
    with open(f"{get.target}/sub/b") as file:
        assert file.read() == "new"


def test_next_get_makes_room_first(get):
    """Before the next get of a target stages a byte, what was kept of the target is gone."""
    get("1")
    get("2")
    before, during = get.kept(), []
    get("3", progress=lambda done, total: during.append(get.kept()))
    assert (len(before), {len(seen) for seen in during}) == (1, {1})
    assert not set(before) & set(during[-1])
    assert len(get.kept()) == 1


def test_spelling_of_the_target_does_not_matter(get, tmp_path):
    """One target is known again through a link, so that still only one old tree is kept."""
    get("1")
    (tmp_path / "link").symlink_to(f"{get.root}/@trainer")
    other = {"root": None, "target": str(tmp_path / "link" / "t")}
    get("2", **other)
    get("3")
    left = [name for name in os.listdir(f"{get.root}/@trainer") if name != "t"]
    assert (left, len(get.kept())) == ([], 1)


def test_replaced_file_is_not_kept(get):
    """A file that was replaced takes no room: who reads it holds it itself."""
    get("1")
    get.now("t/a")
    get.now("t/a")
    assert get.kept() == []


def test_close_removes_all(get, discards):
    """close() removes what is kept and ends the thread; what is replaced after it is not kept."""
    get("1")
    get("2")
    discards.close()
    assert (get.kept(), threads()) == ([], [])
    get("3")
    assert (get.kept(), threads()) == ([], [])
    discards.close()


def test_old_tree_goes_in_time(get):
    """After `reader_seconds` the old tree is gone, and so is the thread that removed it."""
    get.discards = Discards(0.05)
    get("1")
    get("2")
    join()
    assert (get.kept(), threads()) == ([], [])


def test_nothing_leaks(get):
    """Gets that replace, and the end of the session, leave no descriptor and no thread behind."""
    get("0")
    before = len(os.listdir("/proc/self/fd"))
    get.discards = Discards(LONG)
    for content in ("1", "2", "3"):
        get(content)
    get.discards.close()
    # Others may close theirs meanwhile; and a way that came too late is still being closed.
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert threads() == []


def test_few_are_kept_at_a_time(old_tree, discards, tmp_path):
    """However many targets are replaced, the descriptors held for readers stay few: the oldest tree goes."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(80):
        discards.keep((0, 0, str(number)), old_tree())
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * 64
    assert len(os.listdir(tmp_path)) == 64


class Slow:
    """A tree that takes long to remove."""

    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()

    def remove(self):
        self.begun.set()
        self.go_on.wait(60)


def test_long_removal_holds_nobody_up(old_tree, tmp_path):
    """While the thread removes a huge tree, others can be kept and discarded."""
    discards, slow, done = Discards(0.0), Slow(), threading.Event()
    discards.keep((0, 0, "slow"), slow)
    assert slow.begun.wait(30)

    def go_on():
        discards.keep((0, 0, "other"), old_tree())
        discards.discard((0, 0, "other"))
        done.set()

    threading.Thread(target=go_on, daemon=True).start()
    assert done.wait(30)
    assert os.listdir(tmp_path) == []
    slow.go_on.set()
    join()
    assert threads() == []


@pytest.mark.root
def test_tree_that_cannot_be_removed(get):
    """A tree in which something was mounted meanwhile stays, raises nothing, and the thread goes on."""
    get("1")
    get("2")
    (staging,) = get.kept()
    subprocess.run(["mount", "-t", "tmpfs", "none", f"{staging}/tree/sub"], check=True)
    try:
        get("3")
        assert len(get.kept()) == 2
    finally:
        subprocess.run(["umount", f"{staging}/tree/sub"], check=True)


def test_two_at_once(old_tree, tmp_path):
    """Of gets that end at once, and a session that closes meanwhile, each tree is removed exactly once."""
    for _ in range(20):
        discards, start = Discards(0.001), threading.Barrier(5)

        def keep(discards, start, trees):
            start.wait(10)
            for tree in trees:
                discards.keep((0, 0, "t"), tree)

        trees = [[old_tree() for _ in range(3)] for _ in range(4)]
        keepers = [threading.Thread(target=keep, args=(discards, start, mine)) for mine in trees]
        for keeper in keepers:
            keeper.start()
        start.wait(10)
        discards.close()
        for keeper in keepers:
            keeper.join(10)
        join()
        assert os.listdir(tmp_path) == []


def run(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


REPLACE = """
import errno, os, shutil, sys
from lit_storage_client.fetch.confine import choose
from lit_storage_client.fetch import Discards
from lit_storage_client.fetch.commit import commit
from lit_storage_client.fetch.discards import target_in
from lit_storage_client.fetch.staging_area import area_for
from lit_storage_proto.entry import Entry, Kind
directory = sys.argv[1]
os.makedirs(f"{directory}/target/old")
discards = Discards(600.0)
def cannot_exchange(*_): raise OSError(errno.EINVAL, "")
with choose(f"{directory}/target") as destination:
    area = area_for(destination, confined=False)
    target = target_in(destination.anchor_fd, destination.name)
    with area.create() as staging:
        os.mkdir("tree", dir_fd=staging.fd)
        root = Entry("", Kind.DIRECTORY, mode=0o755)
        options = dict(label="t", overwrite=True, durable=False, rename=cannot_exchange)
        commit(staging, root, destination.anchor_fd, "target", **options)
        discards.keep(target, staging.give_away())
"""


@pytest.mark.slow
def test_deleted_tree_does_not_come_back(tmp_path):
    """Without an exchange of names too, a target deleted after its get stays so if the process is killed."""
    run(REPLACE + 'shutil.rmtree(f"{directory}/target"); os._exit(0)', str(tmp_path))
    assert len(os.listdir(tmp_path)) == 1
    with choose(str(tmp_path / "target")) as destination:
        area = area_for(destination, confined=False)
        area.discard_dead(3600)
        area.close()
    assert os.listdir(tmp_path) == []


def test_forked_child_leaves_what_its_parent_keeps(tmp_path):
    """A forked child removes nothing that its parent keeps for readers."""
    code = """
child = os.fork()
if not child:
    discards.discard(target)
    discards.close()
    os._exit(0)
os.waitpid(child, 0)
print(len(os.listdir(directory)))
discards.close()
print(os.listdir(directory))
"""
    assert run(REPLACE + code, str(tmp_path)).splitlines() == ["2", "['target']"]


def test_a_target_is_its_directory_and_its_name(tmp_path):
    """Names in one directory are several targets, and so is one name in two directories."""
    (tmp_path / "d").mkdir()
    first, second = (os.open(path, os.O_PATH) for path in (tmp_path, tmp_path / "d"))
    targets = {target_in(first, "t"), target_in(first, "u"), target_in(second, "t")}
    os.close(first)
    os.close(second)
    assert len(targets) == 3


@pytest.mark.root
def test_a_full_disk_gets_back_what_is_kept_for_readers(get):
    """Before a get fails for want of room, the old trees of other targets make room."""
    os.makedirs(get.root)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "none", get.root], check=True)
    try:
        get("1" * 2_000_000)  # two files: 4 MB
        get("2" * 2_000_000)  # 8 MB with the old tree
        get.now("t", target=f"{get.root}/@trainer/other")  # 12 MB are more than there is
        assert get.kept() == []
    finally:
        get.discards.close()
        subprocess.run(["umount", get.root], check=True)
