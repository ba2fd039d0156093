import errno
import os
import resource
import stat

import pytest

from lit_storage_client.fetch.stream import receive
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError, ProtocolViolation
from lit_storage_proto.frames import Chunk, Frame


@pytest.fixture
def write(tmp_path):
    """Receive frames into tmp_path/tree."""

    def write(frames, **options):
        fd = os.open(tmp_path, os.O_RDONLY)
        try:
            return receive(frames, fd, "tree", label="/target", **options)
        finally:
            os.close(fd)

    return write


def test_tree(write, frames_of, file_entry, directory_entry, tmp_path):
    """Files and directories arrive with their bytes."""
    received = write(
        frames_of(
            (directory_entry(), b""),
            (directory_entry("d"), b""),
            (file_entry("d/small", b"content"), b"content"),
            (file_entry("large", b"x" * 200_000), b"x" * 200_000),
            (file_entry("empty"), b""),
        )
    )
    assert (tmp_path / "tree/d/small").read_bytes() == b"content"
    assert (tmp_path / "tree/large").read_bytes() == b"x" * 200_000
    assert (tmp_path / "tree/empty").read_bytes() == b""
    assert (received.files, received.bytes) == (3, 200_007)


def test_single_file(write, frames_of, file_entry, tmp_path):
    """A tree may be one file."""
    write(frames_of((file_entry("", b"content"), b"content")))
    assert (tmp_path / "tree").read_bytes() == b"content"


def test_metadata(write, frames_of, file_entry, directory_entry, tmp_path):
    """Modes and times are those of the origin, whatever the umask, also of directories."""
    write(
        frames_of(
            (directory_entry(mtime_ns=3), b""),
            (directory_entry("d", 0o2 | 0o700, 5_000_000_001), b""),
            (file_entry("d/f", b"content", 0o606, -1), b"content"),
            (file_entry("d/e", b"", 0o440, 7), b""),
        )
    )
    found = {name: os.stat(tmp_path / "tree" / name) for name in ("", "d", "d/f", "d/e")}
    assert [item.st_mtime_ns for item in found.values()] == [3, 5_000_000_001, -1, 7]
    assert [stat.S_IMODE(found[name].st_mode) for name in ("d", "d/f", "d/e")] == [0o702, 0o606, 0o440]


def test_links(write, frames_of, directory_entry, link_entry, tmp_path):
    """Links within the tree are links to the letter; those that leave it are reported."""
    received = write(
        frames_of((directory_entry(), b""), (link_entry("in", "./x"), b""), (link_entry("out", "/etc"), b""))
    )
    assert os.readlink(tmp_path / "tree/in") == "./x"
    assert received.skipped.names == ("out",)
    assert not os.path.lexists(tmp_path / "tree/out")


def test_skipped(write, frames_of, directory_entry, tmp_path):
    """What the origin skipped is reported and not made."""
    received = write(frames_of((directory_entry(), b""), (Entry("fifo", Kind.SKIPPED), b"")))
    assert received.skipped.names == ("fifo",)
    assert os.listdir(tmp_path / "tree") == []


def test_names(write, frames_of, directory_entry, file_entry, tmp_path):
    """Names of 255 bytes, with line feeds, and that are not UTF-8 are kept."""
    names = {"x" * 255, "line\nfeed", "\udcff\udcfe", "-rf", " "}
    write(frames_of((directory_entry(), b""), *((file_entry(name, b"1"), b"1") for name in names)))
    assert set(os.listdir(tmp_path / "tree")) == names


@pytest.mark.slow
def test_deep_tree(write, frames_of, directory_entry, file_entry):
    """A tree 500 deep is written with few descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 120, before[1]))
    paths = ["/".join(["d" * 20] * depth) for depth in range(501)]
    try:
        received = write(
            frames_of(
                *((directory_entry(path), b"") for path in paths),
                *((file_entry(f"{path}/f".lstrip("/"), b"1"), b"1") for path in paths),
            )
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert received.files == 501


def test_wide_and_interleaved(write, frames_of, directory_entry, file_entry, tmp_path):
    """Files whose chunks come in turn, more of them than may be open, are each whole."""
    content = {f"f{number}": bytes([number]) * 3000 for number in range(100)}
    frames = frames_of(
        (directory_entry(), b""), *((file_entry(n, c), c) for n, c in content.items()), chunk_bytes=1000
    )
    chunks = sorted((frame.chunks[0] for frame in frames[1:-1]), key=lambda chunk: chunk.offset)
    write([frames[0], Frame(chunks=chunks), frames[-1]])
    assert {n: (tmp_path / "tree" / n).read_bytes() for n in content} == content


def test_damaged_bytes_are_never_written(write, frames_of, file_entry, tmp_path):
    """A chunk that does not match its digest does not reach the disk."""
    head, body, tail = frames_of((file_entry("", b"content"), b"content"))
    with pytest.raises(IntegrityError):
        write([head, Frame(chunks=[Chunk(0, 0, body.chunks[0].digest, b"CONTENT")]), tail])
    assert not os.path.exists(tmp_path / "tree")


@pytest.mark.parametrize("cut", [1, 2])
def test_stream_that_ends_early(write, frames_of, file_entry, cut):
    """Frames that end before the summary are no tree."""
    with pytest.raises(IntegrityError):
        write(frames_of((file_entry("", b"content"), b"content"))[:cut])


def test_frames_after_the_summary(write, frames_of, file_entry):
    """Nothing comes after the summary."""
    frames = frames_of((file_entry("", b"content"), b"content"))
    with pytest.raises(ProtocolViolation, match="summary"):
        write([*frames, Frame()])


def test_name_that_leads_out(write, frames_of, directory_entry, file_entry, tmp_path):
    """A name that leads out of the tree makes nothing outside of it."""
    with pytest.raises(ProtocolViolation):
        write(frames_of((directory_entry(), b""), (file_entry("../out", b"1"), b"1")))
    assert not (tmp_path / "out").exists()


def test_file_through_a_link(write, frames_of, directory_entry, file_entry, link_entry, tmp_path):
    """A link of the peer's making is never written through."""
    (tmp_path / "outside").mkdir()
    link = link_entry("l", "../outside")
    with pytest.raises(ProtocolViolation):
        write(frames_of((directory_entry(), b""), (link, b""), (file_entry("l/f", b"1"), b"1")))
    assert os.listdir(tmp_path / "outside") == []


def test_full_disk_stays_an_oserror(write, frames_of, directory_entry, file_entry):
    """The system's own refusal is passed on, with the path that it concerns."""
    content = b"x" * 100_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write(frames_of((directory_entry(), b""), (file_entry("f", content), content)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == "/target/f"


def test_no_descriptor_stays_open(write, frames_of, directory_entry, file_entry):
    """A tree that fails half-way leaves nothing open."""
    before = len(os.listdir("/proc/self/fd"))
    content = b"x" * 200_000
    with pytest.raises(IntegrityError):
        write(frames_of((directory_entry(), b""), (file_entry("f", content), content))[:2])
    assert len(os.listdir("/proc/self/fd")) <= before  # others may close theirs meanwhile


def test_progress(write, frames_of, file_entry):
    """Progress tells the bytes done, up to all of them."""
    calls = []
    write(
        frames_of((file_entry("", b"x" * 200_000), b"x" * 200_000)),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[0] == (0, None)
    assert calls[-1] == (200_000, None)
    assert calls == sorted(calls, key=lambda call: call[0])


@pytest.mark.slow
@pytest.mark.root
def test_read_only_directories(as_nobody, public_directory):
    """Without the rights of root, directories that nobody may write are filled all the same."""
    said = as_nobody(
        """
        from lit_storage_client.fetch.stream import receive
        from lit_storage_proto.digest import chunk_digest
        from lit_storage_proto.entry import Entry, Kind
        from lit_storage_proto.frames import Chunk, Frame, Summary
        """,
        """
        entries = [Entry("", Kind.DIRECTORY, mode=0o755), Entry("d", Kind.DIRECTORY, mode=0),
                   Entry("d/e", Kind.DIRECTORY, mode=0o500), Entry("d/e/f", Kind.FILE, 1, 0o400)]
        frames = [Frame(entries=entries, chunks=[Chunk(3, 0, chunk_digest(b"1"), b"1")]),
                  Frame(summary=Summary(4, 1, 1, 0))]
        fd = os.open(sys.argv[1], os.O_RDONLY)
        print(receive(frames, fd, "tree", label="x").files, oct(os.stat("tree/d", dir_fd=fd).st_mode))
        """,
        public_directory,
    )
    assert said == "1 0o40000"
