"""One peer does not take what streams others need, and those that are refused for a moment come through."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import trustme

from lit_storage_client.peers import remote
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.remote import Remote, _Pauses
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import MIB, Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_proto.v1 import path_storage_pb2_grpc as pb_grpc
from lit_storage_server.rpc.places import Places, peer_of
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
from tests.hostile.server.attacked import TOKEN
from tests.hostile.server.fuzzing import Code
from tests.waiting import within

wait_until = within(30)


@pytest.fixture
def large(attack):
    """A server with a file that is not sent unless somebody reads it."""
    attacked = attack()
    with (attacked.data / "large").open("wb") as file:
        file.truncate(256 * MIB)
    (attacked.data / "small").write_bytes(b"content")
    return attacked


@contextlib.contextmanager
def another_peer(attacked):
    """Another process of the same host, as the server sees it: another connection."""
    with attacked.channel() as channel:
        yield pb_grpc.PathStorageStub(channel)


def begun(calls):
    """Return those that a server lets begin, and how the others end."""
    running, refused = [], []
    for call in calls:
        try:
            next(call)
            running.append(call)
        except grpc.RpcError as error:
            refused.append((error.code(), error.details()))
    return running, refused


@pytest.mark.slow
def test_one_peer_leaves_places(large):
    """A peer that keeps all streams it can get leaves a quarter of the places to others."""
    running, refused = begun(large.stream("large") for _ in range(30))
    with another_peer(large) as other:
        others, _ = begun(large.stream("large", stub=other) for _ in range(30))
    assert (len(running), len(refused), len(others)) == (12, 18, 4)
    assert refused[0][0] is Code.RESOURCE_EXHAUSTED
    assert "12 streams for this peer" in refused[0][1]


@pytest.mark.slow
def test_places_of_a_peer_come_back(large):
    """A peer that was at its share has all of it again when its streams were cancelled."""

    def has_its_share():
        running, _ = begun(large.stream("large") for _ in range(13))
        for call in running:
            call.cancel()
        return len(running) == 12

    for _ in range(3):
        assert wait_until(has_its_share)  # each place is free a moment after its stream was cancelled


class Caller:
    """As much of the context of a call as tells who calls."""

    def __init__(self, peer, names=None):
        self._peer, self._names = peer, names

    def peer(self):
        return self._peer

    def peer_identities(self):
        return self._names


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (Caller("ipv4:10.0.0.1:1"), Caller("ipv4:10.0.0.1:2"), True),
        (Caller("ipv4:10.0.0.1:1"), Caller("ipv4:10.0.0.2:1"), False),
        (Caller("ipv6:%5Bfd00::1%5D:1"), Caller("ipv6:%5Bfd00::1%5D:2"), True),
        (Caller("ipv6:%5Bfd00::1%5D:1"), Caller("ipv6:%5Bfd00::2%5D:1"), False),
        (Caller("ipv4:127.0.0.1:1"), Caller("ipv4:127.0.0.1:2"), False),
        (Caller("ipv6:%5B::1%5D:1"), Caller("ipv6:%5B::1%5D:2"), False),
        (Caller("ipv4:10.0.0.1:1", [b"a"]), Caller("ipv4:10.0.0.2:1", [b"a"]), True),
        (Caller("ipv4:10.0.0.1:1", [b"a"]), Caller("ipv4:10.0.0.1:1", [b"b"]), False),
        (Caller("ipv4:127.0.0.1:1", [b"a"]), Caller("ipv4:127.0.0.1:2", [b"a"]), True),
    ],
)
def test_who_is_one_peer(one, other, is_same):
    """A peer is a certificate's name, else a host, and on loopback a connection."""
    assert (peer_of(one) == peer_of(other)) is is_same


@pytest.mark.parametrize(("count", "most"), [(1, 1), (2, 2), (3, 3), (4, 3), (16, 12), (64, 48)])
def test_share_of_one_peer(count, most):
    """A peer may have three of four places, rounded up, so that one place alone is never nobody's."""
    places, taken = Places("store", count, Limits().peer_share), contextlib.ExitStack()
    with taken:
        for _ in range(most):
            taken.enter_context(places.taken(Caller("ipv4:10.0.0.1:1")))
        if most < count:
            assert places._take("ipv4:10.0.0.1")[0] is Code.RESOURCE_EXHAUSTED
            assert places._take("ipv4:10.0.0.2") is None


def test_certificate_is_a_peer(tmp_path):
    """With certificates a peer is the name in its own, from however many connections it calls."""
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "large").open("wb") as file:
        file.truncate(64 * MIB)
    authority, files = trustme.CA(), {}
    authority.cert_pem.write_to_path(tmp_path / "ca")
    for name in ("localhost", "one", "two"):
        pair = authority.issue_cert(name, common_name=name)
        pair.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        pair.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.crt")
        files[name] = [str(tmp_path / f"{name}.{ending}") for ending in ("crt", "key")]
    shares = Shares(str(tmp_path / "data"), name="store")
    security = Security(None, *files["localhost"], str(tmp_path / "ca"))
    server = PeerServer("store", "i1", shares, security=security, limits=Limits(server_streams=4))
    endpoint = server.start()
    with contextlib.ExitStack() as stack:
        stack.callback(shares.close)
        stack.callback(server.stop)

        def call(name):
            certificate, key = (Path(path).read_bytes() for path in files[name])
            credentials = grpc.ssl_channel_credentials((tmp_path / "ca").read_bytes(), key, certificate)
            options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
            channel = stack.enter_context(grpc.secure_channel(endpoint, credentials, options))
            stub = pb_grpc.PathStorageStub(channel)
            return stub.StreamFiles(pb.StreamFilesRequest(path="large"), timeout=30)

        ones, _ = begun(call("one") for _ in range(5))
        twos, _ = begun(call("two") for _ in range(2))
        assert (len(ones), len(twos)) == (3, 1)


class Registry:
    """Answers with one record."""

    url, spans_machines = "memory:one", False

    def __init__(self, record):
        self._record = record

    def resolve(self, name, *, fresh=False):
        return self._record


def remote_of(attacked, stack, **limits):
    """Return a client of its own, as each process has one."""
    limits = Limits(**limits)
    channels = Channels(Security(token=TOKEN), limits)
    stack.callback(channels.close)
    return Remote(Registry(LiveRecord("store", "", attacked.endpoint, "m")), channels, limits)


@pytest.mark.slow
def test_herd_of_forty(attack):
    """Forty clients at once, with four places, all copy a tree whole: who is refused asks again."""
    attacked = attack(server_streams=4)
    (attacked.data / "tree").mkdir()
    for number in range(50):
        (attacked.data / "tree" / str(number)).write_bytes(bytes(20_000))
    location = Location("store", attacked.path("tree"))
    with contextlib.ExitStack() as stack:
        remotes = [remote_of(attacked, stack, connect_seconds=90) for _ in range(40)]

        def copy(remote):
            with remote.stream(location) as call:
                return [*call][-1].summary.bytes

        with ThreadPoolExecutor(40) as pool:
            assert [*pool.map(copy, remotes)] == [1_000_000] * 40


@pytest.mark.slow
def test_full_for_a_while(attack):
    """A client that finds a server full is served once a place is free, seconds later."""
    attacked = attack(server_streams=1, progress_seconds=2.0)
    with (attacked.data / "large").open("wb") as file:
        file.truncate(256 * MIB)
    (attacked.data / "small").write_bytes(b"content")
    running, _ = begun([attacked.stream("large")])
    with contextlib.ExitStack() as stack:
        remote = remote_of(attacked, stack, connect_seconds=60)
        with remote.stream(Location("store", attacked.path("small"))) as call:
            assert [*call][-1].summary.bytes == 7
    del running


def test_pauses_are_jittered(monkeypatch):
    """Clients that are refused at one time come back at times of their own, each within its bound."""
    begins, slept = [], []
    # A clock of that module alone, which only its own sleep moves.
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(remote, "time", clock)
    for _ in range(40):
        slept.clear()
        pauses = _Pauses(2.0, None)
        while pauses.pause():
            pass
        begins += slept[:3]
        assert 0.5 < sum(slept) <= 2.0
    assert len({round(begin, 4) for begin in begins}) > 60


@pytest.mark.slow
def test_a_process_of_many_gets_is_not_refused(large):
    """Twelve gets at once from one process, thrice what one automatic transfer runs, are all admitted."""
    running, refused = begun(large.stream("large") for _ in range(3 * Limits().fetch_workers))
    assert (len(running), refused) == (12, [])
