"""A stream that changes its way: to a plain socket, to a Unix socket with descriptors, or not at all."""

import contextlib
import os
import secrets
import socket
import threading
import time

import grpc
import pytest

from lit_storage_client.fetch.stream import receive
from lit_storage_client.peers.direct import Ways
from lit_storage_core.system.unix_socket import is_own_or_root
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.direct import COPIED, COPYING, HEADER, HELLO
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError, OriginUnavailable, ProtocolViolation, TransferTimeout
from lit_storage_proto.frame_codec import encode_detached
from lit_storage_proto.frames import Chunk, Direct, Frame, Summary
from lit_storage_proto.limits import MIB
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_proto.uri import Location

SIZE = 2 * MIB
CONTENT = os.urandom(SIZE)
HALF = SIZE // 2
WHERE = Location("trainer", "f")
DIRECT = TreeOptions(direct=True)


def chunks(start, end, step=HALF // 2):
    for offset in range(start, end, step):
        data = CONTENT[offset : offset + step]
        yield Chunk(0, offset, chunk_digest(data), data)


class Origin:
    """The other end of a direct way; what it sends over gRPC is the script's."""

    def __init__(self, script, family=socket.AF_INET):
        self.ticket = secrets.token_bytes(32)
        self.unix_name = f"lit-storage-{secrets.token_hex(16)}"
        self.listener = socket.socket(family)
        self.listener.settimeout(30)
        self.listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else f"\0{self.unix_name}")
        self.listener.listen()
        port = self.listener.getsockname()[1] if family == socket.AF_INET else 0
        self.offer = Direct(self.unix_name if not port else "", port, self.ticket)
        self.socket = None
        self.hello = b""
        script.frames = self.frames

    def accept(self):
        self.socket, _ = self.listener.accept()
        self.socket.settimeout(30)
        while len(self.hello) < len(HELLO) + 32:
            self.hello += self.socket.recv(100)

    def send(self, frame, *descriptors):
        message, data = encode_detached(frame)
        header = HEADER.pack(len(message), len(data))
        if descriptors:
            socket.send_fds(self.socket, [header], descriptors)
        else:
            self.socket.sendall(header)
        self.socket.sendall(message)
        self.socket.sendall(data)

    def begin(self):
        yield Frame(("trainer", "i1"), [Entry("", Kind.FILE, SIZE, 0o644)], direct=self.offer)
        for chunk in chunks(0, HALF):
            yield Frame(chunks=[chunk])
        self.accept()
        yield Frame(moved=True)

    def frames(self):
        yield from self.begin()
        for chunk in chunks(HALF, SIZE):
            self.send(Frame(chunks=[chunk]))
        self.send(Frame(summary=Summary(1, 4, SIZE)))
        self.socket.close()


@pytest.fixture
def origin(script):
    made = Origin(script)
    yield made
    made.listener.close()


@pytest.fixture
def local(script):
    """One that listens on a Unix socket."""
    made = Origin(script, socket.AF_UNIX)
    yield made
    made.listener.close()


@pytest.fixture
def get(tmp_path, remote_of, script):
    """Receive one call into tmp_path/tree."""

    def get(ways=Ways.ALL, **limits):
        remote = remote_of(script.record, **limits)
        remote._dialer = type(remote._dialer)(remote._dialer.credentials, 20.0, ways)
        fd = os.open(tmp_path, os.O_RDONLY)
        try:
            with remote.stream(WHERE, DIRECT) as frames:
                return receive(frames, fd, "tree", label="/target", descriptors=frames)
        finally:
            os.close(fd)

    return get


def test_the_rest_comes_on_the_socket(get, origin, tmp_path):
    """The first half comes over gRPC, the second one on the way that was offered; the ticket opens it."""
    assert get().how == "stream"
    assert (tmp_path / "tree").read_bytes() == CONTENT
    assert origin.hello == HELLO + origin.ticket


def test_damaged_bytes_on_the_socket(get, origin, script):
    """Bytes of the direct way are verified as all are."""

    def frames():
        yield from origin.begin()
        chunk = next(chunks(HALF, SIZE))
        origin.send(Frame(chunks=[Chunk(0, HALF, chunk.digest, b"x" + chunk.data[1:])]))

    script.frames = frames
    with pytest.raises(IntegrityError):
        get()


def test_the_status_has_the_last_word(get, origin, script):
    """A socket that ends without a summary is no end: the error is that of the call."""

    def frames():
        yield from origin.begin()
        origin.socket.close()
        script.refusals.append((grpc.StatusCode.UNAVAILABLE, "stopping"))
        raise RuntimeError

    script.frames = frames
    with pytest.raises((OriginUnavailable, ProtocolViolation, IntegrityError)):
        get()


def test_an_end_without_summary(get, origin, script):
    """A call that ends well without the summary is not whole."""

    def frames():
        yield from origin.begin()
        origin.socket.close()

    script.frames = frames
    with pytest.raises(IntegrityError, match="without its summary"):
        get()


def test_a_silent_socket(get, origin, script):
    """An origin that moves and says nothing more is given up in time."""
    done = threading.Event()

    def frames():
        yield from origin.begin()
        done.wait(60)

    script.frames = frames
    started = time.monotonic()
    with pytest.raises(TransferTimeout):
        get(progress_seconds=0.5)
    done.set()
    assert time.monotonic() - started < 20


def test_a_message_that_is_too_long(get, origin, script):
    """A length beyond the limit is refused before any memory is taken for it."""

    def frames():
        yield from origin.begin()
        origin.socket.sendall(HEADER.pack(100, 2**32 - 1))

    script.frames = frames
    with pytest.raises(ProtocolViolation, match="4294967295"):
        get()


def test_nobody_answers(get, script, tmp_path):
    """A port behind which connections hang, as behind a firewall, keeps nobody waiting at the end."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # its queue is full from now on
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())

        def frames():
            offer = Direct("", listener.getsockname()[1], bytes(32))
            yield Frame(("trainer", "i1"), [Entry("", Kind.FILE, SIZE, 0o644)], direct=offer)
            for chunk in chunks(0, SIZE):
                yield Frame(chunks=[chunk])
            yield Frame(summary=Summary(1, 4, SIZE))

        script.frames = frames
        begun = time.monotonic()
        get()
        assert time.monotonic() - begun < 10
    assert (tmp_path / "tree").read_bytes() == CONTENT


def test_nobody_listens(get, script, tmp_path):
    """Where the way cannot be had the whole comes over gRPC."""
    probe = socket.create_server(("127.0.0.1", 0))
    offer = Direct("", probe.getsockname()[1], bytes(32))
    probe.close()

    def frames():
        yield Frame(("trainer", "i1"), [Entry("", Kind.FILE, SIZE, 0o644)], direct=offer)
        for chunk in chunks(0, SIZE):
            yield Frame(chunks=[chunk])
        yield Frame(summary=Summary(1, 4, SIZE))

    script.frames = frames
    get()
    assert (tmp_path / "tree").read_bytes() == CONTENT


@pytest.mark.parametrize("ways", [Ways.NONE, Ways.TCP])
def test_a_way_that_may_not_be_taken(get, local, ways):
    """With the same-machine way ruled out nobody connects to it."""
    local.listener.settimeout(5)  # in vain
    with pytest.raises((OriginUnavailable, ProtocolViolation, TransferTimeout)):
        get(ways, progress_seconds=0.5)
    assert local.hello == b""


def test_moved_without_an_offer(get, script):
    """A peer that moves where no way was taken up breaks the rules."""
    script.frames = [Frame(("trainer", "i1"), [Entry("", Kind.FILE, SIZE, 0o644)]), Frame(moved=True)]
    with pytest.raises(ProtocolViolation, match="not taken up"):
        get()


@pytest.mark.parametrize("name", ["docker.sock", "lit-storage-" + "A" * 32, "lit-storage-" + "a" * 33])
def test_a_name_that_is_none_of_ours(get, script, name):
    """A peer cannot make its consumer connect to sockets of other programs."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0{name}")
        other.listen()
        other.settimeout(0.3)
        script.frames = [
            Frame(("trainer", "i1"), [Entry("", Kind.FILE, SIZE, 0o644)], direct=Direct(name, 0, bytes(32))),
            *(Frame(chunks=[chunk]) for chunk in chunks(0, SIZE)),
            Frame(summary=Summary(1, 4, SIZE)),
        ]
        get()
        with pytest.raises(TimeoutError):
            other.accept()


def test_the_rest_is_copied_from_a_descriptor(get, local, script, tmp_path):
    """On a Unix socket the rest of a file comes as a descriptor, is copied and acknowledged."""
    (tmp_path / "source").write_bytes(CONTENT)
    said = b""

    def frames():
        nonlocal said
        yield from local.begin()
        fd = os.open(tmp_path / "source", os.O_RDONLY)
        local.send(Frame(chunks=[Chunk(0, HALF, descriptor_bytes=SIZE - HALF)]), fd)
        os.close(fd)
        while not said.endswith(COPIED):
            said += local.socket.recv(10)
        local.send(Frame(summary=Summary(1, 3, SIZE)))
        local.socket.close()

    script.frames = frames
    get()
    assert (tmp_path / "tree").read_bytes() == CONTENT
    assert said.strip(COPYING) == COPIED


def test_a_descriptor_that_is_shorter_than_said(get, local, script, tmp_path):
    """A file that was cut while it was copied is not whole unless it is sent anew."""
    (tmp_path / "source").write_bytes(CONTENT[: HALF + 10])

    def frames():
        yield from local.begin()
        fd = os.open(tmp_path / "source", os.O_RDONLY)
        local.send(Frame(chunks=[Chunk(0, HALF, descriptor_bytes=SIZE - HALF)]), fd)
        os.close(fd)
        local.send(Frame(summary=Summary(1, 3, SIZE)))
        local.socket.close()

    script.frames = frames
    with pytest.raises(IntegrityError):
        get()


def test_bytes_by_descriptor_without_one(get, local, script):
    """A message that lacks its descriptor is refused."""

    def frames():
        yield from local.begin()
        local.send(Frame(chunks=[Chunk(0, HALF, descriptor_bytes=SIZE - HALF)]))

    script.frames = frames
    with pytest.raises(ProtocolViolation, match="no descriptor"):
        get()


def test_descriptors_do_not_pile_up(get, local, script):
    """Descriptors that no chunk asks for are closed."""
    before = len(os.listdir("/proc/self/fd"))

    def frames():
        yield from local.begin()
        with open(os.devnull) as null:
            for chunk in chunks(HALF, SIZE):
                local.send(Frame(chunks=[chunk]), null.fileno())
        local.send(Frame(summary=Summary(1, 4, SIZE)))
        local.socket.close()

    script.frames = frames
    get()
    assert len(os.listdir("/proc/self/fd")) <= before + 8  # those of gRPC


def test_a_descriptor_of_a_device(get, local, script):
    """What is no regular file is not read: a device may have no end."""

    def frames():
        yield from local.begin()
        with open("/dev/zero") as zero:
            local.send(Frame(chunks=[Chunk(0, HALF, descriptor_bytes=SIZE - HALF)]), zero.fileno())

    script.frames = frames
    with pytest.raises(ProtocolViolation, match="no regular file"):
        get()


def test_moved_twice(get, origin, script):
    """A stream moves once; who says so again leaves nobody waiting."""

    def frames():
        yield from origin.begin()
        origin.socket.close()
        yield Frame(moved=True)

    script.frames = frames
    with pytest.raises(ProtocolViolation, match="twice"):
        get()


def test_moved_to_a_way_that_cannot_be_had(get, script):
    """Where the offered way is a dead end, the wait for it ends, and the call's status is heard."""
    probe = socket.create_server(("127.0.0.1", 0))
    offer = Direct("", probe.getsockname()[1], bytes(32))
    probe.close()

    def frames():
        yield Frame(("trainer", "i1"), [Entry("", Kind.FILE, SIZE, 0o644)], direct=offer)
        yield Frame(moved=True)

    script.frames = frames
    with pytest.raises(IntegrityError, match="without its summary"):
        get()


@pytest.mark.parametrize("size", [0, 31, 33, 1 << 16])
def test_a_ticket_of_another_length(get, script, size):
    """A peer cannot make its consumer write text of its own choice to some port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        offer = Direct("", other.getsockname()[1], bytes(size))

        def frames():
            yield Frame(("trainer", "i1"), [Entry("", Kind.FILE, SIZE, 0o644)], direct=offer)
            for chunk in chunks(0, SIZE):
                yield Frame(chunks=[chunk])
            yield Frame(summary=Summary(1, 4, SIZE))

        script.frames = frames
        get()
        other.settimeout(0.2)
        with pytest.raises(TimeoutError):
            other.accept()


def test_a_socket_of_another_user(local, monkeypatch):
    """Anybody may take a name of the abstract namespace: only this user and root are told the ticket."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(f"\0{local.unix_name}")
        assert is_own_or_root(connected) is (os.getuid() == 0)
    monkeypatch.undo()
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(f"\0{local.unix_name}")
        assert is_own_or_root(connected)
