"""Lies on and about the direct way: where it leads, what comes on it, and which descriptors."""

import array
import contextlib
import os
import socket
import struct
import threading
import time

import pytest

from lit_storage_client.peers import direct, stripes
from lit_storage_client.peers.direct import Ways
from lit_storage_proto.direct import HEADER, HELLO, MAX_STRIPES
from lit_storage_proto.errors import IntegrityError, ProtocolViolation, StorageError, TransferTimeout
from lit_storage_proto.frames import Chunk, Direct, Frame, Summary
from lit_storage_proto.limits import KIB, MIB
from tests.hostile.consumer.liar import ORIGIN, ROOT, a_chunk, a_file, a_pack, gone, send

UNIX = socket.AF_UNIX
SIZE, PART = 4 * MIB, 512 * KIB
DATA = bytes(range(256)) * (PART // 256)
TICKET = bytes(32)


def part(number):
    return a_chunk(0, DATA, number * PART)


def beginning(offer):
    """Yield what makes a way worth its while: a large file, and a first part of it."""
    yield Frame(ORIGIN, [a_file("", size=SIZE)], direct=offer)
    yield Frame(chunks=[part(0)])


def on_the_way(peer, tell):
    """Return what moves to the way of `peer`, and tells there what `tell` sends on its connection."""

    def frames(context):
        yield from beginning(peer.offer)
        connected, _ = peer.accept()
        yield Frame(moved=True)
        with connected, contextlib.suppress(OSError):  # who has heard enough hangs up
            tell(connected)

    return frames


def raw(data):
    return lambda connected: connected.sendall(data)


def framed(*frames):
    def tell(connected):
        for frame in frames:
            send(connected, frame)

    return tell


def flood(connected):
    try:
        while True:
            send(connected, Frame())
    except OSError:
        pass


BROKEN = {
    "nothing": raw(b""),
    "half a header": raw(b"\x01\x00"),
    "a length without end": raw(HEADER.pack(2**32 - 1, 0)),
    "data without end": raw(HEADER.pack(0, 2**32 - 1)),
    "a length over the limit": raw(HEADER.pack(MIB + 1, 0)),
    "half a message": raw(HEADER.pack(100, 100) + bytes(50)),
    "no message": raw(HEADER.pack(8, 0) + b"\xff" * 8),
    "data for nobody": raw(HEADER.pack(0, 4) + b"data"),
    "data for two": framed(Frame(chunks=[part(1)])) and raw(HEADER.pack(4, 1) + b"\x1a\x00\x1a\x00x"),
    "the wrong part": framed(Frame(chunks=[part(3)])),
    "the same part": framed(Frame(chunks=[part(0)])),
    "damaged": framed(Frame(chunks=[Chunk(0, PART, TICKET[:16], DATA)])),
    "by a descriptor": framed(Frame(chunks=[Chunk(0, PART, descriptor_bytes=PART)])),
    "another tree": framed(Frame(ORIGIN, [ROOT])),
    "a summary that lies": framed(Frame(summary=Summary(1, 8, SIZE))),
    "a removal": framed(Frame(entries=[gone("")], round=1)),
    "another way": framed(Frame(direct=Direct("", 1, TICKET)), Frame(chunks=[part(2)])),
    "moved again": framed(Frame(moved=True), Frame(chunks=[part(2)])),
    "what comes after a summary": framed(Frame(summary=Summary(1, 1, PART)), Frame(chunks=[part(1)])),
    "a pack": framed(Frame(packs=[a_pack(["x"])])),
}


@pytest.mark.parametrize("tell", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("family", [socket.AF_INET, UNIX], ids=["tcp", "unix"])
def test_what_comes_on_it(liar, consumer, direct_liar, tell, family):
    """What comes on a direct way is held to the same rules, and ends in an error in time."""
    liar.frames = on_the_way(direct_liar(family), tell)
    consumer.refuse()


@pytest.mark.parametrize("family", [socket.AF_INET, UNIX], ids=["tcp", "unix"])
@pytest.mark.parametrize("frame", [Frame(), Frame(moved=True), Frame(ORIGIN), Frame(round=1)], ids=repr)
def test_empty_messages_for_ever(liar, consumer_of, direct_liar, family, frame):
    """Messages that bring nothing are no sign of life, however many and whatever they say of themselves."""
    consumer = consumer_of(liar.record, progress_seconds=0.5)
    ended = threading.Event()

    def tell(connected):
        while not ended.wait(0.01):
            try:
                send(connected, frame)
            except OSError:
                return

    liar.frames = on_the_way(direct_liar(family), tell)
    consumer.refuse(TransferTimeout)
    ended.set()


@pytest.mark.parametrize("family", [socket.AF_INET, UNIX], ids=["tcp", "unix"])
def test_silence(liar, consumer_of, direct_liar, family):
    """A way on which nothing comes is given up within the limit for progress."""
    consumer = consumer_of(liar.record, progress_seconds=0.5)
    liar.frames = on_the_way(direct_liar(family), lambda connected: connected.recv(1))
    consumer.refuse(TransferTimeout)


OFFERS = {
    "a path": {"unix_name": "/run/docker.sock"},
    "a path with our prefix": {"unix_name": "lit-storage-/../../run/docker.sock"},
    "another abstract name": {"unix_name": "@/org/freedesktop/systemd1/private"},
    "too long": {"unix_name": "lit-storage-" + "a" * 33},
    "too short": {"unix_name": "lit-storage-" + "a" * 31},
    "not hexadecimal": {"unix_name": "lit-storage-" + "g" * 32},
    "with a NUL": {"unix_name": "\0lit-storage-" + "a" * 32},
    "with a line": {"unix_name": "lit-storage-" + "a" * 32 + "\n"},
    "digits of another script": {"unix_name": "lit-storage-" + "\u0661" * 32},
    "nobody's": {"unix_name": "lit-storage-" + "a" * 32},
    "no port": {"tcp_port": 0},
    "a port beyond all": {"tcp_port": 65536 + 22},
    "a port of 32 bits": {"tcp_port": 2**32 - 1},
    "a short ticket": {"tcp_port": 22, "ticket": b"x"},
    "a long ticket": {"tcp_port": 22, "ticket": bytes(1000)},
    "no ticket": {"tcp_port": 22, "ticket": b""},
}


@pytest.mark.parametrize("fields", OFFERS.values(), ids=OFFERS)
def test_offer_that_leads_elsewhere(liar, consumer, monkeypatch, fields):
    """No offer makes a consumer connect to a socket's path, to another abstract name, or to no port."""
    dialed = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: dialed.append(address) or _refuse())
    offer = Direct(**{"ticket": TICKET, **fields})
    liar.frames = [*beginning(offer), Frame(moved=True)]
    consumer.refuse((ProtocolViolation, IntegrityError))
    assert dialed in ([], ["\0lit-storage-" + "a" * 32])


def _refuse():
    raise ConnectionRefusedError


def test_offer_leads_to_the_host_of_the_call(liar, consumer, direct_liar):
    """An offer names a port and no host: that of the call is dialed, and hears nothing but the ticket."""
    peer = direct_liar()
    heard = []

    def frames(context):
        yield from beginning(peer.offer)
        connected, hello = peer.accept()
        connected.close()
        heard.append(hello)
        yield Frame(moved=True)

    liar.frames = frames
    consumer.refuse()
    assert heard == [HELLO + peer.ticket]


def test_many_offers(liar, consumer, direct_liar):
    """One call may offer one way, in its first message: else each further offer would cost a connection."""
    peer = direct_liar()
    again = [Frame(chunks=[part(n)], direct=peer.offer) for n in range(1, 8)]
    liar.frames = [*beginning(peer.offer), *again]
    assert "middle" in consumer.refuse(ProtocolViolation)


def test_late_offer(liar, consumer, direct_liar):
    """A way that is offered later than in the first message is not taken up."""
    liar.frames = [*beginning(None), Frame(direct=direct_liar().offer)]
    consumer.refuse(ProtocolViolation)


def test_move_without_an_offer(liar, consumer):
    """A stream cannot move to a way that was not offered."""
    liar.frames = [*beginning(None), Frame(moved=True)]
    consumer.refuse(ProtocolViolation)


def test_move_twice(liar, consumer, direct_liar):
    """A stream moves once."""
    peer = direct_liar()

    def frames(context):
        yield from beginning(peer.offer)
        peer.accept()[0].close()
        yield from [Frame(moved=True)] * 3

    liar.frames = frames
    assert "twice" in consumer.refuse(ProtocolViolation)


def test_offer_that_was_not_asked_for(liar, consumer_of, direct_liar):
    """Where no direct way was asked for, none is taken."""
    consumer, peer = consumer_of(liar.record, ways=Ways.NONE), direct_liar()
    liar.frames = [*beginning(peer.offer), Frame(moved=True)]
    consumer.refuse(ProtocolViolation)


# --- Descriptors ---------------------------------------------------------------------------------

BY_DESCRIPTOR = Frame(chunks=[Chunk(0, PART, descriptor_bytes=SIZE - PART)])


def _file(path, flags, size=SIZE):
    with open(path, "wb") as file:
        file.truncate(size)
    return os.open(path, flags)


PASSED = {
    "a directory": lambda path: os.open(path, os.O_RDONLY),
    "a device": lambda path: os.open("/dev/zero", os.O_RDONLY),
    "a full device": lambda path: os.open("/dev/full", os.O_RDWR),
    "a pipe": lambda path: os.pipe2(os.O_CLOEXEC)[0],
    "a socket": lambda path: socket.socket().detach(),
    "an event": lambda path: os.eventfd(0),
    "a process": lambda path: os.pidfd_open(os.getpid()),
    "what can only be written": lambda path: _file(f"{path}/f", os.O_WRONLY),
    "what is only a place": lambda path: _file(f"{path}/f", os.O_PATH),
    "an empty file": lambda path: _file(f"{path}/f", os.O_RDONLY, 0),
    "a file that is too short": lambda path: _file(f"{path}/f", os.O_RDONLY, PART + 1),
    "a file of the kernel": lambda path: os.open("/proc/self/status", os.O_RDONLY),
}


@pytest.mark.parametrize("passed", PASSED.values(), ids=PASSED)
def test_descriptor_of_what_is_no_file(liar, consumer, direct_liar, tmp_path, passed):
    """Only a regular file that is open for reading, and long enough, is copied from."""
    fd = passed(tmp_path)
    peer = direct_liar(UNIX)

    def tell(connected):
        send(connected, BY_DESCRIPTOR, fd)
        send(connected, Frame(summary=Summary(1, 2, SIZE)))

    liar.frames = on_the_way(peer, tell)
    consumer.refuse((ProtocolViolation, IntegrityError))
    os.close(fd)


def test_no_descriptor(liar, consumer, direct_liar):
    """Bytes by descriptor need one."""
    liar.frames = on_the_way(direct_liar(UNIX), framed(BY_DESCRIPTOR))
    assert "no descriptor" in consumer.refuse(ProtocolViolation)


def test_descriptors_that_were_not_asked_for(liar, consumer, direct_liar):
    """Descriptors beside messages that need none, hundreds of them, are closed as they come."""
    zero = os.open("/dev/zero", os.O_RDONLY)

    def tell(connected):
        for number in range(1, 8):
            send(connected, Frame(chunks=[part(number)]), zero)
            for _ in range(40):
                send(connected, Frame(), zero)
        send(connected, Frame(chunks=[part(9)]), zero)

    liar.frames = on_the_way(direct_liar(UNIX), tell)
    consumer.refuse(ProtocolViolation)
    os.close(zero)


@pytest.mark.parametrize("where", ["header", "message", "alone"])
def test_flood_of_descriptors(liar, consumer, direct_liar, where):
    """Of hundreds of descriptors in one message at most two are let in, and none stays open."""
    zero = os.open("/dev/zero", os.O_RDONLY)
    many = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [zero] * 250))]
    header = HEADER.pack(16, 0)

    def tell(connected):
        if where == "message":
            connected.sendall(header)
        connected.sendmsg([header if where != "message" else bytes(16)], many)
        if where == "header":
            connected.sendall(b"\xff" * 16)

    liar.frames = on_the_way(direct_liar(UNIX), tell)
    consumer.refuse()
    os.close(zero)


def test_descriptor_of_a_huge_sparse_file(liar, consumer, direct_liar, tmp_path):
    """A sparse file of a terabyte is copied as one: it takes no room, and little time."""
    size = 1 << 40
    fd = _file(tmp_path / "sparse", os.O_RDONLY, size)
    peer = direct_liar(UNIX)

    def frames(context):
        yield Frame(ORIGIN, [a_file("", size=size)], direct=peer.offer)
        connected, _ = peer.accept()
        yield Frame(moved=True)
        send(connected, Frame(chunks=[Chunk(0, 0, descriptor_bytes=size)]), fd)
        connected.recv(1)
        send(connected, Frame(summary=Summary(1, 1, size)))
        connected.close()

    liar.frames = frames
    consumer.get()
    os.close(fd)
    status = os.stat(consumer.target)
    assert (status.st_size, status.st_blocks < 100) == (size, True)


def test_file_that_grows_under_its_descriptor(liar, consumer, direct_liar, tmp_path):
    """No more is copied than was announced."""
    fd = _file(tmp_path / "grown", os.O_RDONLY, 2 * SIZE)

    def tell(connected):
        send(connected, BY_DESCRIPTOR, fd)
        send(connected, Frame(summary=Summary(1, 2, SIZE)))

    liar.frames = on_the_way(direct_liar(UNIX), tell)
    consumer.get()
    os.close(fd)
    assert os.path.getsize(consumer.target) == SIZE


@pytest.mark.root
def test_socket_of_another_user(liar, consumer, tmp_path):
    """Whoever took the abstract name first gets no ticket unless it is this user or root."""
    name = f"lit-storage-{os.urandom(16).hex()}"
    ready, told_pid = os.pipe()
    pid = os.fork()
    if not pid:
        os.setresuid(65534, 65534, 65534)
        listener = socket.socket(UNIX)
        listener.bind(f"\0{name}")
        listener.listen()
        os.write(told_pid, b"!")
        connected, _ = listener.accept()
        os._exit(1 if connected.recv(100) else 0)
    os.read(ready, 1)
    liar.frames = [*beginning(Direct(name, 0, TICKET)), Frame(moved=True)]
    with pytest.raises(StorageError):
        consumer.get()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(ready)
    os.close(told_pid)


# --- Stripes -------------------------------------------------------------------------------------

SEGMENT = struct.Struct("<QI")
MESSAGE = HEADER.pack(0, 0)


def segments(*pieces):
    return raw(b"".join(SEGMENT.pack(number, len(data)) + data for number, data in pieces))


STRIPED = {
    "nothing": raw(b""),
    "half a header": raw(b"\0" * 5),
    "too long": raw(SEGMENT.pack(0, 128 * KIB + 1)),
    "without end": raw(SEGMENT.pack(0, 2**32 - 1)),
    "twice": segments((0, MESSAGE), (0, MESSAGE)),
    "backwards": segments((0, MESSAGE), (1, MESSAGE), (0, MESSAGE)),
    "far ahead": segments(*[(2**64 - 1 - n, MESSAGE) for n in range(8)]),
    "never the first": segments(*[(n, MESSAGE) for n in range(1, 9)]),
    "an end at once": segments((0, b"")),
    "an end that is ahead": segments((5, b""), (6, b"")),
    "a half": raw(SEGMENT.pack(0, 100) + bytes(10)),
    "a broken message": segments((0, HEADER.pack(2**31, 0))),
}


@pytest.mark.parametrize("tell", STRIPED.values(), ids=STRIPED)
@pytest.mark.parametrize("offered", [2, 2**32 - 1])
def test_stripes(liar, consumer_of, direct_liar, monkeypatch, tell, offered):
    """Segments that lie end in an error, and however many stripes are offered, few connections are made."""
    monkeypatch.setattr(direct, "worthwhile_stripes", lambda *of: stripes.stripes_for(1.0, of[2]))
    consumer = consumer_of(liar.record, progress_seconds=2.0, connect_seconds=2.0)
    peer = direct_liar(stripes=offered)

    def frames(context):
        yield from beginning(peer.offer)
        connected, _ = peer.accept()
        yield Frame(moved=True)
        tell(connected)
        connected.close()
        deadline = time.monotonic() + 1
        peer.listener.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                peer.accept()[0].close()
            except OSError:
                break

    liar.frames = frames
    consumer.refuse()
    assert len(peer.open) <= MAX_STRIPES
