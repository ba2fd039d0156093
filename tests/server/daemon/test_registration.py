"""A daemon's name in the registry: what happens when the registry forgets it, is silent, or has another."""

import pytest

from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_proto.errors import NameTaken, RegistryUnavailable
from lit_storage_proto.registry import LiveRecord
from lit_storage_server.daemon.registration import Registration, retry
from lit_storage_server.daemon.stop_signal import StopSignal

RECORD = LiveRecord("store", "i1", "127.0.0.1:1", "machine", custodian=True)


class Kept:
    """A registration, and what it told."""

    def __init__(self, registry):
        self.registry = registry
        self.answers, self.lost, self.became = [], [], []
        self.registration = Registration(registry, answered=self.answers.append, lost=self.lost.append)
        assert self.registration.enter(RECORD, self.became.append, 1, StopSignal())


@pytest.fixture
def kept(tmp_path):
    made = Kept(MemoryRegistry(str(tmp_path)))
    yield made
    made.registration.leave()


def test_it_stands_and_is_given_back(kept):
    """It lives from the beginning to the end, and a second end does nothing."""
    assert kept.registry.resolve("store") == RECORD
    kept.registration.leave()
    kept.registration.leave()
    assert kept.registry.resolve("store") is None


def test_what_the_registry_forgot_is_written_anew(kept):
    """At the next look."""
    kept.registry.unregister("store", "i1")
    kept.registration.look()
    assert (kept.registry.resolve("store"), kept.answers) == (RECORD, [True])


def test_another_process_that_took_the_name(kept):
    """It is told, with where that process is, and its record stays."""
    kept.registry.unregister("store", "i1")
    kept.registry.register(LiveRecord("store", "i2", "127.0.0.1:9", "machine"))
    with pytest.raises(NameTaken, match=r"taken by another process, at 127\.0\.0\.1:9"):
        kept.registration.look()
    kept.registration.leave()
    assert kept.registry.resolve("store").instance_id == "i2"


def test_a_silent_registry_costs_nothing_but_a_line(kept, monkeypatch, caplog):
    """It is said once when it is silent, and once when it answers; the name is held meanwhile."""
    caplog.set_level("INFO")

    def silent(name, *, fresh):
        raise RegistryUnavailable("nobody answers")

    with monkeypatch.context() as patched:
        patched.setattr(kept.registry, "resolve", silent)
        kept.registration.look()
        kept.registration.look()
    kept.registration.look()
    assert kept.answers == [False, False, True]
    assert kept.registration.holds()
    assert [record.message for record in caplog.records] == [
        "the registry does not answer; what runs goes on",
        "the registry answers again",
    ]


def test_without_leases_there_is_no_age(kept):
    """And the name is held for as long as the process lives."""
    assert (kept.registration.lease_age(), kept.registration.holds()) == (None, True)


def test_a_name_that_is_taken(tmp_path):
    """Where names are held by processes, that is not waited for."""
    registry = MemoryRegistry(str(tmp_path))
    registry.register(LiveRecord("store", "i2", "127.0.0.1:9", "machine"))
    registration = Registration(registry, answered=print, lost=print)
    with pytest.raises(NameTaken):
        registration.enter(RECORD, print, 1000, StopSignal())


class TestRetry:
    def failing(self, times):
        calls = []

        def step():
            calls.append(None)
            if len(calls) <= times:
                raise RegistryUnavailable("nobody answers")

        return step

    def test_until_it_is_done(self):
        """Again and again."""
        assert retry(self.failing(2), RegistryUnavailable, 10, StopSignal())

    def test_until_the_time_is_over(self):
        """Then the last error is raised."""
        with pytest.raises(RegistryUnavailable):
            retry(self.failing(1000), RegistryUnavailable, 0.3, StopSignal())

    def test_until_it_is_told_to_stop(self):
        """Which is no error."""
        stopping = StopSignal()
        stopping.set()
        assert not retry(self.failing(0), RegistryUnavailable, 10, stopping)

    def test_other_errors_are_raised_at_once(self):
        """Nothing is made of them."""
        with pytest.raises(RegistryUnavailable):
            retry(self.failing(1), NameTaken, 10, StopSignal())
