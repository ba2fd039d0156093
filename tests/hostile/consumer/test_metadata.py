"""Modes, times, kinds and versions that no honest tree has, and those aimed at the target itself."""

import os
import stat

import pytest

from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frames import Frame
from lit_storage_proto.v1 import path_storage_pb2 as pb
from tests.hostile.consumer.liar import ORIGIN, ROOT, a_chunk, a_directory, a_file, a_link, a_pack, told

MODES = [
    0o4755,
    0o2755,
    0o1777,
    0o6777,
    0o7777,
    0o10000,
    0o020644,
    0o060660,
    0o100644,
    0o120777,
    2**31,
    2**32 - 1,
]


@pytest.mark.parametrize("mode", MODES, ids=oct)
@pytest.mark.parametrize("make", [a_file, a_directory], ids=["file", "directory"])
@pytest.mark.parametrize("path", ["", "x"], ids=["root", "below"])
def test_mode_beyond_permissions(liar, consumer, mode, make, path):
    """Set-id and sticky bits, and the bits of a device, are refused on files, directories and the root."""
    entry = make(path, mode=mode)
    liar.frames = told(entry) if not path else told(ROOT, entry)
    assert "mode" in consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("mode", [0o4755, 0o7777], ids=oct)
def test_mode_of_a_later_round(liar, consumer, mode):
    """A later round sets no such bits on what was made before."""
    liar.frames = told(ROOT, a_file("f"), Frame(entries=[a_directory("", mode=mode)], round=1))
    consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("mode", [0, 0o111, 0o333, 0o444, 0o777], ids=oct)
def test_directories_of_odd_modes(liar, consumer, mode):
    """Directories that their owner cannot use hold what they should, and the copy can be replaced again."""
    tree = [a_directory("", mode=mode), a_directory("d", mode=mode), a_pack(["f"], directory=1)]
    for _ in range(2):
        liar.frames = told(*tree)
        consumer.get()
    assert stat.S_IMODE(os.stat(consumer.target).st_mode) == mode
    liar.frames = told(ROOT)
    consumer.get()
    assert os.listdir(f"{consumer.root}/.staging") == []


def test_mode_of_the_root_stays_on_the_root(liar, consumer):
    """What a peer says of its root reaches neither the directory that holds it nor R."""
    around = (consumer.root, os.path.dirname(consumer.target))
    before = [os.stat(path).st_mode for path in around]
    liar.frames = told(a_directory("", mode=0o777), a_file("f", mode=0o666))
    consumer.get()
    assert [os.stat(path).st_mode for path in around] == before


TIMES = [-1, -(2**63), 2**63 - 1, 10**9 * 2**33, -(10**18), 999_999_999, 1_999_999_999, 0]


@pytest.mark.parametrize("mtime_ns", TIMES)
def test_times_out_of_range(liar, consumer, mtime_ns):
    """A time before 1970 or after 2262 is set as far as the file system can, and fails no get."""
    kinds = [a_file("f", mtime_ns=mtime_ns), a_directory("d", mtime_ns=mtime_ns), a_link("l", "f")]
    liar.frames = told(a_directory("", mtime_ns=mtime_ns), *kinds, a_pack(["p"], mtimes_ns=[mtime_ns]))
    consumer.get()
    assert sorted(os.listdir(consumer.target)) == ["d", "f", "l", "p"]


@pytest.mark.parametrize("kind", [0, 6, 7, 127, 2**31 - 1, -1, -(2**31)])
@pytest.mark.parametrize("path", ["", "x"], ids=["root", "below"])
def test_unknown_kind(liar, consumer, kind, path):
    """A kind that is none, or of a device, is refused."""
    origin, entries = pb.Origin(name=ORIGIN[0], instance_id=ORIGIN[1]), [pb.Entry(path=path, kind=kind)]
    if path:
        entries.insert(0, pb.Entry(kind=2))
    liar.frames = [pb.StreamFilesResponse(origin=origin, entries=entries)]
    assert "kind" in consumer.refuse(ProtocolViolation)


SIZED = {"root": a_directory("", size=1), "directory": a_directory("d", size=2**40)}


@pytest.mark.parametrize("entry", SIZED.values(), ids=SIZED)
def test_directory_with_a_size(liar, consumer, entry):
    """Only files have sizes."""
    liar.frames = told(entry) if not entry.path else told(ROOT, entry)
    consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("size", [257, 1 << 16, 1 << 19])
def test_long_version(liar, consumer, size):
    """A version is short, for it is written down and sent back."""
    liar.frames = told(ROOT, a_file("f", b"x", version=bytes(size)), a_chunk(1, b"x"))
    assert "version" in consumer.refuse(ProtocolViolation)


@pytest.mark.parametrize("new", [a_file(""), a_file("", mode=0)], ids=["file", "unreadable file"])
def test_file_in_place_of_a_tree(liar, consumer, new):
    """A file takes the place of the old tree only as a whole, and with overwrite=True."""
    liar.frames = told(new)
    consumer.refuse(FileExistsError, overwrite=False)
    consumer.get()
    assert os.path.isfile(consumer.target)
