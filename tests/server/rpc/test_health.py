"""Health is told to anyone, and telling it can never silence the server."""

import contextlib
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lit_storage_proto.limits import Limits
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_server.rpc import health

SERVING = health_pb2.HealthCheckResponse.SERVING


def asked(service=""):
    return health_pb2.HealthCheckRequest(service=service)


def stub(peer):
    return health_pb2_grpc.HealthStub(peer.channel)


@pytest.mark.parametrize("service", ["", "lit_storage.v1.PathStorage"])
def test_check_and_watch(peer, service):
    """A running server says SERVING of itself and of its service."""
    watch = stub(peer).Watch(asked(service))
    assert (stub(peer).Check(asked(service)).status, next(watch).status) == (SERVING, SERVING)
    watch.cancel()


def test_unknown_service(peer):
    """Of a service that is not there, Check says NOT_FOUND, and Watch that it is unknown."""
    with pytest.raises(grpc.RpcError) as caught:
        stub(peer).Check(asked("other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub(peer).Watch(asked("other"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_watch_holds_no_thread(serve):
    """Watching the health of a server takes none of its threads, however many do."""
    peer = serve(limits=Limits(server_streams=1, server_reserve=1))
    watches = [stub(peer).Watch(asked()) for _ in range(6)]
    assert [next(watch).status for watch in watches] == [SERVING] * 6
    assert peer.stub.Exists(pb.ExistsRequest(), timeout=20).exists
    for watch in watches:
        watch.cancel()


def test_too_many_watches(peer, monkeypatch):
    """They are refused, with the way out, until others end; Check is answered meanwhile."""
    monkeypatch.setattr(health, "_MOST_WATCHES", 3)
    watches = [stub(peer).Watch(asked()) for _ in range(3)]
    assert [next(watch).status for watch in watches] == [SERVING] * 3
    with pytest.raises(grpc.RpcError, match="already has 3 health watches; use Check") as caught:
        next(stub(peer).Watch(asked()))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub(peer).Check(asked(), timeout=20).status == SERVING
    for watch in watches:
        watch.cancel()
    assert watches_after(peer, 3) == [SERVING] * 3


def watches_after(peer, count):
    """Begin so many watches, once the server has seen that others ended."""
    deadline, statuses = time.monotonic() + 30, []
    while len(statuses) < count and time.monotonic() < deadline:
        with contextlib.suppress(grpc.RpcError):
            statuses.append(next(stub(peer).Watch(asked())).status)
    return statuses


def test_watch_ends_with_the_server(peer):
    """A watch ends when the server stops."""
    watch = stub(peer).Watch(asked())
    next(watch)
    peer.server.stop()
    with pytest.raises(grpc.RpcError):
        list(watch)


def test_watchers_that_come_and_go(peer):
    """Many watchers that begin and leave at once leave the server answering."""

    def come_and_go():
        for _ in range(40):
            watch = stub(peer).Watch(asked(), timeout=60)
            next(watch)
            watch.cancel()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not any(thread.is_alive() for thread in threads)
    assert stub(peer).Check(asked(), timeout=20).status == SERVING
