"""A registry in a cluster of three: a member is killed, then the leader, then two at once."""

import contextlib
import signal
import threading
import time

import pytest

from lit_storage_core.registries import open_registry
from lit_storage_core.registries.leases import LeaseKeeper
from lit_storage_proto.errors import NameTaken, RegistryUnavailable
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from tests.etcd_server import EtcdServers
from tests.waiting import within

wait_until = within(20)


def record(name="trainer", instance="one", endpoint="127.0.0.1:4000"):
    return LiveRecord(name, instance, endpoint, "machine")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    with EtcdServers(tmp_path_factory.mktemp("three"), 3) as servers:
        yield servers


@pytest.fixture
def cluster(three):
    """The cluster, whole before and after a test."""
    yield three
    for member in three.members:
        if member.process is not None:
            member.signal(signal.SIGCONT)
    gone = [member for member in three.members if member.process is None]
    if gone:
        three.start(*gone)
    wait_until(lambda: _answers(three))


def _answers(three):
    with contextlib.suppress(AssertionError):
        three.control("endpoint", "health")
        return True
    return False


@pytest.fixture
def open_etcd():
    opened = []

    def make(url, **limits):
        opened.append(open_registry(url, machine_id="machine", limits=Limits(**limits)))
        return opened[-1]

    yield make
    for registry in opened:
        registry.close()


def first(cluster, registry):
    """Return the member that a registry asks first."""
    endpoint = registry._connection.endpoint()
    return next(member for member in cluster.members if member.endpoint == endpoint)


@pytest.mark.slow
def test_a_member_that_is_killed_is_passed_over(cluster, open_etcd):
    """The member that a process speaks with is killed: reads, writes and the watch go on at another one."""
    registry = open_etcd(cluster.new_url())
    registry.register(record())
    wait_until(lambda: registry.resolve("trainer") and registry.is_watching)
    first(cluster, registry).kill()
    registry.register(record(endpoint="127.0.0.1:5"))
    assert registry.resolve("trainer").endpoint == "127.0.0.1:5"
    wait_until(lambda: registry.is_watching)
    assert registry.loads == 1


def test_a_leader_that_is_killed_is_replaced(cluster, open_etcd):
    """The leader is killed: within one call's time the others have a new one, and nothing is lost."""
    registry = open_etcd(cluster.new_url())
    registry.register(record())
    cluster.leader().kill()
    registry.register(record("deploy"))
    assert [live.name for live in registry.live()] == ["deploy", "trainer"]
    with pytest.raises(NameTaken):
        registry.register(record(instance="two"))


@pytest.mark.slow
def test_a_lease_outlives_its_leader(cluster, open_etcd):
    """A lease that is renewed is not lost when the leader is killed, nor when the next one is stopped."""
    registry = open_etcd(cluster.new_url(), lease_seconds=10.0, resolve_seconds=5.0)
    lost = threading.Event()
    keeper = LeaseKeeper("trainer", registry.register(record()), registry.renew, on_lost=lost.set)
    keeper.start()
    cluster.leader().kill()
    assert not lost.wait(12)
    assert registry.resolve("trainer", fresh=True) == record()
    keeper.release()


@pytest.mark.slow
def test_a_member_that_is_stopped_is_passed_over(cluster, open_etcd):
    """A member that takes connections and says nothing costs its share of a call's time, not the call."""
    registry = open_etcd(cluster.new_url(), resolve_seconds=12.0)
    registry.register(record())
    stopped = first(cluster, registry)
    stopped.signal(signal.SIGSTOP)
    assert registry.resolve("trainer", fresh=True) == record()
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert registry.resolve("trainer", fresh=True) == record()
        took.append(time.monotonic() - began)
    assert min(took) < 0.5  # another one is asked first by now


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_minority_is_not_believed(cluster, open_etcd, end):
    """One member that is left of three answers nothing: neither calls nor, after a while, its watch."""
    url = cluster.new_url().replace(cluster.endpoints, cluster.members[0].endpoint)
    open_etcd(url).register(record())
    registry = open_etcd(url, watch_seconds=60.0, resolve_seconds=3.0)
    wait_until(lambda: registry.resolve("trainer") and registry.is_watching)
    for member in cluster.members[1:]:
        member.kill() if end is signal.SIGKILL else member.signal(end)
    # It goes on answering the watch's questions until it has noticed; then it ends the stream itself.
    wait_until(lambda: not registry.is_watching, seconds=40)
    for call in (lambda: registry.resolve("trainer"), lambda: registry.register(record("deploy"))):
        with pytest.raises(RegistryUnavailable):
            call()
