"""Works whose names are held by leases: what they lose them by, and what becomes of them then."""

import contextlib
import signal
import time

import pytest

import lit_storage
from lit_storage import Path
from lit_storage_core.registries import open_registry
from lit_storage_proto.errors import NameTaken, RegistryUnavailable
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import WorkState
from tests.etcd_server import EtcdServers
from tests.leased_work import WORK, Process, wait_until

pytestmark = pytest.mark.slow

THREADS = WORK.replace("import lit_storage\n", "import lit_storage\nsys.frozen = True\n", 1)


def is_another(registry, work):
    """Say whether a Work lives as another instance than the first one it was, and serves as that one."""
    with contextlib.suppress(RegistryUnavailable):
        record = registry.resolve("trainer", fresh=True)
        return record and record.instance_id != work.instance_id and work.serves(record.instance_id)
    return False


@pytest.fixture
def start(tmp_path):
    """Start Works of one root; all are ended after the test."""
    started = []

    def begin(url, name="trainer", **options):
        started.append(Process(tmp_path / "root", url, name, **options))
        return started[-1]

    yield begin
    for each in started:
        each.kill()


@pytest.fixture
def registry(etcd):
    opened = open_registry(etcd.new_url(), machine_id="another", limits=Limits())
    yield opened
    opened.close()


@pytest.fixture
def own_etcd(tmp_path):
    """An etcd that a test may stop."""
    with EtcdServers(tmp_path / "etcd") as servers:
        yield servers


def test_a_work_is_got_over_etcd(registry, start, tmp_path):
    """Two processes that share only an etcd find each other; when one has left, its artifacts are found."""
    work = start(registry.url, lease_seconds=15)
    with lit_storage.connect(root=tmp_path / "root", registry=registry.url):
        assert Path("lit://@trainer/out").get().files == 1
        assert Path("lit://@trainer/out/file").read_text() == "content"
        work.leave()
        assert registry.resolve("trainer") is None
        assert registry.work("trainer").state is WorkState.STOPPED
        assert Path("lit://@trainer/out").get(overwrite=True).files == 1


def test_a_name_is_kept_for_longer_than_its_lease(registry, start):
    """A Work that holds its interpreter, and one that is itself stopped, stay who they are."""
    work = start(registry.url, lease_seconds=5)
    held = time.monotonic()
    work.process.stdin.write("ctypes.PyDLL(None).sleep(6)\n")
    work.process.stdin.flush()
    while time.monotonic() - held < 5.8:
        assert registry.resolve("trainer", fresh=True).instance_id == work.instance_id
        time.sleep(0.1)
    assert work.answer() == "0"
    work.process.send_signal(signal.SIGSTOP)  # the Work alone: its server renews the lease
    stopped = time.monotonic()
    while time.monotonic() - stopped < 5.8:
        assert registry.resolve("trainer", fresh=True).instance_id == work.instance_id
        time.sleep(0.1)
    work.process.send_signal(signal.SIGCONT)
    assert work.do("session.instance_id") == work.instance_id


def test_a_server_that_is_killed_keeps_the_name(registry, start):
    """The process that renews the lease is killed: the next one goes on with it, as the same instance."""
    work = start(registry.url, lease_seconds=12)  # which is enough to start a process in
    ends = time.monotonic() + 13
    work.do("os.kill(session._server._process.pid, 9)")
    time.sleep(0.3)
    wait_until(lambda: work.serves())
    while time.monotonic() < ends:
        assert registry.resolve("trainer", fresh=True).instance_id == work.instance_id
        time.sleep(0.1)


class TestStopped:
    """The whole process group is stopped for longer than its lease."""

    def test_where_the_name_is_free_it_is_another_instance(self, registry, start, tmp_path):
        """It serves nobody once its lease has ended; when it goes on it is registered anew, on its port."""
        work = start(registry.url, lease_seconds=5)
        work.signal(signal.SIGSTOP)
        wait_until(lambda: registry.resolve("trainer", fresh=True) is None)
        assert not work.serves()
        work.signal(signal.SIGCONT)
        record = wait_until(lambda: registry.resolve("trainer", fresh=True))
        assert (record.endpoint, record.instance_id != work.instance_id) == (work.endpoint, True)
        wait_until(lambda: work.do("session.instance_id") == record.instance_id)
        with lit_storage.connect(root=tmp_path / "root", registry=registry.url):
            assert Path("lit://@trainer/out").get().files == 1
            assert "registered anew" in work.leave()
            assert registry.work("trainer").instance_id == record.instance_id
            assert registry.work("trainer").state is WorkState.STOPPED
            assert Path("lit://@trainer/out").get(overwrite=True).files == 1  # published by the new instance

    def test_where_the_name_is_taken_it_raises(self, registry, start):
        """The first one never serves again beside its successor; whatever it is asked to do says why."""
        first = start(registry.url)
        first.signal(signal.SIGSTOP)
        wait_until(lambda: registry.resolve("trainer", fresh=True) is None)
        second = start(registry.url, lease_seconds=5)
        assert not first.serves()
        first.signal(signal.SIGCONT)
        answers = ["session.publish()", "session.declare('x')", "Path('lit://@other/x').exists_remote()"]
        wait_until(lambda: first.do(answers[0]).startswith("NameTaken"))
        for code in answers:
            assert "has lost its name" in first.do(code)
        assert not first.serves()
        assert registry.resolve("trainer", fresh=True).instance_id == second.instance_id
        first.do("time.sleep(6)")  # the successor's lease lives, whatever the first one tries
        assert registry.resolve("trainer", fresh=True).instance_id == second.instance_id
        assert "not published" in first.leave()
        assert registry.work("trainer").state is WorkState.RUNNING
        second.leave()


class TestWithoutRegistry:
    def test_less_than_a_lease_costs_nothing(self, own_etcd, start):
        """While etcd is silent for a moment the Work serves, and it is the same instance afterwards."""
        work = start(own_etcd.new_url(), lease_seconds=6)
        own_etcd.members[0].signal(signal.SIGSTOP)
        time.sleep(0.9)
        assert work.serves()
        own_etcd.members[0].signal(signal.SIGCONT)
        time.sleep(6.5)
        assert work.do("session.instance_id") == work.instance_id
        assert work.serves(seconds=20)
        work.leave()

    def test_longer_than_a_lease_it_does_not_serve(self, own_etcd, start):
        """It stops serving before its lease can have ended, and is registered anew when etcd answers."""
        url = own_etcd.new_url()
        work = start(url)
        own_etcd.members[0].signal(signal.SIGSTOP)
        silent = time.monotonic()
        assert work.served_until() - silent < 2.1  # two seconds are the lease
        own_etcd.members[0].signal(signal.SIGCONT)
        registry = open_registry(url, machine_id="another", limits=Limits())
        wait_until(lambda: is_another(registry, work))
        work.leave()
        assert registry.work("trainer").state is WorkState.STOPPED
        registry.close()

    def test_a_work_that_leaves_then_is_not_held_up(self, own_etcd, start):
        """A Work that ends while etcd is silent, its lease lost, ends in bounded time."""
        work = start(own_etcd.new_url())
        own_etcd.members[0].signal(signal.SIGSTOP)
        wait_until(lambda: not work.serves())
        began = time.monotonic()
        work.process.communicate(timeout=60)
        assert time.monotonic() - began < 15

    @pytest.mark.parametrize("program", [WORK, THREADS], ids=["process", "threads"])
    def test_a_work_that_leaves_serves_no_longer_than_its_lease(self, own_etcd, start, program):
        """Also while it waits for an etcd that is silent, to give its name back."""
        work = start(own_etcd.new_url(), program=program)
        own_etcd.members[0].signal(signal.SIGSTOP)
        silent = time.monotonic()
        work.process.stdin.write("session.close()\n")  # which has 1.5 s for each word with etcd
        work.process.stdin.flush()
        assert work.served_until() - silent < 2.1  # two seconds are the lease
        own_etcd.members[0].signal(signal.SIGCONT)

    def test_joining_is_refused(self, own_etcd, tmp_path):
        """Without etcd nobody joins, and the error says where it was looked for."""
        url = own_etcd.new_url()
        own_etcd.members[0].kill()
        with pytest.raises(RegistryUnavailable, match=own_etcd.endpoints):
            lit_storage.join("trainer", root=tmp_path, registry=url, limits=Limits(resolve_seconds=0.5))


def test_threads_that_serve_give_up_their_name_too(own_etcd, start):
    """Where no other Python can be started, threads stop serving in time, and are registered anew."""
    work = start(url := own_etcd.new_url(), program=THREADS)
    assert work.do("session._server._process") == "None"
    own_etcd.members[0].signal(signal.SIGSTOP)
    wait_until(lambda: not work.serves())
    own_etcd.members[0].signal(signal.SIGCONT)
    registry = open_registry(url, machine_id="another", limits=Limits())
    wait_until(lambda: is_another(registry, work))
    work.leave()
    registry.close()


def test_a_second_work_of_a_name_is_refused(registry, start, tmp_path):
    """While one Work lives, join() under its name raises."""
    start(registry.url, lease_seconds=15)
    with pytest.raises(NameTaken, match="'trainer' is taken"):
        lit_storage.join("trainer", root=tmp_path / "second", registry=registry.url)
