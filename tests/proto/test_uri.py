"""The grammar of names and lit:// URIs."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.uri import Location, check_name, is_reserved, normalise, parse, parse_remote


@pytest.mark.parametrize("name", ["trainer", "workers.0", "a_b-c.D9", "_", "0", "a" * 128, "a.-b"][:-1])
def test_names(name):
    """Letters, digits, '_' and '-' in parts joined by dots make a name, up to 128 characters."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "-a", "a.-b", "a b", "a/b", "@a", "ä", "a" * 129, "a\n", "٣", "a:b"]
)
def test_names_outside_the_grammar(name):
    """All else is none."""
    with pytest.raises(InvalidURI):
        check_name(name)


@pytest.mark.parametrize(
    ("text", "origin", "path"),
    [
        ("lit://", None, ""),
        ("lit://a/b", None, "a/b"),
        ("lit:///data/x", None, "/data/x"),
        ("lit://@trainer/a/b", "trainer", "a/b"),
        ("lit://@trainer//data/x", "trainer", "/data/x"),
        ("lit://@workers.0", "workers.0", ""),
        ("lit://@workers.0/", "workers.0", ""),
        ("lit://a//b/./c/", None, "a/b/c"),
        ("lit://a%20b?c#d", None, "a%20b?c#d"),
        ("lit://a/@b/.staging", None, "a/@b/.staging"),
        ("lit://" + os.fsdecode(b"\xff"), None, os.fsdecode(b"\xff")),
    ],
)
def test_parse(text, origin, path):
    """A URI names a Work or this one, and a path relative to its root or absolute."""
    assert parse(text) == Location(origin, path)


@pytest.mark.parametrize(
    "text",
    ["", "a", "LIT://a", "lit:/a", "lit://../x", "lit://a/..", "lit://a\0", "lit://@", "lit://@/a",
     "lit://@a b/c", "lit://.staging/x", "lit://@trainer/@other/x", "lit://./@x", "lit://@trainer/.staging"],
)  # fmt: skip
def test_parse_refuses(text):
    """Other schemes, '..', NUL, malformed names and reserved names are refused."""
    with pytest.raises(InvalidURI):
        parse(text)


part = st.text("ab.-_@ äé\udcff%", min_size=1, max_size=5).filter(lambda p: p not in (".", ".."))
paths = st.lists(part, max_size=4).map("/".join)


@pytest.mark.slow
@given(st.sampled_from([None, "trainer", "workers.0"]), paths, st.booleans())
def test_text_of_a_location_means_it(origin, path, absolute):
    """The text of a location is parsed to the same location."""
    location = Location(origin, ("/" if absolute else "") + path)
    if not is_reserved(location.path):
        assert parse(str(location)) == location


@given(st.text("ab/.\0", max_size=12))
def test_normalise_never_leads_out(path):
    """What is normalised has no empty part, '.', '..' or NUL, and is its own normal form."""
    try:
        normal = normalise(path)
    except InvalidURI:
        assert ".." in path.split("/") or "\0" in path
        return
    assert not {"", ".", ".."} & set(normal.removeprefix("/").split("/")) or normal in ("", "/")
    assert (normalise(normal), normal.startswith("/")) == (normal, path.startswith("/"))


@pytest.mark.parametrize(
    ("text", "origin", "path"),
    [("trainer:a/b", "trainer", "a/b"), ("trainer", "trainer", ""), ("trainer:/data", "trainer", "/data"),
     ("trainer:", "trainer", ""), ("lit://@trainer/a", "trainer", "a")],
)  # fmt: skip
def test_remote_as_typed(text, origin, path):
    """The command line takes NAME:PATH as well as a URI."""
    assert parse_remote(text) == Location(origin, path)


@pytest.mark.parametrize("text", ["lit://a", ":a", "a b:c", "trainer:../x", "trainer:@other", "./a"])
def test_remote_as_typed_refuses(text):
    """What names no Work, or nothing that it could share, is refused."""
    with pytest.raises(InvalidURI):
        parse_remote(text)


@pytest.mark.parametrize(
    ("path", "reserved"),
    [("@a", True), ("@a/b", True), ("@", True), (".staging", True), (".staging/x", True), ("", False),
     ("a/@b", False), (".stagingx", False), ("/@a", False)],
)  # fmt: skip
def test_reserved(path, reserved):
    """Only the first part of a relative path makes it reserved."""
    assert is_reserved(path) is reserved
