"""Names that lead elsewhere, or that steer what shows them, told in every place where a name can stand."""

import os

import pytest

from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frames import Frame
from tests.hostile.consumer.liar import (
    ORIGIN,
    ROOT,
    a_chunk,
    a_directory,
    a_file,
    a_link,
    a_pack,
    gone,
    read,
    told,
)

LEADS_ELSEWHERE = {
    "up": "..",
    "up and down": "../other/kept",
    "up far": "../../../../../../../../outside/key",
    "up within": "d/../../x",
    "up at the end": "d/..",
    "itself": ".",
    "through itself": "./x",
    "absolute": "/outside/key",
    "absolute twice": "//outside/key",
    "empty part": "d//x",
    "slash at the end": "d/",
    "only a slash": "/",
    "NUL": "x\0y",
    "NUL before up": "x\0/../../y",
    "part too long": "n" * 256,
    "part too long in bytes": "é" * 128,
    "path too long": "/".join(["n" * 200] * 400),
}
AS = {
    "file": lambda name: a_file(name),
    "full file": lambda name: a_file(name, b"x"),
    "directory": lambda name: a_directory(name),
    "link": lambda name: a_link(name, "d"),
    "skipped": lambda name: Entry(name, Kind.SKIPPED),
}


@pytest.mark.parametrize("kind", AS)
@pytest.mark.parametrize("name", LEADS_ELSEWHERE.values(), ids=LEADS_ELSEWHERE)
def test_entry_that_leads_elsewhere(liar, consumer, name, kind):
    """No entry of any kind has a name that leads anywhere but into its directory."""
    liar.frames = told(ROOT, a_directory("d"), AS[kind](name))
    assert "the name" in consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("name", [n for n in LEADS_ELSEWHERE.values() if "n/n" not in n])
def test_packed_name_that_leads_elsewhere(liar, consumer, name):
    """No file of a pack has such a name; a slash only makes it two names, of which the counts then differ."""
    liar.frames = told(ROOT, a_directory("d"), a_pack([name]))
    assert "packed" in consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("name", ["..", ".", ""])
def test_packed_parts_that_lead_elsewhere(liar, consumer, name):
    """Where the counts agree, each name between two slashes is looked at."""
    liar.frames = told(ROOT, a_pack(["a", name, "b"]))
    assert "name that is none" in consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("name", LEADS_ELSEWHERE.values(), ids=LEADS_ELSEWHERE)
def test_removal_that_leads_elsewhere(liar, consumer, name):
    """Nothing outside the tree is removed, whatever name a later round gives."""
    liar.frames = told(ROOT, Frame(entries=[gone(name)], round=1))
    consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("name", LEADS_ELSEWHERE.values(), ids=LEADS_ELSEWHERE)
def test_name_of_a_later_round_that_leads_elsewhere(liar, consumer, name):
    """A later round has no other names than the first."""
    liar.frames = told(ROOT, Frame(entries=[a_file(name)], round=2))
    consumer.refuse(ProtocolViolation)


STEERS = {
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "line": "a\nERROR: all is well",
    "return": "real\rfake",
    "right to left": "gnp\u202e.exe",
    "one byte escape": "\x9b31m",
    "delete": "a\x7f\x08",
    "not UTF-8": "\udcff\udcfe",
    "separator": "a\u2028b",
}


@pytest.mark.parametrize("name", STEERS.values(), ids=STEERS)
def test_name_that_steers_a_terminal(liar, consumer, name):
    """Linux has such names, so they are copied to the letter; `refuse` holds that no error shows them raw."""
    liar.frames = told(ROOT, a_file(name), a_directory(f"{name}d"), a_pack([f"{name}p"]))
    consumer.get()
    assert sorted(os.listdir(consumer.target)) == sorted([name, f"{name}d", f"{name}p"])


@pytest.mark.parametrize("name", STEERS.values(), ids=STEERS)
def test_steering_name_in_an_error(liar, consumer, name):
    """An error that names such a file is printable."""
    liar.frames = told(ROOT, a_file(name, b"xy"), a_chunk(1, b"x"))
    assert "ended at byte 1 of 2" in consumer.refuse()


@pytest.mark.parametrize("name", STEERS.values(), ids=STEERS)
def test_steering_name_in_an_error_of_a_pack(liar, consumer, name):
    """An error that names a file of a pack is printable."""
    liar.frames = told(ROOT, a_pack([name], digest=bytes(16)))
    assert "damaged" in consumer.refuse()


OURS = [
    "tree",
    "owner",
    "journal",
    "held",
    "swap",
    "old",
    ".staging",
    "@trainer",
    ".lit-staging-1",
    "removed-0",
]


@pytest.mark.parametrize("name", OURS)
def test_names_of_our_own(liar, consumer, name):
    """What staging, journal and copies are called is a name like any other within a tree."""
    liar.frames = told(ROOT, a_directory(name), a_file(f"{name}/{name}"), a_pack([f"{name}.new"]))
    consumer.get()
    assert sorted(os.listdir(consumer.target)) == [name, f"{name}.new"]
    assert os.listdir(f"{consumer.target}/{name}") == [name]
    assert os.listdir(f"{consumer.root}/.staging") == []


def test_two_spellings_of_one_name(liar, consumer):
    """An entry that gives its name as text and as bytes is refused: a check of one would pass the other."""
    from lit_storage_proto.v1 import path_storage_pb2 as pb

    twice = pb.Entry(path="x", path_bytes=b"../y", kind=1)
    origin = pb.Origin(name=ORIGIN[0], instance_id=ORIGIN[1])
    liar.frames = [pb.StreamFilesResponse(origin=origin, entries=[pb.Entry(kind=2), twice])]
    assert "two spellings" in consumer.refuse(ProtocolViolation)


def test_backslashes(liar, consumer):
    """A backslash is a character of a name, and leads nowhere."""
    liar.frames = told(ROOT, a_file("..\\..\\x"), a_pack(["C:\\y"]))
    consumer.get()
    assert sorted(os.listdir(consumer.target)) == ["..\\..\\x", "C:\\y"]


TWINS = [
    ("A", "a"),
    ("\u00e9", "e\u0301"),
    ("\u00df", "ss"),
    ("\ufb01", "fi"),
    ("K", "\u212a"),
    (".git", ".GIT"),
    ("x", "x "),
    ("x", "x."),
]


@pytest.mark.parametrize("twins", TWINS)
def test_twins(liar, consumer, twins):
    """Names that some other system takes for one are two files here, as at their origin."""
    liar.frames = told(ROOT, a_file(twins[0], b"1"), a_chunk(1, b"1"), a_pack([twins[1]], [b"2"]))
    consumer.get()
    assert [read(f"{consumer.target}/{name}") for name in twins] == ["1", "2"]
