"""A way made of several connections, written: all of it once, by whichever is free, and its end."""

import contextlib
import os
import socket
import threading

import pytest

from lit_storage_client.peers.stripes import StripedReceiver
from lit_storage_proto.direct import HELLO, MAX_SEGMENT_BYTES, MAX_STRIPES, SEGMENT, STRIPED_HELLO
from lit_storage_proto.frames import Chunk, Frame, Summary
from lit_storage_server.rpc.stripes import StripedSender

SECONDS = 20


@pytest.fixture
def pairs():
    """Make pairs of connected sockets, which are closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(count):
            made = [socket.socketpair() for _ in range(count)]
            for near, far in made:
                stack.enter_context(near)
                stack.enter_context(far).settimeout(SECONDS)
            return made

        yield make


def read_all(receiver):
    buffer, parts = memoryview(bytearray(1 << 16)), []
    while count := receiver.recv_into(buffer):
        parts.append(bytes(buffer[:count]))
    return b"".join(parts)


def receiver_of(connections):
    rest = iter(connections[1:])
    lock = threading.Lock()

    def dial():
        with lock:
            return next(rest)

    return StripedReceiver(connections[0], dial, len(connections))


def test_all_arrives(pairs):
    """What was sent in many calls over several connections comes out as one stream, and then ends."""
    made, sender = pairs(4), StripedSender(SECONDS)
    for near, _ in made:
        sender.add(near)
    receiver = receiver_of([far for _, far in made])
    data = [os.urandom(size) for size in (1, 0, 10, MAX_SEGMENT_BYTES, MAX_SEGMENT_BYTES + 1, 1 << 21)]

    def send():
        for part in data:
            sender.sendall(part[: len(part) // 2], part[len(part) // 2 :])
        sender.finish()
        sender.close()

    sending = threading.Thread(target=send)
    sending.start()
    assert read_all(receiver) == b"".join(data)
    sending.join(SECONDS)
    receiver.close()


def test_what_is_overwritten_later_was_sent(pairs):
    """A buffer may be used again as soon as it was taken over."""
    ((near, far),), sender, buffer = pairs(1), StripedSender(SECONDS), bytearray(b"old")
    sender.sendall(memoryview(buffer))
    buffer[:] = b"new"
    sender.add(near)
    sender.finish()
    assert far.recv(100) == SEGMENT.pack(0, 3) + b"old" + SEGMENT.pack(1, 0)
    sender.close()


def test_a_connection_that_stands_still_does_not_hold_up_the_others(pairs):
    """One that takes nothing keeps what it took; all else goes on the others."""
    (slow, fast), sender = pairs(2), StripedSender(SECONDS)
    sender.add(slow[0])
    block, size = bytes(MAX_SEGMENT_BYTES), 0
    slow[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sender.sendall(*[block] * 2)
    sender.add(fast[0])

    def drain():
        nonlocal size
        while received := fast[1].recv(1 << 20):
            size += len(received)

    draining = threading.Thread(target=drain)
    draining.start()
    for _ in range(50):
        sender.sendall(block)
    sender.shutdown(socket.SHUT_RDWR)
    draining.join(SECONDS)
    assert size > 40 * MAX_SEGMENT_BYTES


def test_nobody_takes_anything(pairs):
    """Whoever sends waits so long, and no longer."""
    ((near, _),), sender = pairs(1), StripedSender(0.2)
    sender.add(near)
    with pytest.raises(TimeoutError):
        for _ in range(100):
            sender.sendall(bytes(MAX_SEGMENT_BYTES))
    sender.close()


def test_a_connection_that_fails_ends_all(pairs):
    """What it took is lost, so the others end too, and whoever sends is told."""
    made, sender = pairs(3), StripedSender(SECONDS)
    for near, _ in made:
        sender.add(near)
    made[0][1].close()
    draining = [threading.Thread(target=drain, args=(far,)) for _, far in made[1:]]
    for thread in draining:
        thread.start()
    with pytest.raises(OSError, match="Broken pipe|reset"):
        for _ in range(200):
            sender.sendall(bytes(MAX_SEGMENT_BYTES))
    for thread in draining:
        thread.join(SECONDS)
        assert not thread.is_alive()


def drain(connected):
    with contextlib.suppress(OSError):
        while connected.recv(1 << 20):
            pass


def test_a_striped_ticket_is_good_so_many_times(listen, connect, wait_until):
    """The stripes of one consumer share a way; one more than was offered is closed, and so is a plain one."""
    with listen().offered() as offer:
        assert offer.direct.stripes == MAX_STRIPES
        hello = STRIPED_HELLO + offer.direct.ticket
        made = [connect(offer.direct, socket.AF_INET, hello) for _ in range(MAX_STRIPES)]
        wait_until(lambda: offer.stripes and len(offer.stripes._stripes) == MAX_STRIPES)
        assert not offer.way.passes_descriptors
        for late in (hello, HELLO + offer.direct.ticket):
            assert connect(offer.direct, socket.AF_INET, late).recv(1) == b""
        receiver = receiver_of(made)
        frames = [Frame(chunks=[Chunk(0, 0, bytes(16), b"x" * 1000)]), Frame(summary=Summary(chunks=1))]
        for frame in frames:
            assert list(offer.way.send(frame, -1)) == [None]
    assert read_all(receiver).count(b"x") == 1000
    receiver.close()


def test_a_plain_ticket_takes_no_stripes(listen, connect, wait_until):
    """Where the ticket was shown for one connection, nobody adds another; nor on a Unix socket ever."""
    with listen().offered() as offer:
        striped = STRIPED_HELLO + offer.direct.ticket
        assert connect(offer.direct, socket.AF_UNIX, striped).recv(1) == b""
        connect(offer.direct, socket.AF_INET)
        wait_until(lambda: offer.way)
        assert connect(offer.direct, socket.AF_INET, striped).recv(1) == b""
        assert offer.stripes is None


def test_stripes_are_of_one_host(listen, connect, wait_until):
    """A host that saw the ticket of another one gets none of its bytes."""
    with listen().offered() as offer:
        hello = STRIPED_HELLO + offer.direct.ticket
        connect(offer.direct, socket.AF_INET, hello)
        wait_until(lambda: offer.way)
        assert connect(offer.direct, socket.AF_INET, hello, host="127.0.0.2").recv(1) == b""
        connect(offer.direct, socket.AF_INET, hello)
        wait_until(lambda: len(offer.stripes._stripes) == 2)


def test_stripes_end_with_their_call(listen, connect, wait_until):
    """After the call every connection is closed, also where nothing was finished."""
    ways = listen()
    with ways.offered() as offer:
        made = [connect(offer.direct, socket.AF_INET, STRIPED_HELLO + offer.direct.ticket) for _ in range(3)]
        wait_until(lambda: offer.stripes and len(offer.stripes._stripes) == 3)
    assert [connected.recv(1) for connected in made] == [b""] * 3
