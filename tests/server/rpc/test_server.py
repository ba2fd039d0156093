"""The server as a whole: its port, its services, its threads, and what silent callers can do to it."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import AccessDenied, AddressInUse, InvalidURI
from lit_storage_proto.limits import MIB, Limits
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
from tests.waiting import within

wait_until = within(20)

Code = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING


def health(peer):
    return health_pb2_grpc.HealthStub(peer.channel)


def half_open(peer, path):
    """Begin a copy and take nothing of it but the first message."""
    call = peer.stub.StreamFiles(pb.StreamFilesRequest(path=path))
    next(call)
    return call


def silent(peer, method):
    """Open a call and never send its request."""
    never = threading.Event()
    call = peer.channel.stream_stream(method)(iter(never.wait, None), timeout=60)
    call.never = never
    return call


def answers(peer):
    with contextlib.suppress(grpc.RpcError):
        return health(peer).Check(health_pb2.HealthCheckRequest(), timeout=1).status == SERVING


def admits_a_stream(peer):
    try:
        return bool(list(peer.stub.ListFiles(pb.ListFilesRequest(), timeout=1)))
    except grpc.RpcError:
        return False


def test_endpoint_is_where_it_listens(peer):
    """With port 0 the endpoint has the port that was free."""
    host, port = peer.server.endpoint.split(":")
    assert (host, int(port) > 0, peer.stub.Exists(pb.ExistsRequest()).exists) == ("127.0.0.1", True, True)


def test_taken_port(serve):
    """A port that is taken is AddressInUse with the address and the way out."""
    endpoint = serve().server.endpoint
    with pytest.raises(AddressInUse, match=f"{endpoint}.*port 0"):
        serve(bind=endpoint)


def test_foreign_address(serve):
    """An address of another machine is the system's own error."""
    with pytest.raises(OSError, match=r"cannot listen on '192\.0\.2\.1:0'"):
        serve(bind="192.0.2.1:0", security=Security(token="t", insecure=True))


@pytest.mark.parametrize(("bind", "error"), [("0.0.0.0:0", AccessDenied), ("nonsense", InvalidURI)])
def test_bind_is_checked_first(serve, bind, error):
    """An address that is malformed or open to all is refused before anything listens."""
    with pytest.raises(error):
        serve(bind=bind)


def test_reflection_lists_and_describes(peer):
    """Reflection names the services and gives the file that describes ours."""
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="lit_storage.v1.PathStorage"),
    ]
    stub = reflection_pb2_grpc.ServerReflectionStub(peer.channel)
    names, described = list(stub.ServerReflectionInfo(iter(asked)))
    listed = {service.name for service in names.list_services_response.service}
    assert {"lit_storage.v1.PathStorage", "grpc.health.v1.Health"} < listed
    assert described.file_descriptor_response.file_descriptor_proto


def test_half_open_streams_leave_the_rest_answering(serve, root):
    """With every stream taken by a consumer that reads nothing, short calls are answered within a second."""
    (root / "file").write_bytes(bytes(64 * MIB))
    peer = serve(limits=Limits(server_streams=4, peer_share=1, server_reserve=2))
    calls = [half_open(peer, "file") for _ in range(4)]

    def are_answered():
        with contextlib.suppress(grpc.RpcError):  # on a busy machine it may take another try
            status = health(peer).Check(health_pb2.HealthCheckRequest(), timeout=1).status
            return status == SERVING and peer.stub.Exists(pb.ExistsRequest(path="file"), timeout=1).exists

    assert wait_until(are_answered)
    for call in calls:
        call.cancel()


def test_stream_over_the_limit_is_refused_at_once(serve, root):
    """One stream too many is RESOURCE_EXHAUSTED at once, and admitted when another one has ended."""
    (root / "file").write_bytes(bytes(64 * MIB))
    peer = serve(limits=Limits(server_streams=1))
    call = half_open(peer, "file")
    with pytest.raises(grpc.RpcError) as caught:
        list(peer.stub.ListFiles(pb.ListFilesRequest(), timeout=20))
    assert (caught.value.code(), "try again" in caught.value.details()) == (Code.RESOURCE_EXHAUSTED, True)
    call.cancel()
    assert wait_until(lambda: admits_a_stream(peer))


def test_stream_without_progress_is_cancelled(serve, root):
    """A stream that nobody reads is cancelled after its time, and its place is free."""
    (root / "file").write_bytes(bytes(64 * MIB))
    peer = serve(limits=Limits(server_streams=1, progress_seconds=0.3))
    call = half_open(peer, "file")
    assert wait_until(lambda: admits_a_stream(peer))
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is Code.CANCELLED


@pytest.mark.slow
def test_stream_with_progress_outlives_the_limit(serve, root):
    """A stream that is read slowly but steadily goes on for longer than the time without progress."""
    (root / "file").write_bytes(bytes(16 * MIB))
    peer = serve(limits=Limits(progress_seconds=2.0))
    pause = threading.Event()
    received = 0
    for message in peer.stub.StreamFiles(pb.StreamFilesRequest(path="file")):
        received += sum(len(chunk.data) for chunk in message.chunks)
        pause.wait(0.1)
    assert received == 16 * MIB


@pytest.mark.parametrize(
    "method",
    [
        "/lit_storage.v1.PathStorage/Exists",
        "/lit_storage.v1.PathStorage/StreamFiles",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ],
)
def test_calls_without_a_request_are_ended(serve, method):
    """Callers that never send their request hold no thread beyond the time of a short call."""
    peer = serve(limits=Limits(server_streams=2, server_reserve=1, unary_seconds=0.3))
    calls = [silent(peer, method) for _ in range(8)]
    assert wait_until(lambda: all(call.done() for call in calls))
    assert wait_until(lambda: answers(peer))
    for call in calls:
        call.never.set()


@pytest.mark.parametrize("body", [None, b"\xff\xff\xff"])
def test_broken_requests(peer, body):
    """No request, or bytes that are none, is INVALID_ARGUMENT, and the next call is answered."""
    call = peer.channel.stream_unary("/lit_storage.v1.PathStorage/Stat")
    with pytest.raises(grpc.RpcError) as caught:
        call(iter([] if body is None else [body]), timeout=20)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert peer.stub.Exists(pb.ExistsRequest()).exists


def test_request_that_is_too_large(peer):
    """A request beyond the limit of messages is refused, and the next call is answered."""
    request = pb.StatRequest(path_bytes=bytes(5 * MIB))
    with pytest.raises(grpc.RpcError) as caught:
        peer.stub.Stat(request)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert peer.stub.Exists(pb.ExistsRequest()).exists


def test_unknown_method(peer):
    """A method that does not exist is UNIMPLEMENTED."""
    with pytest.raises(grpc.RpcError) as caught:
        peer.channel.unary_unary("/lit_storage.v1.PathStorage/Delete")(b"", timeout=20)
    assert caught.value.code() is Code.UNIMPLEMENTED


def test_stop_leaves_nothing(root):
    """After stop the port is free and no thread is left; a second stop does nothing."""
    before = set(threading.enumerate())
    shares = Shares(str(root), name="train")
    server = PeerServer("train", "i1", shares, bind="127.0.0.2:0")  # no client takes a port of this address
    endpoint = server.start()
    with grpc.insecure_channel(endpoint) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        server.stop()
        server.stop()
    assert wait_until(lambda: set(threading.enumerate()) <= before)
    again = PeerServer("train", "i2", shares, bind=endpoint)
    assert again.start() == endpoint
    again.stop()
    shares.close()


def test_stop_ends_a_stream_that_nobody_reads(serve, root):
    """Stopping does not wait for a consumer that reads nothing."""
    (root / "file").write_bytes(bytes(64 * MIB))
    peer = serve()
    call = half_open(peer, "file")
    started = time.monotonic()
    peer.server.stop()
    assert time.monotonic() - started < 20
    with pytest.raises(grpc.RpcError):
        list(call)


@pytest.mark.slow
def test_stop_lets_a_stream_end_within_its_grace(serve, root):
    """A stream that is read ends whole while the server stops, if its grace allows."""
    (root / "file").write_bytes(bytes(32 * MIB))
    peer = serve()
    call = half_open(peer, "file")
    stopping = threading.Thread(target=peer.server.stop, args=(100,))
    stopping.start()
    assert list(call)[-1].summary.bytes == 32 * MIB
    stopping.join(30)
    assert not stopping.is_alive()


@pytest.mark.slow
def test_stopping_server_refuses_new_streams(serve, root):
    """While a stream runs out its grace, short calls are answered and new streams are not; health says so."""
    (root / "file").write_bytes(bytes(64 * MIB))
    peer = serve()
    call = half_open(peer, "file")
    stopping = threading.Thread(target=peer.server.stop, args=(100,))
    stopping.start()
    assert wait_until(lambda: not admits_a_stream(peer))
    with pytest.raises(grpc.RpcError) as caught:
        list(peer.stub.ListFiles(pb.ListFilesRequest(), timeout=20))
    assert (caught.value.code(), "is stopping" in caught.value.details()) == (Code.UNAVAILABLE, True)
    assert peer.stub.Exists(pb.ExistsRequest(), timeout=20).exists
    assert (
        health(peer).Check(health_pb2.HealthCheckRequest()).status
        == health_pb2.HealthCheckResponse.NOT_SERVING
    )
    call.cancel()
    stopping.join(30)
    assert not stopping.is_alive()


PROGRAM = """
import sys
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
server = PeerServer("train", "i1", Shares(sys.argv[1], name="train"))
print(server.start(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_process_exits_with_a_stream_half_open(root):
    """A process that exits without stopping is not held up by a consumer that reads nothing."""
    (root / "file").write_bytes(bytes(64 * MIB))
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    with process, grpc.insecure_channel(process.stdout.readline().decode().strip()) as channel:
        call = channel.unary_stream("/lit_storage.v1.PathStorage/StreamFiles", None)(b"\x12\x04file")
        next(call)
        process.stdin.close()
        assert process.wait(30) == 0
