"""A real peer server on loopback over a directory of the test, and stubs that call it."""

import contextlib
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from lit_storage_client.fetch.stream import Received, receive
from lit_storage_proto.direct import HELLO
from lit_storage_proto.frames import Frame
from lit_storage_proto.limits import KIB, Limits
from lit_storage_proto.v1 import path_storage_pb2_grpc as pb_grpc
from lit_storage_server.rpc.auth import server_tls
from lit_storage_server.rpc.direct import DirectWays
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
from lit_storage_server.sources.tree_stream import TreeOptions, TreeStream
from tests.waiting import within


@dataclass
class Peer:
    """A running server with what a test needs of it."""

    server: PeerServer
    shares: Shares
    channel: grpc.Channel

    @property
    def stub(self):
        return pb_grpc.PathStorageStub(self.channel)


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def serve(root):
    """Start a server named 'train', instance 'i1', over `root`; all are stopped after the test."""
    peers = []

    def start(**options):
        shares = Shares(str(root), name="train")
        server = PeerServer("train", "i1", shares, **options)
        channel = grpc.insecure_channel(server.start(), options=[("grpc.use_local_subchannel_pool", 1)])
        peers.append(Peer(server, shares, channel))
        return peers[-1]

    yield start
    for peer in peers:
        peer.channel.close()
        peer.server.stop()
        peer.shares.close()


@pytest.fixture
def peer(serve):
    return serve()


@dataclass
class Copied:
    """One tree, from the server's frames through the client's own receiver."""

    received: Received
    frames: list[Frame]
    tree: Path

    @property
    def summary(self):
        return self.frames[-1].summary

    @property
    def entries(self):
        return [entry for frame in self.frames for entry in frame.entries]

    @property
    def packs(self):
        return [pack for frame in self.frames for pack in frame.packs]

    @property
    def chunks(self):
        """Path, offset and size of each."""
        paths = [entry.path for entry in self.entries]
        return [(paths[chunk.entry], chunk.offset, chunk.size) for f in self.frames for chunk in f.chunks]

    @property
    def rounds(self):
        """By round, what was sent in it: paths of entries and packed files, and removed ones as "-path"."""
        sent = {}
        for frame in self.frames:
            names = sent.setdefault(frame.round, [])
            names += [("-" if entry.kind.name == "REMOVED" else "") + entry.path for entry in frame.entries]
            for pack in frame.packs:
                directory = self.entries[pack.directory].path
                names += [os.path.join(directory, os.fsdecode(name)) for name in pack.names.split(b"/")]
        return {number: sorted(names) for number, names in sent.items() if names}

    def read(self, path):
        return (self.tree / path).read_bytes()


@pytest.fixture
def tree_shares(root):
    shares = Shares(str(root), name="train")
    yield shares
    shares.close()


@pytest.fixture
def copy(tree_shares, tmp_path):
    """Copy a path of `root` as a get does, but step by step: `after` is called when a frame was taken.

    What the stream held open must be closed in the end, whether the copy fails or not.
    """

    def copy(path="", *, chunk_bytes=512 * KIB, after=None, **options):
        stream = TreeStream(tree_shares, path, TreeOptions(**options), chunk_bytes)
        frames = []

        def step_by_step():
            for frame in stream.frames():
                chunks = [replace(chunk, data=bytes(chunk.data)) for chunk in frame.chunks]
                packs = [replace(pack, data=bytes(pack.data)) for pack in frame.packs]
                frames.append(replace(frame, chunks=chunks, packs=packs))
                yield frame
                if after is not None:
                    after(frames[-1])

        target = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        target.mkdir()
        fd, before = os.open(target, os.O_RDONLY), len(os.listdir("/proc/self/fd"))
        try:
            received = receive(step_by_step(), fd, "tree", label="/target")
        finally:
            assert len(os.listdir("/proc/self/fd")) <= before  # others may close theirs meanwhile
            os.close(fd)
        return Copied(received, frames, target / "tree")

    return copy


@pytest.fixture
def wait_until():
    """Wait for what comes within a moment unless something is broken; fail after 20 s."""
    return within(20, pause=0.002)


@pytest.fixture
def listen():
    """Listen for direct connections; all is stopped after the test."""
    started = []

    def start(security=None, **limits):
        tls = server_tls(security) if security else None
        started.append(DirectWays("127.0.0.1", tls, Limits(**limits)))
        return started[-1]

    yield start
    for ways in started:
        ways.stop()


@pytest.fixture
def connect():
    """Connect to what is offered, and say the hello or something else; all is closed after the test."""
    with contextlib.ExitStack() as stack:

        def connect(direct, family=socket.AF_UNIX, say=None, *, host=None):
            connected = stack.enter_context(contextlib.closing(socket.socket(family)))
            if host is not None:
                connected.bind((host, 0))
            connected.settimeout(20)
            unix, tcp = f"\0{direct.unix_name}", ("127.0.0.1", direct.tcp_port)
            connected.connect(unix if family == socket.AF_UNIX else tcp)
            with contextlib.suppress(ConnectionError):  # it may be closed before it is spoken to
                connected.sendall(HELLO + direct.ticket if say is None else say)
            return connected

        yield connect
