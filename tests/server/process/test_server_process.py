"""A peer server in a process of its own: what it survives, what ends it, and what is said with it."""

import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import grpc
import pytest

from lit_storage_core.security.settings import Security
from lit_storage_proto import errors
from lit_storage_proto.errors import AccessDenied, AddressInUse, InvalidURI, OriginUnavailable
from lit_storage_proto.limits import Limits
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_proto.v1 import path_storage_pb2_grpc as pb_grpc
from lit_storage_server.process import control
from lit_storage_server.process import server_process as process
from lit_storage_server.process.server_process import ServerProcess
from tests.waiting import within

wait_until = within(20)

HANGS = "import sys; sys.stdin.read()"  # until the connection ends


def exists(endpoint, path=""):
    """Ask a server for a path over a connection of its own; False too where nobody answers."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(endpoint, options) as channel:
        try:
            return pb_grpc.PathStorageStub(channel).Exists(pb.ExistsRequest(path=path), timeout=20).exists
        except grpc.RpcError:
            return False


def kill(server):
    """Kill the process of a server, and return once it is dead, though perhaps not noticed."""
    pidfd = os.pidfd_open(server._process.pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)


@pytest.fixture
def serve(root):
    """Start a ServerProcess over `root`; all are stopped after the test."""
    servers = []

    def start(*, bind="127.0.0.1:0", security=None, **limits):
        options = {"bind": bind, "security": security or Security(), "limits": Limits(**limits)}
        servers.append(ServerProcess("train", "i1", str(root), **options))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def data(tmp_path):
    """A directory outside of the storage root."""
    path = tmp_path / "data"
    path.mkdir()
    return str(path)


def test_another_process_serves(serve, root):
    """What is shared is served, and not from here."""
    (root / "file").touch()
    server = serve()
    assert exists(server.endpoint, "file")
    assert server._process.pid != os.getpid()


def test_a_declared_path_is_shared(serve, tmp_path):
    """Also one whose name is no text."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(path)
    server = serve()
    server.declare(path)
    with grpc.insecure_channel(server.endpoint) as channel:
        stub = pb_grpc.PathStorageStub(channel)
        assert stub.Exists(pb.ExistsRequest(path_bytes=os.fsencode(path)), timeout=20).exists


@pytest.mark.parametrize(
    ("path", "error", "text"), [("/", AccessDenied, "holds the storage"), ("a", InvalidURI, "absolute")]
)
def test_errors_of_declare_come_through(serve, data, path, error, text):
    """With kind and text; and the next path is declared as if nothing had been."""
    server = serve()
    with pytest.raises(error, match=text):
        server.declare(path)
    server.declare(data)
    assert exists(server.endpoint, data)


def test_a_path_that_no_message_holds(serve, data, monkeypatch):
    """It is refused before anything is sent, and the server goes on."""
    server = serve()
    pid = server._process.pid
    monkeypatch.setattr(control, "_MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match="bytes"):
        server.declare("/" + "x" * 20_000)
    server.declare(data)
    assert server._process.pid == pid


def test_a_path_is_declared_once(serve, data, monkeypatch):
    """A Work declares the same paths again and again; only the first time anybody is asked."""
    server = serve()
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(server, "_ask", lambda message, _seconds: asked.append(message))
        for _ in range(3):
            server.declare(data)
    assert asked == [["declare", data]]


@pytest.mark.slow
def test_a_taken_port(serve):
    """It is AddressInUse with the address and the way out, and no process is left."""
    endpoint = serve().endpoint
    with pytest.raises(AddressInUse, match=f"{endpoint}.*port 0"):
        serve(bind=endpoint)


def test_a_tls_file_that_is_not_there(serve, tmp_path, monkeypatch):
    """It is AccessDenied, and named absolutely: it may be read again from another working directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AccessDenied, match=f"'{tmp_path}/key'"):
        serve(security=Security(certificate="certificate", key="key"))


def test_modules_come_from_where_they_come_from_here(serve, tmp_path, monkeypatch):
    """The working directory has no say, nor has a sitecustomize that this process did not run."""
    beside = tmp_path / "a:b"
    beside.mkdir()
    for file in (tmp_path / "socket.py", beside / "sitecustomize.py"):
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(beside), *sys.path])
    assert exists(serve().endpoint)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_for_the_work_do_not_end_it(serve, monkeypatch, number):
    """Not even while it comes up: a terminal or a service manager sends them to all processes at once."""
    spawn = ServerProcess._spawn
    with monkeypatch.context() as patch:
        patch.setattr(ServerProcess, "_spawn", lambda new: (spawn(new), os.kill(new._process.pid, number)))
        server = serve()
    os.kill(server._process.pid, number)
    assert exists(server.endpoint)
    assert (len(server._starts), os.getpgid(server._process.pid)) == (1, os.getpgid(0))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {number}


@pytest.mark.slow
def test_a_killed_process_has_a_successor(serve, data):
    """It listens at the same place, and shares what was declared."""
    server = serve()
    server.declare(data)
    endpoint, former = server.endpoint, server._process
    kill(server)
    assert wait_until(lambda: exists(endpoint, data))
    assert (server.endpoint, server._process is not former) == (endpoint, True)


@pytest.mark.slow
def test_a_declared_path_that_went_bad_stops_no_successor(serve, tmp_path):
    """It is shared no more, and all else is."""
    link = tmp_path / "link"
    server = serve()
    server.declare(str(link))
    link.symlink_to("/")
    kill(server)
    assert wait_until(lambda: exists(server.endpoint))
    assert not exists(server.endpoint, str(link))


@pytest.mark.slow
def test_declare_before_the_death_was_noticed(serve, data):
    """It waits for the successor, and whoever comes to it first starts that one."""
    server = serve()
    for path in (data, f"{data}/a", f"{data}/b"):
        kill(server)
        server.declare(path)
    os.mkdir(f"{data}/b")
    assert exists(server.endpoint, f"{data}/b")


@pytest.mark.slow
def test_a_stuck_process_is_replaced(serve, data, monkeypatch):
    """One that does not answer in time is killed, and its successor is asked."""
    server = serve()
    stuck = server._process
    os.kill(stuck.pid, signal.SIGSTOP)
    seconds, ask = iter([0.2]), server._ask
    with monkeypatch.context() as patch:
        patch.setattr(server, "_ask", lambda message, usual: ask(message, next(seconds, usual)))
        server.declare(data)
    assert exists(server.endpoint, data)
    assert stuck.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_an_interrupted_declare_confuses_nobody(serve, data, monkeypatch):
    """Ctrl-C while the answer is on its way: the next answer belongs to the next question."""
    server = serve()
    with monkeypatch.context() as patch:
        patch.setattr(process, "receive", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            server.declare(data)
    with pytest.raises(AccessDenied):
        server.declare("/")


def test_stop_leaves_nothing(serve):
    """Neither process, nor zombie, nor thread, nor port; a second call does nothing."""
    before = set(threading.enumerate())
    server = serve()
    pid = server._process.pid
    server.stop()
    server.stop(1.0)
    assert not os.path.exists(f"/proc/{pid}")
    assert wait_until(lambda: set(threading.enumerate()) <= before)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(server.endpoint[10:])), timeout=5)
    with pytest.raises(OriginUnavailable):
        server.declare("/data")


def test_stop_while_it_comes_up(root, monkeypatch):
    """Whoever waits in start() is told, and nothing is left."""
    monkeypatch.setattr(process, "_PROGRAM", HANGS)
    options = {"bind": "127.0.0.1:0", "security": Security(), "limits": Limits()}
    server = ServerProcess("train", "i1", str(root), **options)
    with ThreadPoolExecutor() as pool:
        started = pool.submit(server.start)
        assert wait_until(lambda: server._connection is not None)
        server.stop()
        assert isinstance(started.exception(30), OriginUnavailable)
    assert not os.path.exists(f"/proc/{server._process.pid}")


def test_stop_does_not_wait_for_a_successor(serve, monkeypatch):
    """One that never comes up is given up at once."""
    server = serve()
    first = server._process
    monkeypatch.setattr(process, "_PROGRAM", HANGS)
    kill(server)
    assert wait_until(lambda: server._process is not first)
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < process._START_SECONDS / 4
    assert not os.path.exists(f"/proc/{server._process.pid}")


@pytest.mark.slow
def test_too_many_deaths(serve, monkeypatch):
    """There is a pause then, in which declare says that nobody serves; stop does not wait for its end."""
    monkeypatch.setattr(process, "_MOST_STARTS", 2)
    server = serve()
    kill(server)
    assert wait_until(lambda: len(server._starts) == 2 and server._serving)
    kill(server)
    with pytest.raises(OriginUnavailable, match="'train'"):
        server.declare("/data")
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < process._STARTS_SECONDS / 4


@pytest.mark.slow
def test_after_the_pause_it_goes_on(serve, monkeypatch):
    """Nobody gives up for good."""
    monkeypatch.setattr(process, "_MOST_STARTS", 1)
    monkeypatch.setattr(process, "_STARTS_SECONDS", 0.5)
    server = serve()
    for _ in range(2):
        kill(server)
        assert wait_until(lambda: exists(server.endpoint))


@pytest.mark.slow
def test_a_port_that_was_taken_meanwhile(serve, monkeypatch, caplog):
    """A successor that cannot listen is told of, and the next one tries again."""
    monkeypatch.setattr(process, "_STARTS_SECONDS", 1.0)
    server = serve()
    with server._lock:  # so long nobody is started
        kill(server)
        taken = socket.create_server(("127.0.0.1", int(server.endpoint[10:])))
    assert wait_until(lambda: "another one fails" in caplog.text)
    assert server.endpoint in caplog.text
    taken.close()
    assert wait_until(lambda: exists(server.endpoint))


def test_threads_serve_where_no_python_can_be_started(serve, data, monkeypatch, caplog):
    """It is said, and all else is the same."""
    before = set(threading.enumerate())
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    server = serve()
    assert "no other Python can be started" in caplog.text
    with pytest.raises(AccessDenied, match="holds the storage root"):
        server.declare("/")
    server.declare(data)
    assert exists(server.endpoint, data)
    server.stop()
    server.stop()
    assert wait_until(lambda: set(threading.enumerate()) <= before)


@pytest.mark.parametrize("executable", ["", "/usr/bin/uwsgi"])
def test_a_process_serves_where_python_is_embedded(serve, monkeypatch, caplog, executable):
    """The interpreter is that of the installation whose packages are used."""
    monkeypatch.setattr(sys, "executable", executable)
    server = serve()
    assert exists(server.endpoint)
    assert caplog.text == ""


def test_it_ends_when_its_parent_is_gone_already():
    """A parent that died before it looked is not waited for, though the connection stands."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = ["of nobody", str(os.getpid() + 1), *filter(None, sys.path)]
        command = [sys.executable, "-P", "-c", process._PROGRAM, *arguments]
        assert subprocess.Popen(command, stdin=theirs.fileno()).wait(60) == 0


# What the two say to each other.


KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StorageError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_comes_through(kind):
    """As what it was, with its text."""
    error = control.error_of(*json.loads(json.dumps(control.described(kind("a sentence")))))
    assert (type(error), str(error)) == (kind, "a sentence")


def test_an_error_of_a_module_comes_through_as_what_callers_know():
    """What a module keeps for itself is told as the public error that it is."""

    class Refused(errors.RegistryUnavailable):
        pass

    error = control.error_of(*control.described(Refused("a sentence")))
    assert (type(error), str(error)) == (errors.RegistryUnavailable, "a sentence")


def test_errors_of_the_system_come_through():
    """With their number, and so as the built-in of it."""
    error = control.error_of(*control.described(OSError(errno.EACCES, "closed")))
    assert (type(error), error.errno, error.strerror) == (PermissionError, errno.EACCES, "closed")


def test_errors_that_nobody_expected():
    """They say what they are, and not at any length."""
    error = control.error_of(*control.described(KeyError("x" * 10**6)))
    assert (type(error), error.errno) == (OSError, errno.EIO)
    assert error.strerror.startswith("KeyError: 'xxx")
    assert len(error.strerror) < 10**5


def test_a_message_comes_through():
    """Whole, however many pieces it came in."""
    message = ["declare", "/\udcff" * 100_000, {"seconds": float("inf")}]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=ours.sendall, args=(control.encode(message),), daemon=True).start()
        assert control.receive(theirs) == message


@pytest.mark.parametrize(
    "said",
    [b"", b"\1\0", struct.pack("<I", 9), struct.pack("<I", 9) + b"[1, ", struct.pack("<I", 2) + b"][",
     struct.pack("<I", 2**32 - 1) + b"[]", struct.pack("<I", 2) + b"\xff\xff"],
)  # fmt: skip
def test_what_is_no_message_is_an_end(said):
    """Nothing at all, a part of one, one that is too long, and what is not JSON."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(said)
        with pytest.raises(EOFError):
            control.receive(theirs)


def test_a_connection_that_breaks_off_is_an_end():
    """Also where the other side left something unread."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"unread")
        ours.close()
        with pytest.raises(EOFError):
            control.receive(theirs)


@pytest.mark.slow
def test_who_is_expecting_a_lease_does_not_serve_without_it(serve):
    """A process may be stopped between asking for a lease and being told of it: its server ends in time."""
    server = serve(lease_seconds=6.0)
    server.expect_lease()
    first = server._process
    assert exists(server.endpoint)
    assert wait_until(lambda: first.poll() is not None)
    assert first.returncode == -signal.SIGKILL
    with pytest.raises(AssertionError, match="did not come to be"):  # nor does another one take its place
        wait_until(lambda: exists(server.endpoint), 1)
