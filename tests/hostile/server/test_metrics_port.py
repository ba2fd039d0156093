"""The port at which metrics are, which anyone may ask who reaches it, under callers that mean no good."""

import contextlib
import http.client
import os
import resource
import socket
import sqlite3
import threading
import time
import urllib.request

import pytest

from lit_storage_proto.limits import MIB
from tests.hostile.server.attacked import Attacked
from tests.waiting import within

wait_until = within(30, pause=0.1)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    server = Attacked("daemon", tmp_path_factory.mktemp("daemon"), metrics=True)
    server.metrics_port = int(server.metrics.rpartition(":")[2])
    yield server
    server.stop()


def scraped(daemon):
    url, ended = f"http://127.0.0.1:{daemon.metrics_port}/metrics", (OSError, http.client.HTTPException)
    with contextlib.suppress(*ended), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200 and b"lit_storage" in answer.read()
    return False


def connected(daemon):
    made = socket.create_connection(("127.0.0.1", daemon.metrics_port), 10)
    made.settimeout(15)
    return made


def sent(connection, data):
    with contextlib.suppress(OSError):
        connection.sendall(data)


REQUESTS = {
    "garbage": os.urandom(70_000),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a line without end": b"GET /" + b"a" * 5 * MIB,
    "headers without end": b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 500_000,
    "a header without end": b"GET / HTTP/1.1\r\nx: " + b"y" * 5 * MIB,
    "a body of terabytes": b"POST / HTTP/1.1\r\nContent-Length: 1099511627776\r\n\r\n" + bytes(5 * MIB),
    "a negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "chunks": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000,
    "another method": b"\x00\xff / HTTP/1.1\r\n\r\n",
    "half a line": b"GET",
    "a path outside": b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
    "a name": b"GET /metrics?name[]=" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n",
    "an encoding": b"GET /metrics HTTP/1.1\r\nAccept-Encoding: " + b"gzip;q=" * 9000 + b"\r\n\r\n",
    "an accept": b"GET /metrics HTTP/1.1\r\nAccept: "
    + b"application/openmetrics-text;version=" * 1000
    + b"\r\n\r\n",
}


@pytest.mark.parametrize("request_", REQUESTS)
def test_requests_that_are_none(daemon, request_):
    """Garbage is answered or ended, tells nothing of the program, costs little, and fills no log."""
    before = daemon.resident()
    with connected(daemon) as connection:
        sent(connection, REQUESTS[request_])
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in connection.recv(1 << 16)
    assert wait_until(lambda: scraped(daemon))
    assert daemon.resident() - before < 64 * MIB
    assert "Traceback" not in daemon.log()


@pytest.mark.slow
def test_slow_callers(daemon):
    """Callers that send a byte a second are ended in their five seconds, and metrics are there again."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(daemon)) for _ in range(8)]
        started = time.monotonic()
        stop = threading.Event()
        stack.callback(stop.set)

        def drip():
            while not stop.wait(0.5):
                for connection in slow:
                    sent(connection, b"x")

        threading.Thread(target=drip, daemon=True).start()
        assert wait_until(lambda: scraped(daemon))
        assert time.monotonic() - started < 20


@pytest.mark.slow
def test_a_thousand_connections(daemon):
    """A thousand connections take eight threads and descriptors, and the daemon's calls are answered."""
    threads, descriptors = daemon.threads(), daemon.descriptors()
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            with contextlib.suppress(OSError):
                stack.enter_context(connected(daemon))
        assert daemon.threads() - threads <= 24  # with those that gRPC starts where a machine is busy
        assert daemon.descriptors() - descriptors <= 32
        assert daemon.answers()
    assert wait_until(lambda: scraped(daemon))


def test_reader_that_takes_nothing(daemon):
    """Callers that ask and read nothing are ended in their time."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            sent(stack.enter_context(connected(daemon)), b"GET /metrics HTTP/1.1\r\n\r\n" * 2000)
        assert wait_until(lambda: scraped(daemon))


@pytest.mark.slow
def test_no_descriptor_is_left(daemon):
    """While the process can accept nothing, since descriptors are short, it does not spin, and recovers."""
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.prlimit, daemon.pid, resource.RLIMIT_NOFILE, limits)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        waiting = [socket.socket() for _ in range(3)]
        for connection in waiting:
            stack.callback(connection.close)
            connection.connect(("127.0.0.1", daemon.metrics_port))
        before = daemon.cpu_seconds()
        time.sleep(3)
        assert daemon.cpu_seconds() - before < 0.5
    assert wait_until(lambda: scraped(daemon))
    assert daemon.answers_again()


@pytest.mark.slow
def test_name_outlasts_a_lack_of_descriptors(tmp_path):
    """A daemon that had no descriptor for a while goes on looking after its name, and says so."""
    daemon = Attacked("daemon", tmp_path)
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    try:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        time.sleep(5)  # it looks every two seconds
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
        with contextlib.closing(sqlite3.connect(tmp_path / "root" / "registry.db", timeout=20)) as registry:
            registry.execute("DELETE FROM live")  # and writes the name anew where the registry lost it
            registry.commit()
        assert wait_until(lambda: "the registry had lost the name" in daemon.log())
        assert "Traceback" not in daemon.log()
    finally:
        daemon.stop()
