"""How much time a get may lose, on a clock of its own."""

from types import SimpleNamespace

import pytest

from lit_storage_client.fetch import patience as patience_
from lit_storage_client.fetch.patience import Patience
from lit_storage_proto.errors import OriginUnavailable, PathNotFound
from lit_storage_proto.frames import Chunk, Frame
from lit_storage_proto.limits import Limits

LIMITS = Limits(resume_seconds=60.0, least_bytes_per_second=100)


class Clock:
    """Time that passes where somebody sleeps, and where a test says so."""

    def __init__(self):
        self.now = 1000.0

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(patience_, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=made.sleep))
    return made


@pytest.fixture
def patience(clock):
    """That of a get that has begun."""
    made = Patience(LIMITS, 5.0, None)
    assert made.advance(0)
    return made


def bring(patience, size, done=0):
    """Let a frame of so many bytes come, after which so many are there."""
    for _ in patience.weigh([Frame(chunks=[Chunk(0, 0, data=bytes(size))])]):
        patience.advance(done)


def seconds_until_it_ends(patience, clock, error=OriginUnavailable):
    """Lose contact until it is over; return after how long, and with which error."""
    began = clock.now
    with pytest.raises((OriginUnavailable, PathNotFound)) as ended:
        while True:
            patience.wait(error(str(clock.now - began)))
    return clock.now - began, str(ended.value)


def test_it_ends_after_its_time(patience, clock):
    """With the error that ended the last attempt that had contact."""
    assert seconds_until_it_ends(patience, clock) == (pytest.approx(60, abs=1), "0.0")


def test_without_contact_there_was_nothing_to_resume(clock):
    """What fails before anything came is not tried again."""
    assert seconds_until_it_ends(Patience(LIMITS, 5.0, None), clock)[0] == 0


def test_none_is_none(clock):
    """A limit of 0 tries nothing again."""
    patience = Patience(Limits(resume_seconds=0), 5.0, None)
    patience.advance(0)
    assert seconds_until_it_ends(patience, clock)[0] == 0


def test_a_deadline_ends_it_before(clock):
    """Nobody waits beyond it."""
    patience = Patience(LIMITS, 5.0, clock.now + 7)
    patience.advance(0)
    assert seconds_until_it_ends(patience, clock)[0] == pytest.approx(7, abs=1)


def test_an_absent_origin_may_come_back(patience, clock):
    """For as long as that takes, if it was there before; what was said first is raised."""
    patience.wait(OriginUnavailable("lost"))
    assert seconds_until_it_ends(patience, clock, PathNotFound) == (pytest.approx(5, abs=1), "lost")


def test_time_out_of_contact_adds_up(patience, clock):
    """A byte after each loss does not begin it anew."""
    lost = 0.0
    for number in range(1, 4):
        patience.wait(OriginUnavailable())
        clock.now += 15
        lost += 15
        assert patience.advance(number)
    assert seconds_until_it_ends(patience, clock)[0] == pytest.approx(60 - lost, abs=1)


def test_time_in_contact_counts_where_little_came(patience, clock):
    """So does who is slow until he goes away."""
    bring(patience, 1000)
    clock.now += 30
    assert seconds_until_it_ends(patience, clock)[0] == pytest.approx(60 - (30 - 10), abs=1)


def test_what_came_makes_up_for_what_was_lost(patience, clock):
    """A get that goes well has all of its time again, with the first frame that comes."""
    patience.wait(OriginUnavailable())
    clock.now += 50
    bring(patience, 100 * 100, done=100 * 100)
    clock.now += 20
    assert seconds_until_it_ends(patience, clock)[0] == pytest.approx(60, abs=1)


def test_time_before_the_first_contact_is_not_lost(clock):
    """A walk may take its time: another limit is there for that."""
    patience = Patience(LIMITS, 5.0, None)
    clock.now += 50
    assert patience.advance(0)
    assert seconds_until_it_ends(patience, clock)[0] == pytest.approx(60, abs=1)


def test_what_this_side_does_meanwhile_is_not_lost(patience, clock):
    """To read what is held may take longer than an origin may be away."""
    patience.wait(OriginUnavailable())
    with patience.paused():
        clock.now += 100
    assert seconds_until_it_ends(patience, clock)[0] == pytest.approx(60, abs=1)


def test_no_pause_reaches_beyond_the_deadline(clock):
    """It is one for all."""
    patience = Patience(LIMITS, 5.0, clock.now + 50)
    patience.advance(0)
    patience.wait(OriginUnavailable())
    with patience.paused():
        clock.now += 40
    assert seconds_until_it_ends(patience, clock)[0] == pytest.approx(10, abs=1)


def test_the_length_of_a_hole_makes_up_for_nothing(patience, clock):
    """It can be as large as one likes, and costs a peer nothing."""
    for _ in patience.weigh([Frame(chunks=[Chunk(0, 0, hole=1 << 60)])]):
        pass
    assert patience.advance(1 << 60)
    clock.now += 40
    assert seconds_until_it_ends(patience, clock)[0] == pytest.approx(20, abs=1)
