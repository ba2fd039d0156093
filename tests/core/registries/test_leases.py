"""A lease is renewed in time, or its holder is told before it ends."""

import threading
import time

import pytest

from lit_storage_core.registries import leases
from lit_storage_core.registries.leases import LeaseKeeper, safe_end
from lit_storage_proto.errors import RegistryUnavailable
from lit_storage_proto.registry import Lease


class Kept:
    """A lease of 0.9 s that is kept by `renew`, and when it was lost.

    Its clock goes on only where somebody waits by it, so that nobody is late on a busy machine.
    """

    def __init__(self, renew):
        self.now = self.allowed = 1000.0
        self.lost = threading.Event()
        self.lost_at = None
        self.renewed = []
        self.is_ahead, self.changing = threading.Event(), threading.Lock()
        self.keeper = LeaseKeeper(
            "trainer",
            Lease(1, 0.9, self.now),
            lambda lease, seconds: renew(self, lease, seconds),
            on_lost=self._lose,
            on_renewed=self.renewed.append,
        )
        self.keeper._released.wait = self.wait

    def _lose(self):
        self.lost_at = self.now
        self.lost.set()

    def wait(self, seconds):
        """Stand in for the keeper's wait: be there at once, but no further than it may go."""
        while self._is_too_far(self.now + seconds) and not self.keeper._released.is_set():
            time.sleep(0.002)
        self.now += seconds

    def _is_too_far(self, moment):
        with self.changing:
            if moment > self.allowed:
                self.is_ahead.set()
            return moment > self.allowed

    def go_on(self, seconds):
        """Let so much time pass; return whether the lease was lost in it."""
        with self.changing:
            self.is_ahead.clear()
            self.allowed += seconds
        end = time.monotonic() + 20
        while not self.is_ahead.wait(0.01) and self.keeper._thread.is_alive():
            assert time.monotonic() < end
        return self.lost.is_set()


def renewing(kept, lease, seconds):
    return Lease(lease.id, lease.seconds, kept.now)


@pytest.fixture
def keep(monkeypatch):
    kept = []

    def make(renew):
        kept.append(Kept(renew))
        monkeypatch.setattr(leases, "boot_seconds", lambda: kept[-1].now)
        kept[-1].keeper.start()
        return kept[-1]

    yield make
    for each in kept:
        each.keeper.release()
        assert not each.keeper._thread.is_alive()


def test_it_is_renewed_for_as_long_as_it_is_held(keep):
    """A lease goes on over several of its spans, renewed three times in each; who asks sees the newest."""
    kept = keep(renewing)
    assert not kept.go_on(2)
    assert 4 <= len(kept.renewed) <= 8
    assert kept.keeper.lease in kept.renewed[-2:]


def test_it_is_lost_before_it_ends(keep):
    """Where the registry does not answer, the holder is told before the end, counted from the last answer."""
    answered = []

    def renew(kept, lease, seconds):
        assert kept.now + seconds <= safe_end(lease) + 0.05
        if answered:
            raise RegistryUnavailable
        answered.append(renewing(kept, lease, seconds))
        return answered[0]

    kept = keep(renew)
    assert kept.go_on(5)
    assert safe_end(answered[0]) <= kept.lost_at < answered[0].end


def test_a_registry_that_is_away_for_a_while_costs_nothing(keep):
    """Renewals that fail are tried again; one that is answered in time is enough."""
    failing = [True] * 3

    def renew(kept, lease, seconds):
        if failing:
            failing.pop()
            raise RegistryUnavailable
        return renewing(kept, lease, seconds)

    kept = keep(renew)
    assert not kept.go_on(1.5)
    assert (failing, kept.keeper.lease.since > 0) == ([], True)


def test_it_is_lost_where_the_registry_ended_it(keep):
    """A lease that the registry does not know any more is lost at once."""
    kept = keep(lambda kept, lease, seconds: None)
    began = kept.now
    assert kept.go_on(5)
    assert kept.lost_at - began < 0.6


def test_a_renewal_counts_from_when_it_was_asked_for(keep):
    """An answer that took long gives only what is left: the registry's clock began with the question."""
    slow = []

    def renew(kept, lease, seconds):
        slow.append(renewing(kept, lease, seconds))
        kept.wait(0.35)
        return slow[-1]

    kept = keep(renew)
    assert not kept.go_on(1.5)
    assert kept.keeper.lease.since in [lease.since for lease in slow[-2:]]


def test_a_lease_that_is_released_is_not_lost(keep):
    """After release nothing is renewed, and nothing told."""
    kept = keep(renewing)
    kept.keeper.release()
    count = len(kept.renewed)
    assert not kept.go_on(1.2)
    assert len(kept.renewed) == count


def test_a_lease_that_is_let_end_is_lost_at_its_end(keep):
    """It is renewed no more, and its holder is still told before it ends."""
    kept = keep(renewing)
    kept.keeper.let_end()
    assert kept.go_on(2)
    assert kept.renewed == []
    assert kept.lost_at < kept.keeper.lease.end
