"""Odd answers to Exists, Stat and ListFiles, and errors that say too much: typed, and fit for a person."""

import time

import grpc
import pytest

from lit_storage_proto.errors import StorageError
from lit_storage_proto.uri import Location
from lit_storage_proto.v1 import path_storage_pb2 as pb
from tests.hostile.consumer.conftest import sentence
from tests.hostile.consumer.liar import ORIGIN

WHERE = Location("trainer", "out")
WHO = pb.Origin(name=ORIGIN[0], instance_id=ORIGIN[1])
STEERING = "\x1b[2J\x1b]0;owned\x07\r\n\u202eERROR: all is well"
CALLS = {
    "exists": lambda consumer: consumer.remote.exists(WHERE),
    "stat": lambda consumer: consumer.remote.stat(WHERE),
    "list": lambda consumer: list(consumer.remote.list(WHERE)),
    "list of a directory": lambda consumer: list(consumer.remote.list(WHERE, recursive=False)),
    "get": lambda consumer: consumer.get(),
    "part": lambda consumer: consumer.remote.stream_part(WHERE, 0, 1),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def refused(consumer, call):
    """Call, which must fail with an error of ours, in time, and in a sentence that can be shown."""
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        call(consumer)
    assert time.monotonic() - started < 30
    return sentence(caught.value)


def answer_all(liar, said):
    liar.exists = liar.stat = said
    liar.frames = liar.pages = lambda context: [said(context) if callable(said) else said]


GARBAGE = {
    "no message": b"\xff" * 40,
    "half a message": b"\x0a\x7f",
    "a number without end": b"\x10" + b"\xff" * 30,
    "a group": b"\x0b" * 200,
    "text that is not UTF-8": b"\x0a\x04\x0a\x02\xff\xfe",
    "nobody": b"",
    "another": pb.ExistsResponse(origin=pb.Origin(name="other", instance_id="i1")),
    "another instance": pb.ExistsResponse(origin=pb.Origin(name="trainer", instance_id="i2")),
    "a name that steers": pb.ExistsResponse(origin=pb.Origin(name=STEERING * 9999, instance_id="i1")),
}


@calls
@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_answer_that_is_none(liar, consumer, said, call):
    """What is no answer, or that of somebody else, is an error, and never a yes or a no."""
    answer_all(liar, said)
    refused(consumer, call)


def aborting(code, details):
    return lambda context: context.abort(code, details)


@calls
@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK], ids=str
)
def test_status_with_a_sentence_that_steers(liar, consumer_of, call, code):
    """Each status is a typed error, escaped and cut; only to `exists` is NOT_FOUND an answer."""
    answer_all(liar, aborting(code, STEERING * 20))
    if code is grpc.StatusCode.NOT_FOUND and call is CALLS["exists"]:
        assert call(consumer_of(liar.record)) is False
        return
    # For so long the busy are asked again.
    refused(consumer_of(liar.record, connect_seconds=1.0), call)


@pytest.mark.slow
@calls
@pytest.mark.parametrize("size", [7_000, 60_000, 1 << 20])
def test_status_with_a_long_sentence(liar, consumer_of, call, size):
    """A sentence of a megabyte is cut, or ends the call."""
    consumer = consumer_of(liar.record, connect_seconds=1.0)
    answer_all(liar, aborting(grpc.StatusCode.PERMISSION_DENIED, "\x1b" * size))
    refused(consumer, call)


@calls
def test_peer_that_breaks_down(liar, consumer, call):
    """A peer that fails within itself is an error, and what it failed with is not passed on raw."""

    def fail(context):
        raise RuntimeError(STEERING)

    answer_all(liar, fail)
    refused(consumer, call)


ENTRIES = {
    "another path": pb.Entry(path="x", kind=1),
    "a path that leads up": pb.Entry(path="../x", kind=1),
    "bytes of a path": pb.Entry(path_bytes=b"\xff", kind=1),
    "two spellings": pb.Entry(path="a", path_bytes=b"b", kind=1),
    "no kind": pb.Entry(),
    "an unknown kind": pb.Entry(kind=9),
    "what was removed": pb.Entry(kind=5),
    "set-user-id": pb.Entry(kind=1, mode=0o4755),
    "a mode of 32 bits": pb.Entry(kind=1, mode=2**32 - 1),
    "a size beyond all": pb.Entry(kind=1, size=2**64 - 1),
    "a directory with a size": pb.Entry(kind=2, size=1),
    "a file with a text": pb.Entry(kind=1, link_target="x"),
    "a link with NUL": pb.Entry(kind=3, link_target="a\0b"),
    "a link that is too long": pb.Entry(kind=3, link_target="x" * 5000),
    "a long version": pb.Entry(kind=1, version=bytes(300)),
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_description_of_what_cannot_be(liar, consumer, entry):
    """A description is of the path that was asked for, and of something that can be."""
    liar.stat = pb.StatResponse(origin=WHO, entry=entry)
    refused(consumer, CALLS["stat"])


def pages(*pages_, complete=True):
    """Return pages of a list, the first of them with the path itself."""
    first = [pb.Entry(kind=2), *pages_[0]]
    made = [
        pb.ListFilesResponse(origin=WHO, entries=first),
        *(pb.ListFilesResponse(entries=p) for p in pages_[1:]),
    ]
    made[-1].complete = complete
    return made


LISTS = {
    "no end": pages([], complete=False),
    "no page": [],
    "no root": [pb.ListFilesResponse(origin=WHO, entries=[pb.Entry(path="x", kind=1)], complete=True)],
    "twice": pages([pb.Entry(path="x", kind=1)], [pb.Entry(path="x", kind=2)]),
    "the root twice": pages([pb.Entry(kind=2)]),
    "outside": pages([pb.Entry(path="../x", kind=1)]),
    "absolute": pages([pb.Entry(path="/etc/passwd", kind=1)]),
    "below nothing": pages([pb.Entry(path="d/x", kind=1)]),
    "below a file": pages([pb.Entry(path="f", kind=1), pb.Entry(path="f/x", kind=1)]),
    "below a link": pages([pb.Entry(path="l", kind=3, link_target=".."), pb.Entry(path="l/x", kind=1)]),
    "NUL": pages([pb.Entry(path="a\0", kind=1)]),
    "what was removed": pages([pb.Entry(path="a", kind=5)]),
    "an unknown kind": pages([pb.Entry(path="a", kind=77)]),
    "a name that steers, twice": pages([pb.Entry(path=STEERING, kind=1)] * 2),
    "a size beyond all": pages([pb.Entry(path="a", kind=1, size=2**63)]),
    "garbage": [*pages([], complete=False), b"\xff" * 9],
}


@pytest.mark.parametrize("said", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("call", [CALLS["list"], CALLS["list of a directory"]], ids=["recursive", "flat"])
def test_list_of_what_cannot_be(liar, consumer, said, call):
    """A list begins with its path, has each name once and after its directory, and ends where it says so."""
    liar.pages = said
    refused(consumer, call)


def test_list_of_more_than_was_asked_for(liar, consumer):
    """What lies deeper is no part of the list of a directory."""
    liar.pages = pages([pb.Entry(path="d", kind=2), pb.Entry(path="d/x", kind=1)])
    assert len(list(consumer.remote.list(WHERE))) == 3
    assert "not asked for" in refused(consumer, CALLS["list of a directory"])


def test_what_follows_the_end_of_a_list(liar, consumer):
    """What is sent behind the last page is not read."""
    liar.pages = [*pages([]), *pages([pb.Entry(path="../x", kind=1)])]
    assert [entry.path for entry in consumer.remote.list(WHERE)] == [""]


def test_existence_that_is_odd(liar, consumer):
    """A yes is a yes in whatever number; fields that are not known are passed over."""
    liar.exists = WHO_SAYS + b"\x10\x7f" + b"\x7a\x03abc"
    assert consumer.remote.exists(WHERE) is True


WHO_SAYS = pb.ExistsResponse(origin=WHO).SerializeToString()
