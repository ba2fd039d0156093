"""An origin over a directory of its own, beside which lies what nobody shares."""

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from lit_storage_proto.v1 import path_storage_pb2_grpc as pb_grpc
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
from tests.hostile.origin.attacker import CANARY
from tests.waiting import within


@dataclass
class Origin:
    """A running server with what a test needs of it."""

    root: Path
    outside: Path
    shares: Shares
    server: PeerServer
    channel: grpc.Channel

    @property
    def stub(self):
        return pb_grpc.PathStorageStub(self.channel)


def build_tree(base):
    """Make a storage root with files of its own, and what nobody shares beside it; return both."""
    root, outside = base / "root", base / "root-outside"
    for directory in (root / "a" / "b", root / ".staging" / "x", root / "@trainer" / "x", outside / "d"):
        directory.mkdir(parents=True)
    for path in (outside / "canary", outside / "d" / "canary", root / ".staging/x/f", root / "@trainer/x/f"):
        path.write_bytes(CANARY)
    (root / "a" / "file").write_bytes(b"shared")
    (root / "a" / "b" / "file").write_bytes(b"shared too")
    return root, outside


@contextlib.contextmanager
def _origin(base, **options):
    root, outside = build_tree(base)
    shares = Shares(str(root), name="train")
    server = PeerServer("train", "i1", shares, **options)
    channel = grpc.insecure_channel(server.start(), options=[("grpc.use_local_subchannel_pool", 1)])
    try:
        yield Origin(root, outside, shares, server, channel)
    finally:
        channel.close()
        server.stop()
        shares.close()


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """One for all tests of a module, which each use names of their own in it."""
    with _origin(tmp_path_factory.mktemp("origin")) as found:
        yield found


@pytest.fixture
def own_origin(tmp_path):
    """One for this test alone."""
    with _origin(tmp_path) as found:
        yield found


@pytest.fixture
def wait_until():
    return within(30)


_SERVE = """
import os, sys
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
root, user, *declared = sys.argv[1:]
os.setgroups([])
os.setresgid(*[int(user)] * 3)
os.setresuid(*[int(user)] * 3)
shares = Shares(root, name="train")
for path in declared:
    shares.declare(path)
server = PeerServer("train", "i1", shares)
print(server.start(), flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def serve_as():
    """Start a server of another user in a process of its own; return a stub. All end with the module."""
    with contextlib.ExitStack() as stack:

        def serve(user, root, *declared):
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(root), str(user), *map(str, declared)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.callback(process.stdin.close)
            stack.enter_context(process.stdout)
            address = process.stdout.readline().strip()
            assert address, "the server did not start"
            channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            stack.callback(channel.close)
            return pb_grpc.PathStorageStub(channel)

        yield serve


@pytest.fixture
def unix_socket():
    """Make sockets of this machine; all are closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(name=None):
            made = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
            made.settimeout(30)
            if name is not None:
                made.connect(f"\0{name}")
            return made

        yield make
