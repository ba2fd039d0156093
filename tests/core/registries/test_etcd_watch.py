"""The watch of a registry in etcd: what it survives, and when the cache is not taken for fresh."""

import contextlib
import json
import time

import pytest

from lit_storage_core.registries import open_registry
from lit_storage_core.registries.etcd.cache import LiveCache
from lit_storage_proto.errors import RegistryUnavailable
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from tests.etcd_server import EtcdServers, Gate
from tests.waiting import within

wait_until = within(15, pause=0.005)


def record(name="trainer", endpoint="127.0.0.1:4000"):
    return LiveRecord(name, "one", endpoint, "machine")


class Watched:
    """A registry that watches through a gate, and another way to the same one that is always open."""

    def __init__(self, etcd, watch_seconds):
        self.etcd = etcd
        self.gate = Gate(etcd.endpoints)
        url = etcd.new_url()
        limits = Limits(watch_seconds=watch_seconds, resolve_seconds=3.0)
        through = url.replace(etcd.endpoints, self.gate.endpoint)
        self.registry = open_registry(through, machine_id="machine", limits=limits)
        self.other = open_registry(url, machine_id="machine", limits=Limits())
        for name in ("trainer", "deploy"):
            self.other.register(record(name))
        self.watch()

    def watch(self):
        wait_until(self.is_watching)

    def is_watching(self):
        with contextlib.suppress(RegistryUnavailable):
            self.registry.resolve("trainer", fresh=True)
        return self.registry.is_watching

    def compact(self):
        """Make etcd forget all but what is there now."""
        status = json.loads(self.etcd.control("endpoint", "status", "--write-out", "json"))
        self.etcd.control("compact", str(status[0]["Status"]["header"]["revision"]))

    def cached(self, name):
        """Return what the cache alone says, once it is fresh: etcd may be silent for a while."""

        def ask():
            with contextlib.suppress(RegistryUnavailable):
                before = self.registry.calls
                found = self.registry.resolve(name)
                return self.registry.calls == before and [found]

        return wait_until(ask)[0]

    def close(self):
        self.registry.close()
        self.other.close()
        self.gate.close()


@pytest.fixture
def watch():
    """Watch an etcd; it is believed for so long."""
    with contextlib.ExitStack() as stack:

        def watch(etcd, seconds=3.0):
            return stack.enter_context(contextlib.closing(Watched(etcd, seconds)))

        yield watch


@pytest.fixture
def watched(etcd, watch):
    return watch(etcd)


@pytest.mark.slow
def test_it_is_resumed_where_it_broke(watched):
    """After a break, what changed meanwhile arrives, and nothing is loaded again."""
    watched.gate.cut()
    wait_until(lambda: not watched.registry.is_watching)
    watched.other.register(record(endpoint="127.0.0.1:5"))
    watched.other.unregister("deploy", "one")
    watched.other.register(record("new"))
    watched.gate.open()
    watched.watch()
    assert watched.cached("trainer").endpoint == "127.0.0.1:5"
    assert watched.cached("new") == record("new")
    assert watched.registry.resolve("deploy") is None
    assert watched.registry.loads == 1


def test_what_was_compacted_away_is_loaded_again(watched):
    """Where etcd no longer has what changed during a break, all is loaded, and what is gone is gone."""
    watched.gate.cut()
    wait_until(lambda: not watched.registry.is_watching)
    watched.other.register(record(endpoint="127.0.0.1:5"))
    watched.other.unregister("deploy", "one")
    watched.compact()
    watched.gate.open()
    wait_until(lambda: watched.registry.loads == 2)
    watched.watch()
    assert watched.cached("trainer").endpoint == "127.0.0.1:5"
    assert watched.registry.resolve("deploy") is None


def test_a_compaction_under_a_watch_that_stands_does_nothing(watched):
    """A watch that is up to date does not care what etcd forgets."""
    watched.compact()
    watched.other.register(record(endpoint="127.0.0.1:5"))
    wait_until(lambda: watched.cached("trainer").endpoint == "127.0.0.1:5")
    watched.compact()
    watched.other.register(record(endpoint="127.0.0.1:6"))
    wait_until(lambda: watched.cached("trainer").endpoint == "127.0.0.1:6")
    assert watched.registry.loads == 1


@pytest.mark.slow
def test_a_broken_watch_is_not_fresh(etcd, watch):
    """As soon as the stream breaks, a resolve asks, and raises where nobody can be asked."""
    watched = watch(etcd, 60.0)
    watched.gate.cut()
    wait_until(lambda: not watched.registry.is_watching)
    with pytest.raises(RegistryUnavailable):
        watched.registry.resolve("trainer")


@pytest.mark.slow
def test_a_silent_watch_is_not_fresh(etcd, watch):
    """A connection that stands and carries nothing is believed for `watch_seconds`, then asked anew."""
    watched = watch(etcd, 5.0)
    watched.gate.hold()
    watched.other.register(record(endpoint="127.0.0.1:5"))
    began = time.monotonic()
    assert watched.cached("trainer").endpoint == "127.0.0.1:4000"  # as it was a moment ago
    wait_until(lambda: not watched.registry.is_watching)
    assert time.monotonic() - began < 10
    with pytest.raises(RegistryUnavailable):
        watched.registry.resolve("trainer")
    watched.gate.open()
    watched.watch()
    assert watched.cached("trainer").endpoint == "127.0.0.1:5"


@pytest.mark.slow
def test_a_burst_arrives_in_order(watched):
    """Of many changes of one name the last one stays, and each name has its own."""
    for number in range(1, 150):
        watched.other.register(record(endpoint=f"127.0.0.1:{number}"))
    wait_until(lambda: watched.cached("trainer").endpoint == "127.0.0.1:149")
    assert watched.cached("deploy") == record("deploy")


@pytest.mark.slow
def test_an_etcd_that_was_made_anew_is_another_one(tmp_path):
    """What an etcd said before it lost its data is forgotten, although its revisions begin anew."""
    with EtcdServers(tmp_path / "own") as servers:
        limits = Limits(watch_seconds=1.0, resolve_seconds=20.0)
        registry = open_registry(servers.new_url(), machine_id="machine", limits=limits)
        for number in range(20):
            registry.register(record(f"w{number}"))
        wait_until(lambda: registry.resolve("w1") and registry.is_watching)
        servers.members[0].kill()
        servers.members[0].forget()
        servers.start()
        wait_until(lambda: registry.resolve("w1") is None and registry.is_watching)
        registry.register(record("w2", "127.0.0.1:5"))
        assert registry.resolve("w2").endpoint == "127.0.0.1:5"
        for number in (1, 3, 19):
            assert registry.resolve(f"w{number}") is None
        registry.close()


class TestCache:
    def test_an_older_event_does_not_replace_what_was_found(self):
        """What this process found or wrote stays until the watch is beyond it."""
        cache = LiveCache()
        cache.load([("a", 5, b"5")], 10)
        cache.put("a", 20, b"20")
        cache.apply([("a", 15, b"15"), ("a", 16, None)])
        assert cache.get("a") == b"20"
        cache.apply([("a", 20, b"20"), ("a", 21, b"21")])
        assert cache.get("a") == b"21"

    def test_an_older_event_does_not_bring_back_what_is_gone(self):
        """A name that this process gave back is not live again when its past arrives."""
        cache = LiveCache()
        cache.load([], 10)
        cache.put("a", 20, None)
        cache.apply([("a", 15, b"15")])
        assert cache.get("a") is None
        cache.apply([("a", 20, None), ("a", 25, b"25")])
        assert cache.get("a") == b"25"

    def test_an_older_answer_does_not_replace_an_event(self):
        """An answer that was on its way while the watch went on changes nothing."""
        cache = LiveCache()
        cache.load([], 10)
        cache.apply([("a", 15, b"15"), ("b", 16, b"16"), ("b", 17, None)])
        cache.put("a", 12, b"12")
        cache.put("b", 16, b"16")
        assert (cache.get("a"), cache.get("b")) == (b"15", None)

    def test_a_load_does_not_replace_what_is_newer(self):
        """A load keeps what was written behind it, and what was given back behind it stays free."""
        cache = LiveCache()
        cache.put("a", 20, b"20")
        cache.put("b", 20, None)
        cache.load([("a", 5, b"5"), ("b", 5, b"5"), ("c", 5, b"5")], 10)
        assert [cache.get(name) for name in "abc"] == [b"20", None, b"5"]
        cache.load([], 30)
        assert [cache.get(name) for name in "abc"] == [None, None, None]

    def test_half_of_a_revision_is_not_passed(self):
        """The watch is resumed before a revision of which only a part has arrived."""
        cache = LiveCache()
        cache.load([], 10)
        cache.apply([("a", 11, b"1")], whole=False)
        assert cache.revision == 10
        cache.apply([("b", 11, b"2")])
        assert cache.revision == 11
