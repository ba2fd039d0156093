"""The registry of one machine: what only a file shared by processes can show."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lit_storage_core.registries.sqlite import SqliteRegistry
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_proto.errors import NameTaken, RegistryUnavailable
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState

RECORD = LiveRecord("trainer", "one", "127.0.0.1:4000", "machine")
SUCCESSOR = LiveRecord("trainer", "two", "127.0.0.1:4001", "machine")

PRELUDE = """
import ctypes, os, select, subprocess, sys, threading, time
from lit_storage_core.registries import open_registry
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
def record(instance): return LiveRecord("trainer", instance, "127.0.0.1:4000", "machine")
def opened(): return open_registry("sqlite://" + sys.argv[1], machine_id="machine", limits=Limits())
"""
HOLD = "registry = opened(); registry.register(record('one')); print('registered', flush=True); input()"


def start(script: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + script, str(path)]
    return subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)


def outcome(script: str, path: Path) -> str:
    """Run `script` to its end; return what it printed, or the last line of its traceback."""
    process = start(script, path)
    printed, failed = process.communicate(timeout=90)
    return (printed.strip().splitlines() or failed.strip().splitlines() or [""])[-1]


def open_file(path: Path, machine_id: str = "machine", seconds: float = 30.0) -> SqliteRegistry:
    return SqliteRegistry(str(path), machine_id=machine_id, timeout_seconds=seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root" / "registry.db"


@pytest.fixture
def registry(path: Path) -> Iterator[SqliteRegistry]:
    opened = open_file(path)
    yield opened
    opened.close()


def test_columns_are_named(path: Path, registry: SqliteRegistry):
    """Records come back field by field from tables with another order of columns, and more of them."""
    with closing(sqlite3.connect(path)) as connection:
        for table, first in (("live", "holder"), ("work", "artifacts_url")):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            columns.sort(key=lambda column: (column != first, column))
            connection.execute(f"DROP TABLE {table}")
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)}, later, PRIMARY KEY (name))")
    record = LiveRecord("trainer", "one", "127.0.0.1:4000", "machine", "trainer")
    registry.register(record)
    work = WorkRecord("trainer", "one", WorkState.STOPPED, "machine", "file:///kept")
    assert (registry.update_work(work), registry.resolve("trainer")) == (True, record)
    assert (registry.work("trainer"), registry.live(), registry.works()) == (work, [record], [work])


@pytest.fixture
def holder(path: Path, registry: SqliteRegistry) -> Iterator[subprocess.Popen[str]]:
    """Another process that registered "trainer" and waits."""
    process = start(HOLD, path)
    assert process.stdout.readline() == "registered\n"
    yield process
    process.kill()
    process.communicate(timeout=10)


def change_file(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


def change_holder(path: Path, **fields: object) -> None:
    """Rewrite the holder of the live record, as if another process had registered it."""
    identity = dataclasses.replace(ProcessIdentity.current(), **fields)
    change_file(path, "UPDATE live SET holder = ?", identity.to_text())


class TestLife:
    @pytest.mark.parametrize("earlier", [0, 3])
    def test_a_killed_holder_is_gone_at_once(self, registry, holder, earlier):
        """After SIGKILL of its holder a name is None and its Work failed, however often it was resolved."""
        assert [registry.resolve("trainer") for _ in range(earlier)] == [RECORD] * earlier
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        assert registry.resolve("trainer") is None
        assert registry.live() == []
        assert registry.work("trainer").state is WorkState.FAILED

    def test_a_killed_holder_is_replaced_at_once(self, registry, holder):
        """After SIGKILL of its holder, still unwaited for, a name can be registered anew."""
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        registry.register(SUCCESSOR)
        assert registry.resolve("trainer") == SUCCESSOR

    def test_what_others_write_is_seen_at_once(self, path, registry, holder):
        """A name that was resolved before, whose holder lives on, moves or is given back by that holder."""
        assert registry.resolve("trainer") == RECORD
        change_file(path, "UPDATE live SET endpoint = '127.0.0.1:4009'")
        assert registry.resolve("trainer") == dataclasses.replace(RECORD, endpoint="127.0.0.1:4009")
        change_file(path, "DELETE FROM live")
        assert (registry.resolve("trainer"), holder.poll()) == (None, None)

    def test_a_stopped_holder_keeps_its_name(self, registry, holder):
        """Under SIGSTOP a holder still resolves, and its name is refused to others."""
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
        assert registry.resolve("trainer") == RECORD
        with pytest.raises(NameTaken, match=rf"taken by process {holder.pid}.*; stop that process first"):
            registry.register(SUCCESSOR)

    def test_a_reused_pid_is_dead(self, path, registry):
        """A record whose pid now belongs to a process with another start time is as absent."""
        registry.register(RECORD)
        change_holder(path, start_time=1)
        assert registry.resolve("trainer") is None
        registry.register(SUCCESSOR)
        assert registry.resolve("trainer") == SUCCESSOR

    def test_another_boot_is_dead(self, path, registry):
        """A record of an earlier boot is as absent."""
        registry.register(RECORD)
        change_holder(path, boot_id="earlier")
        assert registry.resolve("trainer") is None

    def test_another_container_keeps_its_name(self, path, registry):
        """A holder in another pid namespace counts as alive, and the refusal says that it cannot be seen."""
        registry.register(RECORD)
        change_holder(path, pid_namespace="pid:[1]")
        assert registry.resolve("trainer") == RECORD
        with pytest.raises(NameTaken, match="of another container or user that cannot be looked up"):
            registry.register(SUCCESSOR)

    @pytest.mark.slow
    def test_of_eight_processes_one_wins(self, path):
        """Of eight processes that register one name at once on a new file, exactly one wins: 20 times."""
        script = """
kept, start = [], float(input())
for number in range(20):
    time.sleep(max(0.0, start + number * 0.03 - time.time()))
    outcome = "won"
    try:
        path, limits = f"sqlite://{sys.argv[1]}{number}", Limits(resolve_seconds=60)
        kept.append(open_registry(path, machine_id="machine", limits=limits))
        kept[-1].register(record(str(os.getpid())))
    except Exception as error: outcome = type(error).__name__
    print(outcome, end=" ")
print(flush=True); input()
"""
        processes = [start(script, path) for _ in range(8)]
        for process in processes:
            process.stdin.write(f"{time.time() + 0.5}\n")
            process.stdin.flush()
        outcomes = [process.stdout.readline().split() for process in processes]
        [process.communicate("\n", timeout=90) for process in processes]
        assert [sorted(round_) for round_ in zip(*outcomes, strict=True)] == [
            ["NameTaken"] * 7 + ["won"]
        ] * 20


class TestOwner:
    def test_another_machine_is_refused(self, path, registry):
        """A file that keeps another machine's id is refused, and a registry for many machines named."""
        with pytest.raises(
            RegistryUnavailable, match=r"belongs to another machine.*spans machines \(etcd://\)"
        ):
            open_file(path, machine_id="other")

    def test_a_newer_schema_is_refused(self, path, registry):
        """A file of a newer schema is refused with the advice to upgrade."""
        registry.close()
        change_file(path, "UPDATE meta SET schema_version = 99")
        with pytest.raises(RegistryUnavailable, match=r"newer lit-storage \(schema 99, here 2\); upgrade"):
            open_file(path)


def make_older(path: Path) -> None:
    """Turn the file into one of the first schema, which knew no custodians."""
    change_file(path, "ALTER TABLE live DROP COLUMN custodian")
    change_file(path, "UPDATE meta SET schema_version = 1")


class TestOlderSchema:
    def test_an_older_file_is_brought_up(self, path, registry):
        """Its records stay, and it takes what the older schema did not know."""
        registry.register(RECORD)
        registry.close()
        make_older(path)
        with closing(open_file(path)) as opened:
            assert opened.resolve("trainer") == RECORD
            opened.register(dataclasses.replace(RECORD, name="store", custodian=True))
            assert opened.resolve("store").custodian is True

    def test_of_many_that_open_it_one_brings_it_up(self, path, registry):
        """Threads that open an older file at once all find it as it should be."""
        registry.close()
        make_older(path)
        barrier, opened = threading.Barrier(8), []

        def open_at_once() -> None:
            barrier.wait(30)
            opened.append(open_file(path))

        threads = [threading.Thread(target=open_at_once) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join(60) for thread in threads]
        assert [registry.live() for registry in opened] == [[]] * 8
        [registry.close() for registry in opened]

    def test_a_version_that_never_was_is_damage(self, path, registry):
        """It is refused, and stays as it is."""
        registry.close()
        make_older(path)
        change_file(path, "UPDATE meta SET schema_version = 0")
        with pytest.raises(RegistryUnavailable, match="is damaged or no registry"):
            open_file(path)

    def test_another_machine_does_not_bring_it_up(self, path, registry):
        """A file of another machine is refused before anything is changed in it."""
        registry.close()
        make_older(path)
        with pytest.raises(RegistryUnavailable, match="belongs to another machine"):
            open_file(path, machine_id="other")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT schema_version FROM meta").fetchone() == (1,)


class TestDamage:
    @pytest.mark.parametrize(
        "content", [b"", b"no database at all" * 500, b"SQLite format 3\0" + bytes(4080)]
    )
    def test_a_foreign_file_is_named(self, path, content):
        """A file that is empty or no database is one sentence that names it and the way out."""
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(
            RegistryUnavailable, match=r"registry\.db is damaged or no registry; .* remove it"
        ):
            open_file(path)

    def test_a_database_of_something_else_is_named(self, path):
        """A database with other tables is no registry, and stays as it is."""
        path.parent.mkdir()
        change_file(path, "CREATE TABLE other (x)")
        before = path.read_bytes()
        with pytest.raises(RegistryUnavailable, match="is damaged or no registry"):
            open_file(path)
        assert path.read_bytes() == before

    def test_a_damaged_page_is_named(self, path, registry):
        """A file whose tables were overwritten is one sentence, never an error of sqlite3."""
        registry.register(RECORD)
        registry.close()
        path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
        with pytest.raises(RegistryUnavailable, match="is damaged or no registry"):
            open_file(path).resolve("trainer")

    @pytest.mark.parametrize("statement", ["UPDATE live SET holder = '{'", "UPDATE work SET state = 'odd'"])
    def test_an_odd_value_is_named(self, path, registry, statement):
        """A value that this product does not write is damage to who asks for it, and hides no other name."""
        registry.register(RECORD)
        change_file(path, statement)
        registry.register(other := dataclasses.replace(RECORD, name="other"))
        with pytest.raises(RegistryUnavailable, match="is damaged or no registry"):
            registry.work("trainer")
        assert ([work.name for work in registry.works()], registry.resolve("other")) == (["other"], other)

    def test_what_is_left_of_an_old_file_is_not_mixed_in(self, path):
        """A -wal file without its database is refused, for it would be applied to the new one."""
        path.parent.mkdir()
        path.with_name("registry.db-wal").write_bytes(b"old")
        with pytest.raises(RegistryUnavailable, match="together with its -wal"):
            open_file(path)

    def test_a_removed_file_is_named(self, path, registry):
        """A file that was removed while it was in use is an error, not an empty registry."""
        registry.register(RECORD)
        path.unlink()
        with pytest.raises(RegistryUnavailable, match="went away while it was in use"):
            registry.resolve("trainer")

    def test_a_replaced_file_is_read_anew(self, tmp_path, path, registry):
        """After its directory was replaced, the new file answers."""
        registry.register(RECORD)
        path.parent.rename(tmp_path / "old")
        with closing(open_file(path)) as new:
            new.register(SUCCESSOR)
            assert registry.resolve("trainer") == SUCCESSOR

    def test_a_closed_registry_says_so(self, registry):
        """A call after close is a typed error."""
        registry.close()
        with pytest.raises(RegistryUnavailable, match="was closed by this process"):
            registry.resolve("trainer")


class TestSystem:
    def test_a_locked_file_ends_in_time(self, path, registry):
        """Locked beyond the time, a write is a typed error, while reads go on."""
        registry.register(RECORD)
        with closing(open_file(path, seconds=0.2)) as waiting, closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RegistryUnavailable, match=r"stayed locked for 0\.2 s"):
                waiting.unregister("trainer", "one")
            assert waiting.resolve("trainer") == RECORD

    def test_a_directory_without_permission_is_refused(self):
        """Where this user may not write the directory, opening is AccessDenied in one sentence."""
        script = "if os.geteuid() == 0: os.seteuid(65534)\nopened()"
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o555)
            assert "AccessDenied: no registry can be kept as" in outcome(
                script, Path(directory, "registry.db")
            )

    def test_a_file_without_permission_is_refused(self):
        """Where this user may not write the file, opening is AccessDenied, also for who only reads."""
        script = "if os.geteuid() == 0: os.seteuid(65534)\nopened()"
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "registry.db")
            open_file(path).close()
            path.chmod(0o444)
            os.chmod(directory, 0o777)
            assert "AccessDenied: no registry can be kept as" in outcome(script, path)

    @pytest.mark.root
    def test_a_full_disk_is_named(self, tmp_path):
        """On a full disk opening is one sentence that says so."""
        mount = f"mount -t tmpfs -o size=8k none {tmp_path}"
        script = f"{PRELUDE}\nsubprocess.run({mount.split()}, check=True)\nopened()"
        command = ["unshare", "--mount", sys.executable, "-c", script, f"{tmp_path}/registry.db"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=90)
        if "unshare failed" in result.stderr or "CalledProcessError" in result.stderr:
            pytest.skip("no file system may be mounted here")
        assert "RegistryUnavailable" in result.stderr.splitlines()[-1]
        assert "full" in result.stderr.splitlines()[-1]


class TestFork:
    @pytest.mark.slow
    def test_a_forked_child_reads_and_writes(self, path):
        """A forked child resolves and registers through its parent's registry, and the parent goes on."""
        script = """
registry = opened(); registry.register(record("one"))
child = os.fork()
if child == 0:
    found = registry.resolve("trainer").instance_id
    registry.register(LiveRecord("child", found, "127.0.0.1:1", "machine"))
    os._exit(0 if [r.name for r in registry.live()] == ["child", "trainer"] else 1)
print(os.waitpid(child, 0)[1], [r.name for r in registry.live()])
"""
        assert outcome(script, path) == "0 ['trainer']"

    def test_a_child_outlives_its_parent(self, path):
        """The parent's record ends with the parent, though a forked child goes on; the file stays whole."""
        script = """
registry = opened(); registry.register(record("one")); parent = os.getpid()
descriptor = os.pidfd_open(parent)
if os.fork() == 0:
    select.select([descriptor], [], [])
    print(registry.resolve("trainer"), registry.work("trainer").state, flush=True)
"""
        assert outcome(script, path) == "None failed"

    @pytest.mark.slow
    def test_forks_beside_busy_threads(self, path):
        """Forks while other threads use the registry leave neither side waiting or with an error."""
        script = """
registry = opened(); registry.register(record("one")); done = threading.Event()
def look():
    while not done.is_set(): registry.resolve("trainer")
threads = [threading.Thread(target=look) for _ in range(3)]
[thread.start() for thread in threads]
codes = []
for _ in range(20):
    child = os.fork()
    if child == 0: os._exit(0 if registry.resolve("trainer") else 1)
    codes.append(os.waitpid(child, 0)[1])
done.set()
[thread.join() for thread in threads]
print(set(codes))
"""
        assert outcome(script, path) == "{0}"

    @pytest.mark.slow
    def test_a_fork_behind_pythons_back_is_refused(self, path):
        """A child forked by C code, with an open connection in it, gets a typed error and harms nothing."""
        script = """
registry = opened(); registry.register(record("one"))
child = ctypes.PyDLL(None).fork()
if child == 0:
    try: registry.resolve("trainer")
    except Exception as error: os._exit(7 if type(error).__name__ == "RegistryUnavailable" else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), registry.resolve("trainer").instance_id)
"""
        assert outcome(script, path) == "7 one"
