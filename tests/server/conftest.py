"""A real peer server on loopback over a directory of the test, and stubs that call it."""

from dataclasses import dataclass

import grpc
import pytest

from lit_storage_proto.v1 import path_storage_pb2_grpc as pb_grpc
from lit_storage_server.peer import PeerServer
from lit_storage_server.shares import Shares


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
