"""What goes on a direct way, in which order, and who is given up on it."""

import contextlib
import fcntl
import os
import socket

import grpc
import pytest

from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.direct import COPIED, COPYING, HEADER
from lit_storage_proto.errors import OriginUnavailable
from lit_storage_proto.frame_codec import decode_detached
from lit_storage_proto.frames import Chunk, Direct, Frame, Pack, Summary
from lit_storage_proto.limits import KIB, MIB, Limits
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_server.rpc.direct import DirectWays, frames_on
from lit_storage_server.sources.tree_stream import TreeOptions, TreeStream

UNIX, TCP = socket.AF_UNIX, socket.AF_INET
FAMILIES = pytest.mark.parametrize("family", [UNIX, TCP], ids=["unix", "tcp"])
CHUNK = 64 * KIB


def receive(connected):
    """Take the next message with the descriptors that come with it; None at the end."""
    header, descriptors, _, _ = socket.recv_fds(connected, 1, 4)
    if not header:
        return None
    sizes = HEADER.unpack(header + take(connected, HEADER.size - 1))
    message, data = (take(connected, size) for size in sizes)
    return decode_detached(message, data), descriptors


def take(connected, size):
    taken = bytearray()
    while len(taken) < size:
        taken += connected.recv(size - len(taken)) or pytest.fail("the connection ended in a message")
    return bytes(taken)


def chunk(number, data):
    return Chunk(number, 0, chunk_digest(data), data)


def is_read(path):
    """Say whether this process has a file open for reading, as a server in it may."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") == str(path):
                return True
    return False


def no_descriptor():
    return -1


@FAMILIES
def test_what_is_sent_where(listen, connect, family, wait_until):
    """Frames go over gRPC until the offer is taken up, then all go on the way, one chunk or pack each."""
    data = [os.urandom(1 << size) for size in range(4)]
    pack = Pack(0, b"a/b", [1, 1], [0, 0], [0, 0], chunk_digest(b"ab"), b"ab")
    frames = [
        Frame(chunks=[chunk(0, data[0])]),
        Frame(chunks=[chunk(1, data[1]), chunk(2, data[2])], packs=[pack], round=1),
        Frame(chunks=[chunk(3, data[3])], summary=Summary(entries=7), round=1),
    ]
    with listen().offered() as offer:
        sent = frames_on(iter(frames), offer, no_descriptor, lambda: None)
        assert next(sent) is frames[0]
        connected = connect(offer.direct, family)
        wait_until(lambda: offer.way)
        assert next(sent).moved
        assert set(sent) == {None}
    received = [frame for frame, _ in iter(lambda: receive(connected), None)]
    assert [bytes(c.data) for frame in received for c in frame.chunks] == data[1:]
    assert [bytes(p.data) for frame in received for p in frame.packs] == [b"ab"]
    assert all(len(frame.chunks) + len(frame.packs) <= 1 for frame in received)
    assert {frame.round for frame in received} == {1}
    assert (received[-1].summary, [f.summary for f in received[:-1]]) == (
        Summary(entries=7),
        [None] * (len(received) - 1),
    )


def test_nobody_takes_it_up(listen):
    """An offer that is not taken up changes nothing."""
    frames = [Frame(chunks=[chunk(number, b"x")]) for number in range(5)]
    with listen().offered() as offer:
        assert list(frames_on(iter(frames), offer, no_descriptor, pytest.fail)) == frames


@pytest.fixture
def taken_up(listen, connect, tree_shares, wait_until):
    """Offer the way for a path of `root`; return what sends it, from the first frame on the way on."""
    with contextlib.ExitStack() as stack:

        def take_up(family=UNIX, path="", seconds=20, **options):
            offer = stack.enter_context(listen(progress_seconds=seconds).offered())
            connected = connect(offer.direct, family)
            wait_until(lambda: offer.way)
            tree = TreeStream(tree_shares, path, TreeOptions(**options), CHUNK)
            sent = frames_on(tree.frames(), offer, lambda: tree.descriptor, tree.pass_descriptors)
            stack.callback(sent.close)
            assert next(sent).moved
            return sent, connected

        yield take_up


@pytest.mark.parametrize(("family", "passed"), [(UNIX, True), (TCP, False)], ids=["unix", "tcp"])
@pytest.mark.parametrize("size", [CHUNK + MIB - 1, CHUNK + MIB, 3 * MIB + 5])
def test_descriptors(taken_up, root, family, passed, size):
    """On the Unix socket 1 MiB and more is a descriptor to read from; on TCP none ever is.

    One chunk was read before it was known that there is such a way.
    """
    content = os.urandom(size)
    (root / "f").write_bytes(content)
    sent, connected = taken_up(family)
    found, descriptors = b"", 0
    for _ in sent:
        frame, fds = receive(connected)
        if fds:
            (fd,), (part,) = fds, frame.chunks
            descriptors += 1
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            found += os.pread(fd, part.descriptor_bytes, part.offset)
            os.close(fd)
            connected.send(COPIED)
        else:
            found += b"".join(bytes(part.data) for part in frame.chunks)
    assert (found == content, descriptors) == (True, passed and size >= CHUNK + MIB)


def test_the_origin_waits_until_all_is_copied(taken_up, root):
    """The next frame comes when the consumer has said that it has all; until then it may take its time."""
    (root / "f").write_bytes(bytes(2 * MIB))
    sent, connected = taken_up(settle=True)
    while not (received := (next(sent), receive(connected))[1])[1]:
        pass
    os.close(received[1][0])
    for _ in range(3):
        connected.send(COPYING)
        assert next(sent) is None
    os.utime(root / "f", ns=(1, 1))  # the last look comes after the last read
    connected.send(COPYING + COPIED)
    next(sent)
    assert receive(connected)[0].round == 1


@pytest.mark.parametrize(
    ("say", "reason"),
    [
        (lambda connected: None, "took nothing on its direct connection for 0.2 s"),
        (lambda connected: connected.send(b"\x07"), "said what no consumer says"),
        (lambda connected: connected.shutdown(socket.SHUT_WR), "connection was lost"),
        (lambda connected: connected.close(), "connection was lost"),
    ],
    ids=["nothing", "nonsense", "half-closed", "closed"],
)
def test_a_descriptor_that_is_not_acknowledged(taken_up, root, say, reason):
    """A consumer that takes a descriptor and does not say that it goes on is given up."""
    (root / "f").write_bytes(bytes(2 * MIB))
    sent, connected = taken_up(path="f", seconds=0.2)
    with pytest.raises(OriginUnavailable, match=reason):
        for _ in sent:
            _, fds = receive(connected)
            for fd in fds:
                os.close(fd)
                say(connected)


@FAMILIES
def test_a_consumer_that_takes_nothing(taken_up, root, family):
    """What is not taken fills the buffers on the way, and then the consumer is given up."""
    (root / "f").touch()
    os.truncate(root / "f", MIB - 1)
    for number in range(40):
        os.link(root / "f", root / str(number))
    sent, _ = taken_up(family, seconds=0.2)
    with pytest.raises(OriginUnavailable, match="took nothing"):
        list(sent)


@FAMILIES
def test_a_consumer_that_only_listens(taken_up, root, family):
    """Who has said all that it will say still gets all that comes without a descriptor."""
    content = os.urandom(MIB - 1)
    (root / "f").write_bytes(content)
    sent, connected = taken_up(family)
    connected.shutdown(socket.SHUT_WR)
    received = [receive(connected)[0] for _ in sent]
    assert b"".join(bytes(part.data) for frame in received for part in frame.chunks) == content


@pytest.fixture
def offers(monkeypatch):
    """The offers that servers make, in order."""
    made, offered = [], DirectWays.offered

    @contextlib.contextmanager
    def noted(ways):
        with offered(ways) as offer:
            made.append(offer)
            yield offer

    monkeypatch.setattr(DirectWays, "offered", noted)
    return made


@pytest.fixture
def call(connect, offers, wait_until):
    """Begin a call, and if a family is given take up its way; return the call and the connection."""

    def begin(peer, family=None, **request):
        responses = peer.stub.StreamFiles(pb.StreamFilesRequest(**{"direct": True, **request}), timeout=60)
        offer = next(responses).direct
        connected = None
        if family is not None:
            connected = connect(Direct(offer.unix_name, offer.tcp_port, offer.ticket), family)
            wait_until(lambda: offers[-1].way)
            assert any(response.moved for response in responses)  # reads up to the one that has moved
        return responses, connected

    return begin


LARGE = 32 * MIB  # more than what lies in the buffers of a call


@FAMILIES
def test_a_call_that_moves(serve, call, root, family):
    """After `moved` all comes on the way, the summary too, and then the call ends well."""
    (root / "f").touch()
    os.truncate(root / "f", LARGE)
    responses, connected = call(serve(), family)
    frames, descriptors = [], 0
    for frame, fds in iter(lambda: receive(connected), None):
        frames.append(frame)
        for fd in fds:
            os.close(fd)
            connected.send(COPIED)
            descriptors += 1
    assert (list(responses), responses.code()) == ([], grpc.StatusCode.OK)
    assert frames[-1].summary.bytes == LARGE
    assert descriptors == (family == UNIX)


def test_a_call_that_does_not_move(serve, call, root):
    """Where nobody takes up the offer all comes over gRPC, in one piece."""
    (root / "f").write_bytes(os.urandom(3 * MIB))
    responses = list(call(serve())[0])
    assert b"".join(part.data for r in responses for part in r.chunks) == (root / "f").read_bytes()
    assert (any(r.moved for r in responses), responses[-1].summary.bytes) == (False, 3 * MIB)


@pytest.mark.parametrize(
    ("options", "request_"),
    [({}, {"direct": False}), ({"direct": False}, {}), ({}, {"ranges": [pb.Range(path="f")]})],
    ids=["not asked", "server has none", "ranges"],
)
def test_no_offer(serve, root, options, request_):
    """There is none where it was not asked for, the server has none, or ranges are sent."""
    (root / "f").touch()
    request = pb.StreamFilesRequest(**{"direct": True, **request_})
    assert not any(response.HasField("direct") for response in serve(**options).stub.StreamFiles(request))


@pytest.mark.parametrize("family", [None, UNIX, TCP], ids=["left", "unix", "tcp"])
def test_a_cancelled_call_leaves_nothing(serve, call, root, wait_until, family):
    """The connection of a call that was cancelled is closed, and its offer and its file are let go."""
    (root / "f").touch()
    os.truncate(root / "f", LARGE)
    peer = serve()
    responses, connected = call(peer, family)
    responses.cancel()
    while connected is not None and connected.recv(MIB):
        pass
    wait_until(lambda: not peer.server._ways._offers)
    wait_until(lambda: not is_read(root / "f"))


def test_offers_end_with_their_calls(serve, call, offers):
    """Calls that end well, or with an error, leave no offer that could be taken up."""
    peer = serve()
    for path in ("", "missing", "../x"):
        with contextlib.suppress(grpc.RpcError):
            list(call(peer, path=path)[0])
    assert (len(offers), all(offer.ended for offer in offers)) == (3, True)
    assert peer.server._ways._offers == {}


@pytest.mark.slow
def test_a_call_whose_descriptor_is_not_acknowledged(serve, call, root, wait_until):
    """The server ends the call after its limit, and lets go of the file."""
    (root / "f").touch()
    os.truncate(root / "f", LARGE)
    responses, connected = call(serve(limits=Limits(progress_seconds=1.0)), UNIX)
    while not (fds := receive(connected)[1]):
        pass
    for fd in fds:
        os.close(fd)
    with pytest.raises(grpc.RpcError) as caught:
        list(responses)
    # Its own wait and the watch over all calls have the same limit: either may be first.
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    wait_until(lambda: not is_read(root / "f"))


@FAMILIES
def test_stopping_a_server_ends_its_ways(serve, call, connect, offers, root, family):
    """A consumer that is being sent to is told so, and nobody listens any more."""
    (root / "f").touch()
    os.truncate(root / "f", LARGE)
    peer = serve()
    responses, connected = call(peer, family)
    peer.server.stop()
    with contextlib.suppress(ConnectionError):
        while connected.recv(MIB):
            pass
    with pytest.raises(grpc.RpcError):
        list(responses)
    with pytest.raises(ConnectionRefusedError):
        connect(offers[0].direct, family)
