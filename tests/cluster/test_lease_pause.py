"""Works that stand still for 30 s under leases of 15 s, as everybody has them who sets nothing."""

import signal
import time

import pytest

from lit_storage_core.registries import open_registry
from lit_storage_proto.limits import Limits
from tests.leased_work import Process, wait_until

PAUSE_SECONDS = 30.0


@pytest.mark.slow
def test_a_pause_of_30_seconds(etcd, tmp_path):
    """Once its lease has ended a Work serves nobody; later it is another instance, or lost its name."""
    lease_seconds = Limits().lease_seconds
    registry = open_registry(etcd.new_url(), machine_id="another", limits=Limits())
    works = []

    def start(name):
        works.append(Process(tmp_path / "root", registry.url, name, lease_seconds=lease_seconds))
        return works[-1]

    def live(name):
        return registry.resolve(name, fresh=True)

    try:
        free, taken = start("free"), start("taken")
        stopped = time.monotonic()
        for work in (free, taken):
            work.signal(signal.SIGSTOP)
        wait_until(lambda: live("free") is None and live("taken") is None, seconds=lease_seconds + 5)
        assert time.monotonic() - stopped > lease_seconds / 2  # the last renewal was a third of it ago
        assert not free.serves()
        assert not taken.serves()
        successor = start("taken")
        while time.monotonic() - stopped < PAUSE_SECONDS:
            assert not taken.serves()
            time.sleep(0.5)
        for work in (free, taken):
            work.signal(signal.SIGCONT)
        wait_until(lambda: taken.do("session.publish()").startswith("NameTaken"))
        wait_until(lambda: live("free") is not None)
        assert live("free").instance_id != free.instance_id
        assert free.serves(live("free").instance_id)
        assert live("taken").instance_id == successor.instance_id
        assert not free.serves()
        assert not taken.serves()
        for work in works:
            work.leave()
    finally:
        for work in works:
            work.kill()
        registry.close()
