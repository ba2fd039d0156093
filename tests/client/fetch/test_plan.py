import dataclasses

import pytest

from lit_storage_client.fetch.plan import MAX_SKIPPED_NAMES, Plan, Step
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation

ROOT = Entry("", Kind.DIRECTORY, mode=0o755)


def a_file(path, **fields):
    return dataclasses.replace(Entry(path, Kind.FILE, mode=0o644), **fields)


def a_directory(path):
    return Entry(path, Kind.DIRECTORY, mode=0o755)


def a_link(path, text):
    return Entry(path, Kind.SYMLINK, mode=0o777, link_target=text)


@pytest.fixture
def plan():
    plan = Plan()
    plan.add(ROOT)
    return plan


def test_honest_tree(plan):
    """Directories and files in order are made at once."""
    assert all(plan.add(entry) is Step.MAKE for entry in (a_directory("d"), a_file("d/f"), a_file("g")))


@pytest.mark.parametrize(
    "path", ["", ".", "..", "/etc/passwd", "a/../../b", "../x", "a//b", "a/", "./a", "x\0y", "d/.", "d/.."]
)
def test_name_that_no_entry_has(plan, path):
    """Names that lead anywhere but one step down are refused, and the error is printable."""
    plan.add(a_directory("d"))
    with pytest.raises(ProtocolViolation) as caught:
        plan.add(a_file(path))
    assert str(caught.value).isprintable()


def test_longest_names(plan):
    """A part may have 255 bytes, and not one more, however few characters they are."""
    assert plan.add(a_file("ä" * 127 + "x")) is Step.MAKE
    with pytest.raises(ProtocolViolation, match="too long"):
        plan.add(a_file("ä" * 128))


def test_name_that_is_not_utf8(plan):
    """A name that is not UTF-8 is a name, and counts in bytes."""
    assert plan.add(a_file("\udcff" * 255)) is Step.MAKE
    with pytest.raises(ProtocolViolation, match="too long"):
        plan.add(a_file("\udcff" * 256))


def test_first_entry_is_the_root():
    """The first entry has the empty path, and is no link."""
    with pytest.raises(ProtocolViolation, match="root"):
        Plan().add(a_file("a"))
    with pytest.raises(ProtocolViolation, match="root"):
        Plan().add(a_link("", "/etc"))


def test_twice(plan):
    """One path comes once."""
    plan.add(a_file("a"))
    with pytest.raises(ProtocolViolation, match="twice"):
        plan.add(a_directory("a"))


def test_parent_comes_first(plan):
    """An entry before its directory is refused."""
    with pytest.raises(ProtocolViolation, match="before it"):
        plan.add(a_file("d/f"))


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.SYMLINK, Kind.SKIPPED])
def test_only_a_directory_is_a_parent(plan, kind):
    """Nothing lies below a file, a link, or what was skipped."""
    plan.add(Entry("p", kind, link_target="/tmp" if kind is Kind.SYMLINK else ""))
    with pytest.raises(ProtocolViolation):
        plan.add(a_file("p/f"))


def test_nothing_lies_below_a_file_root():
    """A tree whose root is a file has no other entry."""
    plan = Plan()
    plan.add(a_file(""))
    with pytest.raises(ProtocolViolation):
        plan.add(a_file("a"))


@pytest.mark.parametrize("fields", [{"mode": 0o4755}, {"mode": 0o1000}, {"size": 2**63}])
def test_metadata_that_no_file_has(plan, fields):
    """Set-user-id bits and sizes beyond off_t are refused."""
    with pytest.raises(ProtocolViolation):
        plan.add(a_file("a", **fields))


def test_directory_with_a_size(plan):
    """Only files have a size."""
    with pytest.raises(ProtocolViolation):
        plan.add(dataclasses.replace(a_directory("d"), size=1))


@pytest.mark.parametrize("text", ["f", "./f", "../f", "../d/f", "../d/../f", "missing", ".."])
def test_link_that_stays(plan, text):
    """A link within the tree is kept to the letter, and made after all else."""
    plan.add(a_directory("d"))
    assert plan.add(a_link("d/l", text)) is Step.WAIT
    assert [link.link_target for link in plan.links()] == [text]
    assert plan.skipped.count == 0


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "../..", "../../x", "../d/../../x", "missing/../../x", "", "/"]
)
def test_link_that_leaves(plan, text):
    """A link out of the tree is not made, and is counted."""
    plan.add(a_directory("d"))
    plan.add(a_link("d/l", text))
    assert list(plan.links()) == []
    assert plan.skipped.names == ("d/l",)


def test_link_that_leaves_through_another_link(plan):
    """A ".." after a link would mean the parent of what the link means, so it is not made."""
    plan.add(a_directory("s"))
    plan.add(a_link("s/up", ".."))
    plan.add(a_link("out", "s/up/s/up/../../etc"))
    assert [link.path for link in plan.links()] == ["s/up"]


def test_skipped_are_counted_beyond_those_named(plan):
    """All skipped entries are counted, and the first of them named."""
    for number in range(MAX_SKIPPED_NAMES + 5):
        assert plan.add(Entry(f"fifo{number}", Kind.SKIPPED)) is Step.WAIT
    assert len(plan.skipped.names) == MAX_SKIPPED_NAMES
    assert plan.skipped.count == MAX_SKIPPED_NAMES + 5


@pytest.mark.parametrize("kind", [Kind.SYMLINK, Kind.SKIPPED, Kind.REMOVED])
def test_the_root_stays_a_file_or_directory(kind):
    """A later round cannot make the target a link to its neighbour, or nothing at all."""
    plan = Plan()
    plan.add(a_file(""))
    plan.begin_round(1)
    with pytest.raises(ProtocolViolation, match="root"):
        plan.add(Entry("", kind, link_target="neighbour" if kind is Kind.SYMLINK else ""))


def test_a_version_that_is_too_long(plan):
    """What is remembered of a file has a bound."""
    with pytest.raises(ProtocolViolation, match="version"):
        plan.add(a_file("f", version=bytes(257)))
