"""Small messages that stand for much, and much that never ends: a consumer's memory stays bounded."""

import itertools
import time
import tracemalloc

import grpc
import pytest

from lit_storage_client.fetch.plan import Plan
from lit_storage_client.fetch.verify import Verifier
from lit_storage_client.peers import entries
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frame_codec import encode_frame
from lit_storage_proto.frames import Chunk, Frame, Summary
from lit_storage_proto.limits import MIB
from lit_storage_proto.v1 import path_storage_pb2 as pb
from tests.hostile.consumer.liar import ORIGIN, ROOT, Liar, a_chunk, a_directory, a_file, a_pack, told

MOST = 100 * MIB
WHO = pb.Origin(name=ORIGIN[0], instance_id=ORIGIN[1])
BEGIN = encode_frame(Frame(ORIGIN, [ROOT]))


def of(unit, size):
    """Return so many bytes of one field, again and again."""
    return unit * (size // len(unit))


def bulk(field, *parts):
    """Return a field of bytes."""
    body, head = b"".join(parts), bytes([field << 3 | 2])
    return head + varint(len(body)) + body


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


SMALL = {
    "unknown numbers": lambda size: of(b"\x78\x00", size),
    "unknown texts": lambda size: of(b"\x7a\x00", size),
    "numbers of eight bytes": lambda size: of(b"\x79" + bytes(8), size),
    "entries": lambda size: of(b"\x12\x02\x18\x04", size),
    "empty entries": lambda size: of(b"\x12\x00", size),
    "chunks": lambda size: of(b"\x1a\x00", size),
    "chunks with fields": lambda size: bulk(3, of(b"\x78\x00", size)),
    "packs": lambda size: of(b"\x2a\x00", size),
    "origins": lambda size: of(b"\x0a\x00", size),
    "offers": lambda size: of(b"\x32\x00", size),
    "summaries": lambda size: of(b"\x22\x00", size),
    "rounds": lambda size: of(b"\x40\x01", size),
    "names of a pack": lambda size: bulk(5, bulk(2, of(b"ab/", size))),
    "empty names of a pack": lambda size: bulk(5, bulk(2, of(b"/", size))),
    "sizes of a pack": lambda size: bulk(5, bulk(3, bytes(size))),
    "modes of a pack": lambda size: bulk(5, bulk(4, bytes(size))),
    "sizes of a pack one by one": lambda size: bulk(5, of(b"\x18\x00", size)),
    "unknown fields of a pack": lambda size: bulk(5, of(b"\x78\x00", size)),
    "what was unsettled": lambda size: bulk(4, bulk(7, of(b"a//", size)), b"\x40\x01"),
    "groups in an entry": lambda size: bulk(2, of(b"\x7b", size)),
}


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("size", [MIB - 64, 4 * MIB - 64], ids=["1 MiB", "4 MiB"])
def test_message_of_many_small_parts(liar, victim, make, size):
    """A message of a megabyte or four, all of parts of two or three bytes, takes no hundred megabytes."""
    liar.frames = [BEGIN, make(size)]
    error, took = victim()
    assert error in ("ProtocolViolation", "IntegrityError")
    assert took < MOST


PAGES = {
    "entries": lambda size: of(b"\x12\x02\x18\x04", size),
    "empty entries": lambda size: of(b"\x12\x00", size),
    "unknown numbers": lambda size: of(b"\x78\x00", size),
    "origins": lambda size: of(b"\x0a\x00", size),
}


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_page_of_many_small_parts(liar, victim, make):
    """So it is with a page of a list."""
    liar.pages = [pb.ListFilesResponse(origin=WHO, entries=[pb.Entry(kind=2)]), make(4 * MIB - 64)]
    error, took = victim("list")
    assert error == "ProtocolViolation"
    assert took < MOST


ANSWERS = {
    "a link of megabytes": pb.Entry(kind=3, link_target="x" * (3 * MIB)),
    "a name of megabytes": pb.Entry(kind=1, path="x" * (3 * MIB)),
    "a version of megabytes": pb.Entry(kind=1, version=bytes(3 * MIB)),
}


@pytest.mark.parametrize("entry", ANSWERS.values(), ids=ANSWERS)
def test_answer_of_megabytes(liar, victim, entry):
    """A description of megabytes is refused."""
    liar.stat = pb.StatResponse(origin=WHO, entry=entry)
    error, took = victim("stat")
    assert error == "ProtocolViolation"
    assert took < MOST


@pytest.mark.parametrize("what", ["get", "list"])
@pytest.mark.parametrize("megabytes", [5, 120])
def test_message_over_all_limits(liar, victim, what, megabytes):
    """A message beyond what gRPC takes ends the call, and is not held."""
    liar.frames = liar.pages = [bytes(megabytes * MIB)]
    error, took = victim(what)
    assert error == "ProtocolViolation"
    assert took < MOST


@pytest.mark.slow
def test_compressed_message_that_expands(victim):
    """Many megabytes of zeros, compressed to a few kilobytes, are not unpacked."""
    peer = Liar(compression=grpc.Compression.Gzip)
    peer.frames = [bytes(120 * MIB)]
    error, took = victim(port=peer.port)
    peer.close()
    assert error == "ProtocolViolation"
    assert took < MOST


def test_stream_of_messages(liar, victim):
    """What a file has goes through a few megabytes of memory, however much it is."""
    data, count, size = bytes(MIB // 2), 300, 10**12
    chunk = a_chunk(1, data)
    chunks = (Frame(chunks=[Chunk(1, n * len(data), chunk.digest, data)]) for n in range(count))
    hole = Frame(chunks=[Chunk(1, count * len(data), hole=size - count * len(data))])
    summary = Frame(summary=Summary(2, count + 1, size))
    liar.frames = lambda context: itertools.chain(
        told(ROOT, a_file("f", size=size))[:-1], chunks, [hole, summary]
    )
    error, took = victim()
    assert error in ("", "OSError")  # where the file system has no files of a terabyte
    assert took < MOST


@pytest.mark.slow
def test_many_empty_files_in_one_message(liar, victim):
    """Packs of tens of thousands of empty files are not remembered, file by file."""
    names = [f"{number:x}" for number in range(30_000)]
    liar.frames = told(ROOT, a_pack(names, [b""] * len(names)))
    error, took = victim()
    assert error == ""
    assert took < MOST


MANY = {
    "skipped": lambda n: Entry(f"{n:x}", Kind.SKIPPED),
    "links": lambda n: Entry(f"{n:x}", Kind.SYMLINK, link_target="x"),
}
COUNT, BYTES_EACH = 50_000, 700


@pytest.mark.slow
@pytest.mark.parametrize("make", MANY.values(), ids=MANY)
def test_memory_of_one_entry(liar, victim, make):
    """What is remembered of an entry is a few hundred bytes, so that millions fit."""
    liar.frames = lambda context: (
        Frame(ORIGIN, [ROOT] if not n else [make(i) for i in range(n - 5000, n)])
        for n in range(0, COUNT, 5000)
    )
    _, took = victim()
    assert took < 10 * MIB + COUNT * BYTES_EACH


def test_entries_without_end(liar, consumer, monkeypatch):
    """A tree whose names would fill the memory is refused; here with a thousandth of the room for it."""
    monkeypatch.setattr(entries, "MAX_TREE_BYTES", entries.MAX_TREE_BYTES // 1000)
    numbers = itertools.count()
    liar.frames = lambda context: (
        Frame(ORIGIN, [ROOT] if not n else [Entry(f"{n}-{i}" + "x" * 200, Kind.SKIPPED) for i in range(1000)])
        for n in numbers
    )
    assert "than one transfer takes" in consumer.refuse(ProtocolViolation)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda n: Entry(f"{n:x}", Kind.FILE, size=1),
        lambda n: Entry(f"{n:x}", Kind.FILE, size=1, version=n.to_bytes(256, "big")),
        lambda n: Entry(f"{n:x}", Kind.DIRECTORY, version=n.to_bytes(40, "big")),
        lambda n: Entry(f"{n:x}", Kind.SYMLINK, link_target=f"to/{n}"),
        lambda n: Entry(f"{n:x}", Kind.SKIPPED),
        lambda n: Entry("\U0001f4be" + "x" * 200 + f"{n:x}", Kind.FILE, size=1),
    ],
    ids=["files", "files of versions", "directories", "links", "skipped", "names of wide characters"],
)
def test_what_is_remembered_is_counted(make):
    """Entries of every kind, whose bytes never come, take no more memory than is counted for them."""
    tracemalloc.start()
    try:
        plan, verifier, kept = Plan(), Verifier(), []
        room = entries.MAX_TREE_BYTES
        for n in range(20_001):
            entry = make(n) if n else ROOT
            plan.add(entry)
            verifier.announce(entry)
            kept.append(entry if entry.kind is Kind.DIRECTORY else None)  # as TreeWriter keeps them
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.1 * (room - plan._room._left)


@pytest.mark.slow
def test_removals_without_end(liar, consumer, monkeypatch):
    """So is a round that removes one name after the other that nobody told."""
    monkeypatch.setattr(entries, "MAX_TREE_BYTES", entries.MAX_TREE_BYTES // 1000)
    numbers = itertools.count()
    liar.frames = lambda context: (
        Frame(
            ORIGIN, [ROOT] if not n else [Entry(f"{n}-{i}", Kind.REMOVED) for i in range(1000)], round=bool(n)
        )
        for n in numbers
    )
    assert "than one transfer takes" in consumer.refuse(ProtocolViolation)


def test_packs_of_a_round_without_end(liar, consumer, monkeypatch):
    """And a round of small files, whose names are remembered, as those of the first pass are not."""
    monkeypatch.setattr(entries, "MAX_TREE_BYTES", entries.MAX_TREE_BYTES // 10_000)
    numbers = itertools.count()
    liar.frames = lambda context: (
        Frame(ORIGIN, [ROOT]) if not n else Frame(packs=[a_pack([f"{n}-{i}" for i in range(50)])], round=1)
        for n in numbers
    )
    assert "than one transfer takes" in consumer.refuse(ProtocolViolation)


def test_list_without_end(liar, consumer, monkeypatch):
    """And a list."""
    from lit_storage_proto.uri import Location

    monkeypatch.setattr(entries, "MAX_TREE_BYTES", entries.MAX_TREE_BYTES // 1000)
    numbers = itertools.count()
    liar.pages = lambda context: (
        pb.ListFilesResponse(
            origin=WHO,
            entries=[pb.Entry(kind=2)] if not n else [pb.Entry(path=f"{n}-{i}", kind=1) for i in range(1000)],
        )
        for n in numbers
    )
    with pytest.raises(ProtocolViolation, match="than one transfer takes"):
        list(consumer.remote.list(Location("trainer", "out")))


@pytest.mark.soak
def test_ten_million_entries(liar, victim, soak_seconds, tally):
    """Ten million names take a few gigabytes at the most, and are taken or refused; none is passed over."""
    until, told_count = time.monotonic() + soak_seconds, [0]

    def frames(context):
        yield Frame(ORIGIN, [ROOT])
        for start in range(0, 10_000_000, 10_000):
            if time.monotonic() > until:
                break
            told_count[0] += 10_000
            yield Frame(entries=[Entry(f"{n:08x}", Kind.SKIPPED) for n in range(start, start + 10_000)])
        yield Frame(summary=Summary(told_count[0] + 1, 0, 0, told_count[0]))

    liar.frames = frames
    error, took = victim()
    tally["entries of one tree"] += told_count[0]
    assert error == ""
    assert took < MOST + told_count[0] * BYTES_EACH


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2000, 15_000])
def test_deep_tree(liar, victim, depth):
    """A tree as deep as paths can tell takes memory in proportion to what was sent."""
    paths = ("/".join(["d"] * n) for n in range(1, 2000))
    if depth > 2000:
        paths = ["/".join(["d"] * depth)]
    liar.frames = lambda context: itertools.chain(
        [Frame(ORIGIN, [ROOT])], (Frame(entries=[a_directory(path)]) for path in paths)
    )
    error, took = victim()
    assert error in ("ProtocolViolation", "IntegrityError")
    assert took < MOST
