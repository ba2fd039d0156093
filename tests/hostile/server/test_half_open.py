"""Calls that are opened and say nothing, or whose answer nobody reads, leave the server answering."""

import contextlib
import threading
import time

import pytest

from lit_storage_proto.limits import MIB
from tests.hostile.server import http2
from tests.hostile.server.fuzzing import delimited
from tests.waiting import within

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
METHODS = [http2.CHECK, http2.WATCH, http2.EXISTS, http2.LIST_FILES, http2.STREAM_FILES, REFLECTION]
wait_until = within(60, pause=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.rpartition("/")[2])
def test_a_thousand_calls_that_say_nothing(attacked, method):
    """With 1,000 calls whose request never comes, health, Exists, Stat and a copy are answered in seconds.

    It took seven minutes: each call held one of 24 threads for the ten seconds of a short call.
    """
    with http2.Connection(attacked.port) as connection:
        connection.send(*(http2.opened(method, 2 * i + 1) for i in range(1000)))
        started = time.monotonic()
        # A call that came in between may be cancelled, or refused, to be made again a moment later.
        assert wait_until(attacked.answers_again)
        assert wait_until(lambda: attacked.streams_again("directory"))
        assert time.monotonic() - started < 60


@pytest.mark.slow
def test_calls_without_a_token_that_say_nothing(attacked):
    """Who has no token cannot keep threads either, with health checks from many connections."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(http2.Connection(attacked.port))
            connection.send(*(http2.opened(http2.CHECK, 2 * i + 1, token="") for i in range(100)))
        started = time.monotonic()
        assert wait_until(attacked.answers_again)
        assert time.monotonic() - started < 40


@pytest.mark.slow
def test_half_a_request(attacked):
    """Requests of which half has come give way to whole ones as well."""
    part = http2.message(b"\x12\x08directory")[:-3]
    with http2.Connection(attacked.port) as connection:
        for i in range(500):
            connection.send(
                http2.opened(http2.EXISTS, 2 * i + 1), http2.frame(http2.DATA, 0, 2 * i + 1, part)
            )
        assert wait_until(attacked.answers_again)


@pytest.mark.slow
def test_threads_are_given_back(attack):
    """After 1,000 calls that said nothing the server has no more threads than it keeps, nor descriptors."""
    attacked = attack(unary_seconds=1.0)
    threads, descriptors = attacked.threads(), attacked.descriptors()
    with http2.Connection(attacked.port) as connection:
        connection.send(*(http2.opened(http2.EXISTS, 2 * i + 1) for i in range(1000)))
        assert wait_until(attacked.answers_again)
    assert wait_until(lambda: attacked.threads() <= threads + 24)
    assert wait_until(lambda: attacked.descriptors() <= descriptors + 8)  # the daemon opens some of its own


@pytest.mark.slow
def test_few_slow_requests_are_waited_for(attack):
    """A request that comes a second after its headers is answered while there are threads enough."""
    attacked, method = attack(), http2.EXISTS  # one of whose threads no other test has any
    with http2.Connection(attacked.port) as connection:
        connection.send(http2.opened(method, 1))
        time.sleep(1)
        body = http2.message(delimited(2, attacked.path("directory").encode()))
        connection.send(http2.frame(http2.DATA, http2.END_STREAM, 1, body))
        connection.socket.settimeout(30)
        received = b""
        while b"store" not in received:  # the name of the origin, in the answer
            more = connection.socket.recv(4096)
            assert more, received
            received += more


@pytest.mark.slow
@pytest.mark.parametrize("way", ["grpc", "packs"])
def test_sixteen_streams_that_nobody_reads(attack, way):
    """Streams of a GiB that nobody reads take little memory, end in their time, and free their places."""
    attacked = attack(progress_seconds=3.0, peer_share=1)
    with (attacked.data / "large").open("wb") as file:
        file.truncate(1024 * MIB)
    (attacked.data / "small").write_bytes(b"content")
    assert attacked.streams_again("small")
    before = attacked.resident()
    request = delimited(2, attacked.path("large").encode()) + (b"\x28\x01" if way == "packs" else b"")
    frame = http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(request))
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            connection = stack.enter_context(http2.Connection(attacked.port))
            connection.send(http2.opened(http2.STREAM_FILES, 1), frame)
        time.sleep(1)
        assert attacked.answers(seconds=20)
        assert attacked.resident() - before < 128 * MIB
        assert wait_until(lambda: attacked.streams_again("small"))


@pytest.mark.slow
def test_streams_read_by_the_byte(attack):
    """Consumers that take a byte at a time hold little memory, and are ended: a byte is no progress."""
    attacked = attack(progress_seconds=2.0, peer_share=1)
    (attacked.data / "large").write_bytes(bytes(8 * MIB))
    (attacked.data / "small").write_bytes(b"content")
    request = http2.message(delimited(2, attacked.path("large").encode()))
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(stop.set)
        connections = [stack.enter_context(http2.Connection(attacked.port)) for _ in range(16)]
        for connection in connections:
            connection.send(
                http2.opened(http2.STREAM_FILES, 1),
                http2.frame(http2.DATA, http2.END_STREAM, 1, request),
            )
        grant = b"".join(http2.frame(http2.WINDOW_UPDATE, 0, id_, b"\0\0\0\1") for id_ in (0, 1))

        def drip():
            while not stop.wait(0.2):
                for connection in connections:
                    connection.send(grant)

        threading.Thread(target=drip, daemon=True).start()
        before = attacked.resident()
        assert wait_until(lambda: attacked.streams_again("small"))
        assert attacked.resident() - before < 64 * MIB
