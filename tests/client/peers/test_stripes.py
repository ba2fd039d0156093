"""A way made of several connections, read: order, memory, and what a peer may not send."""

import contextlib
import itertools
import os
import random
import socket
import threading

import pytest

from lit_storage_client.peers.stripes import StripedReceiver, stripes_for, worthwhile_stripes
from lit_storage_proto.direct import MAX_SEGMENT_BYTES, MAX_STRIPES, SEGMENT
from lit_storage_proto.errors import ProtocolViolation

SECONDS = 20


@pytest.mark.parametrize(
    ("rtt_seconds", "most", "count"),
    [
        (0.0, 16, 1),
        (0.0049, 16, 1),
        (0.005, 16, 2),
        (0.02, 16, 8),
        (0.04, 16, 16),
        (3.0, 16, 16),
        (3.0, 1000, MAX_STRIPES),
        (0.04, 4, 4),
        (0.04, 1, 1),
        (0.04, 0, 1),
    ],
)
def test_how_many(rtt_seconds, most, count):
    """The longer the line, the more; a short one is worth one, and a peer allows so many."""
    assert stripes_for(rtt_seconds, most) == count


def test_loopback_is_short():
    """A connection within this machine is worth no second one: its round trip is read from the kernel."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as connected,
    ):
        assert worthwhile_stripes(connected, 5.0, MAX_STRIPES) == 1


@pytest.fixture
def striped():
    """Make a receiver of so many connections; return it and the other ends."""
    with contextlib.ExitStack() as stack:

        def make(count):
            pairs = [socket.socketpair() for _ in range(count)]
            for pair in itertools.chain(*pairs):
                stack.enter_context(pair)
            for _, far in pairs:
                far.settimeout(SECONDS)
            near = iter([near for near, _ in pairs])
            lock = threading.Lock()

            def dial():
                with lock:
                    return next(near)

            receiver = StripedReceiver(dial(), dial, count)
            stack.callback(receiver.close)
            return receiver, [far for _, far in pairs]

        yield make


def segment(number, data):
    return SEGMENT.pack(number, len(data)) + data


def send(connected, data):
    with contextlib.suppress(OSError):  # nobody may take all of it
        connected.sendall(data)


def read(receiver, size):
    """Take `size` bytes, or less where it ends before."""
    buffer, filled = memoryview(bytearray(size)), 0
    while filled < size and (count := receiver.recv_into(buffer[filled:])):
        filled += count
    return bytes(buffer[:filled])


def test_order(striped):
    """What comes out is in the order of the numbers, whichever connection carried which."""
    receiver, far = striped(4)
    numbers, parts = random.Random(7), [os.urandom(1 + index * 37) for index in range(200)]
    by_stripe = [[] for _ in far]
    for number, part in enumerate([*parts, b""]):
        numbers.choice(by_stripe).append(segment(number, part))
    writers = [
        threading.Thread(target=connected.sendall, args=(b"".join(segments),), daemon=True)
        for connected, segments in zip(far, by_stripe, strict=True)
    ]
    for writer in writers:
        writer.start()
    whole = b"".join(parts)
    assert read(receiver, len(whole)) == whole
    assert (receiver.recv_into(memoryview(bytearray(1))), receiver.recv_into(memoryview(bytearray(1)))) == (
        0,
        0,
    )


def test_nothing_is_passed_over(striped):
    """Where a segment is lost with its connection, what came before it is given out, then the end."""
    receiver, far = striped(2)
    far[0].sendall(segment(0, b"first") + segment(2, b"third"))
    for connected in far:
        connected.close()
    assert read(receiver, 100) == b"first"


def test_a_segment_that_nobody_can_bring(striped):
    """Where a segment is lost with its connection, and the others are ahead, the end comes at once."""
    receiver, far = striped(3)
    for number, connected in enumerate(far[1:], 1):
        ahead = [segment(2 * index + number, bytes(MAX_SEGMENT_BYTES)) for index in range(4)]
        threading.Thread(target=send, args=(connected, b"".join(ahead)), daemon=True).start()
    far[0].close()
    ended = []
    reading = threading.Thread(target=lambda: ended.append(read(receiver, 1)), daemon=True)
    reading.start()
    reading.join(SECONDS)
    assert ended == [b""]


def test_more_is_not_held(striped):
    """A connection that is ahead of the others is not read further than two segments."""
    receiver, far = striped(2)
    ahead = segment(1, bytes(MAX_SEGMENT_BYTES)) + segment(2, bytes(MAX_SEGMENT_BYTES))
    far[1].sendall(ahead)
    far[1].settimeout(0.2)
    numbers = itertools.count(3)
    with pytest.raises(TimeoutError):
        for _ in range(100):
            far[1].sendall(segment(next(numbers), bytes(MAX_SEGMENT_BYTES)))
    far[0].sendall(segment(0, b"x"))
    assert read(receiver, 1 + 2 * MAX_SEGMENT_BYTES) == b"x" + bytes(2 * MAX_SEGMENT_BYTES)


@pytest.mark.parametrize(
    "sent",
    [
        segment(0, b"a") + SEGMENT.pack(1, MAX_SEGMENT_BYTES + 1),
        segment(0, b"a") + segment(0, b"a"),
        segment(0, b"a") + segment(5, b"b") + segment(5, b"b"),
    ],
    ids=["too long", "again", "twice"],
)
def test_what_a_peer_may_not_send(striped, sent):
    """A segment that is too long, or that came before, ends the way with a typed error."""
    receiver, far = striped(1)
    far[0].sendall(sent)
    with pytest.raises(ProtocolViolation):
        while read(receiver, 1):
            pass


def test_a_connection_that_cannot_be_made(striped):
    """Those that are there carry all of it."""
    near, far = socket.socketpair()

    def dial():
        raise ConnectionRefusedError

    with near, far:
        receiver = StripedReceiver(near, dial, 3)
        far.sendall(segment(0, b"all") + segment(1, b""))
        assert read(receiver, 10) == b"all"
        receiver.close()


def test_shutdown_wakes_who_waits(striped):
    """Whoever waits for bytes gets the end, and the other side sees it."""
    receiver, far = striped(3)
    waiting = threading.Thread(target=read, args=(receiver, 1), daemon=True)
    waiting.start()
    receiver.shutdown(socket.SHUT_RDWR)
    waiting.join(SECONDS)
    assert not waiting.is_alive()
    assert [connected.recv(1) for connected in far] == [b"", b"", b""]


def test_close_ends_every_thread(striped):
    """No thread stays, also of connections that are full, ahead of others, or still being made."""
    before = threading.active_count()
    dialing = threading.Event()
    near, far = socket.socketpair()

    def dial():
        dialing.wait(SECONDS)
        return late

    late, other = socket.socketpair()
    with near, far, late, other:
        receiver = StripedReceiver(near, dial, 2)
        far.sendall(b"".join(segment(number, b"x") for number in range(1, 50)))
        receiver.close()
        dialing.set()
        for thread in receiver._threads:
            thread.join(SECONDS)
        other.settimeout(SECONDS)
        assert other.recv(1) == b""
    assert threading.active_count() <= before  # those of other tests may end meanwhile


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_fewer_threads_than_connections(striped, monkeypatch, threads):
    """Where the system starts no more threads, those that there are carry all; without any, it is no way."""
    start, left = threading.Thread.start, [threads]

    def limited(thread):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    if not threads:
        with pytest.raises(BlockingIOError):
            striped(4)
        return
    receiver, far = striped(4)
    for number in range(threads):
        far[number].sendall(segment(number, b"part"))
    far[0].sendall(segment(threads, b""))
    assert read(receiver, 100) == b"part" * threads
