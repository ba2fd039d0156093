"""The four calls over a real connection: what they answer, and with which status they refuse."""

import contextlib
import os

import grpc
import pytest

from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import get_path
from lit_storage_proto.frame_codec import decode_frame
from lit_storage_proto.frames import Summary
from lit_storage_proto.limits import MAX_FRAME_BYTES, MAX_RANGES, MIB, Limits
from lit_storage_proto.v1 import path_storage_pb2 as pb

Code = grpc.StatusCode


class Copy:
    """What one StreamFiles call brought, checked as a consumer would."""

    def __init__(self, peer, **request):
        call = peer.channel.unary_stream(
            "/lit_storage.v1.PathStorage/StreamFiles", pb.StreamFilesRequest.SerializeToString
        )
        self.sizes, self.frames, entries, self.data = [], [], [], {}
        for message in call(pb.StreamFilesRequest(**request), timeout=60):
            self.sizes.append(len(message))
            frame = decode_frame(message)
            self.frames.append(frame)
            entries += frame.entries
            for chunk in frame.chunks:
                assert chunk.digest == chunk_digest(chunk.data)
                at = self.data.setdefault(entries[chunk.entry].path, {})
                at[chunk.offset] = bytes(chunk.data)
        self.entries = {entry.path: entry for entry in entries}

    def content(self, path):
        """Join the chunks of a file, which must follow each other."""
        joined = b""
        for offset, data in self.data.get(path, {}).items():
            assert offset == len(joined)
            joined += data
        return joined


def code_of(call):
    """Return status and sentence of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(
    ("path", "there"),
    [("", True), ("a", True), ("missing", False), ("@other", False), ("/etc/passwd", False), ("out", False)],
)
def test_exists(peer, root, path, there):
    """What is there and shared exists; what is absent, reserved, undeclared or outside does not."""
    (root / "a").touch()
    (root / "@other").mkdir()
    (root / "out").symlink_to("/etc")
    answer = peer.stub.Exists(pb.ExistsRequest(path=path))
    assert (answer.exists, answer.origin.name, answer.origin.instance_id) == (there, "train", "i1")


def test_stat(peer, root):
    """Stat gives kind, size, mode and time of what a link means."""
    (root / "file").write_text("abc")
    (root / "file").chmod(0o640)
    (root / "link").symlink_to("file")
    entry = peer.stub.Stat(pb.StatRequest(path="link")).entry
    expected = (pb.ENTRY_KIND_FILE, 3, 0o640, (root / "file").stat().st_mtime_ns, "")
    assert (entry.kind, entry.size, entry.mode, entry.mtime_ns, entry.path) == expected


def test_path_that_is_not_utf8(peer, root):
    """A name that is not UTF-8 travels as bytes, there and back."""
    (root / os.fsdecode(b"\xff")).write_text("x")
    assert peer.stub.Stat(pb.StatRequest(path_bytes=b"\xff")).entry.size == 1
    assert Copy(peer).content(os.fsdecode(b"\xff")) == b"x"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("missing", Code.NOT_FOUND),
        ("a/x", Code.NOT_FOUND),
        ("@other", Code.PERMISSION_DENIED),
        ("/etc/passwd", Code.PERMISSION_DENIED),
        ("out/passwd", Code.PERMISSION_DENIED),
        ("../x", Code.INVALID_ARGUMENT),
        ("a//b", Code.INVALID_ARGUMENT),
        ("a\0b", Code.INVALID_ARGUMENT),
    ],
)
def test_refusals(peer, root, path, code):
    """Each kind of refusal has its status, the same for Stat, ListFiles and StreamFiles."""
    (root / "a").touch()
    (root / "out").symlink_to("/etc")
    calls = [
        lambda: peer.stub.Stat(pb.StatRequest(path=path)),
        lambda: list(peer.stub.ListFiles(pb.ListFilesRequest(path=path))),
        lambda: list(peer.stub.StreamFiles(pb.StreamFilesRequest(path=path))),
    ]
    assert {code_of(call)[0] for call in calls} == {code}


def test_two_spellings_of_a_path(peer):
    """A request that sets both spellings of a path is refused."""
    request = pb.StatRequest(path="a", path_bytes=b"b")
    assert code_of(lambda: peer.stub.Stat(request))[0] is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("target", [("other", "i1"), ("train", "i2"), ("", "i2")])
def test_meant_for_another(peer, root, target):
    """Every call refuses a request that was meant for another name or instance."""
    to = pb.Origin(name=target[0], instance_id=target[1])
    calls = [
        lambda: peer.stub.Exists(pb.ExistsRequest(target=to)),
        lambda: peer.stub.Stat(pb.StatRequest(target=to)),
        lambda: list(peer.stub.ListFiles(pb.ListFilesRequest(target=to))),
        lambda: list(peer.stub.StreamFiles(pb.StreamFilesRequest(target=to))),
    ]
    assert {code_of(call)[0] for call in calls} == {Code.FAILED_PRECONDITION}


@pytest.mark.parametrize("target", [("train", "i1"), ("train", ""), ("", "")])
def test_meant_for_this_one(peer, target):
    """A request that names this origin, or none, is answered."""
    to = pb.Origin(name=target[0], instance_id=target[1])
    assert peer.stub.Exists(pb.ExistsRequest(target=to)).exists


def test_list_is_paged_and_complete(peer, root):
    """A long list comes in pages; the first names the origin, the last alone is complete."""
    (root / "d").mkdir()
    for number in range(2500):
        (root / f"d/{number}").touch()
    pages = list(peer.stub.ListFiles(pb.ListFilesRequest(recursive=True)))
    names = {get_path(entry) for page in pages for entry in page.entries}
    assert names == {"", "d"} | {f"d/{number}" for number in range(2500)}
    assert [page.complete for page in pages] == [False] * (len(pages) - 1) + [True]
    assert (pages[0].origin.name, len(pages) > 2) == ("train", True)


def test_list_of_direct_children(peer, root):
    """Without `recursive` only direct children are listed."""
    (root / "a/b").mkdir(parents=True)
    pages = list(peer.stub.ListFiles(pb.ListFilesRequest()))
    assert {get_path(entry) for page in pages for entry in page.entries} == {"", "a"}


def test_tree(peer, root):
    """A tree arrives with all its bytes, empty files and directories too, and a true summary."""
    content = {"a": b"", "d/b": os.urandom(5000), "d/big": os.urandom(2 * MIB + 77)}
    (root / "d/empty").mkdir(parents=True)
    for name, data in content.items():
        (root / name).write_bytes(data)
    copy = Copy(peer)
    assert {name: copy.content(name) for name in content} == content
    assert set(copy.entries) == {"", "d", "d/empty", *content}
    summary = Summary(6, sum(map(len, copy.data.values())), 2 * MIB + 5077, 0)
    assert copy.frames[-1].summary == summary


def test_single_file(peer, root):
    """A path that is a file arrives as one entry with an empty path."""
    (root / "file").write_bytes(b"abc")
    copy = Copy(peer, path="file")
    assert (list(copy.entries), copy.content("")) == ([""], b"abc")


def test_first_frame_is_the_origin_alone(peer, root):
    """The first message says who sends, before the tree is looked at, and no other one does."""
    (root / "file").write_bytes(b"abc")
    first, *rest = Copy(peer).frames
    assert (first.origin, list(first.entries), list(first.chunks)) == (("train", "i1"), [], [])
    assert [frame.origin for frame in rest] == [None] * len(rest)


def test_summary_comes_last_and_once(peer, root):
    """Only the last message carries a summary."""
    (root / "big").write_bytes(bytes(3 * MIB))
    frames = Copy(peer).frames
    assert [frame.summary is not None for frame in frames] == [False] * (len(frames) - 1) + [True]


def test_small_files_are_packed(peer, root):
    """Hundreds of small files share a message."""
    for number in range(500):
        (root / str(number)).write_bytes(b"x" * 100)
    assert len(Copy(peer).frames) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("chunk_bytes", [1, 1000, 512 * 1024, 8 * MIB])
def test_messages_stay_within_their_limit(serve, root, chunk_bytes):
    """No message is larger than 1 MiB, whatever chunk size is set, and the bytes are the same."""
    data = os.urandom(3000 if chunk_bytes == 1 else 2 * MIB + 5)
    (root / "file").write_bytes(data)
    copy = Copy(serve(limits=Limits(chunk_bytes=chunk_bytes)), path="file")
    assert (copy.content("") == data, max(copy.sizes) <= MAX_FRAME_BYTES) == (True, True)


def test_special_files_are_counted(peer, root):
    """A FIFO is named, counted as skipped, and never waited for."""
    os.mkfifo(root / "fifo")
    copy = Copy(peer)
    assert (copy.entries["fifo"].kind.name, copy.frames[-1].summary.skipped) == ("SKIPPED", 1)


@pytest.mark.root
def test_unreadable_file_fails_the_copy_and_is_named(peer, root):
    """A regular file that may not be served ends the copy with a sentence that names it."""
    (root / "t").mkdir()
    (root / "t/secret").write_text("x")
    os.seteuid(65534)
    try:
        code, details = code_of(lambda: list(peer.stub.StreamFiles(pb.StreamFilesRequest(path="t"))))
    finally:
        os.seteuid(0)
    assert (code, "'t/secret'" in details) == (Code.PERMISSION_DENIED, True)


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_file_that_changes_while_it_is_read(peer, root, change):
    """A file that grows, shrinks or is rewritten while it is sent ends the copy as ABORTED, and is named."""
    size = 64 * MIB  # more than what lies in buffers on the way
    (root / "file").write_bytes(bytes(size))
    call = peer.stub.StreamFiles(pb.StreamFilesRequest(path="file"))
    next(call)
    next(call)
    with open(root / "file", "r+b") as file:
        if change == "shrink":
            file.truncate(size // 2)
        else:
            file.seek(0, os.SEEK_END if change == "grow" else os.SEEK_SET)
            file.write(b"new")
    code, details = code_of(lambda: list(call))
    assert (code, "'file' changed" in details) == (Code.ABORTED, True)


def versioned(peer, path, *spans):
    """Return ranges of a file with the version that it has now."""
    version = peer.stub.Stat(pb.StatRequest(path=path)).entry.version
    return [pb.Range(path=path, offset=offset, length=length, version=version) for offset, length in spans]


# A field of number 31, which no message has.
UNKNOWN = b"\xf8\x01\x01"


@pytest.mark.parametrize(
    ("method", "request_bytes", "where"),
    [
        ("Exists", UNKNOWN, "ExistsRequest holds field 31"),
        ("Exists", pb.ExistsRequest(target=pb.Origin.FromString(UNKNOWN)).SerializeToString(), "field 31"),
        ("Stat", pb.StatRequest(path="a").SerializeToString() + UNKNOWN, "StatRequest"),
        ("ListFiles", UNKNOWN, "ListFilesRequest"),
        ("StreamFiles", UNKNOWN, "StreamFilesRequest"),
        (
            "StreamFiles",
            pb.StreamFilesRequest(
                ranges=[pb.Range(path="a"), pb.Range.FromString(UNKNOWN)]
            ).SerializeToString(),
            "field 31",
        ),
    ],
)
def test_unknown_fields_are_refused(peer, root, method, request_bytes, where):
    """A field that this version does not know, however deep, is refused and never passed over."""
    (root / "a").touch()
    call = peer.channel.unary_stream(f"/lit_storage.v1.PathStorage/{method}")
    code, details = code_of(lambda: list(call(request_bytes)))
    assert (code, where in details, "upgrade" in details) == (Code.INVALID_ARGUMENT, True, True)


def test_unknown_field_of_a_request_for_another(peer):
    """Who was meant comes first: a newer request for another instance is told to resolve the name again."""
    request = pb.StatRequest(target=pb.Origin(name="other")).SerializeToString() + UNKNOWN
    call = peer.channel.unary_unary("/lit_storage.v1.PathStorage/Stat")
    assert code_of(lambda: call(request))[0] is Code.FAILED_PRECONDITION


def test_ranges(peer, root):
    """Ranges of several files arrive, with one entry a file; one without a length goes to the end."""
    (root / "a").write_bytes(b"0123456789")
    (root / "b").write_bytes(b"abcdef")
    wanted = versioned(peer, "a", (2, 3), (8, None)) + versioned(peer, "b", (0, 1))
    copy = Copy(peer, ranges=wanted)
    assert copy.data == {"a": {2: b"234", 8: b"89"}, "b": {0: b"a"}}
    assert copy.frames[-1].summary == Summary(2, 3, 6, 0)


def test_range_of_the_path_itself(peer, root):
    """A range with an empty path means the path of the request."""
    (root / "a").write_bytes(b"0123456789")
    assert Copy(peer, path="a", ranges=[pb.Range(offset=4, length=2)]).data == {"": {4: b"45"}}


def test_range_of_length_0(peer, root):
    """A range of length 0 brings the entry of its file and no bytes."""
    (root / "a").write_bytes(b"0123456789")
    copy = Copy(peer, ranges=[pb.Range(path="a", offset=4, length=0)])
    assert (list(copy.entries), copy.data, copy.frames[-1].summary) == (["a"], {}, Summary(1, 0, 0, 0))


def test_ranges_that_touch(peer, root):
    """Ranges may follow each other without a gap, and an empty one may stand where another begins."""
    (root / "a").write_bytes(b"0123456789")
    spans = [(0, 2), (2, 0), (2, 3), (5, None)]
    wanted = [pb.Range(path="a", offset=offset, length=length) for offset, length in spans]
    assert Copy(peer, ranges=wanted).data == {"a": {0: b"01", 2: b"234", 5: b"56789"}}


@pytest.mark.parametrize(
    "spans", [[(4, 2), (0, 2)], [(0, 3), (2, 3)], [(0, 2), (0, 2)], [(2, None), (4, 2)], [(2, None), (10, 0)]]
)
def test_ranges_of_a_file_ascend(peer, root, spans):
    """Ranges of one file that overlap, go back, or follow one without a length are refused."""
    (root / "a").write_bytes(b"0123456789")
    (root / "b").write_bytes(b"x")
    wanted = [pb.Range(path="a", offset=offset, length=length) for offset, length in spans]
    wanted.insert(1, pb.Range(path="b"))
    code, details = code_of(lambda: Copy(peer, ranges=wanted))
    assert (code, "'a' must ascend" in details) == (Code.INVALID_ARGUMENT, True)


@pytest.mark.slow
def test_number_of_ranges(peer, root):
    """As many ranges as a request may hold are served, and one more is refused before anything is sent."""
    (root / "a").write_bytes(bytes(MAX_RANGES))
    wanted = [pb.Range(path="a", offset=offset, length=1) for offset in range(MAX_RANGES)]
    assert Copy(peer, ranges=wanted).frames[-1].summary == Summary(1, MAX_RANGES, MAX_RANGES, 0)
    code, details = code_of(lambda: Copy(peer, ranges=[*wanted, pb.Range(path="b")]))
    assert (code, str(MAX_RANGES + 1) in details) == (Code.INVALID_ARGUMENT, True)


def test_range_of_another_version(peer, root):
    """A range planned for another version is ABORTED."""
    (root / "a").write_bytes(b"0123456789")
    wanted = versioned(peer, "a", (0, 5))
    (root / "a").write_bytes(b"9876543210!")
    assert code_of(lambda: Copy(peer, ranges=wanted))[0] is Code.ABORTED


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (pb.Range(path="a", offset=11), Code.INVALID_ARGUMENT),
        (pb.Range(path="a", offset=5, length=6), Code.INVALID_ARGUMENT),
        (pb.Range(path="a", offset=2**64 - 1, length=2**64 - 1), Code.INVALID_ARGUMENT),
        (pb.Range(path="d"), Code.INVALID_ARGUMENT),
        (pb.Range(path="../a"), Code.INVALID_ARGUMENT),
        (pb.Range(path="/a"), Code.INVALID_ARGUMENT),
        (pb.Range(path="@x/a"), Code.PERMISSION_DENIED),
        (pb.Range(path="missing"), Code.NOT_FOUND),
    ],
)
def test_ranges_that_are_refused(peer, root, wanted, code):
    """A range outside its file, of no file, or of what is not shared, is refused."""
    (root / "a").write_bytes(b"0123456789")
    (root / "d").mkdir()
    assert code_of(lambda: Copy(peer, ranges=[wanted]))[0] is code


def test_cancelled_copy_lets_go_of_the_file(peer, root, wait_until):
    """A consumer that goes away in the middle leaves no descriptor open at the origin."""
    (root / "file").write_bytes(bytes(64 * MIB))

    def holds():
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # others are closed meanwhile
                if os.readlink(f"/proc/self/fd/{fd}") == str(root / "file"):
                    return True
        return False

    call = peer.stub.StreamFiles(pb.StreamFilesRequest(path="file"))
    next(call)
    next(call)
    assert holds()
    call.cancel()
    wait_until(lambda: not holds())


def test_sentences_are_printable_and_short(peer):
    """A refusal names even a hostile path on one printable line of at most 1 KiB."""
    _, details = code_of(lambda: peer.stub.Stat(pb.StatRequest(path="\x1b[31m\n" + "ä" * 5000)))
    assert (details.isprintable(), len(details.encode()) <= 1024, "has no" in details) == (True, True, True)
