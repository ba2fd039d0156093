"""The end of a session: whatever fails in it, the program ends as it would have, and in bounded time."""

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

import lit_storage
from lit_storage import Path, RegistryUnavailable
from lit_storage_server.publishing import notes
from tests.etcd_server import EtcdServers

JOINED = """
import os, sys
import lit_storage
from lit_storage import Path
def work(session):
    path = session.declare(Path("lit://out"))
    path.mkdir()
    (path / "file").write_text("x")
    print("up", flush=True)
    sys.stdin.readline()
"""
ENDINGS = [
    ("with lit_storage.join('a') as s: work(s)\nprint('result')", 0),
    ("with lit_storage.join('a') as s: work(s); raise KeyError('my own error')", 1),
    ("with lit_storage.join('a') as s: work(s); sys.exit(7)", 7),
    ("with lit_storage.join('a') as s: work(s); os.kill(os.getpid(), 15)", 143),
    ("work(lit_storage.join('a'))\nprint('result')", 0),
    ("work(lit_storage.join('a')); sys.exit(7)", 7),
]


def end(process, spoil):
    """Let a program end after `spoil`; return its exit code, output and errors."""
    assert process.stdout.readline() == "up\n"
    spoil()
    began = time.monotonic()
    output, errors = process.communicate("\n", timeout=60)
    assert time.monotonic() - began < 12
    return process.returncode, output, errors


@pytest.fixture
def started(root):
    """Start programs that wait for a line before their end."""
    processes = []

    def start(ending):
        command = [sys.executable, "-c", JOINED + ending]
        processes.append(subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def silent(root):
    """A session whose registry fails from now on."""
    session = lit_storage.join("silent")

    def fail(*_, **__):
        raise RegistryUnavailable("the registry does not answer")

    session.registry.work = session.registry.unregister = fail
    yield session
    session.close()


def test_an_exception_is_kept(silent):
    """What the body raises is raised, and a warning tells of the registry."""
    with (
        pytest.warns(UserWarning, match="does not record the end of 'silent'"),
        pytest.raises(KeyError, match="mine"),
        silent,
    ):
        raise KeyError("mine")


def test_an_exit_code_is_kept(silent):
    """sys.exit() of the body ends the program with its own code."""
    with pytest.warns(UserWarning, match="does not record"), pytest.raises(SystemExit) as raised, silent:
        raise SystemExit(7)
    assert raised.value.code == 7


def test_close_warns_and_releases_everything(silent):
    """close() raises nothing either, and this process can join again."""
    with pytest.warns(UserWarning, match="does not record the end of 'silent': the registry does not answer"):
        silent.close()
    assert lit_storage.current() is None


def test_one_warning_is_given_for_one_registry(silent):
    """The steps that need the registry fail together, and are told of once."""
    with pytest.warns(UserWarning, match="does not record") as caught:
        silent.close()
    assert len(caught) == 1


def test_a_step_that_fails_does_not_stop_the_others(root, monkeypatch):
    """A failure in one step of the end is a warning, and the name is given back."""
    session = lit_storage.join("a")

    def fail():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.origins, "close", fail)
    with pytest.warns(UserWarning, match="'a' could not leave properly: .*No space"):
        session.close()
    with lit_storage.connect() as other:
        assert other.registry.resolve("a") is None


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.ESTALE, errno.EIO])
def test_an_exit_code_is_kept_where_the_note_cannot_be_read(silent, monkeypatch, number):
    """Where the file system of the root fails too, the warning tells of the registry alone."""
    silent.declare(Path("lit://x")).write_text("1")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(notes, "_open_trusted", fail)
    with (
        pytest.warns(UserWarning, match="does not record") as caught,
        pytest.raises(SystemExit) as raised,
        silent,
    ):
        raise SystemExit(7)
    assert raised.value.code == 7
    assert not any("custodian" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("step", ["_hurry_registry", "_warn_of_unrecorded"])
def test_no_step_replaces_the_result(silent, monkeypatch, step):
    """Whatever fails at the end of a session is a warning."""

    def fail(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(silent, step, fail)
    with (
        pytest.warns(UserWarning, match="could not leave properly: .*Stale"),
        pytest.raises(KeyError),
        silent,
    ):
        raise KeyError("mine")
    assert lit_storage.current() is None


def test_a_sigterm_while_publishing_does_not_replace_an_exception(root, monkeypatch):
    """A program that ends by an exception of its own is not told to end by another one."""
    from lit_storage_server.publishing import custody

    def terminated(*args, publish_all=custody.publish_all, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return publish_all(*args, **options)

    monkeypatch.setattr(custody, "publish_all", terminated)
    with pytest.raises(KeyError, match="mine"), lit_storage.join("a") as session:
        session.declare(Path("lit://x")).write_text("1")
        raise KeyError("mine")


@pytest.fixture
def terminated(root, monkeypatch):
    """A session whose end is sent SIGTERM while it asks the registry."""
    session = lit_storage.join("a")
    unregister = session.registry.unregister

    def unregister_terminated(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        unregister(*args)

    monkeypatch.setattr(session.registry, "unregister", unregister_terminated)
    yield session
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with lit_storage.connect() as other:
        assert other.registry.resolve("a") is None


def test_a_sigterm_while_the_registry_is_asked_does_not_replace_an_exception(terminated):
    """The program ends by its own exception, when the session has ended."""
    with pytest.raises(KeyError, match="mine"), terminated:
        raise KeyError("mine")


def test_a_sigterm_while_close_asks_the_registry_ends_the_program_afterwards(terminated):
    """A program that would go on unwinds, when the session has ended."""
    with pytest.raises(SystemExit) as raised:
        terminated.close()
    assert raised.value.code == 128 + signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "code"), ENDINGS)
def test_the_root_was_removed(root, started, ending, code):
    """Without its root a program ends as it would have; what it declared is named."""
    returned, output, errors = end(started(ending), lambda: shutil.rmtree(root))
    assert (returned, "result" in output) == (code, code == 0)
    assert "'out' of 'a' was not published" in errors
    assert "does not record the end of 'a'" in errors
    assert errors.count("Traceback") == ("my own error" in errors)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize(("ending", "code"), ENDINGS[:5])
def test_etcd_is_out_of_reach(started, tmp_path, monkeypatch, ending, code, signum):
    """A dead or stopped etcd costs a few seconds and a warning that says who publishes."""
    with EtcdServers(tmp_path / "etcd") as servers:
        monkeypatch.setenv("LIT_STORAGE_REGISTRY", servers.new_url())
        returned, output, errors = end(started(ending), lambda: servers.members[0].signal(signum))
    assert (returned, "result" in output) == (code, code == 0)
    assert "what it declared ('out') can be read when the custodian" in errors
    assert errors.count("Traceback") == ("my own error" in errors)


@pytest.mark.slow
def test_a_registry_that_stays_locked_is_not_waited_for_again_and_again(root, started):
    """All that the end of a session asks of the registry takes five seconds together."""
    process = started(ENDINGS[2][0])

    def lock():
        writer = sqlite3.connect(root / "registry.db", isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        locks.append(writer)

    locks = []
    returned, _, errors = end(process, lock)
    locks[0].close()
    assert returned == 7
    assert "stayed locked" in errors


@pytest.mark.slow
def test_a_server_process_that_stands_still_is_killed(root):
    """The process that serves the files does not hold up the end."""
    session = lit_storage.join("a")
    session._server._process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    session.close()
    assert time.monotonic() - began < 10
    assert session._server._process.poll() is not None
