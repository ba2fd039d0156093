"""The plain sockets beside gRPC, attacked by whoever can reach them: other users, containers, machines."""

import array
import contextlib
import fcntl
import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lit_storage_client.peers.direct import Dialer
from lit_storage_core.security.settings import Security
from lit_storage_proto.direct import HEADER, HELLO, MAX_STRIPES, STRIPED_HELLO, TICKET_BYTES
from lit_storage_proto.frame_codec import decode_detached, decode_frame, encode_detached
from lit_storage_proto.frames import Direct, Frame
from lit_storage_proto.limits import MIB
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_server.rpc import direct
from tests.hostile.origin.attacker import ask

UNIX, TCP = socket.AF_UNIX, socket.AF_INET
FAMILIES = pytest.mark.parametrize("family", [UNIX, TCP], ids=["unix", "tcp"])
SIZE = 24 * MIB  # more than what lies in the buffers of a call


@pytest.fixture
def content(own_origin):
    data = os.urandom(MIB) * (SIZE // MIB)
    (own_origin.root / "large").write_bytes(data)
    (own_origin.root / "large").chmod(0o666)
    return data


@pytest.fixture
def call(own_origin, content):
    """A call under way that offers direct ways; it is cancelled after the test."""
    stream = own_origin.channel.unary_stream(
        "/lit_storage.v1.PathStorage/StreamFiles", pb.StreamFilesRequest.SerializeToString
    )
    begun = stream(pb.StreamFilesRequest(path="large", direct=True), timeout=60)
    begun.offer = decode_frame(next(begun)).direct
    yield begun
    begun.cancel()


@pytest.fixture
def connect(call):
    """Connect to what a call offers, and say something; all is closed after the test."""
    with contextlib.ExitStack() as stack:

        def connect(family, say=b""):
            connected = stack.enter_context(contextlib.closing(socket.socket(family)))
            # Without a limit: where many wait to be accepted, others wait too, instead of EAGAIN.
            connected.connect(
                f"\0{call.offer.unix_name}" if family == UNIX else ("127.0.0.1", call.offer.tcp_port)
            )
            connected.settimeout(30)
            with contextlib.suppress(ConnectionError):
                connected.sendall(say)
            return connected

        yield connect


def rest_of(connected):
    """Return all that comes until the connection ends, however it ends."""
    came = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := connected.recv(1 << 20):
            came += data
    return bytes(came)


def data_of(call):
    """Return the bytes of all chunks that come over gRPC, to the end of the call."""
    return b"".join(bytes(chunk.data) for frame in map(decode_frame, call) for chunk in frame.chunks)


def drained(call):
    """Take all that comes over gRPC, in a thread, so that the call goes on."""

    def drain():
        with contextlib.suppress(grpc.RpcError):  # it is cancelled in the end
            for _ in call:
                time.sleep(0.01)

    threading.Thread(target=drain, daemon=True).start()


@pytest.fixture
def taken_up(own_origin, call, wait_until):
    """Wait until the server has seen the ticket of a call: what it reads before goes over gRPC."""
    return lambda: wait_until(lambda: own_origin.server._ways._offers[call.offer.ticket].way)


def flipped(ticket):
    return ticket[:-1] + bytes([ticket[-1] ^ 1])


LIES = {
    "nothing but zeros": lambda ticket: HELLO + bytes(TICKET_BYTES),
    "a guess": lambda ticket: HELLO + secrets.token_bytes(TICKET_BYTES),
    "one bit is wrong": lambda ticket: HELLO + flipped(ticket),
    "the ticket backwards": lambda ticket: HELLO + ticket[::-1],
    "the ticket and no hello": lambda ticket: ticket + ticket,
    "another hello": lambda ticket: b"LITDIRC0" + ticket,
    "the hello in small letters": lambda ticket: HELLO.lower() + ticket,
    "a byte too early": lambda ticket: b"\0" + HELLO + ticket,
    "HTTP": lambda ticket: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"\r\n" * 20,
    "TLS": lambda ticket: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),
    "gRPC": lambda ticket: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40),
    "the ticket in hexadecimal": lambda ticket: HELLO + ticket.hex().encode(),
    "stripes with a guess": lambda ticket: STRIPED_HELLO + secrets.token_bytes(TICKET_BYTES),
    "stripes with one bit wrong": lambda ticket: STRIPED_HELLO + flipped(ticket),
    "megabytes": lambda ticket: secrets.token_bytes(1 << 20),
}


@FAMILIES
@pytest.mark.parametrize("lie", LIES)
def test_without_the_ticket_nothing_is_sent(call, connect, content, family, lie):
    """Whatever is said instead, and the call that the ticket is of goes on to its end."""
    assert rest_of(connect(family, LIES[lie](call.offer.ticket))) == b""
    assert data_of(call) == content


@FAMILIES
def test_a_ticket_that_was_shown_is_worth_nothing(call, connect, taken_up, family):
    """Who saw one on its way can neither take the place of who showed it, nor share in it."""
    owner = connect(family, HELLO + call.offer.ticket)
    taken_up()
    drained(call)
    first = owner.recv(1)
    replayed = [connect(each, HELLO + call.offer.ticket) for each in (UNIX, TCP) for _ in range(5)]
    replayed += [connect(TCP, STRIPED_HELLO + call.offer.ticket) for _ in range(5)]
    assert first
    assert [rest_of(each) for each in replayed] == [b""] * len(replayed)


@FAMILIES
def test_a_ticket_of_a_call_that_ended_is_worth_nothing(call, connect, content, family):
    """It is forgotten with the call."""
    assert data_of(call) == content
    assert rest_of(connect(family, HELLO + call.offer.ticket)) == b""


def test_more_stripes_than_were_offered_are_refused(call, connect, taken_up):
    """One ticket is good for as many connections as the offer says."""
    stripes = [connect(TCP, STRIPED_HELLO + call.offer.ticket) for _ in range(MAX_STRIPES + 8)]
    taken_up()
    drained(call)
    with ThreadPoolExecutor(len(stripes)) as pool:
        came = list(pool.map(rest_of, stripes))
    assert sum(1 for data in came if data) <= MAX_STRIPES
    assert sum(map(len, came)) > MIB


def test_a_ticket_cannot_be_guessed(own_origin, content):
    """It has 256 bits of the system's randomness: no two are alike, in no half of it."""
    stub, seen = own_origin.stub, []
    for _ in range(20):
        begun = stub.StreamFiles(pb.StreamFilesRequest(path="large", direct=True), timeout=60)
        seen.append(next(begun).direct.ticket)
        begun.cancel()
    assert {len(ticket) for ticket in seen} == {32}
    assert len({ticket[:16] for ticket in seen} | {ticket[16:] for ticket in seen}) == 40


@pytest.fixture
def silent(call, connect, monkeypatch, wait_until):
    """Open many connections that say nothing, or only half a hello."""
    monkeypatch.setattr(direct, "_HELLO_SECONDS", 1.0)

    def open_many(family, say):
        return [connect(family, say) for _ in range(400)]

    return open_many


@pytest.mark.slow
@FAMILIES
@pytest.mark.parametrize(
    "say", [b"", HELLO[:3], HELLO + bytes(31)], ids=["nothing", "a part", "all but a byte"]
)
def test_who_says_nothing_holds_nobody_up(own_origin, call, content, silent, wait_until, family, say):
    """Threads and descriptors for such connections are bounded, others are served, and they are closed."""
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    connections = silent(family, say)
    # Who leaves makes room before it has ended, so that there can be two of each for a moment.
    assert threading.active_count() - threads <= 2 * 128 + 8
    assert ask(own_origin.stub, "stat", "a/file")[1] is grpc.StatusCode.OK
    assert data_of(call) == content
    assert [rest_of(each) for each in connections] == [b""] * len(connections)
    wait_until(lambda: threading.active_count() <= threads + 8)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + len(connections) + 8)


@pytest.mark.slow
@FAMILIES
def test_who_says_its_hello_a_byte_at_a_time(call, connect, content, monkeypatch, family):
    """The whole of it has one deadline, not each byte."""
    monkeypatch.setattr(direct, "_HELLO_SECONDS", 1.0)
    connected, began = connect(family), time.monotonic()
    with contextlib.suppress(OSError):
        for byte in HELLO + call.offer.ticket:
            connected.sendall(bytes([byte]))
            time.sleep(0.2)
    assert rest_of(connected) == b""
    assert time.monotonic() - began < 8 + 30
    assert data_of(call) == content


def received(connected):
    """Take the next message with the descriptors that come with it."""
    header, descriptors, _, _ = socket.recv_fds(connected, HEADER.size, 8)
    while len(header) < HEADER.size:
        header += connected.recv(HEADER.size - len(header)) or pytest.fail("the connection ended")
    parts = []
    for size in HEADER.unpack(header):
        part = b""
        while len(part) < size:
            part += connected.recv(size - len(part))
        parts.append(part)
    return decode_detached(*parts), descriptors


@pytest.fixture
def passed(call, connect, taken_up):
    """The descriptor that the server passes for the large file; closed after the test."""
    connected = connect(UNIX, HELLO + call.offer.ticket)
    taken_up()
    drained(call)
    while True:
        _, descriptors = received(connected)
        if descriptors:
            break
    yield descriptors
    for fd in descriptors:
        os.close(fd)


def test_a_descriptor_that_is_passed_is_one_of_the_file_for_reading(own_origin, passed):
    """It is the only one, of a regular file, not of a directory; through it nothing can be written."""
    (fd,) = passed
    assert os.path.samestat(os.fstat(fd), os.stat(own_origin.root / "large"))
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) == os.O_RDONLY
    with pytest.raises(OSError):
        os.write(fd, b"x")
    with pytest.raises(OSError):
        os.ftruncate(fd, 0)
    with pytest.raises(NotADirectoryError):
        os.open("../root-outside/canary", os.O_RDONLY, dir_fd=fd)


def test_a_descriptor_stays_of_its_file_when_that_is_replaced(own_origin, content, passed):
    """What takes the place of the file, as a link to what is not shared, is not what it reads."""
    (own_origin.root / "link").symlink_to(own_origin.outside / "canary")
    os.rename(own_origin.root / "link", own_origin.root / "large")
    assert os.pread(passed[0], SIZE, 0) == content


# Once all is imported, for another user may not even read this Python.
AS_NOBODY = """
import os, socket, sys
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
"""
_AS_ANOTHER = """
import os, socket, sys
name, ticket = sys.argv[1], bytes.fromhex(sys.argv[2])
connected = socket.socket(socket.AF_UNIX)
connected.settimeout(30)
connected.connect("\\0" + name)
connected.sendall(bytes.fromhex(sys.argv[3]) + ticket)
print("said", flush=True)
came, descriptors = 0, 0
try:
    while True:
        data, fds, _, _ = socket.recv_fds(connected, 1 << 20, 8)
        if not data:
            break
        came, descriptors = came + len(data), descriptors + len(fds)
except ConnectionError:
    pass
print(came, descriptors)
"""


def run_as_another(call, *prefix, before="", ticket=None):
    """Take up what a call offers from a process behind a command; return its program, which has begun."""
    shown = call.offer.ticket if ticket is None else ticket
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", before + _AS_ANOTHER, call.offer.unix_name, shown.hex(), HELLO.hex()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.root
def test_another_user_with_the_ticket_is_sent_bytes_and_no_descriptor(call, taken_up):
    """Through a descriptor he could open the file anew, for writing where its mode allows that."""
    with run_as_another(call, before=AS_NOBODY) as other:
        assert other.stdout.readline() == "said\n"
        taken_up()
        drained(call)
        came, descriptors = map(int, other.stdout.read().split())
    assert (came > MIB, descriptors) == (True, 0)  # how much went over gRPC before is the line's to say


@pytest.mark.slow
@pytest.mark.root
def test_another_user_without_the_ticket_is_sent_nothing(call, content):
    """The name of the socket is no secret: /proc/net/unix tells it to all."""
    with run_as_another(call, before=AS_NOBODY, ticket=secrets.token_bytes(TICKET_BYTES)) as other:
        assert other.stdout.read() == "said\n0 0\n"
    assert data_of(call) == content


@pytest.mark.root
def test_another_network_namespace_cannot_connect(call, content):
    """A container with a network of its own does not even see the socket, ticket or not."""
    with run_as_another(call, "unshare", "--net") as other:
        assert "ConnectionRefusedError" in other.stderr.read()
    assert data_of(call) == content


@pytest.mark.root
@pytest.mark.parametrize("namespace", ["--mount", "--user", "--pid", "--ipc"])
def test_another_namespace_of_another_kind_needs_the_ticket(call, content, namespace):
    """Where the network is shared the socket is seen, and the ticket decides."""
    wrong = secrets.token_bytes(TICKET_BYTES)
    fork = ["--fork"] if namespace == "--pid" else []
    with run_as_another(call, "unshare", namespace, *fork, ticket=wrong) as other:
        assert other.stdout.read() == "said\n0 0\n", other.stderr.read()
    assert data_of(call) == content


class Impostor:
    """Listens where a peer says that it does, in this process."""

    def __init__(self):
        self.name = f"lit-storage-{secrets.token_hex(16)}"
        self.listener = socket.socket(UNIX)
        self.listener.bind(f"\0{self.name}")
        self.listener.listen()
        self.listener.settimeout(30)

    def accept(self):
        connected, _ = self.listener.accept()
        connected.settimeout(30)
        return connected


RECORD = LiveRecord("train", "i1", "127.0.0.1:1", "machine")


@pytest.fixture
def dial():
    """Take up an offer as a consumer does; closed after the test."""
    with contextlib.ExitStack() as stack:

        def dial(name, ticket=bytes(TICKET_BYTES), port=0):
            way = Dialer(Security(), 5.0).dial(Direct(name, port, ticket), RECORD)
            assert way is not None
            return stack.enter_context(contextlib.closing(way))

        yield dial


@pytest.fixture
def impostor():
    with contextlib.ExitStack() as stack:
        made = Impostor()
        stack.callback(made.listener.close)
        yield made


@pytest.mark.root
def test_a_consumer_shows_its_ticket_to_no_other_user(dial):
    """Who took the name of the socket before the server could is asked for its user by the kernel."""
    code = """
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0" + sys.argv[1])
listener.listen()
print("ready", flush=True)
connected, _ = listener.accept()
connected.settimeout(30)
print(connected.recv(100), flush=True)
"""
    name = f"lit-storage-{secrets.token_hex(16)}"
    command = [sys.executable, "-c", AS_NOBODY + code, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        assert dial(name).receive() is None
        assert other.stdout.readline() == "b''\n"


@pytest.mark.parametrize(
    "name",
    [
        "/tmp/socket",
        "../socket",
        "",
        "\0lit-storage-" + "0" * 32,
        "lit-storage-" + "0" * 31,
        "lit-storage-" + "0" * 33,
        "lit-storage-" + "A" * 32,
        "lit-storage-" + "0" * 32 + "\n",
        "lit-storage-" + "0" * 32 + "\0x",
        "@lit-storage-" + "0" * 32,
        "lit-storage-../../../../../../../../etc/x",
        "dbus-session",
    ],
)
def test_a_consumer_connects_to_no_other_socket(dial, monkeypatch, name):
    """A peer that names another one, as that of a service of this machine, is not followed."""
    reached = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: reached.append(address))
    assert dial(name).receive() is None
    assert reached == []


def message():
    packed, data = encode_detached(Frame())
    return HEADER.pack(len(packed), len(data)) + packed + bytes(data)


def with_descriptors(connected, data, fds):
    connected.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


@pytest.mark.parametrize("each", [1, 2, 3, 50, 253])
def test_descriptors_that_nobody_asked_for_are_closed(impostor, dial, each, wait_until):
    """However many come with a message, a consumer holds a bounded number, and none in the end."""
    pipe = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    way = dial(impostor.name)
    connected = impostor.accept()
    sent, most = 0, 0
    with contextlib.suppress(OSError):
        connected.settimeout(2)
        for _ in range(40):
            with_descriptors(connected, message(), [pipe[0]] * each)
            sent += 1
    assert sent
    for _ in range(min(sent, 10)):
        way.receive()
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
    connected.close()
    way.close()
    assert most <= 16 * 2 + 8
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    for fd in pipe:
        os.close(fd)


@pytest.mark.parametrize("where", ["header", "body", "end"])
def test_descriptors_between_messages_are_closed(impostor, dial, where, wait_until):
    """A descriptor that comes within a message, or with one that is cut short, is not kept."""
    pipe = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    way = dial(impostor.name)
    connected, whole = impostor.accept(), HEADER.pack(4096, 0) + bytes(4096)
    cut = {"header": 3, "body": HEADER.size + 100, "end": len(whole) - 1}[where]
    connected.sendall(whole[:cut])
    time.sleep(0.05)
    with_descriptors(connected, whole[cut : cut + 1], pipe)
    connected.close()
    way.receive()
    way.close()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    for fd in pipe:
        os.close(fd)


def test_a_descriptor_that_a_consumer_takes_is_not_inherited(impostor, dial):
    """A program that it starts meanwhile does not have it too."""
    pipe = os.pipe()
    way = dial(impostor.name)
    connected = impostor.accept()
    with_descriptors(connected, message(), [pipe[0]])
    way.receive()
    fd = way.take_descriptor()
    assert not os.get_inheritable(fd)
    for each in (fd, *pipe):
        os.close(each)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<II", 0xFFFFFFFF, 0),
        struct.pack("<II", 0, 0xFFFFFFFF),
        struct.pack("<II", 1 << 31, 1 << 31),
    ],
)
def test_a_message_of_gigabytes_is_refused(impostor, dial, header):
    """By its head, before any room is made for it."""
    way = dial(impostor.name)
    connected = impostor.accept()
    connected.sendall(header)
    with pytest.raises(ConnectionError, match="message of"):
        way.receive()
