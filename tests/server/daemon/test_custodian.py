"""What a custodian publishes for whom, and for whom not."""

import contextlib
import dataclasses
import gc
import json
import os
import subprocess
import sys
import threading

import pytest

from lit_storage_core.artifacts.urls import in_place_url, open_store
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_proto.artifact import unit_of
from lit_storage_proto.errors import InvalidConfig, TransferTimeout
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_server.daemon.custodian import Custodian, CustodianLock
from lit_storage_server.publishing.custody import publish_all, publish_left
from lit_storage_server.publishing.notes import Declaration, Note, noted
from lit_storage_server.publishing.publication_lock import alone
from tests.waiting import within

wait_until = within(30)

LIMITS = Limits(custody_seconds=30)  # longer than any test: what comes sooner was noticed


class Counted:
    """Counts what a custodian tells."""

    def __init__(self):
        self.outcomes = []
        self.came = threading.Event()

    def published(self, *, whole):
        self.outcomes.append(whole)
        self.came.set()


@pytest.fixture
def registry(tmp_path):
    """One in which the Work "train" of this machine was killed."""
    registry = MemoryRegistry(str(tmp_path))
    registry.register(LiveRecord("train", "i1", "127.0.0.1:1", "machine"))
    registry.unregister("train", "i1")
    return registry


@pytest.fixture
def counted():
    return Counted()


@pytest.fixture
def custodian(tmp_path, registry, counted):
    made = Custodian(str(tmp_path), "machine", registry, LIMITS, counted)
    yield made
    made.stop(10)


@pytest.fixture
def note(tmp_path):
    """Note what "train" declared, of which out/a is there."""
    root = tmp_path / "works" / "train"
    (root / "out").mkdir(parents=True)
    (root / "out" / "a").write_text("1")

    def note(**fields):
        url = in_place_url(str(tmp_path), "machine")
        declared = Declaration("train", "i1", "machine", str(root), url, paths={"out": True})
        declared = dataclasses.replace(declared, **fields)
        Note(str(tmp_path), declared.instance_id).begin(declared)
        return declared

    return note


@pytest.fixture
def process():
    """A process that lives until it is killed."""
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield started
    started.kill()
    started.wait()
    started.stdin.close()


def identity(process):
    return ProcessIdentity.of(process.pid).to_text()


def versions(tmp_path):
    url = in_place_url(str(tmp_path), "machine")
    return open_store(url, "train", limits=LIMITS, create=True).versions()


class TestLook:
    def test_a_killed_work(self, tmp_path, custodian, note, registry, counted):
        """What it left is published as unclean, and the registry says where."""
        note()
        custodian.look()
        (kept,) = versions(tmp_path)
        url = in_place_url(str(tmp_path), "machine")
        assert open_store(url, "train", limits=LIMITS).manifest(kept).unclean
        assert (registry.work("train").artifacts_url, counted.outcomes) == (url, [True])

    def test_it_is_done_once(self, tmp_path, custodian, note, counted):
        """The next look finds nothing to do."""
        note()
        custodian.look()
        custodian.look()
        assert (len(versions(tmp_path)), counted.outcomes) == (1, [True])

    def test_a_process_that_lives(self, tmp_path, custodian, note, process, counted):
        """Whoever lost only its name, as one that was paused for long, is not published for."""
        note(holder=identity(process))
        custodian.look()
        assert (versions(tmp_path), counted.outcomes) == ([], [])

    def test_a_name_that_lives(self, tmp_path, custodian, note, registry, counted):
        """A next instance has the storage root."""
        note()
        registry.register(LiveRecord("train", "i2", "127.0.0.1:1", "machine"))
        custodian.look()
        assert (versions(tmp_path), counted.outcomes) == ([], [])

    def test_a_work_of_an_app_that_lives(self, tmp_path, custodian, note, process, counted):
        """Its App publishes for it, and tells of it."""
        note(keeper=identity(process))
        custodian.look()
        assert (versions(tmp_path), counted.outcomes) == ([], [])

    def test_a_work_of_another_machine(self, tmp_path, custodian, note, counted):
        """In a root that machines share, each machine has its own custodian."""
        note(machine_id="other")
        custodian.look()
        assert (versions(tmp_path), counted.outcomes) == ([], [])

    def test_what_is_no_note(self, tmp_path, custodian, note, counted):
        """Whatever else lies beside the notes keeps nobody from being looked after."""
        note()
        (tmp_path / "declared" / "directory").mkdir()
        (tmp_path / "declared" / "bytes").write_bytes(bytes(range(256)))
        (tmp_path / "declared" / "dangling").symlink_to("none")
        custodian.look()
        assert counted.outcomes == [True]

    @pytest.mark.parametrize(
        "odd",
        [
            {"holder": 5},
            {"has_left": "no"},
            {"storage_root": None},
            {"paths": {"out": 1}},
            {"paths": {"out": []}},
        ],
    )
    def test_a_note_of_another_form(self, tmp_path, registry, custodian, note, counted, odd):
        """One field that is not what it should be is no note, and keeps nobody from being looked after."""
        for name in ("a", "b"):  # the order of a directory's files is not known
            note(name=name, instance_id=name, **odd)
        note()
        custodian.look()
        assert counted.outcomes == [True]
        assert [left.name for left in noted(str(tmp_path))] == []

    def test_an_error_that_nobody_thought_of(self, tmp_path, registry, custodian, note, counted, caplog):
        """It is told, and the other Works are looked after."""
        for name in ("odd1", "odd2"):
            registry.register(LiveRecord(name, name, "127.0.0.1:1", "machine"))
            registry.unregister(name, name)
            note(name=name, instance_id=name)
        note()
        work = registry.work

        def fail(name):
            if name != "train":
                raise TypeError("unforeseen")
            return work(name)

        registry.work = fail
        custodian.look()
        assert counted.outcomes == [True]
        assert sum("unforeseen" in str(record.exc_info) for record in caplog.records) == 2

    @pytest.mark.root
    def test_a_note_of_another_user(self, tmp_path, custodian, note, counted):
        """Who may only write into the root does not say what is read with the custodian's rights."""
        note()
        os.chown(tmp_path / "declared" / "i1", 65534, 65534)
        custodian.look()
        assert counted.outcomes == []

    def test_a_note_that_is_no_file(self, tmp_path, custodian, note, counted):
        """A link is not followed, and a pipe is not waited for."""
        note()
        os.rename(tmp_path / "declared" / "i1", tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", tmp_path / "declared" / "i1")
        os.mkfifo(tmp_path / "declared" / "pipe")
        custodian.look()
        assert counted.outcomes == []

    def test_what_a_former_instance_noted(self, tmp_path, custodian, note, registry, counted):
        """The registry names the last one, whose files they may be by now."""
        note()
        registry.register(LiveRecord("train", "i2", "127.0.0.1:1", "machine"))
        registry.unregister("train", "i2")
        custodian.look()
        assert (versions(tmp_path), counted.outcomes) == ([], [])

    def test_old_notes_of_former_instances(self, tmp_path, custodian, note, registry, process, counted):
        """They are removed after a day, but for one whose process may live."""
        url = in_place_url(str(tmp_path), "machine")
        about = Declaration(
            "train", "", "machine", str(tmp_path / "works" / "train"), url, paths={"out": True}
        )
        registry.register(LiveRecord("train", "last", "127.0.0.1:1", "machine"))
        for instance_id, holder in (("old", ""), ("new", ""), ("lives", identity(process))):
            declared = dataclasses.replace(about, name=instance_id, instance_id=instance_id, holder=holder)
            Note(str(tmp_path), instance_id).begin(declared)  # under a name of its own, else it is one note
        for path in (tmp_path / "declared").iterdir():
            path.write_text(path.read_text().replace(f'"name": "{path.name}"', '"name": "train"'))
            if path.name != "new":
                os.utime(path, (0, 0))
        custodian.look()
        assert {left.instance_id for left in noted(str(tmp_path))} == {"new", "lives"}
        assert counted.outcomes == []

    def test_a_storage_root_that_is_gone(self, tmp_path, custodian, note, registry, counted, caplog):
        """It is told once for now, stays noted, and keeps nobody else from being looked after."""
        note()
        for number in range(4):
            name = f"gone{number}"
            registry.register(LiveRecord(name, name, "127.0.0.1:1", "machine"))
            registry.unregister(name, name)
            note(name=name, instance_id=name, storage_root=str(tmp_path / "works" / name))
        custodian.look()
        custodian.look()
        assert sorted(counted.outcomes) == [False] * 4 + [True]
        assert sorted(left.name for left in noted(str(tmp_path))) == [f"gone{number}" for number in range(4)]

    def test_one_that_goes_on_being_published(self, tmp_path, registry, custodian, note, counted):
        """It is tried again at the next look, after the others."""
        hasty = Custodian(str(tmp_path), "machine", registry, Limits(publish_seconds=0.05), counted)
        declared = note()
        with alone(declared.storage_root, "train", 0):
            hasty.look()
        assert counted.outcomes == []
        custodian.look()
        assert counted.outcomes == [True]

    def test_what_could_not_be_published(self, custodian, note, tmp_path, counted, caplog):
        """It is told in the log, and counted, and not tried again at once."""
        note(artifacts_url="file:///proc/none")
        custodian.look()
        custodian.look()
        assert counted.outcomes == [False]
        assert [record.message for record in caplog.records] == ["not all that a Work left is published yet"]


WORK = """
import dataclasses, json, os, signal, sys
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_server.publishing.notes import Declaration, Note

root, instance_id, fields, boot_id = sys.argv[1:]
holder = ProcessIdentity.current()
holder = dataclasses.replace(holder, boot_id=boot_id or holder.boot_id).to_text()
Note(root, instance_id).begin(Declaration(**json.loads(fields) | {"holder": holder}), hold=True)
if os.fork() == 0:
    print("the child has let go of what it inherited", flush=True)
signal.pause()
"""


class TestOutOfSight:
    """A Work whose process cannot be looked up: it shows by a lock of its note that it lives."""

    @pytest.fixture
    def start(self, tmp_path, note):
        """Start a process that holds the note of "train" and has a child; both are killed after the test."""
        started = []

        def start(*command, boot_id=""):
            declared = dataclasses.asdict(note())
            arguments = [str(tmp_path), "i1", json.dumps(declared), boot_id]
            command = [*command, sys.executable, "-c", WORK, *arguments]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            assert started[-1].stdout.readline()
            return started[-1]

        yield start
        for each in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, 9)
            each.communicate()

    @pytest.mark.root
    def test_in_another_pid_namespace(self, tmp_path, custodian, start, counted):
        """As one in a container: it is published for when it has ended, and not before."""
        work = start("unshare", "--pid", "--fork", "--kill-child")
        custodian.look()
        assert (counted.outcomes, len(noted(str(tmp_path)))) == ([], 1)
        os.killpg(work.pid, 9)
        assert wait_until(lambda: custodian.look() or counted.outcomes == [True])

    def test_on_another_machine(self, tmp_path, custodian, start, counted):
        """As in a root that both have; also while a child lives that the Work forked."""
        work = start(boot_id="other")
        custodian.look()
        assert (counted.outcomes, len(noted(str(tmp_path)))) == ([], 1)
        work.kill()
        work.wait()
        custodian.look()
        assert counted.outcomes == [True]

    def test_without_a_lock(self, custodian, note, counted):
        """Where locks cannot be had, one that is unknown counts as alive."""
        here = ProcessIdentity.current()
        note(holder=dataclasses.replace(here, pid_namespace="pid:[1]").to_text())
        custodian.look()
        assert counted.outcomes == []

    def test_before_this_machine_was_started_anew(self, custodian, note, counted):
        """On a disk of this machine, with or without a lock, it has ended."""
        note(holder=dataclasses.replace(ProcessIdentity.current(), boot_id="former").to_text())
        custodian.look()
        assert counted.outcomes == [True]


class TestRetries:
    """What could not be published stays noted, and is tried again."""

    @pytest.fixture
    def eager(self, tmp_path, registry, counted):
        """A custodian without pauses."""
        return Custodian(str(tmp_path), "machine", registry, Limits(custody_seconds=0), counted)

    @pytest.fixture
    def blocked(self, tmp_path):
        """A store that is out of reach until the file in its place is gone."""
        (tmp_path / "disk").write_text("")
        return tmp_path / "disk"

    def test_a_store_that_was_out_of_reach(self, note, eager, blocked, registry, counted, tmp_path):
        """Once it is back, what the Work left is in it, and nothing is noted any more."""
        declared = note(artifacts_url=f"file://{blocked}/store")
        eager.look()
        assert (counted.outcomes, len(noted(str(tmp_path)))) == ([False], 1)
        assert registry.work("train").artifacts_url == ""
        blocked.unlink()
        blocked.mkdir()
        eager.look()
        assert (counted.outcomes, noted(str(tmp_path))) == ([False, True], [])
        assert len(open_store(declared.artifacts_url, "train", limits=LIMITS).versions()) == 1
        assert registry.work("train").artifacts_url == declared.artifacts_url

    def test_a_disk_that_is_mounted_late(self, note, eager, counted, tmp_path):
        """A storage root that was not there is published from when it is."""
        declared = note()
        os.rename(declared.storage_root, tmp_path / "away")
        eager.look()
        os.rename(tmp_path / "away", declared.storage_root)
        eager.look()
        assert (counted.outcomes, len(versions(tmp_path))) == ([False, True], 1)

    def test_only_what_failed(self, note, eager, counted, tmp_path, monkeypatch):
        """Paths that were published, and those of which there is nothing, are not tried again."""
        from lit_storage_server.publishing import custody

        tried, publish = [], custody.publish

        def refuse(store, shares, path, *rest, **options):
            tried.append(path)
            if path == "b" and tried.count("b") < 3:
                raise TransferTimeout("too late")
            return publish(store, shares, path, *rest, **options)

        monkeypatch.setattr(custody, "publish", refuse)
        declared = note(paths={"b": True, "none": False, "out": True})
        (tmp_path / "works" / "train" / "b").write_text("b")
        for _ in range(4):
            eager.look()
        assert tried == ["b", "none", "out", "b", "b"]
        assert counted.outcomes == [False, True]
        assert {kept.unit for kept in versions(tmp_path)} == {unit_of(path) for path in ("b", "out")}
        assert Note(str(tmp_path), declared.instance_id).read() is None

    def test_pauses_grow(self, tmp_path, registry, note, blocked, caplog):
        """A store that stays away is asked less and less often."""
        note(artifacts_url=f"file://{blocked}/store")
        limits = Limits(custody_seconds=0.01)
        custodian = Custodian(str(tmp_path), "machine", registry, limits)

        def tries():
            custodian.look()
            return [record.lit_storage_fields["retry_seconds"] for record in caplog.records]

        assert wait_until(lambda: len(tries()) == 4)
        assert tries()[:4] == [0.01, 0.02, 0.04, 0.08]

    def test_it_is_given_up(self, tmp_path, registry, note, blocked, counted, caplog):
        """After so long, with an error that names it; the name's next instance is not kept waiting."""
        note(artifacts_url=f"file://{blocked}/store")
        limits = Limits(custody_seconds=0, staging_seconds=0.05)
        custodian = Custodian(str(tmp_path), "machine", registry, limits, counted)
        assert wait_until(lambda: custodian.look() or noted(str(tmp_path)) == [])
        assert caplog.records[-1].message == "gave up publishing what a Work left"
        assert counted.outcomes == [False]

    def test_after_its_app_failed(self, tmp_path, registry, note, process, eager, blocked, counted):
        """An App tries once; the custodian then goes on, also while the App lives."""
        note(artifacts_url=f"file://{blocked}/store", keeper=identity(process))
        assert len(publish_left(str(tmp_path), registry, "train", limits=LIMITS)) == 1
        blocked.unlink()
        blocked.mkdir()
        eager.look()
        assert (counted.outcomes, noted(str(tmp_path))) == ([True], [])


class TestThread:
    def test_an_end_is_noticed_at_once(self, custodian, note, process, counted):
        """The end of a process that it has seen does not wait for the next look."""
        note(holder=identity(process))
        custodian.start()
        assert wait_until(lambda: custodian._watched)
        process.kill()
        process.wait()
        assert counted.came.wait(30)
        assert counted.outcomes == [True]

    def test_it_stops_at_once(self, custodian):
        """Whatever it waits for."""
        custodian.start()
        custodian.stop(10)
        assert not custodian._thread.is_alive()

    @pytest.mark.slow
    def test_it_leaves_no_descriptor(self, tmp_path, registry, note, process):
        """Neither of a process it watched nor of what it looked at."""
        note(holder=identity(process))
        before = len(os.listdir("/proc/self/fd"))

        def watch():
            custodian = Custodian(str(tmp_path), "machine", registry, LIMITS)
            custodian.start()
            assert wait_until(lambda: custodian._watched)
            custodian.stop(10)

        watch()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_one_that_never_ran_leaves_none(self, custodian, note, process):
        """What it watches since it was asked to look is let go by `stop` too."""
        note(holder=identity(process))
        custodian.look()
        (fd,) = custodian._watched.values()
        custodian.stop(0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    def test_a_registry_out_of_reach(self, tmp_path, registry, note, counted, monkeypatch, caplog):
        """It is said once, and what is left is published when the registry answers again."""
        from lit_storage_proto.errors import RegistryUnavailable

        note()
        asked, work = [], registry.work

        def silent(name):
            asked.append(name)
            if len(asked) < 4:
                raise RegistryUnavailable("nobody answers")
            return work(name)

        monkeypatch.setattr(registry, "work", silent)
        custodian = Custodian(str(tmp_path), "machine", registry, Limits(custody_seconds=0.05), counted)
        custodian.start()
        assert counted.came.wait(30)
        custodian.stop(10)
        said = [record.message for record in caplog.records]
        assert said.count("the custodian cannot look after Works now") == 1


class TestOneWinner:
    def test_of_many_that_publish_one_does(self, tmp_path, note, registry):
        """Custodian and App at once make one version, and each returns once it is there."""
        note()
        barrier, kept = threading.Barrier(6), []

        def publish():
            barrier.wait(10)
            publish_left(str(tmp_path), registry, "train", limits=LIMITS)
            kept.append(len(versions(tmp_path)))

        threads = [threading.Thread(target=publish) for _ in range(6)]
        [thread.start() for thread in threads]
        [thread.join(20) for thread in threads]
        assert kept == [1] * 6
        assert [str(kept.version) for kept in versions(tmp_path)] == [str(versions(tmp_path)[0].version)]

    def test_another_process_that_does_not_end(self, note):
        """It is waited for as long as publishing may take, and no longer."""
        declared = note()
        with alone(declared.storage_root, "train", 0):
            outcome = publish_all(declared, limits=Limits(publish_seconds=0.1))
        (error,) = outcome.failed.values()
        assert isinstance(error, TransferTimeout)
        assert publish_all(declared, limits=LIMITS).failed == {}

    def test_a_child_does_not_keep_the_lock(self, note):
        """One that was forked meanwhile holds the descriptor, and not the right to publish."""
        declared = note()
        with alone(declared.storage_root, "train", 0):
            child = os.fork()
            if not child:
                threading.Event().wait(20)
                os._exit(0)
        try:
            with alone(declared.storage_root, "train", 0):
                pass
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


class TestLock:
    def test_a_root_has_one(self, tmp_path):
        """A second one is refused until the first one is gone."""
        first = CustodianLock(str(tmp_path))
        with pytest.raises(InvalidConfig, match=rf"process {os.getpid()}\) is the custodian"):
            CustodianLock(str(tmp_path))
        first.release()
        first.release()
        CustodianLock(str(tmp_path)).release()

    @pytest.mark.slow
    def test_one_that_was_killed(self, tmp_path):
        """Its lock ends with it."""
        code = f"""
from lit_storage_server.daemon.custodian import CustodianLock
import os
lock = CustodianLock({str(tmp_path)!r})
os.kill(os.getpid(), 9)
"""
        assert subprocess.run([sys.executable, "-c", code]).returncode == -9
        CustodianLock(str(tmp_path)).release()

    def test_a_root_that_all_can_write(self, tmp_path):
        """Any user could have it hand out what only the custodian may read."""
        tmp_path.chmod(0o777)
        with pytest.raises(InvalidConfig, match="chmod o-w it, or start the daemon with --no-custodian"):
            CustodianLock(str(tmp_path))

    @pytest.mark.root
    def test_root_and_a_root_that_a_group_can_write(self, tmp_path):
        """A user of the group could have root hand out any file."""
        tmp_path.chmod(0o770)
        with pytest.raises(InvalidConfig, match="chmod g-w it.*--no-custodian"):
            CustodianLock(str(tmp_path))

    def test_a_root_that_machines_share(self, tmp_path, monkeypatch):
        """They would have one id, so whose Work has ended could not be told."""
        monkeypatch.delenv("LIT_STORAGE_MACHINE_ID", raising=False)
        monkeypatch.setattr("lit_storage_server.daemon.custodian.file_system_of", lambda root: "nfs4")
        with pytest.raises(InvalidConfig, match=r"\(nfs4\).*LIT_STORAGE_MACHINE_ID.*--no-custodian"):
            CustodianLock(str(tmp_path))
        monkeypatch.setenv("LIT_STORAGE_MACHINE_ID", "a")
        CustodianLock(str(tmp_path)).release()

    @pytest.mark.root
    def test_a_root_of_another_user(self, tmp_path):
        """Nor may one user's root have another's files handed out."""
        os.chown(tmp_path, 65534, 65534)
        with pytest.raises(InvalidConfig, match="must run as the owner of it, user 65534"):
            CustodianLock(str(tmp_path))
