"""What a caller hears of a get, whatever the total turns out to be."""

import threading

import pytest

from lit_storage_client.fetch import report as report_
from lit_storage_client.fetch.report import Report
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import OriginUnavailable
from lit_storage_proto.uri import Location


class Lister:
    """A remote that can only list: what it is given, when it is let go."""

    def __init__(self, *listed):
        self.listed = listed
        self.go = threading.Event()
        self.asked = 0

    def list(self, location):
        self.asked += 1
        self.go.wait(60)
        for each in self.listed:
            if isinstance(each, Exception):
                raise each
            yield each


def file(size):
    return Entry("x", Kind.FILE, size)


@pytest.fixture
def make(monkeypatch):
    """Make a Report at once about to ask; returns it, what is heard, and what lets the list arrive."""
    monkeypatch.setattr(report_, "_SHORT_SECONDS", 0.0)

    def make(*listed, **options):
        remote, heard = Lister(*listed), []
        options = {"follow_links": False, **options}
        report = Report(
            lambda done, total: heard.append((done, total)), remote, Location("trainer", "t"), **options
        )

        def arrive():
            remote.go.set()
            report._asking.join(30)

        return report, heard, arrive

    return make


def test_total_becomes_known(make):
    """Until the list is there the total is None; then it is the sum of the files."""
    report, heard, arrive = make(file(60), Entry("d", Kind.DIRECTORY), file(40))
    report(10, None)
    arrive()
    report(20, None)
    report(100, 100)
    assert heard == [(10, None), (20, 100), (100, 100)]


def test_not_all_before_the_end(make):
    """What is done stays below the total until the get says that it is over."""
    report, heard, arrive = make(file(100))
    report(1, None)
    arrive()
    report(100, None)
    report(100, 100)
    assert heard[1:] == [(99, 100), (100, 100)]


def test_source_that_grew(make):
    """More than the list said stays below its total, and in the end the total is what it became."""
    report, heard, arrive = make(file(100))
    report(1, None)
    arrive()
    report(150, None)
    report(170, 170)
    assert heard[1:] == [(99, 100), (170, 170)]


def test_total_that_comes_too_late(make):
    """A total below what was told already is none."""
    report, heard, arrive = make(file(100))
    report(120, None)
    arrive()
    report(130, None)
    assert heard[1:] == [(130, None)]


def test_source_that_shrank(make):
    """What is done never becomes less, also where less than that was kept in the end."""
    report, heard, _ = make(file(100))
    report(100, None)
    report(40, None)
    report(60, 60)
    assert heard == [(100, None), (100, None), (100, 100)]


@pytest.mark.parametrize("listed", [[OriginUnavailable("gone")], [file(5), ValueError("a bug")], []], ids=str)
def test_list_that_fails(make, listed):
    """Without a list the total stays unknown, and the get goes on."""
    report, heard, arrive = make(*listed)
    report(1, None)
    arrive()
    report(2, None)
    assert heard == [(1, None), (2, None)]


def test_links_that_are_followed(make):
    """Where links are followed and there are some, no list tells how much there is."""
    for options, total in (({}, 100), ({"follow_links": True}, None)):
        report, heard, arrive = make(file(100), Entry("l", Kind.SYMLINK), **options)
        report(1, None)
        arrive()
        report(2, None)
        assert heard[-1] == (2, total)
    report, heard, arrive = make(file(100), Entry("l", Kind.SYMLINK))
    report.follow_links()  # as the origin says in its first frame
    report(1, None)
    arrive()
    report(2, None)
    assert heard[-1] == (2, None)


def test_short_get_asks_nobody(monkeypatch):
    """A get that is over at once costs its origin nothing more."""
    monkeypatch.setattr(report_, "_SHORT_SECONDS", 60.0)  # so that it is at once on any machine
    remote = Lister(file(1))
    report = Report(lambda done, total: None, remote, Location("trainer", "t"), follow_links=False)
    report(1, None)
    report(1, 1)
    report._asking.join(30)
    assert (remote.asked, report._asking.is_alive()) == (0, False)


def test_end_stops_the_list(make):
    """A list that comes after the get has ended is not read."""
    report, _, arrive = make(*[file(1)] * 3)
    with pytest.raises(KeyError):
        report.during(lambda: (report(1, None), {}["x"]))
    arrive()
    assert report._answer == 0


def test_what_the_caller_raises(make):
    """An error that a get would go on after is the caller's own if its function raised it."""

    def tell(done, total):
        raise OriginUnavailable("mine")

    report = Report(tell, Lister(), Location("trainer", "t"), follow_links=False)

    def get():
        with pytest.raises(Exception) as caught:
            report(1, None)
        assert not isinstance(caught.value, OriginUnavailable)
        raise caught.value

    with pytest.raises(OriginUnavailable, match="mine"):
        report.during(get)
