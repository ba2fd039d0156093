"""Single requests and files that were made to cost much, or to break what answers."""

import os
import shutil
import tempfile
import time
from pathlib import Path

import grpc
import pytest

from lit_storage_proto.limits import MAX_HELD_FILES, MAX_RANGES, MIB
from lit_storage_proto.v1 import path_storage_pb2 as pb
from tests.hostile.server.attacked import AUTHORIZED, KINDS, Attacked
from tests.hostile.server.fuzzing import Code, assert_refused_well, delimited, varint

LARGEST = 2**64 - 1
STREAM = "/lit_storage.v1.PathStorage/StreamFiles"
MANY = 1_900_000  # as many empty messages as a message of 4 MiB can hold


def refusal(attacked, body):
    """Send an encoded StreamFilesRequest; return how it ended."""
    call = attacked._channel.unary_stream(STREAM)(body, timeout=60, metadata=AUTHORIZED)
    try:
        list(call)
    except grpc.RpcError:
        pass
    assert_refused_well(call.code(), call.details(), [str(attacked.data.parent)])
    return call.code()


def ranged(attacked, *ranges):
    """Ask for ranges of the file, each an offset and a length."""
    wanted = [pb.Range(offset=offset, length=length) for offset, length in ranges]
    request = pb.StreamFilesRequest(path=attacked.path("directory/file"), ranges=wanted)
    return refusal(attacked, request.SerializeToString())


def holding(attacked, *spans, version=b"x"):
    """Ask for the file, of which these spans are said to be held."""
    held = pb.Held(version=version, starts=[s for s, _ in spans], ends=[e for _, e in spans])
    request = pb.StreamFilesRequest(path=attacked.path("directory/file"), held=[held])
    return refusal(attacked, request.SerializeToString())


@pytest.mark.parametrize(
    "ranges",
    [
        [(8, 0)],
        [(LARGEST, 0)],
        [(0, LARGEST)],
        [(1, LARGEST)],
        [(LARGEST, LARGEST)],
        [(2**63 - 1, 1)],
        [(2**63, 2**63)],
        [(0, 2), (1, 2)],
        [(3, 1), (0, 1)],
        [(0, LARGEST), (1, 1)],
        [(0, None), (5, 1)],
    ],
    ids=str,
)
def test_ranges_outside_their_file(attacked, ranges):
    """Ranges that end beyond 2**64, lie outside their file, overlap or descend are INVALID_ARGUMENT."""
    assert ranged(attacked, *ranges) is Code.INVALID_ARGUMENT
    assert attacked.answers()


@pytest.mark.parametrize("ranges", [[(7, 0)], [(0, 0), (0, 0)], [(0, 7)], [(6, None)]], ids=str)
def test_ranges_at_the_edge(attacked, ranges):
    """Ranges that are empty or end where the file does are served."""
    assert ranged(attacked, *ranges) is Code.OK


@pytest.mark.parametrize("spans", [[(0, 0)], [(5, 1)], [(0, 3), (2, 4)], [(LARGEST, 0)]], ids=str)
def test_spans_that_do_not_ascend(attacked, spans):
    """Held spans that are empty, overlap or descend are INVALID_ARGUMENT."""
    assert holding(attacked, *spans) is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("spans", [[(0, LARGEST)], [(2**63, 2**64 - 1)], [(6, 8)], [(7, 9)]], ids=str)
def test_spans_beyond_the_file(attacked, spans):
    """Held spans of the file's very version that reach beyond its end are served as if cut there."""
    status = attacked.stub.Stat(pb.StatRequest(path=attacked.path("directory/file")), metadata=AUTHORIZED)
    assert holding(attacked, *spans, version=status.entry.version) is Code.OK


@pytest.mark.parametrize("number", [4, 10], ids=["ranges", "held"])
@pytest.mark.parametrize("count", [MAX_RANGES + 1, MANY])
def test_too_many_of_a_repeated_field(attacked, number, count):
    """More ranges or held files than may be named are refused before any is looked at, in a moment."""
    assert MAX_RANGES == MAX_HELD_FILES
    before = attacked.cpu_seconds()
    body = delimited(2, attacked.path("directory/file").encode()) + delimited(number, b"") * count
    assert refusal(attacked, body) is Code.INVALID_ARGUMENT
    assert attacked.cpu_seconds() - before < 1.5  # it took 6 s to look at each
    assert attacked.answers()


def test_millions_of_spans(attacked):
    """Four million numbers of held spans that are none cost the 8 bytes of each, and no object."""
    half = 2 * MIB - 100
    spans = delimited(4, b"\x01" * half) + delimited(5, b"\x01" * half)
    before = attacked.resident()
    body = delimited(2, attacked.path("directory/file").encode()) + delimited(10, spans)
    assert refusal(attacked, body) is Code.INVALID_ARGUMENT
    assert (
        attacked.resident() - before < 128 * MIB
    )  # an array is doubled as it grows; a list takes 32 bytes each


@pytest.mark.slow
def test_many_spans(attacked):
    """Half a million held spans that ascend are served, and leave nothing behind."""
    starts, ends = (b"".join(map(varint, range(first, 1_000_000, 2))) for first in (0, 1))
    body = delimited(2, attacked.path("directory/file").encode())
    assert refusal(attacked, body + delimited(10, delimited(4, starts) + delimited(5, ends))) is Code.OK
    assert attacked.answers()


@pytest.mark.parametrize("size", [4 * MIB - 200, 4 * MIB + 1, 64 * MIB])
def test_target_of_megabytes(attacked, size):
    """A name of megabytes that the request was meant for is refused with a short sentence."""
    assert refusal(attacked, delimited(1, delimited(1, b"n" * size))) in (
        Code.FAILED_PRECONDITION,
        Code.RESOURCE_EXHAUSTED,
    )
    assert attacked.answers()


@pytest.mark.parametrize(
    "path",
    ["b" * 256, "b/" * 20_000 + "b", "directory/file/x", "link/x", "directory\n", "x" * 65_000],
    ids=len,
)
def test_paths_that_cannot_be(attacked, path):
    """A path with names or depths that no file system has is not there, or refused; never an inner error."""
    request = pb.StreamFilesRequest(path=attacked.path(path)).SerializeToString()
    assert refusal(attacked, request) in (Code.NOT_FOUND, Code.INVALID_ARGUMENT)


@pytest.fixture(scope="module", params=KINDS)
def in_memory(request, tmp_path_factory):
    """A server of files on tmpfs, which keeps times of 64 bits of seconds."""
    files = Path(tempfile.mkdtemp(prefix="lit-storage-test-", dir="/dev/shm"))
    server = Attacked(request.param, tmp_path_factory.mktemp("in-memory"), data=files / "data")
    yield server
    server.stop()
    shutil.rmtree(files)


@pytest.mark.parametrize("seconds", [2**34, 2**40, 2**62, -(2**34), -(2**62)])
def test_times_that_no_wire_holds(in_memory, seconds):
    """A file's time thousands of years away, which anyone may set who can write it, hides no tree."""
    for name in ("small", "large"):
        (in_memory.data / name).write_bytes(bytes(7 if name == "small" else 70_000))
        os.utime(in_memory.data / name, (seconds, seconds))
    wanted = {"path": in_memory.path(""), "packs": True, "settle": True}
    ends = [*in_memory.stub.StreamFiles(pb.StreamFilesRequest(**wanted), metadata=AUTHORIZED)][-1]
    assert ends.summary.bytes == 70_007
    assert refusal(in_memory, pb.StreamFilesRequest(path=in_memory.path("")).SerializeToString()) is Code.OK
    listed = in_memory.stub.ListFiles(pb.ListFilesRequest(path=in_memory.path("")), metadata=AUTHORIZED)
    times = {entry.mtime_ns for page in listed for entry in page.entries if entry.path}
    assert times == {max(-(2**63), min(seconds * 10**9, 2**63 - 1))}


def test_sparse_file_of_exabytes(in_memory):
    """Ranges and holes of a file as long as files can be are served without reading what is not there."""
    (in_memory.data / "sparse").touch()
    os.truncate(in_memory.data / "sparse", 2**62)
    part = pb.Range(offset=2**62 - 10, length=10)
    request = pb.StreamFilesRequest(path=in_memory.path("sparse"), ranges=[part])
    assert [*in_memory.stub.StreamFiles(request, metadata=AUTHORIZED)][-1].summary.bytes == 10
    started = time.monotonic()
    [*in_memory.stream("sparse", holes=True, timeout=30)]
    assert time.monotonic() - started < 30
    (in_memory.data / "sparse").unlink()
