"""What callers do below the level of calls, with frames by hand: it is ended or borne, and costs little."""

import contextlib
import gzip
import os
import random
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lit_storage_proto.limits import MIB
from lit_storage_server.rpc import server as peer
from lit_storage_server.sources.shares import Shares
from tests.hostile.server import http2
from tests.hostile.server.attacked import KINDS, Attacked
from tests.hostile.server.fuzzing import delimited
from tests.hostile.server.http2 import Connection, frame
from tests.waiting import within

wait_until = within(60, pause=0.1)
MOST_BYTES = 96 * MIB
# Four floods at once cost 400 MiB, most of it between the arenas of malloc; more would be a leak.
SOAK_BYTES = 768 * MIB


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A Work's server: below the calls that of a daemon is the same; the soak attacks both."""
    server = Attacked("work", tmp_path_factory.mktemp("attacked"))
    yield server
    server.stop()


@contextlib.contextmanager
def bearing(attacked, most_bytes=MOST_BYTES):
    """Whatever the block does: afterwards the server answers, idles, and held no more than it may."""
    memory, descriptors = attacked.resident(), attacked.descriptors()
    yield attacked
    assert wait_until(attacked.answers_again)
    assert attacked.resident() - memory < most_bytes
    assert wait_until(lambda: attacked.descriptors() <= descriptors + 8)
    assert wait_until(lambda: _is_idle(attacked))
    assert "Traceback" not in attacked.log()


@pytest.fixture
def unharmed(attacked):
    with bearing(attacked) as server:
        yield server


def _is_idle(attacked):
    before = attacked.cpu_seconds()
    time.sleep(0.2)
    return attacked.cpu_seconds() - before < 0.1


def calls_of(count, *, method=http2.STREAM_FILES, body=None):
    """Yield what opens one call after the other and resets it at once."""
    for i in range(count):
        number = 2 * i + 1
        yield http2.opened(method, number)
        if body is not None:
            yield frame(http2.DATA, http2.END_STREAM, number, http2.message(body))
        yield frame(http2.RST_STREAM, 0, number, struct.pack(">I", http2.CANCEL))


BEGINNINGS = {
    "garbage": os.urandom(4096),
    "http/1.1": b"GET / HTTP/1.1\r\nHost: store\r\n\r\n",
    "tls": bytes.fromhex("16030100a5010000a10303") + os.urandom(160),
    "half a preface": http2.PREFACE[:10],
    "a preface alone": http2.PREFACE,
    "zeros": bytes(100_000),
    "headers before settings": http2.PREFACE + http2.opened(http2.CHECK, 1),
    **{f"silence {number}": b"" for number in range(3)},
}


@pytest.fixture(scope="module")
def begun(attacked):
    """All of them at once, as each may take ten seconds."""
    with contextlib.ExitStack() as stack:
        connections = {name: Connection(attacked.port, begin=False) for name in BEGINNINGS}
        for name, connection in connections.items():
            stack.enter_context(connection).send(BEGINNINGS[name])
        yield connections


@pytest.mark.slow
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_beginnings_that_are_none(attacked, begun, beginning):
    """A connection that does not begin as HTTP/2 does is ended, at the latest when its time is over."""
    assert begun[beginning].is_ended(seconds=25)
    assert attacked.answers()


def headers_without_end(count):
    yield frame(http2.HEADERS, 0, 1, http2.request_headers(http2.CHECK))
    for i in range(count):
        yield frame(http2.CONTINUATION, 0, 1, http2.header(f"x-{i}", "v" * 100) * 100)


FLOODS = {
    "continuations": lambda: headers_without_end(2000),
    "empty continuations": lambda: [
        frame(http2.HEADERS, 0, 1, http2.request_headers(http2.CHECK)),
        *[frame(http2.CONTINUATION, 0, 1)] * 100_000,
    ],
    "pings": lambda: [frame(http2.PING, 0, 0, bytes(8))] * 200_000,
    "settings": lambda: [frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535))] * 100_000,
    "settings of every size": lambda: (
        frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 1, i * 64)) for i in range(50_000)
    ),
    "priorities": lambda: [frame(http2.PRIORITY, 0, 2 * i + 1, bytes(5)) for i in range(100_000)],
    "windows": lambda: [frame(http2.WINDOW_UPDATE, 0, 0, b"\0\0\0\1")] * 100_000,
    "a window that overflows": lambda: [frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")] * 4,
    "unknown frames": lambda: [frame(0xEE, 0xFF, 1, bytes(16_000))] * 2000,
    "a frame of 16 MiB": lambda: [frame(http2.DATA, 0, 1, bytes((1 << 24) - 1))],
    "promises": lambda: [frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, bytes(4))] * 1000,
    "data of no call": lambda: [frame(http2.DATA, 0, 2 * i + 1, bytes(1000)) for i in range(10_000)],
    "goaways": lambda: [frame(http2.GOAWAY, 0, 0, bytes(8))] * 10_000,
    "headers of a MiB": lambda: [
        frame(http2.HEADERS, 0, 1, http2.request_headers(http2.CHECK)),
        *[frame(http2.CONTINUATION, 0, 1, http2.header("x", "v" * 120) * 120)] * 64,
        frame(http2.CONTINUATION, http2.END_HEADERS, 1, b""),
    ],
    "rapid resets": lambda: calls_of(20_000),
    "rapid resets of requests": lambda: calls_of(5000, body=b""),
    "rapid resets of checks": lambda: calls_of(20_000, method=http2.CHECK, body=b""),
    "empty data": lambda: [http2.opened(http2.STREAM_FILES, 1), *[frame(http2.DATA, 0, 1)] * 100_000],
    "a stream opened twice": lambda: [http2.opened(http2.CHECK, 1)] * 1000,
    "descending streams": lambda: [http2.opened(http2.CHECK, 2 * i + 1) for i in range(1000, 0, -1)],
    "broken compression of headers": lambda: [frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff" * 64)],
    "a table that grows": lambda: [
        frame(http2.HEADERS, http2.END_HEADERS, 2 * i + 1, b"\x40" + http2.header("n", "v" * 100)[1:] * 20)
        for i in range(2000)
    ],
}


@pytest.mark.parametrize("flood", FLOODS)
def test_floods(unharmed, flood):
    """A flood of frames, whose sender reads nothing, ends its connection or is borne; others are answered."""
    with Connection(unharmed.port) as connection:
        connection.socket.settimeout(5)
        connection.send(*FLOODS[flood]())
        assert wait_until(unharmed.answers_again)


MESSAGES = {
    "a length of 4 GiB": b"\0\xff\xff\xff\xff" + bytes(1000),
    "a length of 5 MiB": http2.message(bytes(5 * MIB)),
    "a mark of compression": b"\1" + http2.message(b"x")[1:],
    "a mark that is none": b"\x07" + http2.message(b"x")[1:],
    "two messages": http2.message(b"") * 2,
    "ten thousand messages": http2.message(b"") * 10_000,
    "half a head": b"\0\0",
}


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("method", [http2.EXISTS, http2.STREAM_FILES], ids=["Exists", "StreamFiles"])
def test_messages_that_are_none(unharmed, method, message):
    """Framing of messages that lies about length, compression or number harms nobody else."""
    data = MESSAGES[message]
    parts = [data[start : start + 16_000] for start in range(0, len(data), 16_000)]
    with Connection(unharmed.port) as connection:
        connection.send(http2.opened(method, 1), *(frame(http2.DATA, 0, 1, part) for part in parts))
        connection.send(frame(http2.DATA, http2.END_STREAM, 1))
        assert unharmed.answers(seconds=20)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bombs(unharmed, encoding):
    """A request of a MiB that would be a GiB once unpacked is not unpacked."""
    memory = unharmed.most_resident()
    bomb = gzip.compress(bytes(256 * MIB)) * 4
    headers = http2.request_headers(http2.EXISTS) + http2.header("grpc-encoding", encoding)
    body = b"\1" + http2.message(bomb)[1:]
    with Connection(unharmed.port) as connection:
        connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, headers))
        for start in range(0, len(body), 16_000):
            connection.send(frame(http2.DATA, 0, 1, body[start : start + 16_000]))
        connection.send(frame(http2.DATA, http2.END_STREAM, 1))
        assert not connection.is_ended(seconds=0.5)
    assert unharmed.answers()
    assert unharmed.most_resident() - memory < MOST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("begin", [False, True], ids=["silent", "idle"])
def test_more_connections_than_descriptors(attack, begin):
    """Callers that connect without an end leave half of the descriptors to others, and nothing spins."""
    attacked = attack(descriptors=256)
    (attacked.data / "file").write_bytes(b"content")
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(Connection(attacked.port, begin=begin))
        time.sleep(1)
        before = attacked.cpu_seconds()
        assert attacked.answers()
        assert attacked.streams_again("file")
        assert attacked.descriptors() < 200
        time.sleep(2)
        assert attacked.cpu_seconds() - before < 1.0
    with attacked.channel() as another:
        assert another.unary_unary(http2.CHECK)(delimited(15, b"")[:0], timeout=20, wait_for_ready=True)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connections_that_are_merely_held_end(tmp_path, monkeypatch, host):
    """Callers that hold all the connections there may be, and ask nothing, keep a new one waiting a while."""
    options = dict(peer._OPTIONS)
    assert options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"] <= 60_000
    options |= {"grpc.keepalive_time_ms": 1000, "grpc.http2.ping_timeout_ms": 1000}
    monkeypatch.setattr(peer, "_OPTIONS", tuple(options.items()))
    monkeypatch.setattr(peer, "most_connections", lambda listeners: 16 // listeners)
    server = peer.PeerServer("work", "i1", Shares(tmp_path, name="work"), bind=f"{host}:0")
    port = int(server.start().rpartition(":")[2])
    try:
        with contextlib.ExitStack() as stack:
            began = time.monotonic()
            for _ in range(40):
                stack.enter_context(Connection(port, begin=True))
            time.sleep(0.5)
            with grpc.insecure_channel(f"127.0.0.1:{port}") as another:
                check = another.unary_unary(http2.CHECK)
                with contextlib.suppress(grpc.RpcError):
                    check(b"", timeout=0.5)
                    # On a busy machine their two seconds may be over by now.
                    assert time.monotonic() - began > 1.9
                assert check(b"", timeout=60, wait_for_ready=True)
    finally:
        server.stop()


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_floods_soak(kind, tmp_path, soak_seconds, tally):
    """Floods of all kinds, many at once and in any order, are borne by servers of both kinds."""
    attacked, seed = Attacked(kind, tmp_path), random.randrange(2**32)
    print("seed", seed)
    chosen, end = random.Random(seed), time.monotonic() + soak_seconds
    try:
        with bearing(attacked, SOAK_BYTES):
            while time.monotonic() < end:
                with ThreadPoolExecutor(4) as pool:
                    names = chosen.choices(list(FLOODS), k=8)
                    assert all(pool.map(lambda name: _flood(attacked, name), names))
                tally["floods"] += len(names)
                assert wait_until(attacked.answers_again)
    finally:
        attacked.stop()


def _flood(attacked, name):
    with Connection(attacked.port) as connection:
        connection.socket.settimeout(5)
        connection.send(*FLOODS[name]())
    return True
