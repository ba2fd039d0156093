"""Calls cancelled at any time, threads that cannot be had, and kills: the server is as it was before."""

import contextlib
import os
import random
import resource
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lit_storage_proto.direct import HELLO
from lit_storage_proto.limits import MIB
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_proto.v1 import path_storage_pb2_grpc as pb_grpc
from tests.hostile.server import http2
from tests.hostile.server.attacked import AUTHORIZED, KINDS, Attacked
from tests.processes import children_of
from tests.waiting import within

wait_until = within(60, pause=0.1)


@pytest.fixture(scope="module", params=KINDS)
def stormed(request, tmp_path_factory):
    """A server of a large file and of a small one."""
    server = Attacked(request.param, tmp_path_factory.mktemp("stormed"), peer_share=1)
    with (server.data / "large").open("wb") as file:
        file.truncate(256 * MIB)
    (server.data / "small").write_bytes(b"content")
    storm(server, 1, 100)  # what is made once is made
    yield server
    server.stop()


def storm(attacked, seed, count, threads=8):
    """Make calls of all kinds, and cancel each at some time; return how many there were."""

    def one(seed):
        chosen = random.Random(seed)
        with attacked.channel() as channel:
            stub = pb_grpc.PathStorageStub(channel)
            exists = stub.Exists.future
            for _ in range(count // threads):
                path = attacked.path(chosen.choice(["large", "small", "", "none"]))
                begin, request = chosen.choice(
                    [
                        (stub.StreamFiles, pb.StreamFilesRequest(path=path, direct=True)),
                        (stub.StreamFiles, pb.StreamFilesRequest(path=path)),
                        (stub.ListFiles, pb.ListFilesRequest(path=path)),
                        (exists, pb.ExistsRequest(path=path)),
                    ]
                )
                call = begin(request, timeout=20, metadata=AUTHORIZED)
                for _ in range(0 if begin is exists else chosen.choice([0, 0, 1, 3])):
                    with contextlib.suppress(grpc.RpcError, StopIteration):
                        next(call)
                time.sleep(chosen.choice([0, 0, 0.0005, 0.002]))
                call.cancel()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(seed, seed + threads)))
    return count


@pytest.mark.slow
def test_cancelled_calls_leave_nothing(stormed):
    """After 1,600 calls cancelled at random, threads, descriptors, memory and places are as before."""
    assert wait_until(lambda: stormed.threads() <= 60)
    before = stormed.threads(), stormed.descriptors(), stormed.resident()
    storm(stormed, 7, 1600)
    assert wait_until(lambda: stormed.descriptors() <= before[1] + 8)
    assert wait_until(lambda: stormed.threads() <= before[0] + 24)
    assert wait_until(lambda: all_places_are_free(stormed))
    assert stormed.resident() - before[2] < 64 * MIB
    assert "Traceback" not in stormed.log()


def all_places_are_free(attacked):
    calls = [attacked.stream("large") for _ in range(16)]
    try:
        return all(call.next() is not None for call in calls)
    except grpc.RpcError:
        return False
    finally:
        for call in calls:
            call.cancel()


@pytest.mark.soak
def test_cancel_soak(stormed, soak_seconds, tally):
    """However many calls are cancelled, the server's memory stays where it was after the first thousands."""
    seed, end = random.randrange(2**32), time.monotonic() + soak_seconds
    print("seed", seed)
    storm(stormed, seed, 2000)
    before, descriptors = stormed.resident(), stormed.descriptors()
    while time.monotonic() < end:
        seed += 8
        tally["cancelled calls"] += storm(stormed, seed, 2000)
    assert wait_until(lambda: stormed.descriptors() <= descriptors + 8)
    assert wait_until(lambda: all_places_are_free(stormed))
    assert stormed.resident() - before < 64 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_killed_in_the_middle(tmp_path, number):
    """A Work's server that is killed under a storm is there again, and its parent has no more than before."""
    attacked = Attacked("work", tmp_path)
    try:
        (attacked.data / "small").write_bytes(b"content")
        with (attacked.data / "large").open("wb") as file:
            file.truncate(64 * MIB)
        parent = attacked.process.pid
        before = cost_of(parent)
        storming = threading.Thread(target=storm, args=(attacked, number, 400))
        storming.start()
        time.sleep(0.1 * number)
        killed = attacked.pid
        os.kill(killed, signal.SIGKILL)
        assert wait_until(lambda: killed not in children_of(parent) and children_of(parent))
        storming.join()
        assert wait_until(attacked.answers_again)
        assert wait_until(lambda: attacked.streams_again("small"))
        assert wait_until(lambda: cost_of(parent) <= before)
    finally:
        attacked.stop()


def cost_of(pid):
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.slow
def test_no_thread_can_be_had(attack):
    """A server that can start no more threads answers with those that it has, and recovers."""
    attacked = attack(peer_share=1)
    (attacked.data / "small").write_bytes(b"content")
    limits = resource.prlimit(attacked.pid, resource.RLIMIT_AS)
    with open(f"/proc/{attacked.pid}/statm") as file:
        size = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.prlimit(attacked.pid, resource.RLIMIT_AS, (size + 6 * MIB, limits[1]))
    with http2.Connection(attacked.port) as connection:
        # Those that say nothing keep the thread for a tenth of a second each, or more on a busy machine.
        connection.send(*(http2.opened(http2.EXISTS, 2 * i + 1) for i in range(40)))
        assert wait_until(attacked.answers_again)
    resource.prlimit(attacked.pid, resource.RLIMIT_AS, limits)
    assert wait_until(attacked.answers_again)
    assert wait_until(lambda: all(attacked.streams_again("small") for _ in range(5)))


@pytest.mark.slow
@pytest.mark.parametrize("hello", ["none", "half", "ticket"])
def test_direct_connections_that_take_nothing(attack, hello):
    """On the direct way too, consumers that are silent or read nothing are ended, and cost little."""
    attacked = attack(progress_seconds=2.0, peer_share=1)
    with (attacked.data / "large").open("wb") as file:
        file.truncate(1024 * MIB)
    (attacked.data / "small").write_bytes(b"content")
    assert attacked.streams_again("small")
    memory, descriptors = attacked.resident(), attacked.descriptors()
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            call = attacked.stream("large", direct=True, packs=True, settle=True)
            offer = next(call).direct
            taken = stack.enter_context(socket.create_connection(("127.0.0.1", offer.tcp_port), 10))
            said = HELLO + offer.ticket if hello == "ticket" else HELLO[:4] if hello == "half" else b""
            taken.sendall(said)
            threading.Thread(target=_read_all, args=(call,), daemon=True).start()
        assert attacked.answers(seconds=20)
        assert attacked.resident() - memory < 128 * MIB
        assert wait_until(lambda: attacked.streams_again("small"))
    assert wait_until(lambda: attacked.descriptors() <= descriptors + 8)


def _read_all(call):
    with contextlib.suppress(grpc.RpcError):
        for number, _ in enumerate(call):
            if number > 20:
                call.cancel()


@pytest.mark.slow
def test_thousand_direct_connections(attack):
    """Connections to the direct way's port without a ticket are ended; those with one still get through."""
    attacked = attack()
    (attacked.data / "small").write_bytes(b"content")
    call = attacked.stream("small", direct=True)
    port = next(call).direct.tcp_port
    call.cancel()
    threads = attacked.threads()
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        assert attacked.threads() - threads <= 128 + 24
        assert attacked.answers()
        assert attacked.streams_again("small")
    assert wait_until(lambda: attacked.threads() <= threads + 24)
