"""What a user sees of the process that serves for a Work: that it is fast, alone, and never left over."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

import lit_storage
from lit_storage import AccessDenied, AddressInUse, Limits, Path
from tests.processes import children_of
from tests.waiting import within

wait_until = within(20)

WORK = """
import os, signal, sys, time
import lit_storage
from lit_storage import Path
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.makedirs("data", exist_ok=True)
with lit_storage.join("worker") as session:
    server = session._server._process.pid
    session.declare(os.path.abspath("data"))
"""


def work(then):
    """Return the program of a Work that goes on as `then` says, within its session."""
    return WORK + "\n".join(f"    {line}" for line in then.strip().splitlines())


@pytest.fixture
def ended():
    """Say of a process, held from before its end, whether it ends within some seconds."""
    held = {}

    def hold(pid):
        held[pid] = os.pidfd_open(pid)

        def has_ended(seconds):
            return bool(select.select([held[pid]], [], [], seconds)[0])

        return has_ended

    yield hold
    for pidfd in held.values():
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(pidfd)


@pytest.fixture
def data(tmp_path):
    """A directory that the Work declares."""
    path = tmp_path / "data"
    path.mkdir()
    (path / "file").write_text("1")
    return path


def children():
    """The processes that this one started and has not reaped."""
    return set(children_of(os.getpid()))


def seconds_of_a_get(path, to):
    """How long it takes to get all of `path`."""
    shutil.rmtree(to, ignore_errors=True)  # what is there already would not be sent again
    started = time.perf_counter()
    path.get(to=to, durable=False)
    return time.perf_counter() - started


@pytest.mark.slow
def test_a_busy_work_serves_as_fast(script, monkeypatch, tmp_path):
    """A Work that computes keeps nobody waiting, even one that never lets go of the interpreter."""
    monkeypatch.setenv("LIT_STORAGE_LOCAL_COPY", "0")  # so that its server has something to do
    process = script(
        work(
            """
Path("lit://many").mkdir()
for number in range(500):
    (Path("lit://many") / str(number)).write_bytes(os.urandom(16384))
print("idle", flush=True)
signal.sigwait([signal.SIGUSR1])
sys.setswitchinterval(1000)  # as in a long call of C code, threads get no turn
print("busy", flush=True)
while True: pass
"""
        )
    )
    assert process.stdout.readline() == "idle\n"
    with lit_storage.connect(limits=Limits(unary_seconds=20, progress_seconds=20, resume_seconds=20)):
        path = Path("lit://@worker/many")
        path.exists_remote()  # which makes the connection
        idle = min(seconds_of_a_get(path, tmp_path / "copy") for _ in range(3))
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "busy\n"
        # One of ten: others may use the machine meanwhile.
        assert any(seconds_of_a_get(path, tmp_path / "copy") < 6 * idle for _ in range(10))


def test_a_killed_work_leaves_no_server(script, ended):
    """Nor does a child of the Work, which has inherited its files, keep the server up."""
    process = script(
        work(
            """
if (forked := os.fork()) == 0:
    signal.pause()
print(server, forked, flush=True)
signal.pause()
"""
        )
    )
    served, forked = (ended(int(pid)) for pid in process.stdout.readline().split())
    assert not served(0)
    process.kill()
    assert served(30)
    assert not forked(0)


def answers(path):
    try:
        return path.exists_remote()
    except lit_storage.OriginUnavailable:
        return False


@pytest.mark.slow
def test_a_killed_server_has_a_successor(script, data, root):
    """In a moment, and with all that was shared: what is below the root, and what was declared."""
    process = script(
        work(
            """
Path("lit://file").write_text("2")
print(server, flush=True)
signal.sigwait([signal.SIGUSR1])
print(session._server._process.pid, flush=True)
signal.pause()
"""
        )
    )
    server = int(process.stdout.readline())
    with lit_storage.connect():
        paths = [Path(f"lit://@worker/{data}/file"), Path("lit://@worker/file")]
        for path in paths:
            path.get()
        os.kill(server, signal.SIGKILL)
        assert wait_until(lambda: answers(paths[0]))
        for path in paths:
            path.get(overwrite=True)
    assert [path.read_text() for path in paths] == ["1", "2"]
    process.send_signal(signal.SIGUSR1)
    assert int(process.stdout.readline()) not in (server, process.pid)


def test_the_token_is_in_no_list_of_processes(root):
    """Neither the arguments of the process nor its environment have it."""
    with lit_storage.join("worker") as session:
        token = session.security.tokens()[0]
        about = f"/proc/{session._server._process.pid}"
        with open(f"{about}/cmdline", "rb") as cmdline, open(f"{about}/environ", "rb") as environ:
            arguments, environment = cmdline.read(), environ.read()
    assert b"lit-storage server of worker" in arguments
    assert b"LIT_STORAGE_ROOT=" in environment
    assert token == (root / "token").read_text().strip()
    assert token.encode() not in arguments + environment


def test_the_server_inherits_no_files(root, tmp_path):
    """Not even one that children are meant to have; what it prints goes nowhere, and it reads nothing."""
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)
        with lit_storage.join("worker") as session:
            about = f"/proc/{session._server._process.pid}/fd"
            links = {number: os.readlink(f"{about}/{number}") for number in os.listdir(about)}
    assert str(tmp_path / "open") not in links.values()
    assert links["1"] == "/dev/null"
    assert links["2"] == os.readlink("/proc/self/fd/2")


@pytest.mark.slow
def test_ctrl_c_leaves_the_server_until_the_work_has_left(root):
    """A terminal sends SIGINT to the whole group; the Work serves while it unwinds."""
    program = work(
        """
import socket
try:
    print("joined", flush=True)
    while True:
        time.sleep(0.1)  # a signal that comes just before signal.pause() would not end it
except KeyboardInterrupt:
    host, port = session.endpoint.split(":")
    socket.create_connection((host, int(port)), timeout=20).close()
    assert session._server._process.pid == server
    print("serving", flush=True)
"""
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout.readline() == "joined\n"
            os.killpg(process.pid, signal.SIGINT)
            assert process.communicate(timeout=60) == ("serving\n", "")
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_forked_child_neither_uses_nor_ends_the_server(script):
    """It is told where to declare, and what it closes stays open for its parent."""
    process = script(
        work(
            """
import warnings; warnings.simplefilter("ignore")  # of forks
if (forked := os.fork()) == 0:
    try:
        session.declare("/elsewhere")
    except lit_storage.NotAttached as error:
        print(error, flush=True)
    session._server.stop()
    session.close()
    sys.exit()
os.waitpid(forked, 0)
session.declare("/elsewhere")
print(session._server._process.pid == server)
"""
        )
    )
    out, err = process.communicate(timeout=60)
    assert "was forked from 'worker'; declare paths where join() was called" in out
    assert out.endswith("\nTrue\n")
    assert err == ""


def test_a_work_that_ignores_its_children_joins_and_leaves(script):
    """The kernel then reaps them all; there is no error, and the server is gone with the session."""
    process = script(
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
        + work("pass")
        + "\nprint(os.path.exists(f'/proc/{server}'), flush=True)\n"
    )
    assert process.communicate(timeout=60) == ("False\n", "")


def test_joining_in_vain_leaves_no_process(root):
    """Whatever is wrong: the root, the address, or that there is a session."""
    before = children()
    with pytest.raises(AccessDenied):
        lit_storage.join("worker", root="/dev/null")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AddressInUse):
        lit_storage.join("worker", bind=f"127.0.0.1:{taken.getsockname()[1]}")
    assert children() <= before  # what another test left may end meanwhile
    with lit_storage.join("worker"):
        one = children() - before
        with pytest.raises(RuntimeError, match="session already"):
            lit_storage.join("other")
        assert (len(one), children() - before) == (1, one)
    assert children() <= before
