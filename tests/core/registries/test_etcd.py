"""What is particular to a registry in etcd: its URL, its cache, its leases, and answers that are lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest

from lit_storage_core.registries import open_registry
from lit_storage_core.registries.etcd import connection
from lit_storage_core.registries.etcd.address import EtcdAddress
from lit_storage_core.system.boot_clock import boot_seconds
from lit_storage_proto.errors import InvalidURI, NameTaken, NotAttached, RegistryUnavailable
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState
from tests.etcd_server import EtcdServers
from tests.waiting import within

wait_until = within(15, pause=0.005)


def record(instance="one", endpoint="127.0.0.1:4000", machine="machine"):
    return LiveRecord("trainer", instance, endpoint, machine)


def prefix_of(url):
    return url.split("/", 3)[3]


def leases(etcd):
    return set(etcd.control("lease", "list").splitlines()[1:])


@pytest.fixture
def open_etcd():
    """Open registries that are closed afterwards."""
    opened = []

    def make(url, *, machine="machine", **limits):
        opened.append(open_registry(url, machine_id=machine, limits=Limits(**limits)))
        return opened[-1]

    yield make
    for registry in opened:
        registry.close()


@pytest.fixture
def pair(etcd, open_etcd):
    """Two openings of one new registry, as of two processes, which hear of it often enough on any machine."""
    url = etcd.new_url()
    return open_etcd(url, watch_seconds=30.0), open_etcd(url)


@pytest.fixture
def watching(pair):
    """The same, with "trainer" live, and the first one watching."""
    mine, other = pair
    other.register(record())
    mine.resolve("trainer")
    wait_until(lambda: mine.resolve("trainer") and mine.is_watching)
    return mine, other


class TestURL:
    @pytest.mark.parametrize(
        ("rest", "url"),
        [
            ("//host/prefix", "etcd://host:2379/prefix"),
            (
                "//a:1,b,[fd00::1]:3,[fd00::2]/team/run-1/",
                "etcd://a:1,b:2379,[fd00::1]:3,[fd00::2]:2379/team/run-1",
            ),
        ],
    )
    def test_the_port_may_be_left_out(self, rest, url):
        """A member without a port has etcd's usual one, and the URL says so to other processes."""
        assert EtcdAddress.from_rest(rest).url == url
        assert EtcdAddress.from_rest(url.removeprefix("etcd:")).url == url

    @pytest.mark.parametrize(
        "rest", ["", "//", "host/prefix", "//host", "//host/", "///prefix", "//host/a//b", "//host/ä",
                 "//host:0/p", "//host:x/p", "//a,,b/p", "//host/p?x=1", "//fd00::1/p"]
    )  # fmt: skip
    def test_all_else_is_refused(self, rest):
        """What names no member or no prefix is refused with what to write."""
        with pytest.raises(InvalidURI, match="write "):
            open_registry(f"etcd:{rest}", machine_id="m", limits=Limits())

    @pytest.mark.parametrize("url", ["etcd://root:secret@host/p", "etcd://root:s/secret@host:2379/p"])
    def test_a_password_is_refused_and_not_shown(self, url):
        """A user in the URL is refused with the way out, without a word of it."""
        with pytest.raises(InvalidURI, match="LIT_STORAGE_ETCD_PASSWORD_FILE") as raised:
            open_registry(url, machine_id="m", limits=Limits())
        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize("seconds", [1.0, 2.5])
    def test_a_lease_that_etcd_does_not_grant_is_refused(self, seconds):
        """etcd's leases are of whole seconds, two or more."""
        with pytest.raises(InvalidURI, match="lease_seconds"):
            open_registry("etcd://h/p", machine_id="m", limits=Limits(lease_seconds=seconds))

    def test_loopback_alone_does_not_span_machines(self):
        """A registry spans machines as soon as one of its members is none of loopback."""
        spans = [
            open_registry(f"etcd://{hosts}/p", machine_id="m", limits=Limits()).spans_machines
            for hosts in ("127.0.0.1,localhost,[::1]", "127.0.0.1,node-1")
        ]
        assert spans == [False, True]


class TestCache:
    def test_a_name_that_lives_costs_no_call(self, etcd, watching):
        """Once the watch is up etcd answers not one call, by its own count, for a thousand look-ups."""
        mine, _ = watching
        before = etcd.members[0].started_calls("KV")
        assert all(mine.resolve("trainer") == record() for _ in range(1000))
        assert etcd.members[0].started_calls("KV") == before

    def test_what_another_process_changes_is_seen(self, watching):
        """A change by another process reaches the cache, and so does the end of a record."""
        mine, other = watching
        other.register(record(endpoint="127.0.0.1:5"))
        wait_until(lambda: mine.resolve("trainer").endpoint == "127.0.0.1:5")
        other.unregister("trainer", "one")
        wait_until(lambda: mine.resolve("trainer") is None)

    def test_what_this_process_changes_is_seen_at_once(self, watching):
        """After each register and unregister of its own, a process resolves just that."""
        mine, other = watching
        other.unregister("trainer", "one")
        for number in range(1, 30):
            moved = record(str(number), f"127.0.0.1:{number}")
            mine.register(moved)
            assert mine.resolve("trainer") == moved
            mine.unregister("trainer", str(number))
            assert mine.resolve("trainer") is None

    def test_nobody_is_not_said_from_memory(self, watching):
        """A name that another process registered just now is found, although the cache lacks it."""
        mine, other = watching
        for number in range(20):
            name = f"worker-{number}"
            other.register(LiveRecord(name, "i", "127.0.0.1:1", "machine"))
            assert mine.resolve(name) is not None

    def test_fresh_asks_etcd(self, watching):
        """Whoever doubts an answer gets the registry's own, although a change is on its way."""
        mine, other = watching
        for number in range(1, 20):
            other.register(record(endpoint=f"127.0.0.1:{number}"))
            assert mine.resolve("trainer", fresh=True).endpoint == f"127.0.0.1:{number}"

    def test_one_look_starts_no_watch(self, pair):
        """A process that resolves once, as a command does, loads nothing."""
        mine, other = pair
        other.register(record())
        mine.resolve("trainer")
        assert (mine.is_watching, mine.loads, mine.calls) == (False, 0, 1)

    def test_more_records_than_one_page(self, etcd, open_etcd):
        """What takes several answers of etcd is listed and loaded whole, in order."""
        registry = open_etcd(etcd.new_url(), watch_seconds=30.0)
        names = [f"w{number:04}" for number in range(1100)]
        key = f"{prefix_of(registry.url)}/live/"
        values = b'{"name":"%s","instance_id":"i","endpoint":"h:1","machine_id":"m"}'
        with grpc.insecure_channel(etcd.endpoints) as channel:
            put = channel.unary_unary(
                connection.TXN.path,
                request_serializer=connection.pb.TxnRequest.SerializeToString,
                response_deserializer=connection.pb.TxnResponse.FromString,
            )
            for start in range(0, len(names), 100):
                operations = [
                    connection.pb.RequestOp(
                        request_put=connection.pb.PutRequest(
                            key=(key + name).encode(), value=values % name.encode()
                        )
                    )
                    for name in names[start : start + 100]
                ]
                put(connection.pb.TxnRequest(success=operations), timeout=10)
        assert [each.name for each in registry.live()] == names
        registry.resolve(names[-1])
        wait_until(lambda: registry.resolve(names[-1]) and registry.is_watching)
        before = registry.calls
        assert all(registry.resolve(name).name == name for name in names)
        assert registry.calls == before


class TestLease:
    @pytest.mark.slow
    def test_a_silent_holder_loses_its_name(self, etcd, open_etcd):
        """Without renewal a record goes at the end of its lease, not before, and the name is free."""
        registry = open_etcd(url := etcd.new_url(), lease_seconds=2)
        lease = registry.register(record())
        wait_until(lambda: registry.resolve("trainer", fresh=True) is None)
        assert boot_seconds() >= lease.end
        assert registry.work("trainer").state is WorkState.FAILED
        assert registry.renew(lease, 5) is None
        open_etcd(url).register(record("two"))  # for longer
        assert registry.resolve("trainer").instance_id == "two"

    @pytest.mark.slow
    def test_a_renewed_lease_goes_on(self, etcd, open_etcd):
        """Each renewal gives the whole time anew."""
        registry = open_etcd(etcd.new_url(), lease_seconds=6)
        lease = registry.register(record())
        end = lease.end + 0.7
        while boot_seconds() < end:
            renewed = registry.renew(lease, 5)
            assert renewed.end > lease.end
            assert renewed.id == lease.id
            lease = renewed
            time.sleep(0.3)
        assert registry.resolve("trainer", fresh=True) == record()

    def test_another_instance_is_told_how_long_to_wait(self, pair):
        """Who is refused is told who has the name, and when it would be free if that one was killed."""
        mine, other = pair
        other.register(record(machine="far"))
        with pytest.raises(NameTaken, match=r"of machine far, which serves at 127\.0\.0\.1:4000.*15 s"):
            mine.register(record("two"))

    def test_no_lease_is_left_behind(self, etcd, open_etcd):
        """A name that was given back, or not had, leaves no lease in etcd."""
        before = leases(etcd)
        registry = open_etcd(etcd.new_url())
        registry.register(record())
        with pytest.raises(NameTaken):
            registry.register(record("two"))
        registry.unregister("trainer", "one")
        assert leases(etcd) <= before


REGISTER_AND_END = """
import sys
from lit_storage_core.registries import open_registry
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
registry = open_registry(sys.argv[1], machine_id="machine", limits=Limits())
registry.register(LiveRecord("trainer", "killed", "127.0.0.1:1", "machine"))
"""


@pytest.mark.slow
def test_a_killed_process_of_this_machine_is_not_waited_for(etcd, open_etcd):
    """Where its process is known to be gone, a record counts as gone; other machines wait for the lease."""
    url = etcd.new_url()
    subprocess.run([sys.executable, "-c", REGISTER_AND_END, url], check=True, timeout=60)
    here, elsewhere = open_etcd(url), open_etcd(url, machine="elsewhere")
    assert elsewhere.resolve("trainer").instance_id == "killed"
    assert (here.resolve("trainer"), here.live(), here.work("trainer").state) == (None, [], WorkState.FAILED)
    with pytest.raises(NameTaken):
        elsewhere.register(record("two"))
    here.register(record("two"))
    assert elsewhere.resolve("trainer").instance_id == "two"


class _LostError(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "the answer was lost"


@pytest.fixture
def lose(monkeypatch):
    """Let a registry lose the first answers to requests for which `which` holds; etcd did what they say."""

    def make(registry, which):
        lost, send = [], registry._connection._send

        def losing(endpoint, method, request, seconds, metadata):
            answer = send(endpoint, method, request, seconds, metadata)
            if which(request) and len(lost) < 2:
                lost.append(request)
                raise _LostError
            return answer

        monkeypatch.setattr(registry._connection, "_send", losing)
        return lost

    return make


def changes(request):
    return isinstance(request, connection.pb.TxnRequest) and bool(request.compare)


class TestLostAnswers:
    def test_of_a_registration(self, pair, lose):
        """A name that was registered without our hearing of it is ours, under one lease, once."""
        mine, other = pair
        lost = lose(mine, changes)
        lease = mine.register(record())
        assert len(lost) == 2
        assert other.resolve("trainer") == record()
        assert other.renew(lease, 5) is not None
        mine.unregister("trainer", "one")

    def test_of_a_grant(self, etcd, pair, lose):
        """A lease that was granted without our hearing of it is the one that is used."""
        mine, _ = pair
        before = leases(etcd)
        lost = lose(mine, lambda request: isinstance(request, connection.pb.LeaseGrantRequest))
        lease = mine.register(record())
        assert len(lost) == 1  # asked for once more, it is refused: the lease is there
        assert leases(etcd) - before == {f"{lease.id:016x}"}
        mine.unregister("trainer", "one")

    def test_of_an_update(self, pair, lose):
        """An update that was made without our hearing of it is said to be made."""
        mine, other = pair
        mine.register(record())
        lost = lose(mine, changes)
        stopped = WorkRecord("trainer", "one", WorkState.STOPPED, "machine", "file:///kept")
        assert mine.update_work(stopped) is True
        assert lost
        assert other.work("trainer") == stopped

    def test_of_an_unregistration(self, pair, lose):
        """To give a name back twice does not take it from who came in between."""
        mine, other = pair
        mine.register(record())
        lost = lose(mine, changes)
        mine.unregister("trainer", "one")
        assert lost
        assert other.resolve("trainer") is None

    @pytest.mark.slow
    def test_a_call_that_gives_up_holds_no_name(self, etcd, open_etcd, monkeypatch):
        """Where no answer comes in time, the lease is given back: nobody waits for a holder that is none."""
        mine, other = open_etcd(url := etcd.new_url(), resolve_seconds=2.0), open_etcd(url)
        send, written = mine._connection._send, []

        def losing(endpoint, method, request, seconds, metadata):
            answer = send(endpoint, method, request, seconds, metadata)
            written.extend([request] * changes(request))
            if written and isinstance(request, connection.pb.TxnRequest):
                assert len(written) > 1 or other.resolve("trainer") == record()
                raise _LostError
            return answer

        monkeypatch.setattr(mine._connection, "_send", losing)
        with pytest.raises(RegistryUnavailable):
            mine.register(record())
        assert written
        assert other.resolve("trainer", fresh=True) is None


def test_a_process_of_another_boot_is_not_known_to_be_gone(etcd, open_etcd):
    """Machines that share a root have one machine id: nothing is concluded from a pid of another boot."""
    registry = open_etcd(url := etcd.new_url())
    holder = {
        "pid": 1,
        "start_time": 1,
        "boot_id": "another",
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
    }
    value = {"name": "trainer", "instance_id": "i", "endpoint": "e:1", "machine_id": "machine"}
    etcd.control(
        "put", "--", f"{prefix_of(url)}/live/trainer", json.dumps({**value, "holder": json.dumps(holder)})
    )
    assert registry.resolve("trainer").instance_id == "i"


def test_a_registry_within_another_ones_prefix_is_another_one(etcd, open_etcd):
    """A prefix that begins with the keys of another registry does not mix the two."""
    url = etcd.new_url()
    outer, inner = open_etcd(url), open_etcd(f"{url}/live")
    inner.register(record())
    assert (outer.live(), outer.works(), outer.resolve("trainer")) == ([], [], None)
    outer.register(record("two"))
    assert [each.instance_id for each in (*outer.live(), *inner.live())] == ["two", "one"]


class TestRaces:
    def test_a_name_that_is_taken_between_look_and_write(self, pair, monkeypatch):
        """Who decided on what is no longer so writes nothing, looks again, and is refused."""
        mine, other = pair
        commit = mine._commit

        def late(*arguments, **options):
            monkeypatch.undo()
            other.register(record("two"))
            return commit(*arguments, **options)

        monkeypatch.setattr(mine, "_commit", late)
        with pytest.raises(NameTaken):
            mine.register(record("one"))
        assert (mine.resolve("trainer").instance_id, mine.work("trainer").instance_id) == ("two", "two")

    def test_a_successor_between_look_and_write(self, pair, monkeypatch):
        """A predecessor's update and unregistration that were decided before do nothing to its successor."""
        mine, other = pair
        mine.register(record("one"))
        commit = mine._commit

        def late(*arguments, **options):
            monkeypatch.undo()
            other.unregister("trainer", "one")
            other.register(record("two"))
            return commit(*arguments, **options)

        monkeypatch.setattr(mine, "_commit", late)
        assert mine.update_work(WorkRecord("trainer", "one", WorkState.STOPPED, "machine")) is False
        monkeypatch.setattr(mine, "_commit", late)
        mine.unregister("trainer", "one")
        assert mine.resolve("trainer").instance_id == "two"
        assert mine.work("trainer").state is WorkState.RUNNING

    def test_of_many_processes_one_wins(self, etcd, open_etcd):
        """Of eight openings that register one name at once, exactly one has it, and its lease lives."""
        url = etcd.new_url()
        registries, barrier, won = [open_etcd(url) for _ in range(8)], threading.Barrier(8), []

        def register(number):
            barrier.wait(10)
            try:
                won.append((str(number), registries[number].register(record(str(number)))))
            except NameTaken:
                pass

        threads = [threading.Thread(target=register, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join(30) for thread in threads]
        assert [instance for instance, _ in won] == [registries[0].resolve("trainer").instance_id]
        assert registries[1].renew(won[0][1], 5) is not None


STOPPED = WorkRecord("trainer", "one", WorkState.STOPPED, "m")
CALLS = [
    lambda registry: registry.register(record()),
    lambda registry: registry.unregister("trainer", "one"),
    lambda registry: registry.resolve("trainer"),
    lambda registry: registry.update_work(STOPPED),
    lambda registry: registry.work("trainer"),
    lambda registry: registry.live(),
    lambda registry: registry.works(),
]


class TestOutOfReach:
    def test_an_endpoint_where_nobody_listens(self, open_etcd):
        """A wrong endpoint is told at once enough, by name, with the way out."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        registry = open_etcd(f"etcd://127.0.0.1:{port}/p", resolve_seconds=0.5)
        began = time.monotonic()
        with pytest.raises(RegistryUnavailable, match=rf"127\.0\.0\.1:{port}: .*refused.*check"):
            registry.resolve("trainer")
        assert time.monotonic() - began < 15

    @pytest.mark.parametrize("call", CALLS)
    def test_an_endpoint_that_is_silent(self, open_etcd, call):
        """Where somebody listens and says nothing, every call raises within its time."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            registry = open_etcd(f"etcd://127.0.0.1:{silent.getsockname()[1]}/p", resolve_seconds=0.2)
            began = time.monotonic()
            with pytest.raises(RegistryUnavailable):
                call(registry)
            assert time.monotonic() - began < 15
            registry.close()

    @pytest.mark.slow
    def test_one_good_member_is_enough(self, etcd, open_etcd):
        """Of several endpoints, those where nobody answers are passed over."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            bad = f"127.0.0.1:{silent.getsockname()[1]},no-such-host.invalid"
            registry = open_etcd(f"etcd://{bad},{etcd.endpoints}/{os.urandom(6).hex()}", resolve_seconds=6.0)
            registry.register(record())
            took = []
            for _ in range(5):
                began = time.monotonic()
                assert registry.resolve("trainer", fresh=True) == record()
                took.append(time.monotonic() - began)
            assert min(took) < 0.5  # the good one is asked first by now
            registry.close()

    def test_a_closed_registry_says_so(self, pair):
        """After close each call raises, and a watch that ran has ended."""
        mine, _ = pair
        mine.close()
        with pytest.raises(RegistryUnavailable, match="closed"):
            mine.resolve("trainer")

    def test_no_thread_is_left(self, watching):
        """Closing ends the watch's thread, and those that gRPC had for it."""
        mine, _ = watching
        mine.close()
        wait_until(lambda: not [t for t in threading.enumerate() if t.name == "lit-storage-watch"])

    def test_a_forked_child_is_refused_and_ends(self, watching):
        """A child that was forked beside a watch gets a typed error from each call, and exits as usual."""
        mine, _ = watching
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for call in (lambda: mine.resolve("trainer"), mine.live):
                    try:
                        call()
                        break
                    except NotAttached:
                        pass
                else:
                    mine.close()
                    code = 0
            finally:
                os._exit(code)
        end = time.monotonic() + 40
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.02)
        assert ended == (child, 0)
        assert mine.resolve("trainer") == record()

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "[]",
            "{}",
            '{"name":"trainer"}',
            '{"name":7,"instance_id":"i","endpoint":"e","machine_id":"m"}',
        ],
    )
    def test_what_is_no_record_is_told(self, etcd, open_etcd, value):
        """A value that others wrote below the prefix is an error, not a record, and not "nobody"."""
        registry = open_etcd(url := etcd.new_url())
        etcd.control("put", "--", f"{prefix_of(url)}/live/trainer", value)
        with pytest.raises(RegistryUnavailable, match="'trainer' is no record"):
            registry.resolve("trainer")

    def test_what_others_wrote_hides_no_record_in_a_list(self, etcd, open_etcd, caplog):
        """It is told once, by its name, and passed over."""
        registry = open_etcd(url := etcd.new_url())
        registry.register(record := LiveRecord("trainer", "i", "e:1", "m"))
        for where in ("live/other", "work/other"):
            etcd.control("put", "--", f"{prefix_of(url)}/{where}", "[" * 100_000)
        for _ in range(2):
            assert registry.live() == [record]
            assert [work.name for work in registry.works()] == ["trainer"]
        told = [count for log in caplog.records if (count := log.message.count("'other'"))]
        assert told == [1, 1]

    def test_a_record_is_of_its_key(self, etcd, open_etcd):
        """One that names another Work is none."""
        registry = open_etcd(url := etcd.new_url())
        value = '{"name":"other","instance_id":"i","endpoint":"e:1","machine_id":"m"}'
        etcd.control("put", "--", f"{prefix_of(url)}/live/trainer", value)
        with pytest.raises(RegistryUnavailable, match="'trainer' is no record"):
            registry.resolve("trainer")

    def test_fields_of_a_later_version_are_passed_over(self, etcd, open_etcd):
        """A record with more fields than are known here is read."""
        registry = open_etcd(url := etcd.new_url())
        value = '{"name":"trainer","instance_id":"i","endpoint":"e:1","machine_id":"m","later":{"x":[1]}}'
        etcd.control("put", "--", f"{prefix_of(url)}/live/trainer", value)
        assert registry.resolve("trainer") == LiveRecord("trainer", "i", "e:1", "m")


@pytest.mark.slow
def test_a_stopped_etcd_is_believed_for_a_while_only(tmp_path, open_etcd):
    """Memory answers for `watch_seconds` after etcd fell silent; then a resolve raises, in its time."""
    with EtcdServers(tmp_path / "own") as servers:
        registry = open_etcd(servers.new_url(), watch_seconds=3.0, resolve_seconds=2.0)
        registry.register(record())
        wait_until(lambda: registry.resolve("trainer") and registry.is_watching)
        servers.members[0].signal(signal.SIGSTOP)
        stopped = time.monotonic()
        assert registry.resolve("trainer") == record()
        wait_until(lambda: not registry.is_watching, seconds=10)
        with pytest.raises(RegistryUnavailable):
            registry.resolve("trainer")
        assert time.monotonic() - stopped < 20
        servers.members[0].signal(signal.SIGCONT)
        wait_until(lambda: registry.resolve("trainer") == record() and registry.is_watching)
