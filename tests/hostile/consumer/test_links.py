"""Links: none is made that leads out of the tree, and nothing is ever written through one."""

import glob
import os

import pytest

from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frames import Frame
from tests.hostile.consumer.liar import ROOT, a_directory, a_file, a_link, a_pack, gone, read, told
from tests.waiting import within

wait_until = within(10)

LEAVES = {
    "absolute": "/etc/passwd",
    "root": "/",
    "absolute twice": "//etc",
    "up": "..",
    "far up": "../" * 40 + "etc",
    "up and down": "../other/kept",
    "down and up": "d/../../other",
    "up through a file": "f/../../other",
    "up through a packed file": "p/../../other",
    "up through nothing": "missing/../../other",
    "up in the end": "d/../..",
    "itself and up": "./../other",
    "proc": "/proc/self/cwd",
    "proc of a descriptor": "/proc/self/fd/0",
    "nothing": "",
}


def made(consumer):
    """Return the links of the copy, and what each means."""
    found = {}
    for directory, names, files in os.walk(consumer.target):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                found[os.path.relpath(path, consumer.target)] = os.path.realpath(path)
    return found


@pytest.mark.parametrize("text", LEAVES.values(), ids=LEAVES)
def test_link_out(liar, consumer, text):
    """A link that leads out of the tree is not made, and is told as left out."""
    liar.frames = told(ROOT, a_directory("d"), a_file("f"), a_pack(["p"]), a_link("l", text))
    assert consumer.get().skipped == ("l",)
    assert made(consumer) == {}


CHAINS = {
    "a link as a step up": [
        a_directory("d"),
        a_directory("d/e"),
        a_link("d/e/up", ".."),
        a_link("l", "d/e/up/../.."),
    ],
    "a link to a link up": [a_link("a", "b/.."), a_link("b", "c/.."), a_link("c", "..")],
    "a link that a later one would move": [a_link("d", "."), a_link("l", "d/../x")],
    "two that mean each other": [a_link("a", "b/../.."), a_link("b", "a/../..")],
    "a link whose directory is one": [a_directory("d"), a_link("d/up", "../.."), a_link("l", "d/up/outside")],
    "through itself": [a_link("l", "l/../..")],
}


@pytest.mark.parametrize("links", CHAINS.values(), ids=CHAINS)
def test_links_that_leave_together(liar, consumer, links):
    """However links name each other, what each means lies within the copy, or is nothing."""
    liar.frames = told(ROOT, *links)
    consumer.get()
    assert all((meant + "/").startswith(consumer.target + "/") for meant in made(consumer).values())


ROUNDS = {
    "its directory is removed": [gone("d")],
    "its directory becomes a file": [gone("d"), a_file("d")],
    "its directory becomes a link": [gone("d"), a_link("d", "e/f")],
    "its directory becomes a link, and is again": [gone("d"), a_link("d", "e/f"), gone("d/x")],
}


@pytest.mark.parametrize("entries", [ROUNDS[k] for k in list(ROUNDS)[:3]], ids=list(ROUNDS)[:3])
def test_link_whose_way_changes_later(liar, consumer, entries):
    """Links are judged by the tree as it is in the end: "d/.." is up only while "d" is a directory."""
    tree = [a_directory("d"), a_directory("e"), a_directory("e/f"), a_link("l", "d/../x")]
    liar.frames = told(ROOT, *tree, Frame(entries=entries, round=1))
    consumer.get()
    assert "l" not in made(consumer)


@pytest.mark.parametrize("text", ["a\0b", "\0", "x" * 4096, "é" * 2048, "x" * (1 << 19)], ids=len)
def test_text_that_no_link_has(liar, consumer, text):
    """A text with NUL, or longer than a path, is refused before the disk is asked."""
    liar.frames = told(ROOT, a_link("l", text))
    consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\udcff", "\u202e"], ids=ascii)
def test_text_that_steers_a_terminal(liar, consumer, text):
    """Such a text is kept to the letter, for it is the origin's."""
    liar.frames = told(ROOT, a_link("l", text))
    consumer.get()
    assert os.readlink(f"{consumer.target}/l") == text


@pytest.mark.parametrize("what", [a_file("l/x"), a_directory("l/x"), a_link("l/x", "y")])
def test_file_through_a_link(liar, consumer, what):
    """An entry below a link is refused, also where the link stays inside."""
    liar.frames = told(ROOT, a_directory("d"), a_link("l", "d"), what)
    consumer.refuse(ProtocolViolation)


def test_links_are_made_last(liar, consumer):
    """While files are written no link of the tree is there, whatever the order in which they were told."""
    tree = told(ROOT, a_directory("d"), a_link("d/l", "."), a_pack(["f"], directory=1))
    seen = []

    def frames(context):
        yield from tree[:-1]
        wait_until(lambda: glob.glob(f"{consumer.root}/.staging/*/tree/d/f"))
        seen.extend(glob.glob(f"{consumer.root}/.staging/*/tree/d/*"))
        yield tree[-1]

    liar.frames = frames
    consumer.get()
    assert [os.path.basename(path) for path in seen] == ["f"]
    assert os.path.islink(f"{consumer.target}/d/l")


def test_target_that_is_a_link(liar, consumer, tmp_path):
    """A target that is a link is itself replaced; what it meant is not written."""
    os.rename(consumer.target, f"{consumer.root}/@trainer/moved")
    os.symlink(f"{consumer.base}/outside", consumer.target)
    liar.frames = told(ROOT, a_file("key"))
    consumer.get()
    assert read(f"{consumer.base}/outside/key") == "outside/key"
    assert not os.path.islink(consumer.target)
