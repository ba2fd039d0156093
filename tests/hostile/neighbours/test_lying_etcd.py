"""A server of etcd that lies: each call ends in its time, with a typed error, and memory stays bounded."""

import contextlib
import dataclasses
import itertools
import threading
import time

import pytest

from lit_storage_core.registries import open_registry
from lit_storage_core.registries.etcd import pages
from lit_storage_core.registries.etcd.cache import LiveCache
from lit_storage_core.registries.etcd.records import MOST_BYTES
from lit_storage_proto.errors import NameTaken, RegistryUnavailable, StorageError
from lit_storage_proto.etcd import v3_pb2 as pb
from lit_storage_proto.registry import LiveRecord
from tests.hostile.neighbours.conftest import LIMITS, MACHINE, Compacted, live, work
from tests.waiting import within

HEADER = pb.ResponseHeader(cluster_id=1, revision=1, raft_term=1)
SECONDS = 30  # far more than any call may take, also on a machine that is busy
wait_until = within(20)


def kv(key, value=b"{}", revision=1):
    return pb.KeyValue(key=key, value=value, mod_revision=revision)


PAGES = {
    "no keys and more": lambda request: pb.RangeResponse(header=HEADER, more=True),
    "one key for ever": lambda request: pb.RangeResponse(header=HEADER, kvs=[kv(b"p/live/a")], more=True),
    "keys that go back": lambda request: pb.RangeResponse(
        header=HEADER, kvs=[kv(b"p/live/z"), kv(b"a")], more=True
    ),
    "no header": lambda request: pb.RangeResponse(kvs=[kv(b"p/live/a")], more=True),
    "bytes that are no message": lambda request: b"\xff" * 100,
    "a failure": lambda request: 1 / 0,
}


@pytest.mark.parametrize("answer", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("method", ["live", "works"])
def test_a_list_that_never_ends_ends(lying_etcd, hasty_registry, answer, method):
    """A list whose pages go on for ever, or are none, is a typed error in time."""
    lying_etcd.on_range = answer
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable):
        getattr(hasty_registry, method)()
    assert time.monotonic() - began < SECONDS


def test_a_list_is_held_up_to_a_size(lying_etcd, registry, monkeypatch):
    """Keys without end, each further than the last, are held up to a size, and then an error."""
    monkeypatch.setattr(pages, "MOST_BYTES", 1_000_000)
    numbers = itertools.count()

    def answer(request):
        keys = [f"p/live/{next(numbers):012}".encode() for _ in range(100)]
        return pb.RangeResponse(header=HEADER, kvs=[kv(key, bytes(1000)) for key in keys], more=True)

    lying_etcd.on_range = answer
    with pytest.raises(RegistryUnavailable, match="lists more than any registry holds"):
        registry.live()
    assert next(numbers) < 2_000


def test_a_list_that_only_says_compacted_ends(lying_etcd, hasty_registry):
    """An etcd that says of each page that it has been compacted away is given up in time."""

    def answer(request):
        raise Compacted

    lying_etcd.on_range = answer
    began, before = time.monotonic(), lying_etcd.calls
    with pytest.raises(RegistryUnavailable):
        hasty_registry.works()
    assert lying_etcd.calls > before + 1  # it was tried again
    assert time.monotonic() - began < SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("size", [100_000, 1_500_000])  # together 2 and 36 MB, of which 32 MiB are taken
def test_large_values_of_others_hide_no_name(lying_etcd, registry, size):
    """Values of other programs below the prefix, together larger than a message, hide no Work."""
    for number in range(12):
        lying_etcd.put("live", f"large{number}", b"x" * size)
        lying_etcd.put("work", f"large{number}", b"x" * size)
    lying_etcd.put("live", "good", live("good"))
    lying_etcd.put("work", "good", work("good"))
    patient = dataclasses.replace(LIMITS, resolve_seconds=40)
    opened = open_registry(f"etcd://{lying_etcd.endpoint}/p", machine_id=MACHINE, limits=patient)
    try:
        assert [record.name for record in opened.works()] == ["good"]
    finally:
        opened.close()


ANSWERS = {
    "nothing": lambda request: pb.TxnResponse(),
    "one answer": lambda request: pb.TxnResponse(header=HEADER, responses=[pb.ResponseOp()]),
    "too many answers": lambda request: pb.TxnResponse(header=HEADER, responses=[pb.ResponseOp()] * 5000),
    "no success": lambda request: pb.TxnResponse(header=HEADER, succeeded=False),
    "bytes that are no message": lambda request: b"\x0f\xff\xff",
    "a failure": lambda request: 1 / 0,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("call", ["work", "unregister", "register"])
def test_an_answer_to_something_else_is_an_error_or_nobody(lying_etcd, hasty_registry, answer, call):
    """An answer that does not fit the question is a typed error, or says that nobody is there."""
    lying_etcd.on_txn = answer
    record = LiveRecord("trainer", "i1", "127.0.0.1:1", MACHINE)
    arguments = {"work": ("trainer",), "unregister": ("trainer", "i1"), "register": (record,)}[call]
    began = time.monotonic()
    with contextlib.suppress(StorageError):
        assert getattr(hasty_registry, call)(*arguments) is None
    assert time.monotonic() - began < SECONDS


def test_a_record_of_another_key_is_nobodys(lying_etcd, registry):
    """Where etcd answers a question about one name with the record of another, nobody lives under it."""

    def answer(request):
        pairs = [kv(b"p/live/evil", live("evil")), kv(b"p/live/evil", live("trainer"))]
        read = pb.RangeResponse(header=HEADER, kvs=pairs)
        return pb.TxnResponse(
            header=HEADER, responses=[pb.ResponseOp(response_range=read)] * len(request.success)
        )

    lying_etcd.on_txn = answer
    assert registry.resolve("trainer") is None


@pytest.mark.parametrize("ttl", [0, -1, -(2**63)])
def test_a_lease_of_no_time_is_none(lying_etcd, registry, ttl):
    """A lease that has ended when it is granted does not make a Work believe that it has its name."""
    lying_etcd.on_grant = lambda request: pb.LeaseGrantResponse(ID=request.ID, TTL=ttl)
    with pytest.raises(RegistryUnavailable, match="grants a lease of"):
        registry.register(LiveRecord("trainer", "i1", "127.0.0.1:1", MACHINE))


@pytest.mark.parametrize("ttl", [10**6, 2**63 - 1])
def test_a_lease_without_end_ends(lying_etcd, registry, ttl):
    """A lease of far more time than was asked for is renewed as if it were short."""
    lying_etcd.on_grant = lambda request: pb.LeaseGrantResponse(ID=0, TTL=ttl)
    lease = registry.register(LiveRecord("trainer", "i1", "127.0.0.1:1", MACHINE))
    assert lease.seconds <= 10 * LIMITS.lease_seconds


def test_what_etcd_says_steers_no_terminal(lying_etcd, registry):
    """A sentence of etcd in an error is printable, and not endless."""
    said = "\x1b[2J\n" + "no" * 100_000
    lying_etcd.on_grant = lambda request: pb.LeaseGrantResponse(error=said)
    with pytest.raises(RegistryUnavailable) as raised:
        registry.register(LiveRecord("trainer", "i1", "127.0.0.1:1", MACHINE))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 2_000


def test_who_holds_a_name_is_said_printable(lying_etcd, registry):
    """The error of a name that is taken shows no more of a record than a record can hold."""
    lying_etcd.put("live", "trainer", live())
    with pytest.raises(NameTaken) as raised:
        registry.register(LiveRecord("trainer", "i2", "127.0.0.1:1", MACHINE))
    assert str(raised.value).isprintable()


EVENTS = {
    "a key of nothing": [pb.Event(kv=kv(b"", live()))],
    "a key that is too short": [pb.Event(kv=kv(b"p/l", live()))],
    "a name that is none": [pb.Event(kv=kv(b"p/live/../x", live()))],
    "bytes that are no record": [pb.Event(kv=kv(b"p/live/trainer", b"\xff" * 100, 2**62))],
    "a record of another name": [pb.Event(kv=kv(b"p/live/trainer", live("evil"), 2**62))],
    "a value of a megabyte": [pb.Event(kv=kv(b"p/live/trainer", b"x" * 1_000_000, 2**62))],
    "negative revisions": [pb.Event(kv=kv(b"p/live/trainer", live(), -5))],
    "an unknown type": [pb.Event(type=7, kv=kv(b"p/live/trainer", b"", 2**62))],
    "no key": [pb.Event()],
}


@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS)
def test_a_watch_that_lies_ends_no_look_up(lying_etcd, registry, events):
    """Whatever a watch tells, a look-up is answered by what etcd says to it, or a typed error."""
    told = threading.Event()

    def watch(requests):
        yield pb.WatchResponse(header=HEADER, created=True)
        yield pb.WatchResponse(header=HEADER, events=events)
        told.set()
        for _ in requests:
            yield pb.WatchResponse(header=pb.ResponseHeader(cluster_id=1, revision=2**62))

    lying_etcd.on_watch = watch
    lying_etcd.put("live", "good", live("good"))
    for _ in range(3):
        assert registry.resolve("good").instance_id == "i1"
    wait_until(told.is_set)
    for _ in range(3):
        assert registry.resolve("good").instance_id == "i1"
        try:
            registry.resolve("trainer")
        except RegistryUnavailable as error:
            assert "is no record" in str(error)  # noqa: PT017  either is right


@pytest.mark.slow
def test_a_question_that_is_lost_is_asked_on_another_stream(lying_etcd):
    """A watch whose question is never answered is begun anew, at a revision that etcd has, and is fresh."""
    starts = []

    def watch(requests):
        starts.append(next(requests).create_request.start_revision)
        yield pb.WatchResponse(header=HEADER, created=True)
        for _ in requests:
            if len(starts) > 1:
                yield pb.WatchResponse(header=HEADER)

    lying_etcd.on_watch = watch
    lying_etcd.put("live", "good", live("good"))
    limits = dataclasses.replace(LIMITS, watch_seconds=0.5)
    with contextlib.closing(
        open_registry(f"etcd://{lying_etcd.endpoint}/p", machine_id=MACHINE, limits=limits)
    ) as registry:
        for _ in range(2):  # the second look-up starts the watch
            assert registry.resolve("good").instance_id == "i1"
        wait_until(lambda: registry.is_watching)
    assert starts == [HEADER.revision] * 2


@pytest.mark.slow
def test_a_watch_that_breaks_again_and_again_is_asked_with_pauses(lying_etcd, registry):
    """A watch that ends at once, saying that all was compacted, does not make a loop without pauses."""

    def watch(requests):
        yield pb.WatchResponse(header=HEADER, created=True)
        yield pb.WatchResponse(header=HEADER, canceled=True, compact_revision=10**9)

    lying_etcd.on_watch = watch
    lying_etcd.put("live", "good", live("good"))
    for _ in range(3):
        registry.resolve("good")
    before = lying_etcd.calls
    time.sleep(1)
    assert lying_etcd.calls - before < 100


class TestMemory:
    def test_names_without_end(self, monkeypatch):
        """What a watch tells of is kept up to a number of names; those that are known go on being told of."""
        monkeypatch.setattr("lit_storage_core.registries.etcd.cache.MOST_RECORDS", 100)
        cache = LiveCache()
        cache.apply((f"n{number}", number + 1, b"{}") for number in range(10_000))
        cache.apply([("n5", 20_000, b"new")])
        assert (len(cache._live), cache.get("n5"), cache.get("n9999")) == (100, b"new", None)

    def test_free_names_without_end(self, monkeypatch):
        """Names that are told to be free, of revisions that never come, are forgotten."""
        monkeypatch.setattr("lit_storage_core.registries.etcd.cache.MOST_RECORDS", 100)
        cache = LiveCache()
        cache.apply(((f"n{number}", number + 1, None) for number in range(10_000)), whole=False)
        assert len(cache._free) <= 101

    @pytest.mark.parametrize("how", ["load", "put", "apply"])
    def test_large_values(self, how):
        """A value that is no record for its size is not kept, and its former value is not taken for it."""
        cache, large = LiveCache(), b"x" * (MOST_BYTES + 1)
        cache.load([("trainer", 1, b"{}")], 1)
        ways = {
            "load": lambda: cache.load([("trainer", 2, large)], 2),
            "put": lambda: cache.put("trainer", 2, large),
            "apply": lambda: cache.apply([("trainer", 2, large)]),
        }
        ways[how]()
        assert cache.get("trainer") is None


def test_grpc_is_dialed_where_the_url_says(lying_etcd, monkeypatch):
    """A proxy of the environment sees nothing of what is asked of etcd."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    opened = open_registry(f"etcd://{lying_etcd.endpoint}/p", machine_id=MACHINE, limits=LIMITS)
    try:
        assert opened.resolve("nobody") is None
    finally:
        opened.close()
