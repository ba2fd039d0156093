"""Peers to ask and a user to be: a real server in another process, scripted peers, and uid 65534."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.direct import Ways
from lit_storage_client.peers.remote import Remote
from lit_storage_core.security.settings import Security
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.frame_codec import encode_frame
from lit_storage_proto.frames import Chunk, Frame, Summary
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_proto.v1.path_storage_pb2_grpc import PathStorageServicer, add_PathStorageServicer_to_server

_SERVE = """
import os, sys
from lit_storage_core.security.settings import Security
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
root, name, instance, bind = sys.argv[1:]
server = PeerServer(name, instance, Shares(root, name=name), bind=bind, security=Security(token="secret"))
print(server.start(), flush=True)
sys.stdin.read()
server.stop()
"""


class Work:
    """A real server of one Work, in a process of its own."""

    # Clients connect from 127.0.0.1, so no client takes the port of a Work that starts again at its endpoint.
    def __init__(self, root, name="trainer", instance="i1", bind="127.0.0.2:0"):
        self.root = str(root)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, self.root, name, instance, bind],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.endpoint = self.process.stdout.readline().strip()
        self.record = LiveRecord(name, instance, self.endpoint, "machine")

    def signal(self, number):
        """After SIGSTOP, return once all its threads stand still, which takes a moment."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self):
        """Return when it is gone: a process that has been signalled may still finish a system call."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.signal(signal.SIGKILL)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Answers:
    """A registry that answers each look-up with the next of its records, and then with the last."""

    def __init__(self, *records):
        self.records = list(records)

    url = "memory:answers"
    spans_machines = False

    def work(self, name):
        return None

    def resolve(self, name, *, fresh=False):
        record = self.records.pop(0) if len(self.records) > 1 else self.records[0]
        if isinstance(record, Exception):
            raise record
        return record


class Script(PathStorageServicer):
    """A peer that says what a test tells it to say."""

    def __init__(self):
        self.origin = ("trainer", "i1")
        self.frames = []
        self.pages = []
        self.exists = True
        self.refusals = []
        self.requests = 0
        self.streamed = []
        """The requests of StreamFiles."""

    def _begin(self, context):
        self.requests += 1
        if self.refusals:
            context.abort(*self.refusals.pop(0))

    def Exists(self, request, context):
        self._begin(context)
        return pb.ExistsResponse(
            origin=pb.Origin(name=self.origin[0], instance_id=self.origin[1]), exists=self.exists
        )

    def ListFiles(self, request, context):
        self._begin(context)
        yield from self.pages

    def StreamFiles(self, request, context):
        self.streamed.append(request)
        self._begin(context)
        for frame in self.frames() if callable(self.frames) else self.frames:
            yield pb.StreamFilesResponse.FromString(encode_frame(frame))


@pytest.fixture
def answers():
    return Answers


@pytest.fixture
def remote_of():
    """Make a Remote whose registry answers with the given records; channels are closed afterwards."""
    opened = []

    def make(*records, token="secret", ways=Ways.ALL, **limits):
        # Long: what is to fail for want of time is given less, and what is to be quick is so beside them.
        defaults = {"connect_seconds": 20.0, "unary_seconds": 40.0, "progress_seconds": 60.0}
        limits = Limits(**{**defaults, "resume_seconds": 0.3, **limits})
        channels = Channels(Security(token=token), limits)
        opened.append(channels)
        return Remote(Answers(*records), channels, limits, ways)

    yield make
    for channels in opened:
        channels.close()


@pytest.fixture
def start_work(tmp_path):
    """Start real servers, and end them afterwards."""
    started = []

    def start(root=None, **options):
        root = tmp_path / "origin" if root is None else root
        root.mkdir(exist_ok=True)
        started.append(Work(root, **options))
        return started[-1]

    yield start
    for work in started:
        work.stop()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """One real server for a module's tests; each works under a directory of its own there."""
    work = Work(tmp_path_factory.mktemp("origin"))
    yield work
    work.stop()


@pytest.fixture
def script():
    """A scripted peer that listens; `script.record` is its live record."""
    servicer = Script()
    server = grpc.server(ThreadPoolExecutor(4))
    add_PathStorageServicer_to_server(servicer, server)
    servicer.record = LiveRecord("trainer", "i1", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", "m")
    server.start()
    yield servicer
    server.stop(0).wait(5)


@pytest.fixture
def frames_of():
    """Make the frames of a tree out of (entry, content) pairs, as an honest peer would send them."""

    def make(*items, chunk_bytes=1 << 16):
        chunks, count, skipped = [], 0, 0
        for number, (entry, content) in enumerate(items):
            skipped += entry.kind is Kind.SKIPPED
            for offset in range(0, len(content), chunk_bytes):
                data = content[offset : offset + chunk_bytes]
                chunks.append(Chunk(number, offset, chunk_digest(data), data))
                count += len(data)
        entries = [entry for entry, _ in items]
        summary = Summary(len(entries), len(chunks), count, skipped)
        return [
            Frame(("trainer", "i1"), entries),
            *(Frame(chunks=[c]) for c in chunks),
            Frame(summary=summary),
        ]

    return make


@pytest.fixture
def file_entry():
    return lambda path, content=b"", mode=0o644, mtime_ns=10**18: Entry(
        path, Kind.FILE, len(content), mode, mtime_ns
    )


@pytest.fixture
def directory_entry():
    return lambda path="", mode=0o755, mtime_ns=10**18: Entry(path, Kind.DIRECTORY, 0, mode, mtime_ns)


@pytest.fixture
def link_entry():
    return lambda path, text: Entry(path, Kind.SYMLINK, 0, 0o777, 10**18, text)
