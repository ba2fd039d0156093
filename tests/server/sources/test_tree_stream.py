"""The frames of a tree: packs, holes, what is held already, and what cannot be sent."""

import os
import random
import socket
import stat

import grpc
import pytest

from lit_storage_client.fetch.stream import receive
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import AccessDenied, PathNotFound, SourceChanged
from lit_storage_proto.frame_codec import encode_frame
from lit_storage_proto.frames import Frame, Summary
from lit_storage_proto.limits import KIB, MAX_FRAME_BYTES, MIB
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_server.sources.shares import Shares
from lit_storage_server.sources.tree_stream import PACKED_BYTES, TreeOptions, TreeStream
from lit_storage_server.sources.walk import version_of


def names_of(pack):
    return [os.fsdecode(name) for name in pack.names.split(b"/")]


def version(path):
    return version_of(os.stat(path))


def refusal(peer, **request):
    """Return the status of a StreamFiles call that fails, and its sentence."""
    with pytest.raises(grpc.RpcError) as caught:
        list(peer.stub.StreamFiles(pb.StreamFilesRequest(**request), timeout=20))
    return caught.value.code(), caught.value.details()


def test_small_files_come_in_packs(copy, root):
    """Files up to the limit come in the pack of their directory, larger ones as entries with chunks."""
    content = {"s": b"s", "d/most": os.urandom(PACKED_BYTES), "d/more": os.urandom(PACKED_BYTES + 1)}
    (root / "d").mkdir()
    for name, data in content.items():
        (root / name).write_bytes(data)
    copied = copy(packs=True)
    assert {name: copied.read(name) for name in content} == content
    assert sorted(map(names_of, copied.packs)) == [["most"], ["s"]]
    assert [entry.path for entry in copied.entries] == ["", "d", "d/more"]
    assert copied.summary == Summary(3, 1, 2 * PACKED_BYTES + 2, 0, 2, 2)


def test_without_packs_each_file_is_an_entry(copy, root):
    """Who did not ask for packs gets none."""
    (root / "f").write_bytes(b"x")
    copied = copy()
    assert (copied.packs, [entry.path for entry in copied.entries]) == ([], ["", "f"])


def test_what_a_pack_says_of_its_files(copy, root):
    """Modes without set-id bits, times, and bytes arrive; the digest is of all bytes in the pack's order."""
    for number, mode in enumerate([0o600, 0o644, 0o755, 0o4711]):
        path = root / f"f{number}"
        path.write_bytes(b"x" * number)
        path.chmod(mode)
        os.utime(path, ns=(0, (number - 1) * 10**18 + 1))  # one is before 1970
    copied = copy(packs=True)
    for path in root.iterdir():
        here, there = (copied.tree / path.name).stat(), path.stat()
        assert (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)
        assert stat.S_IMODE(here.st_mode) == there.st_mode & 0o777
    (pack,) = copied.packs
    assert pack.digest == chunk_digest(pack.data)
    assert list(pack.sizes) == [int(name[1:]) for name in names_of(pack)]


def test_names_of_packed_files(copy, root):
    """Names that are not UTF-8, that hold a newline, or that are as long as can be, arrive to the letter."""
    names = {os.fsdecode(b"\xff\xfe"), "ä\n", "n" * 255, "ü" * 127, " ", "-", "\\", "..."}
    for name in names:
        (root / name).write_text(name, errors="surrogateescape")
    copied = copy(packs=True)
    assert set(os.listdir(copied.tree)) == names
    assert all(copied.read(name) == os.fsencode(name) for name in names)
    assert len(copied.packs) == 1


def test_empty_files_in_packs(copy, root):
    """Empty files need no bytes; a directory of nothing else is one pack."""
    for number in range(50):
        (root / str(number)).touch()
    copied = copy(packs=True)
    assert len(os.listdir(copied.tree)) == 50
    assert copied.summary == Summary(1, 0, 0, 0, 1, 50)


def test_empty_directory(copy, root):
    """No pack is sent of a directory without files."""
    (root / "d").mkdir()
    copied = copy(packs=True)
    assert (copied.packs, os.listdir(copied.tree)) == ([], ["d"])


def test_hard_links_are_counted(copy, root):
    """Files with other names are files of their own in the copy, and reported, in packs as in entries."""
    for name, size in (("a", 1), ("large", PACKED_BYTES + 1)):
        (root / name).write_bytes(bytes(size))
        os.link(root / name, root / f"{name}-again")
    (root / "single").touch()
    for packs in (True, False):
        copied = copy(packs=packs)
        assert copied.received.hard_linked == 4
        assert (copied.tree / "a").stat().st_nlink == 1
    assert sum(pack.hard_linked for pack in copy(packs=True).packs) == 2


def test_files_in_a_pack(copy, root):
    """A pack holds a limited number of files, and a frame of many packs all that fit."""
    for number in range(1100):
        (root / str(number)).touch()
    copied = copy(packs=True)
    assert [len(pack.sizes) for pack in copied.packs] == [1024, 76]
    assert len(os.listdir(copied.tree)) == 1100


@pytest.mark.parametrize("chunk_bytes", [1, 1000, PACKED_BYTES - 1, PACKED_BYTES + 1, 512 * KIB, 8 * MIB])
@pytest.mark.parametrize("settle", [False, True])
def test_bytes_in_a_pack(copy, root, chunk_bytes, settle):
    """Whatever size of chunks is set, no file is cut: one that does not fit in a pack comes in chunks."""
    draw = random.Random(1)
    most = 3000 if chunk_bytes == 1 else PACKED_BYTES + 1
    sizes = [0, 1, 999, 1000, 1001, 1002, most - 2, most - 1, most, *(draw.randrange(most) for _ in "x" * 12)]
    (root / "d").mkdir()
    for number, size in enumerate(sizes[: 9 if chunk_bytes == 1 else None]):
        (root / f"{'d/' * (number % 2)}{number}").write_bytes(draw.randbytes(size))
    copied = copy(packs=True, chunk_bytes=chunk_bytes, settle=settle)
    for path in (path for path in root.rglob("*") if path.is_file()):
        assert copied.read(path.relative_to(root)) == path.read_bytes()
    assert all(len(pack.data) <= chunk_bytes for pack in copied.packs)


@pytest.mark.parametrize("chunk_bytes", [512 * KIB, 8 * MIB])
def test_messages_stay_within_their_limit(tree_shares, root, chunk_bytes):
    """No message is larger than 1 MiB, also where the names of packed files are the longest."""
    for number in range(900):
        (root / f"{number:04}{'n' * 251}").write_bytes(bytes(1150))
    frames = TreeStream(tree_shares, "", TreeOptions(packs=True), chunk_bytes).frames()
    assert max(len(encode_frame(frame)) for frame in frames) <= MAX_FRAME_BYTES


@pytest.mark.root
def test_a_file_that_is_not_as_long_as_it_says(root):
    """A file whose size is not that of its bytes, as below /proc, is refused."""
    shares = Shares(str(root), name="train")
    shares.declare("/proc/sys/kernel/random")
    fd = os.open(root, os.O_RDONLY)
    try:
        for settle in (False, True):
            options = TreeOptions(packs=True, settle=settle)
            stream = TreeStream(shares, "/proc/sys/kernel/random", options, 512 * KIB)
            with pytest.raises(SourceChanged, match="/proc/sys/kernel/random/"):
                receive(stream.frames(), fd, f"tree-{settle}", label="/target")
    finally:
        os.close(fd)
        shares.close()


@pytest.fixture
def sparse(root):
    """Make a file of 8 MiB with data at the given offsets; return its content."""

    def make(*offsets, size=8 * MIB):
        with open(root / "sparse", "wb") as file:
            file.truncate(size)
            for offset in offsets:
                file.seek(offset)
                file.write(b"data")
        if (root / "sparse").stat().st_blocks * 512 >= size:
            pytest.skip("this file system keeps no holes")
        return (root / "sparse").read_bytes()

    return make


@pytest.mark.parametrize(
    "offsets", [(), (0,), (4 * MIB,), (8 * MIB - 4,), (0, 2 * MIB, 2 * MIB + 64 * KIB, 8 * MIB - 4)]
)
def test_holes(copy, sparse, offsets):
    """A hole travels as its length, wherever it is in the file, and is a hole again in the copy."""
    content = sparse(*offsets)
    copied = copy(holes=True)
    assert copied.read("sparse") == content
    assert (copied.tree / "sparse").stat().st_blocks * 512 < 2 * MIB
    assert sum(len(chunk.data) for frame in copied.frames for chunk in frame.chunks) < 2 * MIB
    assert copied.summary.bytes == 8 * MIB


def test_without_holes_zeros_are_sent(copy, sparse):
    """Who did not ask for holes gets bytes."""
    content = sparse(0)
    copied = copy()
    assert (copied.read("sparse"), any(c.hole for f in copied.frames for c in f.chunks)) == (content, False)


def test_an_empty_file_has_no_hole(copy, root):
    """A file without bytes has no chunk of any kind."""
    (root / "f").touch()
    assert copy(holes=True).chunks == []


SIZE = 1 * MIB
CHUNK = 64 * KIB


@pytest.fixture
def large(root):
    (root / "f").write_bytes(os.urandom(SIZE))
    return root / "f"


def spans_sent(stream):
    """Return the spans of bytes that a stream sends, in order, where those that touch are one."""
    spans = []
    for frame in stream.frames():
        for chunk in frame.chunks:
            if spans and spans[-1][1] == chunk.offset:
                spans[-1][1] += chunk.size
            else:
                spans.append([chunk.offset, chunk.offset + chunk.size])
    return [tuple(span) for span in spans]


def with_held(shares, held_version, *spans, path="", name="f", **options):
    options = TreeOptions(held={name: (held_version, spans)}, **options)
    return spans_sent(TreeStream(shares, path, options, CHUNK))


@pytest.mark.parametrize(
    ("held", "sent"),
    [
        ([], [(0, SIZE)]),
        ([(0, SIZE)], []),
        ([(0, 1)], [(1, SIZE)]),
        ([(5, SIZE)], [(0, 5)]),
        ([(10, 20), (20, 30), (1000, 2000)], [(0, 10), (30, 1000), (2000, SIZE)]),
        ([(CHUNK - 1, CHUNK + 1)], [(0, CHUNK - 1), (CHUNK + 1, SIZE)]),
        ([(0, SIZE + 1)], []),
        ([(10, 2 * SIZE)], [(0, 10)]),
        ([(SIZE, SIZE + 9)], [(0, SIZE)]),
        ([(2 * SIZE, 3 * SIZE)], [(0, SIZE)]),
        ([(10, SIZE), (SIZE + 5, SIZE + 6), (3 * SIZE, 4 * SIZE)], [(0, 10)]),
    ],
)
@pytest.mark.parametrize("options", [{}, {"settle": True}, {"packs": True, "holes": True}])
def test_only_what_is_not_held_is_sent(tree_shares, large, held, sent, options):
    """Of a file that has the version named only the other bytes come; what lies beyond its end is nothing."""
    assert with_held(tree_shares, version(large), *held, **options) == sent


def test_held_of_the_path_itself(tree_shares, large):
    """The file that is the path is named by an empty path."""
    assert with_held(tree_shares, version(large), (0, 10), path="f", name="") == [(10, SIZE)]


@pytest.mark.parametrize("held_version", [b"", b"other"])
def test_another_version_is_sent_whole(tree_shares, large, held_version):
    """Of a file that has another version all bytes come."""
    assert with_held(tree_shares, held_version, (0, 10)) == [(0, SIZE)]


def test_held_of_what_is_not_there(tree_shares, large):
    """What is held of a file that does not exist any more changes nothing."""
    assert with_held(tree_shares, version(large), (0, 10), name="other") == [(0, SIZE)]


def test_held_in_a_round(tree_shares, large):
    """In a round a file comes as a whole, even if it has the version whose bytes were held."""
    stream = TreeStream(
        tree_shares, "", TreeOptions(settle=True, held={"f": (version(large), [(0, SIZE - 5)])}), CHUNK
    )
    sent = {}
    for frame in stream.frames():
        for chunk in frame.chunks:
            sent[frame.round] = sent.get(frame.round, 0) + chunk.size
        before = large.stat().st_ctime_ns
        while frame.round == 0 and large.stat().st_ctime_ns == before:  # on a coarse clock it takes a while
            large.chmod(0o600)  # another mode, and the same version
    assert sent == {0: 5, 1: SIZE}


@pytest.mark.parametrize(
    "held",
    [
        pb.Held(path="f", starts=[0], ends=[]),
        pb.Held(path="f", starts=[5], ends=[5]),
        pb.Held(path="f", starts=[6], ends=[5]),
        pb.Held(path="f", starts=[10, 0], ends=[20, 5]),
        pb.Held(path="f", starts=[0, 5], ends=[6, 9]),
        pb.Held(path="f", path_bytes=b"f", starts=[0], ends=[1]),
    ],
    ids=["no end", "empty", "backwards", "descending", "overlapping", "two spellings"],
)
def test_held_that_cannot_be(peer, large, held):
    """Spans that do not ascend, or overlap, are INVALID_ARGUMENT, whatever version is named."""
    for held_version in (b"", version(large)):
        held.version = held_version
        assert refusal(peer, held=[held])[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "request_",
    [
        {"held": [pb.Held(path=str(number)) for number in range(10_001)]},
        {"accept_changes": True},
        *({field: True, "ranges": [pb.Range(path="f")]} for field in ("packs", "holes", "follow_links")),
        {"settle": True, "ranges": [pb.Range(path="f")]},
        {"held": [pb.Held(path="f")], "ranges": [pb.Range(path="f")]},
    ],
)
def test_requests_that_cannot_be(peer, large, request_):
    """Too many held files, accept_changes alone, and what does not go with ranges, are refused."""
    assert refusal(peer, **request_)[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("options", [{}, {"packs": True}, {"settle": True}, {"follow_links": True}])
def test_special_files_are_skipped(copy, root, options):
    """FIFOs and sockets are named, counted, and not made; nothing waits for a writer."""
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        copied = copy(**options)
    assert (os.listdir(copied.tree), copied.summary.skipped) == ([], 2)
    kinds = {entry.path: entry.kind for entry in copied.entries if entry.path}
    assert kinds == {"fifo": Kind.SKIPPED, "socket": Kind.SKIPPED}


@pytest.mark.root
def test_a_device_is_skipped(copy, root):
    """A device is named and never opened."""
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    copied = copy(packs=True, settle=True)
    assert [(e.path, e.kind) for e in copied.entries] == [("", Kind.DIRECTORY), ("null", Kind.SKIPPED)]


def test_a_special_file_as_the_path(tree_shares, root):
    """A FIFO that is the path is one skipped entry, also where the call settles."""
    os.mkfifo(root / "fifo")
    for settle in (False, True):
        stream = TreeStream(tree_shares, "fifo", TreeOptions(settle=settle), CHUNK)
        entries = [entry.kind for frame in stream.frames() for entry in frame.entries]
        assert entries == [Kind.SKIPPED]


@pytest.mark.root
@pytest.mark.parametrize("options", [{}, {"packs": True}, {"packs": True, "settle": True}])
@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_a_file_that_may_not_be_served(tree_shares, root, options, mode):
    """A file that cannot be read, or not be written by its server, is an error that names it."""
    (root / "d").mkdir()
    (root / "d/secret").write_text("x")
    (root / "d/secret").chmod(mode)
    os.seteuid(65534)
    try:
        with pytest.raises(AccessDenied, match="'d/secret'"):
            list(TreeStream(tree_shares, "d", TreeOptions(**options), CHUNK).frames())
    finally:
        os.seteuid(0)


def test_nothing_there(tree_shares):
    """A path that is not there is an error before the first frame."""
    with pytest.raises(PathNotFound):
        next(TreeStream(tree_shares, "missing", TreeOptions(), CHUNK).frames())


def test_bytes_stay_until_the_next_frame(tree_shares, root):
    """What a frame holds is as it was until the next one is asked for, in packs and in chunks alike."""
    draw = random.Random(2)
    for directory in ("a", "b", "c"):
        (root / directory).mkdir()
        for number in range(8):
            size = draw.choice([10, 30 * KIB, 90 * KIB])
            (root / directory / str(number)).write_bytes(draw.randbytes(size))
    for frame in TreeStream(tree_shares, "", TreeOptions(packs=True), 64 * KIB).frames():
        assert isinstance(frame, Frame)
        for part in (*frame.chunks, *frame.packs):
            assert chunk_digest(part.data) == part.digest
