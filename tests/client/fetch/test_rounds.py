"""Packs, holes, and what is sent anew: frames that only come where they were asked for."""

import os
import stat

import pytest

from lit_storage_client.fetch.stream import receive
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError, ProtocolViolation
from lit_storage_proto.frames import Chunk, Frame, Pack, Summary

ROOT = Entry("", Kind.DIRECTORY, mode=0o755, mtime_ns=1)


@pytest.fixture
def write(tmp_path):
    """Receive frames, and a summary that counts them, into tmp_path/tree."""

    def write(*frames, **options):
        entries = [entry for frame in frames for entry in frame.entries]
        chunks = [chunk for frame in frames for chunk in frame.chunks]
        packs = [pack for frame in frames for pack in frame.packs]
        summary = Summary(
            len(entries),
            len(chunks),
            sum(chunk.size for chunk in chunks) + sum(len(pack.data) for pack in packs),
            sum(entry.kind is Kind.SKIPPED for entry in entries),
            len(packs),
            sum(len(pack.sizes) for pack in packs),
        )
        fd = os.open(tmp_path, os.O_RDONLY)
        try:
            return receive([*frames, Frame(summary=summary)], fd, "tree", label="/target", **options)
        finally:
            os.close(fd)

    return write


def pack(number, files, **changes):
    data = b"".join(files.values())
    sizes = [len(content) for content in files.values()]
    count = len(files)
    fields = {
        "directory": number,
        "names": b"/".join(os.fsencode(name) for name in files),
        "sizes": sizes,
        "modes": [0o640] * count,
        "mtimes_ns": list(range(1, count + 1)),
        "digest": chunk_digest(data),
        "data": data,
    }
    return Pack(**fields | changes)


def a_file(path, content=b"", version=b"1"):
    return Entry(path, Kind.FILE, len(content), 0o644, 1, version=version)


def a_directory(path, mtime_ns=1):
    return Entry(path, Kind.DIRECTORY, mode=0o755, mtime_ns=mtime_ns)


def chunk(number, content, offset=0):
    return Chunk(number, offset, chunk_digest(content), content)


def test_a_pack(write, tmp_path):
    """Its files have their bytes, modes and times; names need not be UTF-8, and files may be empty."""
    files = {"a": b"one", "empty": b"", "\udcff": b"two"}
    received = write(Frame(entries=[ROOT, a_directory("d")]), Frame(packs=[pack(1, files)]))
    for number, (name, content) in enumerate(files.items()):
        path = tmp_path / "tree/d" / name
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert path.stat().st_mtime_ns == number + 1
    assert (received.files, received.bytes) == (3, 6)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a\0b", b"x" * 256, b"a/b"])
def test_a_pack_with_a_name_that_is_none(write, name):
    """A name of a pack is one part, as every name is."""
    with pytest.raises(ProtocolViolation):
        write(Frame(entries=[ROOT]), Frame(packs=[pack(0, {"a": b"x"}, names=name)]))


@pytest.mark.parametrize(
    "changes",
    [
        {"directory": 1},
        {"directory": 7},
        {"modes": [0o4755]},
        {"modes": [0o644, 0o644]},
        {"sizes": [2]},
        {"sizes": []},
        {"mtimes_ns": []},
    ],
)
def test_a_pack_that_cannot_be(write, changes):
    """Each number of a pack is held against the others."""
    with pytest.raises(ProtocolViolation):
        write(
            Frame(entries=[ROOT, a_file("f")]),
            Frame(packs=[pack(0, {"a": b"x"}, **changes)]),
        )


def test_a_damaged_pack(write, tmp_path):
    """Not one file of a pack with another digest is written."""
    with pytest.raises(IntegrityError):
        write(Frame(entries=[ROOT]), Frame(packs=[pack(0, {"a": b"x"}, digest=bytes(16))]))
    assert os.listdir(tmp_path / "tree") == []


def test_a_name_twice_in_packs(write):
    """Two files of one name in a directory are refused."""
    with pytest.raises(ProtocolViolation, match="twice"):
        write(Frame(entries=[ROOT]), Frame(packs=[pack(0, {"a": b"x"}), pack(0, {"a": b"y"})]))


def test_holes(write, tmp_path):
    """A file with holes is as long as it is, and takes the room of its data."""
    size = 1 << 30
    entry = Entry("", Kind.FILE, size, 0o644, 1)
    middle = 1 << 29
    write(
        Frame(entries=[entry]),
        Frame(chunks=[Chunk(0, 0, hole=middle)]),
        Frame(chunks=[chunk(0, b"data", middle)]),
        Frame(chunks=[Chunk(0, middle + 4, hole=size - middle - 4)]),
    )
    status = os.stat(tmp_path / "tree")
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (size, True)
    with open(tmp_path / "tree", "rb") as file:
        assert os.pread(file.fileno(), 6, middle - 1) == b"\0data\0"


def test_sent_anew(write, tmp_path):
    """In a round files, packed ones too, take the place of what came, and are counted once."""
    received = write(
        Frame(entries=[ROOT, a_file("f", b"old!")]),
        Frame(chunks=[chunk(1, b"old!")], packs=[pack(0, {"a": b"old", "b": b"stays"})]),
        Frame(entries=[a_file("f", b"new")], packs=[pack(0, {"a": b"newer"})], round=1),
        Frame(chunks=[chunk(2, b"new")], round=1),
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "tree").iterdir()} == {
        "f": b"new",
        "a": b"newer",
        "b": b"stays",
    }
    assert (received.files, received.bytes) == (3, 13)


ANEW = {
    "entry": Frame(entries=[a_file("f", b"xy")], chunks=[chunk(2, b"xy")], round=1),
    "pack": Frame(packs=[pack(0, {"f": b"xy"})], round=1),
}


@pytest.mark.parametrize("anew", ANEW.values(), ids=ANEW)
def test_a_file_that_could_not_be_finished(write, tmp_path, anew):
    """What was cut short while it was read need not be completed if it is sent anew, and counts once."""
    cut_short = [Frame(entries=[ROOT, a_file("f", b"abcdef")]), Frame(chunks=[chunk(1, b"abc")])]
    received = write(*cut_short, anew)
    assert (tmp_path / "tree/f").read_bytes() == b"xy"
    assert (received.files, received.bytes) == (1, 2)


def test_an_unfinished_file_below_a_directory(write):
    """What goes with its directory is not counted out if it was not counted yet."""
    received = write(
        Frame(entries=[ROOT, a_directory("d"), a_file("d/f", b"abcdef"), a_file("whole", b"xy")]),
        Frame(chunks=[chunk(2, b"abc"), chunk(3, b"xy")]),
        Frame(entries=[Entry("d", Kind.REMOVED)], round=1),
    )
    assert (received.files, received.bytes) == (1, 2)


def test_a_file_that_stays_unfinished(write):
    """Without being sent anew it is missing."""
    with pytest.raises(IntegrityError, match="byte 3 of 6"):
        write(Frame(entries=[ROOT, a_file("f", b"abcdef")]), Frame(chunks=[chunk(1, b"abc")]))


def test_removed(write, tmp_path):
    """Files, links, what was skipped, and whole directories can go in a round."""
    received = write(
        Frame(
            entries=[
                ROOT,
                a_directory("d"),
                a_directory("d/e"),
                a_file("d/e/f", b"x"),
                Entry("link", Kind.SYMLINK, link_target="d"),
                Entry("fifo", Kind.SKIPPED),
            ],
            chunks=[chunk(3, b"x")],
            packs=[pack(2, {"g": b"packed"}), pack(0, {"h": b"packed"})],
        ),
        Frame(entries=[Entry(path, Kind.REMOVED) for path in ("d", "link", "fifo", "h")], round=1),
    )
    assert os.listdir(tmp_path / "tree") == []
    assert (received.files, received.bytes, received.skipped.count) == (0, 0, 0)


def test_another_kind(write, tmp_path):
    """A path becomes another kind by being removed and sent anew."""
    write(
        Frame(entries=[ROOT, a_directory("d"), a_file("f")]),
        Frame(
            entries=[
                Entry("d", Kind.REMOVED),
                Entry("f", Kind.REMOVED),
                a_directory("f"),
                a_file("f/x"),
                Entry("d", Kind.SYMLINK, link_target="f"),
            ],
            round=1,
        ),
    )
    assert os.readlink(tmp_path / "tree/d") == "f"
    assert os.listdir(tmp_path / "tree/f") == ["x"]


def test_a_link_takes_the_place_of_a_file(write, tmp_path):
    """A link that comes in a round replaces the file of its name."""
    write(
        Frame(entries=[ROOT, a_file("f"), a_file("g")]),
        Frame(entries=[Entry("f", Kind.SYMLINK, link_target="g")], round=1),
    )
    assert os.readlink(tmp_path / "tree/f") == "g"


def test_a_directory_comes_again(write, tmp_path):
    """What it holds stays, and its time is the new one."""
    write(
        Frame(entries=[ROOT, a_directory("d"), a_file("d/f")]),
        Frame(entries=[a_directory("d", 5_000)], round=2),
    )
    assert os.stat(tmp_path / "tree/d").st_mtime_ns == 5_000
    assert os.listdir(tmp_path / "tree/d") == ["f"]


def test_the_root_comes_again(write, tmp_path):
    """A single file that changed is sent anew as a whole."""
    received = write(
        Frame(entries=[a_file("", b"old")], chunks=[chunk(0, b"old")]),
        Frame(entries=[a_file("", b"new!")], chunks=[chunk(1, b"new!")], round=1),
    )
    assert (tmp_path / "tree").read_bytes() == b"new!"
    assert (received.files, received.bytes, received.root.size) == (1, 4, 4)


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(entries=[Entry("f", Kind.REMOVED)])],
        [Frame(entries=[Entry("", Kind.REMOVED)], round=1)],
        [Frame(entries=[Entry("../x", Kind.REMOVED)], round=1)],
        [Frame(entries=[a_directory("f")], round=1)],
        [Frame(entries=[a_file("d")], round=1)],
        [Frame(entries=[a_file("f")], round=4)],
        [Frame(round=2), Frame(round=1)],
        [Frame(entries=[Entry("d", Kind.REMOVED), a_file("d/x")], round=1)],
        [Frame(entries=[Entry("d", Kind.REMOVED)], packs=[pack(1, {"a": b""})], round=1)],
    ],
)
def test_a_round_that_breaks_the_rules(write, frames):
    """Nothing is removed or replaced outside of a round, outside of the tree, or by another kind."""
    with pytest.raises(ProtocolViolation):
        write(Frame(entries=[ROOT, a_directory("d"), a_file("f")]), *frames)


class Kept:
    """What an earlier attempt left of one file, and a note of what is written now."""

    def __init__(self, directory_fd, spans, version=b"1"):
        self.directory_fd, self.spans, self.version = directory_fd, spans, version
        self.noted = []

    def take_held(self, entry):
        return (self.directory_fd, "held", self.spans) if entry.version == self.version else None

    def begin(self, entry, held):
        self.noted.append((entry.path, held))
        return 7

    def wrote(self, number, chunk):
        self.noted.append((number, chunk.offset, chunk.size))


@pytest.fixture
def held(tmp_path):
    """Ten bytes of which those from 3 to 6 are good."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/held").write_bytes(b"xxxdefxxxx")
    fd = os.open(tmp_path / "kept", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_what_is_held_does_not_come(write, held, tmp_path):
    """Only the bytes beside those that are held are sent, and all of them are there in the end."""
    kept = Kept(held, [(3, 6)])
    received = write(
        Frame(entries=[a_file("", b"abcdefghij")]),
        Frame(chunks=[chunk(0, b"abc")]),
        Frame(chunks=[chunk(0, b"ghij", 6)]),
        journal=kept,
    )
    assert (tmp_path / "tree").read_bytes() == b"abcdefghij"
    assert received.bytes == 10
    assert kept.noted == [("", [(3, 6)]), (7, 0, 3), (7, 6, 4)]


def test_all_is_held(write, held, tmp_path):
    """A file all of whose bytes are held is finished at once."""
    write(Frame(entries=[a_file("", b"xxxdefxxxx")]), journal=Kept(held, [(0, 10)]))
    assert (tmp_path / "tree").read_bytes() == b"xxxdefxxxx"
    assert os.stat(tmp_path / "tree").st_mtime_ns == 1


def test_another_version_is_not_spliced(write, held, tmp_path):
    """Of a file that has another version by now all bytes come."""
    content = b"ABCDEFGHIJ"
    write(
        Frame(entries=[a_file("", content)]),
        Frame(chunks=[chunk(0, content)]),
        journal=Kept(held, [(3, 6)], b"2"),
    )
    assert (tmp_path / "tree").read_bytes() == content


def test_bytes_over_what_is_held(write, held):
    """An origin that sends what it was told is here breaks the rules."""
    with pytest.raises(ProtocolViolation, match="up to 3"):
        write(
            Frame(entries=[a_file("", b"abcdefghij")]),
            Frame(chunks=[chunk(0, b"abcdefghij")]),
            journal=Kept(held, [(3, 6)]),
        )
