"""What every adapter of the Registry port does. One that only resolves runs the half that resolves."""

import dataclasses
import threading
from pathlib import Path

import pytest

from lit_storage_core.registries import open_registry
from lit_storage_proto.errors import NameTaken
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord, Registry, WorkRecord, WorkState


def live_record(name: str = "trainer", instance: str = "one", endpoint: str = "127.0.0.1:4000") -> LiveRecord:
    return LiveRecord(name, instance, endpoint, "machine", tls_name=name)


def work_record(state: WorkState, name: str = "trainer", instance: str = "one") -> WorkRecord:
    return WorkRecord(name, instance, state, "machine", artifacts_url="file:///kept")


def url_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "etcd":
        return request.getfixturevalue("etcd").new_url()
    return f"memory:{tmp_path}" if kind == "memory" else f"sqlite://{tmp_path}/registry.db"


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def registry(request, tmp_path: Path):
    """An empty registry that can be written."""
    url = url_of(request.param, request, tmp_path)
    opened = open_registry(url, machine_id="machine", limits=Limits())
    yield opened
    opened.close()


@pytest.fixture(params=["memory", "sqlite", "etcd", "static"])
def resolving(request, tmp_path: Path):
    """A registry in which "deploy" and "trainer" live, and nobody else."""
    url = "static:trainer=127.0.0.1:4000,deploy=127.0.0.1:4001"
    if request.param != "static":
        url = url_of(request.param, request, tmp_path)
    opened = open_registry(url, machine_id="machine", limits=Limits())
    opened.register(live_record())
    opened.register(live_record("deploy", "two", "127.0.0.1:4001"))
    yield opened
    opened.close()


class TestResolving:
    def test_a_live_name_resolves_to_its_endpoint(self, resolving: Registry):
        """A live name resolves to a record of that name and its endpoint."""
        record = resolving.resolve("trainer")
        assert (record.name, record.endpoint) == ("trainer", "127.0.0.1:4000")

    def test_nobody_is_none(self, resolving: Registry):
        """A name under which nobody lives resolves to None."""
        assert resolving.resolve("nobody") is None

    def test_all_who_live_are_listed_by_name(self, resolving: Registry):
        """live() lists every live record, sorted by name."""
        assert [record.name for record in resolving.live()] == ["deploy", "trainer"]

    def test_an_unknown_work_is_none(self, resolving: Registry):
        """A name that never was has no work record."""
        assert resolving.work("nobody") is None

    def test_the_url_opens_the_same_registry(self, resolving: Registry):
        """The registry's url opens it once more, with the same records."""
        again = open_registry(resolving.url, machine_id="machine", limits=Limits())
        assert again.live() == resolving.live()
        again.close()

    def test_loopback_does_not_span_machines(self, resolving: Registry):
        """A registry that only processes of one machine can use says so."""
        assert resolving.spans_machines is False

    def test_closing_twice_does_nothing_more(self, resolving: Registry):
        """A second close does nothing."""
        resolving.close()
        resolving.close()


class TestRegister:
    def test_every_field_comes_back(self, registry: Registry):
        """resolve() returns what was registered, field by field."""
        registry.register(live_record())
        assert registry.resolve("trainer") == live_record()

    def test_a_custodian_is_known_as_one(self, registry: Registry):
        """resolve() and live() tell a custodian from others, whichever way a record changes."""
        registry.register(dataclasses.replace(live_record(), custodian=True))
        registry.register(live_record("deploy", "two"))
        assert registry.resolve("trainer").custodian is True
        assert [record.custodian for record in registry.live()] == [False, True]
        registry.register(live_record())
        assert registry.resolve("trainer").custodian is False

    def test_a_second_instance_is_refused(self, registry: Registry):
        """While one instance lives, another one of its name is refused and changes nothing."""
        registry.register(live_record())
        with pytest.raises(NameTaken, match=r"'trainer' is taken by .* at 127\.0\.0\.1:4000; .*stop"):
            registry.register(live_record(instance="two", endpoint="127.0.0.1:5"))
        assert registry.resolve("trainer") == live_record()
        assert registry.work("trainer").instance_id == "one"

    def test_the_same_instance_may_move(self, registry: Registry):
        """The instance that holds a name may register anew, with another endpoint."""
        registry.register(live_record())
        registry.register(live_record(endpoint="127.0.0.1:5"))
        assert registry.resolve("trainer").endpoint == "127.0.0.1:5"

    def test_of_many_threads_one_wins(self, registry: Registry):
        """Of eight threads that register one name at once, exactly one wins."""
        barrier, refused = threading.Barrier(8), []

        def register(instance: str) -> None:
            barrier.wait(30)
            try:
                registry.register(live_record(instance=instance))
            except NameTaken:
                refused.append(instance)

        threads = [threading.Thread(target=register, args=(str(number),)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join(60) for thread in threads]
        assert len(refused) == 7
        assert registry.resolve("trainer").instance_id not in refused

    def test_names_do_not_touch_each_other(self, registry: Registry):
        """Names that differ only in case are two names."""
        registry.register(live_record("trainer"))
        registry.register(live_record("Trainer", "two"))
        assert registry.resolve("trainer").instance_id == "one"


class TestUnregister:
    def test_the_name_is_free_again(self, registry: Registry):
        """After unregister nobody lives under the name, and another instance can have it."""
        registry.register(live_record())
        registry.unregister("trainer", "one")
        assert registry.resolve("trainer") is None
        registry.register(live_record(instance="two"))
        assert registry.resolve("trainer").instance_id == "two"

    def test_another_instance_cannot(self, registry: Registry):
        """unregister by an instance that does not hold the name does nothing."""
        registry.register(live_record())
        registry.unregister("trainer", "two")
        registry.unregister("nobody", "one")
        assert registry.resolve("trainer") == live_record()


class TestWork:
    def test_registering_makes_it_running(self, registry: Registry):
        """A registered Work is running and has published nothing."""
        registry.register(live_record())
        assert registry.work("trainer") == WorkRecord("trainer", "one", WorkState.RUNNING, "machine")

    def test_what_an_earlier_instance_published_stays(self, registry: Registry):
        """A new instance keeps the artifacts of the former one until it publishes something newer."""
        registry.register(live_record())
        registry.update_work(work_record(WorkState.SUCCEEDED))
        registry.unregister("trainer", "one")
        registry.register(live_record(instance="two"))
        running = WorkRecord("trainer", "two", WorkState.RUNNING, "machine", artifacts_url="file:///kept")
        assert registry.work("trainer") == running
        newer = WorkRecord("trainer", "two", WorkState.STOPPED, "machine", artifacts_url="file:///newer")
        registry.update_work(newer)
        assert registry.work("trainer") == newer

    def test_its_own_instance_updates_it(self, registry: Registry):
        """update_work by the recorded instance replaces the record, also after unregister."""
        registry.register(live_record())
        registry.unregister("trainer", "one")
        assert registry.update_work(work_record(WorkState.STOPPED)) is True
        assert registry.work("trainer") == work_record(WorkState.STOPPED)

    def test_a_predecessor_cannot_update_it(self, registry: Registry):
        """update_work by an instance that lost the name says no and changes nothing."""
        registry.register(live_record())
        registry.unregister("trainer", "one")
        registry.register(live_record(instance="two"))
        assert registry.update_work(work_record(WorkState.SUCCEEDED)) is False
        assert registry.work("trainer").instance_id == "two"

    def test_without_a_record_nothing_is_updated(self, registry: Registry):
        """update_work of a name that never was says no and makes no record."""
        assert registry.update_work(work_record(WorkState.SUCCEEDED)) is False
        assert registry.works() == []

    def test_failed_is_derived(self, registry: Registry):
        """A Work that says running and does not live has failed; its artifacts stay."""
        registry.register(live_record())
        registry.update_work(work_record(WorkState.RUNNING))
        registry.unregister("trainer", "one")
        assert registry.work("trainer") == work_record(WorkState.FAILED)
        assert registry.works() == [work_record(WorkState.FAILED)]

    def test_what_ended_stays_as_it_said(self, registry: Registry):
        """A Work that said succeeded keeps this state when it no longer lives."""
        registry.register(live_record())
        registry.update_work(work_record(WorkState.SUCCEEDED))
        registry.unregister("trainer", "one")
        assert registry.work("trainer").state is WorkState.SUCCEEDED

    def test_all_are_listed_by_name(self, registry: Registry):
        """works() lists every work record, sorted by name, whether or not it lives."""
        registry.register(live_record("trainer"))
        registry.register(live_record("deploy", "two"))
        registry.unregister("deploy", "two")
        assert [(work.name, work.state) for work in registry.works()] == [
            ("deploy", WorkState.FAILED),
            ("trainer", WorkState.RUNNING),
        ]


def test_records_stay_when_it_is_closed(registry: Registry):
    """Closing a registry takes nobody's name away."""
    registry.register(live_record())
    registry.close()
    again = open_registry(registry.url, machine_id="machine", limits=Limits())
    assert again.resolve("trainer") == live_record()
    again.close()
