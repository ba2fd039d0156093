"""What lies beside a process: a registry, a store and other users of its machine, each of them hostile."""

import contextlib
import dataclasses
import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lit_storage_client.origins.origins import Origins
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.remote import Remote
from lit_storage_core.registries import open_registry
from lit_storage_core.security.settings import Security
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_proto.errors import RegistryUnavailable
from lit_storage_proto.etcd import v3_pb2 as pb
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState
from tests.waiting import within

LIMITS = Limits(
    connect_seconds=3,
    unary_seconds=3,
    resolve_seconds=20,  # so that an answer which is there is never too late on a busy machine
    progress_seconds=5,
    resume_seconds=0,
    store_seconds=3,
)
HASTY = dataclasses.replace(LIMITS, resolve_seconds=0.5)  # for what ends by its time alone
MACHINE = "this-machine"


def live(name="trainer", **fields):
    """What the value of a live record is in etcd, with some members that are not as they should be."""
    record = dataclasses.asdict(LiveRecord(name, "i1", "127.0.0.1:1", "other-machine"))
    return json.dumps(record | {"holder": ""} | fields).encode()


def work(name="trainer", **fields):
    """What the value of a work record is in etcd, likewise."""
    record = dataclasses.asdict(WorkRecord(name, "i1", WorkState.STOPPED, "other-machine"))
    return json.dumps(record | fields).encode()


class Compacted(Exception):
    """What is asked for has been compacted away: the way etcd says it is an answer that a test may give."""


class ScriptedEtcd:
    """A server that speaks etcd's protocol, holds what a test puts into it, and may lie in each answer."""

    def __init__(self):
        self.keys = {}
        self.calls = 0
        self.on_range = self.range
        self.on_txn = self.txn
        self.on_watch = self.watch
        self.on_grant = lambda request: pb.LeaseGrantResponse(ID=request.ID, TTL=request.TTL)
        self.ended = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8))
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        kv = {
            "Range": unary(self._of("on_range"), pb.RangeRequest.FromString, _dump),
            "Txn": unary(self._of("on_txn"), pb.TxnRequest.FromString, _dump),
        }
        lease = {
            "LeaseGrant": unary(self._of("on_grant"), pb.LeaseGrantRequest.FromString, _dump),
            "LeaseRevoke": unary(
                lambda *_: pb.LeaseRevokeResponse(), pb.LeaseRevokeRequest.FromString, _dump
            ),
        }
        watch = {"Watch": stream(self._of("on_watch"), pb.WatchRequest.FromString, _dump)}
        for service, methods in (("KV", kv), ("Lease", lease), ("Watch", watch)):
            handler = grpc.method_handlers_generic_handler(f"etcdserverpb.{service}", methods)
            self._server.add_generic_rpc_handlers((handler,))
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def put(self, kind, name, value):
        self.keys[
            f"p/{kind}/{name}".encode() if isinstance(name, str) else b"p/%b/" % kind.encode() + name
        ] = value

    def range(self, request):
        end = request.range_end or request.key + b"\0"
        kvs = [
            pb.KeyValue(key=key, value=value, mod_revision=1)
            for key, value in sorted(self.keys.items())
            if request.key <= key < end
        ]
        most = request.limit or len(kvs)
        header = pb.ResponseHeader(cluster_id=1, revision=1, raft_term=1)
        return pb.RangeResponse(header=header, kvs=kvs[:most], more=len(kvs) > most)

    def txn(self, request):
        responses = []
        for operation in request.success:
            if operation.HasField("request_range"):
                responses.append(pb.ResponseOp(response_range=self.range(operation.request_range)))
            elif operation.HasField("request_put"):
                self.keys[operation.request_put.key] = operation.request_put.value
        return pb.TxnResponse(header=pb.ResponseHeader(revision=1), succeeded=True, responses=responses)

    def watch(self, requests):
        yield pb.WatchResponse(header=pb.ResponseHeader(revision=1), created=True)
        self.ended.wait(60)

    def stop(self):
        self.ended.set()
        self._server.stop(0)

    def _of(self, name):
        def answer(request, context):
            self.calls += 1
            try:
                return getattr(self, name)(request)
            except Compacted:
                context.abort(grpc.StatusCode.OUT_OF_RANGE, "required revision has been compacted")

        return answer


def _dump(message):
    return message if isinstance(message, bytes) else message.SerializeToString()


@pytest.fixture
def lying_etcd():
    server = ScriptedEtcd()
    yield server
    server.stop()


@pytest.fixture
def registry(lying_etcd):
    """The registry that is kept there, as this machine sees it."""
    opened = open_registry(f"etcd://{lying_etcd.endpoint}/p", machine_id=MACHINE, limits=LIMITS)
    yield opened
    opened.close()


@pytest.fixture
def hasty_registry(lying_etcd):
    """The same, for a question that is never answered; it is connected, which may take longer than that."""
    opened = open_registry(f"etcd://{lying_etcd.endpoint}/p", machine_id=MACHINE, limits=HASTY)

    def is_connected():
        with contextlib.suppress(RegistryUnavailable):
            opened.works()
            return True

    within(20)(is_connected)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_file(tmp_path):
    """The path of a registry of this machine in which "good" lives, for whoever writes into it by hand."""
    path = tmp_path / "registry.db"
    opened = open_registry(f"sqlite://{path}", machine_id=MACHINE, limits=LIMITS)
    opened.register(LiveRecord("good", "i1", "127.0.0.1:1", MACHINE))
    opened.close()
    return path


@pytest.fixture
def open_origins():
    """Make what a session asks, over a registry."""
    with contextlib.ExitStack() as stack:

        def make(registry, limits=LIMITS, security=None):
            channels = Channels(security or Security(token="token-of-the-root"), limits)
            stack.callback(channels.close)
            origins = Origins(Remote(registry, channels, limits), registry, MACHINE, limits)
            stack.callback(origins.close)
            return origins

        yield make


class Listener:
    """Counts who connects to a port or a socket of this machine, and what they send first."""

    def __init__(self, family=socket.AF_INET, address=("127.0.0.1", 0)):
        self.socket = socket.socket(family)
        self.socket.bind(address)
        self.socket.listen()
        self.address = self.socket.getsockname()
        self.heard = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self.socket.accept()
                with connected:
                    connected.settimeout(1)
                    with contextlib.suppress(OSError):
                        self.heard.append(connected.recv(1000))

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@pytest.fixture
def listen():
    with contextlib.ExitStack() as stack:

        def make(*arguments):
            listener = Listener(*arguments)
            stack.callback(listener.close)
            return listener

        yield make


def this_process():
    return ProcessIdentity.current().to_text()


def mode_of(path):
    return os.lstat(path).st_mode & 0o7777
