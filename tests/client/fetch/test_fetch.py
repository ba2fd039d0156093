import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest

from lit_storage_client.fetch import fetch
from lit_storage_client.fetch.job import Job
from lit_storage_proto.errors import (
    AccessDenied,
    IntegrityError,
    OriginUnavailable,
    PathExists,
    PathNotFound,
    ProtocolViolation,
    TransferTimeout,
)
from lit_storage_proto.frames import Frame
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
from tests.waiting import within

wait_until = within(20)


class Get:
    """Gets paths of one Work into a storage root."""

    def __init__(self, remote, root):
        self.remote = remote
        self.root = str(root)

    def path(self, name):
        return f"{self.root}/@trainer/{name}"

    def __call__(self, name, **options):
        options = {"durable": False, "root": self.root, "target": self.path(name), **options}
        return fetch(self.remote, Location("trainer", name), **options)

    def left(self):
        """Names of stagings that are still there."""
        staging = f"{self.root}/.staging"
        return os.listdir(staging) if os.path.exists(staging) else []


@pytest.fixture
def get(trainer, remote_of, tmp_path):
    return Get(remote_of(trainer.record), tmp_path / "R")


@pytest.fixture
def lies(script, remote_of, tmp_path):
    """Get from a scripted peer."""
    get = Get(remote_of(script.record), tmp_path / "R")
    get.script = script
    return get


def give_up_after(get, seconds):
    """Let a get take no longer silence than this."""
    get.remote.limits = dataclasses.replace(get.remote.limits, progress_seconds=seconds)


@pytest.fixture(scope="module", autouse=True)
def tree(trainer):
    """What the Work has: t/{file,large,empty,sub/deep,no} and a link."""
    root = f"{trainer.root}/t"
    os.makedirs(f"{root}/sub/deep")
    for name, content in (("file", b"content"), ("large", os.urandom(3 << 20)), ("empty", b"")):
        with open(f"{root}/{name}", "wb") as file:
            file.write(content)
    os.symlink("file", f"{root}/link")
    os.chmod(f"{root}/file", 0o640)


def snapshot(root):
    """All of a tree that a copy keeps."""
    found = {}
    for directory, directories, files in os.walk(root):
        for name in ["", *directories, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content = Path(path).read_bytes() if os.path.isfile(path) else b""
            text = os.readlink(path) if os.path.islink(path) else ""
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_mtime_ns, content, text)
    return found


def test_tree(get, trainer):
    """Names, bytes, modes, times, links and empty directories are those of the origin."""
    transfer = get("t")
    assert snapshot(get.path("t")) == snapshot(f"{trainer.root}/t")
    assert (transfer.files, transfer.bytes) == (3, (3 << 20) + 7)
    assert transfer.how in ("stream", "copy")  # whichever way was there sooner
    assert get.left() == []


def test_durable(get):
    """A durable copy is a copy."""
    get("t", durable=True)
    assert os.path.exists(get.path("t/sub/deep"))


def test_single_file_and_its_parents(get):
    """A single file lands under its own name, and its parents are made."""
    get("t/file")
    with open(get.path("t/file"), "rb") as file:
        assert file.read() == b"content"


def test_own_choice_of_a_target(get, tmp_path):
    """A copy may be put anywhere, and leaves nothing beside it."""
    get("t", root=None, target=str(tmp_path / "x" / "y"))
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(tmp_path / "x") == ["y"]


def test_existing_target_costs_no_byte(lies):
    """A target that is there is refused before the origin is asked for anything."""
    os.makedirs(lies.path("t"))
    with pytest.raises(PathExists, match="overwrite=True"):
        lies("t")
    assert lies.script.requests == 0


def test_overwrite_replaces_all(get, trainer):
    """With overwrite, what was only local is gone."""
    os.makedirs(get.path("t/only/here"))
    get("t", overwrite=True)
    assert snapshot(get.path("t")) == snapshot(f"{trainer.root}/t")


def test_file_and_directory_replace_each_other(get):
    """A file replaces a directory, and a directory a file."""
    os.makedirs(get.path("t/file/sub"))
    get("t/file", overwrite=True)
    assert os.path.isfile(get.path("t/file"))
    os.rename(get.path("t/file"), get.path("sub"))
    get("t/sub", target=get.path("sub"), overwrite=True)
    assert os.path.isdir(get.path("sub"))


def test_present_content(get, trainer):
    """Each get gives what the origin has now; what was deleted there does not come back."""
    os.makedirs(f"{trainer.root}/now/a")
    get("now")
    os.rename(f"{trainer.root}/now/a", f"{trainer.root}/now/b")
    get("now", overwrite=True)
    assert os.listdir(get.path("now")) == ["b"]


def test_absent_path(get):
    """A path that the origin lacks is PathNotFound, and the target stays as it was."""
    os.makedirs(get.path("nothing/kept"))
    with pytest.raises(PathNotFound, match="lit://@trainer/nothing"):
        get("nothing", overwrite=True)
    assert os.listdir(get.path("nothing")) == ["kept"]


def test_absent_work(remote_of, tmp_path):
    """A Work that does not run is PathNotFound, and makes nothing here."""
    get = Get(remote_of(None), tmp_path / "R")
    with pytest.raises(PathNotFound, match="no Work 'trainer' is known to"):
        get("t")
    assert not os.path.exists(f"{get.root}/@trainer")


def test_unwritable_place_costs_no_byte(lies):
    """A target below a file is refused before the origin is asked for anything."""
    os.makedirs(lies.path(""))
    with open(lies.path("f"), "w"):
        pass
    with pytest.raises(PathExists):
        lies("f/t")
    assert lies.script.requests == 0


@pytest.mark.parametrize("option", [{"on_change": "ignore"}, {"symlinks": "copy"}])
def test_unknown_options(lies, option):
    """An option that is not known is refused, not passed over."""
    with pytest.raises(ValueError, match=next(iter(option))):
        lies("t", **option)


def frames_then(frames, *, error=None, wait=None):
    """Make a peer that sends frames, and then waits or fails."""

    def send():
        yield from frames
        if wait is not None:
            wait.wait(60)
        if error is not None:
            raise error

    return send


@pytest.fixture
def keep():
    """Fail unless the get raises the error and leaves the target as it was, and nothing else."""

    def keep(get, error, **options):
        os.makedirs(get.path("t/kept"))
        with pytest.raises(error) as caught:
            get("t", overwrite=True, **options)
        assert os.listdir(get.path("t")) == ["kept"]
        assert get.left() == []
        return caught.value

    return keep


def test_end_without_summary(lies, keep, frames_of, directory_entry):
    """A stream that ends in order but without its summary is not a copy."""
    lies.script.frames = frames_of((directory_entry(), b""))[:-1]
    keep(lies, IntegrityError)


def test_damaged_summary(lies, keep, frames_of, directory_entry, file_entry):
    """A peer that forgets a file is found out by its own summary."""
    whole = frames_of((directory_entry(), b""), (file_entry("f", b"1"), b"1"))
    lies.script.frames = [Frame(whole[0].origin, whole[0].entries[:1]), whole[-1]]
    keep(lies, IntegrityError)


def test_name_that_leads_out(lies, keep, frames_of, directory_entry, file_entry):
    """A name that leads out of the tree ends the get."""
    lies.script.frames = frames_of((directory_entry(), b""), (file_entry("../../x", b"1"), b"1"))
    keep(lies, ProtocolViolation)


def test_peer_that_fails_on_the_way(lies, keep, frames_of, directory_entry):
    """A peer that raises in the middle is a typed error."""
    frames = frames_of((directory_entry(), b""))[:1]
    lies.script.frames = frames_then(frames, error=RuntimeError("broken"))
    keep(lies, ProtocolViolation)


def test_silence_on_the_way(lies, keep, frames_of, directory_entry):
    """A peer that falls silent is given up after `progress_seconds`."""
    released = threading.Event()
    lies.script.frames = frames_then(frames_of((directory_entry(), b""))[:1], wait=released)
    give_up_after(lies, 0.5)
    started = time.monotonic()
    error = keep(lies, TransferTimeout)
    released.set()
    assert time.monotonic() - started < 20
    assert "lit://@trainer/t" in str(error)


@pytest.mark.slow
def test_a_slow_stream_goes_on(remote_of, script, tmp_path, frames_of, file_entry):
    """One that brings little, but enough, may take longer than `progress_seconds`."""
    get = Get(remote_of(script.record, progress_seconds=2.0), tmp_path / "R")
    content = os.urandom(30 * 1024)

    def send():
        for frame in frames_of((file_entry("", content), content), chunk_bytes=1024):
            yield frame
            time.sleep(0.1)

    script.frames = send
    assert get("t", overwrite=True).seconds > 2
    assert (tmp_path / "R/@trainer/t").read_bytes() == content


@pytest.mark.slow
def test_an_origin_that_walks_for_long_is_waited_for(remote_of, script, tmp_path, frames_of, directory_entry):
    """Once it has said who it is, it has `progress_seconds` for what comes first."""
    get = Get(remote_of(script.record, unary_seconds=1.0), tmp_path / "R")
    whole, last = frames_of((directory_entry(), b""))

    def send():
        yield Frame(whole.origin)
        time.sleep(2)
        yield Frame(entries=whole.entries)
        yield last

    script.frames = send
    assert get("t").files == 0


@pytest.mark.slow
def test_silence_after_a_little_is_silence(lies, keep, frames_of, directory_entry, file_entry):
    """It is not the rate that is blamed where the last thing that came was small."""
    released = threading.Event()
    frames = frames_of((directory_entry(), b""))[:1]
    lies.script.frames = frames_then([*frames, Frame(entries=[file_entry("a")])], wait=released)
    lies.remote.limits = dataclasses.replace(
        lies.remote.limits, progress_seconds=1.0, least_bytes_per_second=10_000
    )
    assert "brought nothing new" in str(keep(lies, TransferTimeout))
    released.set()


def test_empty_messages_are_no_progress(lies, keep, frames_of, directory_entry):
    """A peer that goes on with empty messages is given up all the same."""
    ended = time.monotonic() + 60

    def send():
        yield from frames_of((directory_entry(), b""))[:1]
        while time.monotonic() < ended:
            yield Frame()
            time.sleep(0.01)

    lies.script.frames = send
    give_up_after(lies, 0.5)
    started = time.monotonic()
    keep(lies, TransferTimeout)
    assert time.monotonic() - started < 20


def test_timeout(lies, keep, frames_of, directory_entry, file_entry):
    """A get that goes on, but longer than its timeout, is ended by it."""

    def send():
        yield from frames_of((directory_entry(), b""))[:1]
        for number in range(3000):
            yield Frame(entries=[file_entry(str(number))])
            time.sleep(0.02)

    lies.script.frames = send
    started = time.monotonic()
    keep(lies, TransferTimeout, timeout=0.5)
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_slow_disk_is_no_silence(lies, frames_of, directory_entry, file_entry):
    """Time spent on this side does not count as the peer's silence."""
    items = [(file_entry(str(number), b"1"), b"1") for number in range(3)]
    lies.script.frames = frames_of((directory_entry(), b""), *items)
    give_up_after(lies, 2.0)
    pauses = iter([2.5])  # the peer itself may be held up for nearly as long
    assert lies("t", progress=lambda done, total: time.sleep(next(pauses, 0.0))).files == 3


def test_interrupt(lies, keep, frames_of, directory_entry):
    """Ctrl-C while a get waits leaves the target as it was, and no staging."""
    released = threading.Event()

    def send():
        yield from frames_of((directory_entry(), b""))[:1]
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)  # not before the get has begun, or it would end the tests
        released.wait(60)

    lies.script.frames = send
    (note,) = keep(lies, KeyboardInterrupt).__notes__
    assert "no part of an unfinished copy" in note
    released.set()


@pytest.mark.parametrize("replaces", [False, True])
def test_interrupt_after_the_swap(lies, frames_of, directory_entry, monkeypatch, replaces):
    """Ctrl-C once the copy is in its place says that it is complete."""
    if replaces:
        os.makedirs(lies.path("t"))
    lies.script.frames = frames_of((directory_entry(), b""))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "_check_place", interrupt)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        lies("t", overwrite=True)
    (note,) = interrupted.value.__notes__
    assert note.endswith("is complete")


@pytest.mark.slow
def test_killed_peer(start_work, remote_of, tmp_path):
    """A peer killed in the middle is a typed error, soon, and the target is as it was."""
    work = start_work()
    with open(f"{work.root}/t", "wb") as file:
        file.write(bytes(64 << 20))
    get = Get(remote_of(work.record), tmp_path / "R")
    os.makedirs(get.path("t/kept"))
    with pytest.raises(OriginUnavailable):
        get("t", overwrite=True, progress=lambda done, total: done and work.kill())
    assert os.listdir(get.path("t")) == ["kept"]


def test_threads_end(get):
    """A get leaves no thread behind."""
    get("t")
    wait_until(lambda: not any(t.name == "lit-storage-stream-timer" for t in threading.enumerate()))


def test_no_descriptor_stays_open(get):
    """Gets, also those that fail, leave nothing open."""
    get("t")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        get("t", overwrite=True)
        with pytest.raises(PathNotFound):
            get("missing")
        with pytest.raises(PathExists):
            get("t")
    # Others may close theirs meanwhile; and a way that came too late is still being closed.
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_link_in_place_of_the_target(get, tmp_path):
    """A link where the copy goes is replaced, and what it leads to stays."""
    os.makedirs(tmp_path / "elsewhere" / "kept")
    os.makedirs(get.path(""))
    os.symlink(tmp_path / "elsewhere", get.path("t"))
    get("t", overwrite=True)
    assert not os.path.islink(get.path("t"))
    assert os.listdir(tmp_path / "elsewhere") == ["kept"]


def test_link_on_the_way_out(get, tmp_path):
    """A link on the way that leaves R/@origin ends the get before it begins."""
    os.makedirs(get.path(""))
    os.symlink(tmp_path, get.path("t"))
    with pytest.raises(AccessDenied):
        get("t/sub")


def test_many_files(get, trainer):
    """A thousand small files arrive whole."""
    os.makedirs(f"{trainer.root}/many")
    for number in range(1000):
        with open(f"{trainer.root}/many/{number}", "w") as file:
            file.write(str(number) * 100)
    get("many")
    assert snapshot(get.path("many")) == snapshot(f"{trainer.root}/many")


def test_deep_tree(get, trainer):
    """A directory 500 deep arrives whole."""
    path = f"{trainer.root}/deep" + "/d" * 500
    os.makedirs(path)
    with open(f"{path}/f", "w"):
        pass
    get("deep")
    assert os.path.exists(get.path("deep") + "/d" * 500 + "/f")


def test_threads_that_fetch_to_one_target(get, trainer):
    """Several gets of one path at once all end, and what is there is whole."""
    failures = []

    def run():
        try:
            for _ in range(4):
                get("t", overwrite=True)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert snapshot(get.path("t")) == snapshot(f"{trainer.root}/t")
    assert get.left() == []


KILLED = """
import os, signal, sys
from lit_storage_client.peers.channels import Channels
from lit_storage_client.fetch import fetch
from lit_storage_client.peers.remote import Remote
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
class Registry:
    spans_machines = False
    def resolve(self, name, *, fresh=False):
        return LiveRecord(name, "i1", sys.argv[1], "m")
remote = Remote(Registry(), Channels(Security(token="secret"), Limits()), Limits())
fetch(remote, Location("trainer", "t"), root=sys.argv[2], target=sys.argv[3], overwrite=True,
      progress=lambda done, total: done > 1 << 20 and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_killed_consumer(get, trainer):
    """A get killed in the middle leaves the target as it was, and the next one cleans up after it."""
    get("t")
    before = snapshot(get.path("t"))
    command = [sys.executable, "-c", KILLED, trainer.endpoint, get.root, get.path("t")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert snapshot(get.path("t")) == before
    assert len(get.left()) == 1
    get("t", overwrite=True)
    assert get.left() == []


@pytest.mark.root
def test_origin_directory_of_another_file_system(get):
    """Where R/@origin is a mount of its own, the copy is staged in it."""
    os.makedirs(get.path(""))
    subprocess.run(["mount", "-t", "tmpfs", "none", get.path("")], check=True)
    try:
        get("t")
        assert os.listdir(get.path("")) == ["t"]
    finally:
        subprocess.run(["umount", get.path("")], check=True)


@pytest.mark.root
def test_full_disk(get):
    """A full disk is the system's ENOSPC, with the path, and what was there stays."""
    os.makedirs(get.path(""))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", get.path("")], check=True)
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            get("t")
        assert caught.value.filename == get.path("t/large")
        assert os.listdir(get.path("")) == []
    finally:
        subprocess.run(["umount", get.path("")], check=True)


def test_dead_origin(remote_of, tmp_path):
    """A Work that is live by the registry, and dead, is OriginUnavailable at once."""
    get = Get(remote_of(LiveRecord("trainer", "i1", "127.0.0.1:1", "m")), tmp_path / "R")
    started = time.monotonic()
    with pytest.raises(OriginUnavailable):
        get("t")
    assert time.monotonic() - started < 10


def test_what_is_no_file_cannot_be_copied(get, trainer):
    """A FIFO that is asked for itself is refused by name of the thing, and not taken for absent."""
    os.mkfifo(f"{trainer.root}/pipe")
    with pytest.raises(AccessDenied, match="no file, directory or link"):
        get("pipe")


def test_an_origin_that_knows_no_setting_keeps_links(lies, frames_of, directory_entry, link_entry):
    """An older origin refuses what it does not know. It is asked again without that, and once."""
    refusal = (grpc.StatusCode.INVALID_ARGUMENT, "StreamFilesRequest holds field 12; upgrade")
    lies.script.refusals = [refusal]
    lies.script.frames = frames_of((directory_entry(), b""), (link_entry("l", "x"), b""))
    lies("old")
    asked = [(request.links_as_origin, request.follow_links) for request in lies.script.streamed]
    assert (asked, os.readlink(lies.path("old/l"))) == ([(True, False), (False, False)], "x")
    lies.script.refusals = [refusal] * 2
    with pytest.raises(ProtocolViolation, match="field 12"):
        lies("old", overwrite=True)


@pytest.mark.parametrize(
    ("symlinks", "asked"), [(None, (True, False)), ("keep", (False, False)), ("follow", (False, True))]
)
def test_what_is_asked_about_links(lies, frames_of, file_entry, symlinks, asked):
    """The origin decides unless the caller does."""
    lies.script.frames = frames_of((file_entry("", b"x"), b"x"))
    lies("choice", symlinks=symlinks)
    (request,) = lies.script.streamed
    assert (request.links_as_origin, request.follow_links) == asked
    with pytest.raises(ValueError, match="symlinks='never' is unknown"):
        lies("choice", symlinks="never")
