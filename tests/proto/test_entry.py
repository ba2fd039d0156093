"""Entries pass to the wire and back without loss."""

import os

import pytest

from lit_storage_proto.entry import Entry, Kind, from_wire, get_path, is_utf8, set_path, to_wire
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.v1 import path_storage_pb2 as pb

LATIN1 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("path", ["", "a/b", "ä/\U0001f600", LATIN1, f"x/{LATIN1}", "a\nb"])
def test_round_trip(path):
    """Each name comes back as it was, be it UTF-8 or not."""
    entry = Entry(path, Kind.SYMLINK, 1, 0o755, -5, path, b"v")
    assert from_wire(pb.Entry.FromString(to_wire(entry).SerializeToString())) == entry


@pytest.mark.parametrize(("path", "field"), [("ä", "path"), (LATIN1, "path_bytes")])
def test_spelling(path, field):
    """A name travels as string where it is UTF-8, else as bytes."""
    message = pb.StatRequest()
    set_path(message, path)
    assert [descriptor.name for descriptor, _ in message.ListFields()] == [field]
    assert (get_path(message), is_utf8(path)) == (path, field == "path")


@pytest.mark.parametrize(
    "message",
    [pb.Entry(path="a", path_bytes=b"b", kind=1), pb.Entry(link_target="a", link_target_bytes=b"b", kind=3)],
)
def test_two_spellings_are_refused(message):
    """A name in two spellings is refused."""
    with pytest.raises(ProtocolViolation, match="two spellings"):
        from_wire(message)


@pytest.mark.parametrize("kind", [0, 6, -1])
def test_unknown_kind_is_refused(kind):
    """The kind that is never sent, and one of a later version, are refused."""
    with pytest.raises(ProtocolViolation, match=f"kind {kind}"):
        from_wire(pb.Entry(path="a", kind=kind))


def test_kinds_are_those_of_the_wire():
    """Every kind but the unspecified one has the wire's number."""
    on_wire = {name.removeprefix("ENTRY_KIND_"): number for name, number in pb.EntryKind.items() if number}
    assert {kind.name: kind.value for kind in Kind} == on_wire
