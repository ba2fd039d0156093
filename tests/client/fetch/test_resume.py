"""An interrupted get goes on from what it verified, and from nothing else."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import xxhash

from lit_storage_client.fetch import fetch
from lit_storage_client.peers.direct import Ways
from lit_storage_core.staging.journal import JOURNAL
from lit_storage_proto.errors import IntegrityError, OriginUnavailable
from lit_storage_proto.limits import MIB
from lit_storage_proto.uri import Location

SIZE = 48 * MIB  # the kernel's buffers of one connection hold up to 36 MiB
HALF = SIZE // 2


class Get:
    """Gets the path t of one Work, and notes how many bytes came anew."""

    def __init__(self, remote, root):
        self.remote = remote
        self.root = str(root)
        self.target = f"{self.root}/@trainer/t"
        self.jump = 0

    def __call__(self, progress=None, **options):
        self.jump = last = 0

        def note(done, total):
            nonlocal last
            self.jump, last = max(self.jump, done - last), done
            if progress is not None:
                progress(done)

        options = {"durable": False, "root": self.root, "target": self.target, **options}
        return fetch(self.remote, Location("trainer", "t"), progress=note, overwrite=True, **options)

    @property
    def staging(self):
        (name,) = os.listdir(f"{self.root}/.staging")
        return f"{self.root}/.staging/{name}"

    def left(self):
        return os.listdir(f"{self.root}/.staging")


@pytest.fixture
def content(tmp_path):
    """A tree with one large file."""
    content = os.urandom(SIZE)
    os.makedirs(tmp_path / "origin/t/sub")
    (tmp_path / "origin/t/sub/large").write_bytes(content)
    (tmp_path / "origin/t/small").write_bytes(b"small")
    return content


@pytest.fixture
def work(start_work, content):
    return start_work()


@pytest.fixture
def get(work, remote_of, tmp_path):
    return Get(remote_of(work.record, ways=Ways.TCP), tmp_path / "R")


CONSUMER = """
import os, signal, sys
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.direct import Ways
from lit_storage_client.fetch import fetch
from lit_storage_core.registries import open_registry
from lit_storage_client.peers.remote import Remote
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits
from lit_storage_proto.uri import Location
endpoint, root, half = sys.argv[1:]
limits = Limits()
channels = Channels(Security(token="secret"), limits)
registry = open_registry(f"static:trainer={endpoint}", machine_id="m", limits=limits)
remote = Remote(registry, channels, limits, Ways.TCP)
def progress(done, total):
    if done >= int(half):
        os.kill(os.getpid(), signal.SIGKILL)
options = {"overwrite": True, "durable": False, "progress": progress}
fetch(remote, Location("trainer", "t"), root=root, target=root + "/@trainer/t", **options)
"""


@pytest.fixture
def killed(work, get):
    """A get whose process was killed in the middle of the large file."""
    os.makedirs(f"{get.target}/old")
    arguments = [work.endpoint, get.root, str(HALF)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", CONSUMER, *arguments], env=environment, timeout=100)
    assert ended.returncode == -signal.SIGKILL
    assert os.listdir(get.target) == ["old"]
    return get


def check(get, content):
    with open(f"{get.target}/sub/large", "rb") as file:
        assert file.read() == content
    assert sorted(os.listdir(get.target)) == ["small", "sub"]
    assert get.left() == []


@pytest.mark.slow
def test_after_a_kill(killed, content):
    """The next get of the same copy goes on where a killed one was, and leaves nothing."""
    transfer = killed()
    assert killed.jump > HALF - 16 * MIB
    assert transfer.bytes == SIZE + 5
    check(killed, content)


def large_of(staging):
    return f"{staging}/tree/sub/large"


@pytest.mark.slow
def test_bytes_that_are_others(killed, content):
    """A partial file of the right size with other bytes is not trusted: what is wrong comes anew."""
    with open(large_of(killed.staging), "r+b") as file:
        file.truncate(SIZE)
        file.seek(5 * MIB)
        file.write(b"damaged")
    killed()
    assert killed.jump > 2 * MIB
    check(killed, content)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_journal_cut_short(killed, content, keep):
    """A journal counts up to where it is whole."""
    path = f"{killed.staging}/{JOURNAL}"
    os.truncate(path, int(os.path.getsize(path) * keep))
    killed()
    check(killed, content)


@pytest.mark.slow
def test_a_journal_of_another_format(killed, content):
    """What another version wrote is not gone on from, and does not stay for ever."""
    path = f"{killed.staging}/{JOURNAL}"
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    header = json.loads(lines[0].rpartition(b" ")[0]) | {"format": 2}
    text = json.dumps(header).encode()
    lines[0] = text + b" " + xxhash.xxh3_64_hexdigest(text).encode()
    with open(path, "wb") as file:
        file.write(b"\n".join(lines))
    killed()
    check(killed, content)


@pytest.mark.slow
def test_damage_in_a_journal(killed, content):
    """A line whose checksum is wrong ends what counts."""
    path = f"{killed.staging}/{JOURNAL}"
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        file.write(b"#")
    killed()
    check(killed, content)


@pytest.mark.slow
def test_the_file_changed_since(killed, content, work):
    """Two versions of a file are never spliced."""
    changed = bytes(SIZE)
    with open(f"{work.root}/t/sub/large", "r+b") as file:
        file.write(changed)
    killed()
    check(killed, changed)


@pytest.mark.slow
def test_a_file_in_the_place_of_the_large_one(killed, content, tmp_path):
    """A link that stands where bytes should be is not followed, and what it means stays as it was."""
    os.rename(large_of(killed.staging), tmp_path / "outside")
    os.symlink(tmp_path / "outside", large_of(killed.staging))
    before = (tmp_path / "outside").stat().st_mtime_ns
    killed()
    check(killed, content)
    assert (tmp_path / "outside").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_second_name(killed, content, tmp_path):
    """A partial file that has another name is not gone on from."""
    os.link(large_of(killed.staging), tmp_path / "outside")
    killed()
    assert killed.jump < 2 * MIB
    check(killed, content)


@pytest.mark.slow
def test_one_of_two_goes_on(killed, content):
    """Of two gets that come at once each ends with the whole tree."""
    errors = []

    def run():
        try:
            fetch(
                killed.remote,
                Location("trainer", "t"),
                root=killed.root,
                target=killed.target,
                overwrite=True,
                durable=False,
            )
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert errors == []
    check(killed, content)


@pytest.mark.slow
def test_another_target_leaves_it(killed, content, tmp_path):
    """A get of something else keeps what can be gone on from; one that is old is removed."""
    fetch(
        killed.remote,
        Location("trainer", "t/small"),
        root=killed.root,
        target=f"{killed.root}/@trainer/other",
        durable=False,
    )
    assert len(killed.left()) == 1
    old = os.stat(killed.staging).st_mtime - 25 * 3600
    os.utime(f"{killed.staging}/{JOURNAL}", (old, old))
    fetch(
        killed.remote,
        Location("trainer", "t/small"),
        root=killed.root,
        target=f"{killed.root}/@trainer/another",
        durable=False,
    )
    assert killed.left() == []


@pytest.mark.slow
def test_an_owner_that_lives(get, content):
    """What a running get fills is not taken from it."""
    inner = []

    def once(done):
        if done > HALF and not inner:
            inner.append(None)
            inner[0] = fetch(
                get.remote,
                Location("trainer", "t"),
                root=get.root,
                target=get.target,
                overwrite=True,
                durable=False,
            )

    get(once)
    assert inner[0].bytes == SIZE + 5
    check(get, content)


def test_taken_over_by_mistake(get, content):
    """A get whose staging another one took, as of a dead process, ends with an error and destroys nothing."""

    def take(done):
        # A total that is known, as in a slow get, is not told before all is in its place.
        if done >= SIZE + 4 and get.staging.endswith(".filling"):
            os.rename(get.staging, f"{get.root}/.staging/taken.filling")

    os.makedirs(f"{get.target}/old")
    with pytest.raises(IntegrityError, match="taken over"):
        get(take)
    assert os.listdir(get.target) == ["old"]
    assert os.path.getsize(large_of(get.staging)) == SIZE


@pytest.fixture(params=[1, 5], ids=["one connection", "stripes"])
def stripes(request, monkeypatch):
    """Take so many connections for a direct way, as for a long line."""
    monkeypatch.setattr("lit_storage_client.peers.direct.worthwhile_stripes", lambda *_: request.param)


@pytest.mark.slow
def test_no_thread_is_left(get, content, stripes):
    """After a get nothing of its ways goes on, whatever they were made of."""
    get()
    check(get, content)
    deadline = time.monotonic() + 20
    while any(thread.name.startswith("lit-storage-str") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_contact_lost_and_found(work, remote_of, start_work, content, tmp_path, stripes):
    """A get goes on by itself when its origin comes back in time."""
    get = Get(remote_of(work.record, ways=Ways.TCP, resume_seconds=60), tmp_path / "R")
    seen = []

    def kill(done):
        seen.append(done)
        if done > HALF and len(started) == 0:
            started.append(threading.Timer(0.5, lambda: start_work(bind=work.endpoint)))
            work.kill()
            started[0].start()

    started = []
    get(kill)
    check(get, content)
    assert seen == sorted(seen)
    started[0].join()


@pytest.mark.slow
def test_contact_lost_for_good(work, remote_of, content, tmp_path):
    """It is given up after a while, with the error that ended it, and a later get goes on from there."""
    get = Get(remote_of(work.record, ways=Ways.TCP, fetch_workers=1), tmp_path / "R")
    with pytest.raises(OriginUnavailable):
        get(lambda done: done > MIB and work.kill())
    assert get.staging.endswith(".filling")


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_name_that_is_free_for_a_moment(work, remote_of, start_work, content, tmp_path, comes_back):
    """Where names have leases, an origin may have to register anew; a get waits for it, and not for ever."""
    answers = (work.record, *[None] * 3, work.record if comes_back else None)
    remote = remote_of(*answers, resume_seconds=60, fetch_workers=1)
    remote._registry.spans_machines = True
    get = Get(remote, tmp_path / "R")
    killed_at = []

    def kill(done):
        if done > MIB and not killed_at:
            work.kill()
            killed_at.append(time.monotonic())
            if comes_back:
                start_work(bind=work.endpoint)

    if comes_back:
        get(kill)
        check(get, content)
    else:
        with pytest.raises(OriginUnavailable):
            get(kill)
        assert 5 <= time.monotonic() - killed_at[0] < 45


@pytest.mark.slow
def test_an_error_of_the_caller(get, content):
    """What a callback raises ends the get as it is, and nothing stays."""
    with pytest.raises(ZeroDivisionError):
        get(lambda done: done > HALF and 1 / 0)
    assert get.left() == []


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_there(get, content):
    """After Ctrl-C the next get goes on from there."""

    def interrupt(done):
        if done > HALF:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupted:
        get(interrupt)
    (note,) = interrupted.value.__notes__
    assert " MB of " in note
    assert "verified and kept" in note
    get()
    assert get.jump > HALF - 16 * MIB
    check(get, content)
