"""Entries that cannot stand where they say: twice, below a file, through a link, or instead of the root."""

import os

import pytest

from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import AccessDenied, IntegrityError, ProtocolViolation
from lit_storage_proto.frames import Chunk, Frame, Summary
from tests.hostile.consumer.liar import (
    ROOT,
    a_chunk,
    a_directory,
    a_file,
    a_link,
    a_pack,
    gone,
    read,
    summary_of,
    told,
)

OUT = "../../outside"
BELOW = {
    "file": [a_file("p")],
    "full file": [a_file("p", b"x"), a_chunk(1, b"x")],
    "file whose bytes are due": [a_file("p", b"x")],
    "packed file": [a_pack(["p"])],
    "link out": [a_link("p", OUT)],
    "link to the root": [a_link("p", "/")],
    "link within": [a_directory("d"), a_link("p", "d")],
    "skipped": [Entry("p", Kind.SKIPPED)],
    "nothing": [],
}
CHILD = {
    "file": a_file("p/key"),
    "directory": a_directory("p/key"),
    "link": a_link("p/key", "x"),
    "skipped": Entry("p/key", Kind.SKIPPED),
}


@pytest.mark.parametrize("child", CHILD.values(), ids=CHILD)
@pytest.mark.parametrize("parent", BELOW.values(), ids=BELOW)
def test_below_what_is_no_directory(liar, consumer, parent, child):
    """Nothing comes to be below a file, a link, what was skipped, or what was never told."""
    liar.frames = told(ROOT, *parent, child)
    consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("parent", BELOW.values(), ids=BELOW)
def test_in_a_round_below_what_is_no_directory(liar, consumer, parent):
    """Nor does it in a later round."""
    liar.frames = told(ROOT, *parent, Frame(entries=[a_file("p/key")], round=1))
    consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("parent", BELOW.values(), ids=BELOW)
def test_pack_below_what_is_no_directory(liar, consumer, parent):
    """A pack names its directory by number; one that is of no directory is refused."""
    number = sum(isinstance(part, Entry) for part in parent)
    numbers = {number or 1, 99, 2**64 - 1}
    for each in numbers:
        liar.frames = told(ROOT, *parent, a_pack(["key"], directory=each))
        consumer.refuse(ProtocolViolation) if each == 99 else pytest.raises(ProtocolViolation, consumer.get)


SWAPPED = {
    "link instead of a directory": [a_link("d", OUT)],
    "directory removed, then a link": [gone("d"), a_link("d", OUT)],
    "directory removed, then a link, then a directory": [gone("d"), a_link("d", OUT), a_directory("d")],
    "directory removed, then a file": [gone("d"), a_file("d")],
}
THROUGH = {
    "a file": [Frame(entries=[a_file("d/key")], round=2)],
    "a pack": [Frame(packs=[a_pack(["key"], directory=1)], round=2)],
    "bytes": [Frame(chunks=[a_chunk(2, b"x")], round=2)],
    "a removal": [Frame(entries=[gone("d/key")], round=2)],
}


@pytest.mark.parametrize("through", THROUGH.values(), ids=THROUGH)
@pytest.mark.parametrize("swap", SWAPPED.values(), ids=SWAPPED)
def test_directory_that_becomes_a_link(liar, consumer, swap, through):
    """A link that takes the place of a directory is nothing that a later file, pack or chunk goes through."""
    liar.frames = told(ROOT, a_directory("d"), a_file("d/f", b"x"), Frame(entries=swap, round=1), *through)
    consumer.refuse(ProtocolViolation)


FIRST = {
    "entry": a_file("x"),
    "full entry": [a_file("x", b"1"), a_chunk(1, b"1")],
    "directory": a_directory("x"),
    "link": a_link("x", "y"),
    "pack": a_pack(["x"]),
    "empty pack": a_pack(["x"], [b""]),
    "hole": [a_file("x", b"12"), Chunk(1, 0, hole=1)],
    "skipped": Entry("x", Kind.SKIPPED),
}
SECOND = {
    "entry": [a_file("x")],
    "directory": [a_directory("x")],
    "link": [a_link("x", "y")],
    "pack": [a_pack(["x"])],
    "pack twice": [a_pack(["x", "x"])],
}


@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_twice(liar, consumer, first, second):
    """One name comes once, in whichever two ways it comes."""
    if first is FIRST["skipped"] and isinstance(second[0], type(a_pack(["x"]))) and len(second[0].sizes) == 1:
        pytest.skip("what was skipped is not made, so the file that is packed under its name is the only one")
    liar.frames = told(ROOT, first, second)
    assert "twice" in consumer.refuse(ProtocolViolation)


ROOTS = {
    "link": [a_link("", OUT)],
    "removed": [gone("")],
    "nothing": [],
    "below it": [a_file("x")],
    "only a pack": [a_pack(["x"])],
    "only bytes": [a_chunk(0, b"x")],
}


@pytest.mark.parametrize("parts", ROOTS.values(), ids=ROOTS)
def test_tree_without_a_root(liar, consumer, parts):
    """The root is a file or a directory, and comes first."""
    liar.frames = told(*parts)
    consumer.refuse((ProtocolViolation, IntegrityError))


LATER_ROOTS = {
    "link": [a_link("", OUT)],
    "file": [a_file("")],
    "removed": [gone("")],
    "skipped": [Entry("", Kind.SKIPPED)],
    "removed, then a link": [gone(""), a_link("", OUT)],
}


@pytest.mark.parametrize("entries", LATER_ROOTS.values(), ids=LATER_ROOTS)
@pytest.mark.parametrize("number", [0, 1, 3])
def test_root_that_becomes_something_else(liar, consumer, entries, number):
    """A root that was a directory stays one, in every round."""
    liar.frames = told(ROOT, a_file("f"), Frame(entries=entries, round=number))
    consumer.refuse((ProtocolViolation, AccessDenied))


@pytest.mark.parametrize("entry", [a_link("", OUT), a_directory(""), gone("")])
def test_file_root_that_becomes_something_else(liar, consumer, entry):
    """A root that was a file stays one."""
    liar.frames = told(a_file("", b"x"), Frame(entries=[entry], round=1))
    consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("part", [a_file("x"), a_pack(["x"]), a_directory("x"), a_link("x", "y")])
def test_below_a_file_root(liar, consumer, part):
    """A tree that is one file holds nothing else."""
    liar.frames = told(a_file(""), part)
    consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("number", [4, 99, 2**32 - 1])
def test_round_beyond_the_last(liar, consumer, number):
    """There are three rounds."""
    liar.frames = told(ROOT, Frame(entries=[a_file("x")], round=number))
    assert f"round {number}" in consumer.refuse(ProtocolViolation)


def test_round_that_goes_back(liar, consumer):
    """Rounds ascend."""
    liar.frames = told(ROOT, Frame(entries=[a_file("x")], round=2), Frame(entries=[a_file("y")], round=1))
    assert "round 1 after round 2" in consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("entry", [gone("f"), gone("missing"), gone("d")])
def test_removal_before_any_round(liar, consumer, entry):
    """Nothing is removed before the first round has ended."""
    liar.frames = told(ROOT, a_file("f"), a_directory("d"), entry)
    consumer.refuse(ProtocolViolation)


AGAIN = {
    "file": [a_file("f")],
    "directory": [a_directory("d")],
    "root": [ROOT],
    "link": [a_link("l", "f")],
    "removal": [gone("f"), gone("f")],
    "removed and made": [gone("f"), a_file("f"), gone("f"), a_file("f")],
}


@pytest.mark.parametrize("entries", AGAIN.values(), ids=AGAIN)
def test_again_in_one_round(liar, consumer, entries):
    """A round that sends one path for ever is no progress: each comes once in it."""
    again = [Frame(entries=entries, round=1)] * 2
    liar.frames = told(ROOT, a_file("f"), a_directory("d"), a_link("l", "f"), *again)
    assert "twice" in consumer.refuse(ProtocolViolation)


def test_packed_again_in_one_round(liar, consumer):
    """So does a file of a pack."""
    liar.frames = told(ROOT, a_pack(["f"]), *[Frame(packs=[a_pack(["f"])], round=1)] * 2)
    assert "twice" in consumer.refuse(ProtocolViolation)


def test_honest_rounds(liar, consumer):
    """What an honest peer sends in rounds is taken: removed, made anew, changed, once in each."""
    rounds = [
        Frame(entries=[gone("d"), a_file("d", b"1")], chunks=[a_chunk(3, b"1")], round=1),
        Frame(entries=[ROOT, gone("never told")], packs=[a_pack(["p"], [b"2"])], round=2),
        Frame(entries=[gone("d"), a_directory("d")], packs=[a_pack(["p"], [b"3"], directory=7)], round=3),
    ]
    liar.frames = told(ROOT, a_directory("d"), a_pack(["p"]), *rounds)
    consumer.get()
    assert read(f"{consumer.target}/d/p") == "3"
    assert read(f"{consumer.target}/p") == "2"


SUMMARIES = {
    "none": lambda frames: frames[:-1],
    "alone": lambda frames: frames[-1:],
    "first": lambda frames: [frames[0], frames[-1], *frames[1:-1]],
    "twice": lambda frames: [*frames, frames[-1]],
    "and more": lambda frames: [*frames, Frame(entries=[a_file("more")])],
    "and an empty frame": lambda frames: [*frames, Frame()],
    "and more bytes": lambda frames: [*frames, Frame(chunks=[a_chunk(1, b"x")])],
    "cut": lambda frames: frames[:2],
    "no frames": lambda frames: [],
    "an empty frame": lambda frames: [Frame()],
    "nobody's": lambda frames: [Frame(("", "")), *frames[1:]],
    "another name": lambda frames: [Frame(("other", "i1")), *frames[1:]],
    "another instance": lambda frames: [Frame(("trainer", "i2")), *frames[1:]],
    "a name that steers": lambda frames: [Frame(("\x1b[2J" * 5000, "\n")), *frames[1:]],
}


@pytest.mark.parametrize("change", SUMMARIES.values(), ids=SUMMARIES)
def test_stream_that_is_not_whole(liar, consumer, change):
    """Only what begins with who was asked and ends with its summary is whole, whatever the status says."""
    liar.frames = change(told(ROOT, a_file("f", b"x"), a_chunk(1, b"x")))
    consumer.refuse()


@pytest.mark.parametrize("field", ["entries", "chunks", "bytes", "skipped", "packs", "packed_files"])
@pytest.mark.parametrize("wrong", [0, 1, 2**64 - 1])
def test_wrong_count(liar, consumer, field, wrong):
    """A summary that counts anything else is refused."""
    frames = told(
        ROOT, a_file("f", b"x"), a_chunk(1, b"x"), a_pack(["p", "q"]), a_file("g", b"y"), a_chunk(2, b"y")
    )
    honest = summary_of(frames)
    counts = {name: getattr(honest, name) for name in Summary.__slots__}
    if counts[field] == wrong:
        wrong += 1
    liar.frames = [*frames[:-1], Frame(summary=Summary(**{**counts, field: wrong}))]
    consumer.refuse(IntegrityError)


UNSETTLED = {
    "not asked for": ((("f",), 1), "raise"),
    "up": ((("../other",), 1), "accept"),
    "absolute": ((("/outside",), 1), "accept"),
    "NUL": ((("a\0b",), 1), "accept"),
    "more names than are counted": ((("f", "g"), 1), "accept"),
    "more than may be named": ((tuple(map(str, range(101))), 101), "accept"),
}


@pytest.mark.parametrize(("unsettled", "on_change"), UNSETTLED.values(), ids=UNSETTLED)
def test_unsettled_names(liar, consumer, unsettled, on_change):
    """What is said to have changed goes to the caller's code, so its names and their number are checked."""
    names, count = unsettled
    liar.frames = told(ROOT, a_file("f"), summary=Summary(entries=2, unsettled=names, unsettled_count=count))
    consumer.refuse(on_change=on_change)


def test_long_summary_in_an_error(liar, consumer):
    """A wrong summary with a megabyte of names makes no sentence of a megabyte."""
    names = tuple("\x1b" * 5000 + str(number) for number in range(100))
    liar.frames = told(ROOT, summary=Summary(entries=9, unsettled=names, unsettled_count=100))
    consumer.refuse(on_change="accept")


def test_more_hard_links_than_files(liar, consumer):
    """A pack of one file has not 2^63 that have other names."""
    liar.frames = told(ROOT, a_pack(["f"], hard_linked=2**63))
    consumer.refuse(ProtocolViolation)


def test_skipped_that_are_said_to_be_more(liar, consumer):
    """What was left out is counted here, entry by entry; 1000 are counted, and 100 of them named."""
    liar.frames = told(ROOT, [Entry(f"{n}\x1b", Kind.SKIPPED) for n in range(1000)])
    transfer = consumer.get()
    assert (transfer.skipped_count, len(transfer.skipped)) == (1000, 100)
    assert os.listdir(consumer.target) == []
