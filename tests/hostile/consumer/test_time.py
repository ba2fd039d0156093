"""Peers that keep a consumer waiting or busy: silence, drops, and work that grows with its square."""

import functools
import os
import threading
import time

import pytest

from lit_storage_proto.errors import StorageError, TransferTimeout
from lit_storage_proto.frames import Chunk, Frame
from lit_storage_proto.uri import Location
from lit_storage_proto.v1 import path_storage_pb2 as pb
from tests.hostile.consumer.liar import ORIGIN, ROOT, a_chunk, a_directory, a_file, a_pack, gone, told

WITHIN = 20
WHO = pb.Origin(name=ORIGIN[0], instance_id=ORIGIN[1])


def timed(consumer, kind, seconds=WITHIN, **options):
    """Get, which is to fail within so many seconds."""
    started = time.monotonic()
    consumer.refuse(kind, **options)
    assert time.monotonic() - started < seconds


SILENT = {
    "from the beginning": 0,
    "after who it is": 1,
    "after the root": 2,
    "in a file": 3,
    "before its summary": 4,
}


@pytest.mark.parametrize("count", SILENT.values(), ids=SILENT)
def test_silence(liar, consumer_of, count):
    """A peer that falls silent is given up, wherever it does."""
    consumer, over = consumer_of(liar.record, progress_seconds=0.5, unary_seconds=1.0), threading.Event()

    def frames(context):
        yield from told(ROOT, a_file("f", b"xy"), a_chunk(2, b"x"))[: count + 0]
        over.wait(WITHIN)

    liar.frames = frames
    timed(consumer, TransferTimeout if count < 4 else StorageError)
    over.set()


NOTHING = {
    "empty frames": Frame(),
    "who it is": Frame(ORIGIN),
    "rounds": Frame(round=1),
    "unknown fields": b"\x78\x01" * 100,
    "a field of bytes that is unknown": b"\x7a\x05hello",
    "nothing at all": b"",
}


@pytest.mark.parametrize("frame", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("pause", [0, 0.05], ids=["at once", "now and then"])
def test_nothing_for_ever(liar, consumer_of, frame, pause):
    """Messages that bring nothing new are no progress, fast or slow."""
    consumer, over = consumer_of(liar.record, progress_seconds=0.5), threading.Event()

    def frames(context):
        yield from told(ROOT)[:-1]
        while context.is_active() and not over.wait(pause):
            yield frame

    liar.frames = frames
    timed(consumer, TransferTimeout)
    over.set()


DROPS = {
    "bytes": lambda n: Frame(chunks=[a_chunk(1, b"x", n)]),
    "holes": lambda n: Frame(chunks=[Chunk(1, n << 40, hole=1 << 40)]),
    "entries": lambda n: Frame(entries=[a_directory(f"d{n}")]),
    "packs": lambda n: Frame(packs=[a_pack([f"p{n}"])]),
}
drops = pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)


@pytest.fixture
def dripping(liar):
    """Let a peer send a drop now and then, and never end."""
    over = threading.Event()

    def drip(drop):
        def frames(context):
            yield from told(ROOT, a_file("f", size=1 << 62))[:-1]
            number = 0
            while context.is_active() and not over.wait(0.02):
                yield drop(number)
                number += 1

        liar.frames = frames

    yield drip
    over.set()


@pytest.mark.slow
@drops
def test_drops(consumer, dripping, drop):
    """A byte, hole, name or small file now and then is progress; a timeout ends it, and leaves nothing."""
    dripping(drop)
    timed(consumer, TransferTimeout, timeout=1.0)


@drops
def test_drops_below_the_least_rate(liar, consumer_of, dripping, drop):
    """Too little of it is as silence, without any timeout, and it is said what to do about it."""
    dripping(drop)
    consumer = consumer_of(liar.record, progress_seconds=0.5, least_bytes_per_second=10_000)
    started = time.monotonic()
    assert "fewer than 10000 bytes a second" in consumer.refuse(TransferTimeout)
    assert time.monotonic() - started < WITHIN


def test_a_name_now_and_then_in_a_list(liar, consumer_of):
    """A list is held to the same rate."""
    over = threading.Event()

    def pages(context):
        yield pb.ListFilesResponse(origin=WHO, entries=[pb.Entry(kind=2)])
        number = 0
        while context.is_active() and not over.wait(0.02):
            yield pb.ListFilesResponse(entries=[pb.Entry(path=f"d{number}", kind=2)])
            number += 1

    liar.pages = pages
    consumer = consumer_of(liar.record, progress_seconds=0.5, least_bytes_per_second=10_000)
    started = time.monotonic()
    with pytest.raises(TransferTimeout, match="fewer than 10000 bytes a second"):
        list(consumer.remote.list(Location("trainer", "out")))
    over.set()
    assert time.monotonic() - started < WITHIN


@pytest.mark.slow
def test_contact_that_is_lost_again_and_again(liar, consumer_of):
    """A peer that ends each attempt without anything new is tried for the window to resume, and no longer."""
    import grpc

    consumer = consumer_of(liar.record, resume_seconds=1.0)

    def frames(context):
        yield from told(ROOT, a_file("f", b"xy"), a_chunk(1, b"x"))[:-1]
        context.abort(grpc.StatusCode.UNAVAILABLE, "again")

    liar.frames = frames
    timed(consumer, StorageError)
    assert liar.calls["frames"] >= 2


LITTLE = {
    "a byte more": lambda n: a_chunk(1, bytes(n)),
    "a hole that grows": lambda n: Chunk(1, 0, hole=n << 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0, 0.5], ids=["at once", "after a while"])
@pytest.mark.parametrize("chunk", LITTLE.values(), ids=LITTLE)
def test_contact_that_is_lost_after_a_little(liar, consumer_of, chunk, pause):
    """A peer that brings a little and ends the attempt, again and again, early or late, is given up too."""
    import grpc

    consumer = consumer_of(liar.record, resume_seconds=2.0, progress_seconds=2.0)

    def frames(context):
        yield from told(ROOT, a_file("f", size=1 << 60), chunk(liar.calls["frames"]))[:-1]
        time.sleep(pause)
        context.abort(grpc.StatusCode.UNAVAILABLE, "again")

    liar.frames = frames
    timed(consumer, StorageError)
    assert liar.calls["frames"] >= 2


MANY = 25_000
WIDE = [a_directory(f"d{number}") for number in range(MANY)]
DUE = [a_file(f"d{number}", b"x") for number in range(MANY)]


def batches(entries, number=0, most=5000):
    return [Frame(entries=entries[i : i + most], round=number) for i in range(0, len(entries), most)]


@pytest.mark.slow
@pytest.mark.parametrize("tree", [WIDE, DUE], ids=["directories", "files whose bytes are due"])
def test_many_removals(liar, consumer, tree, monkeypatch):
    """To remove each of many entries takes time in proportion, not to their square."""
    _without_a_disk(monkeypatch)
    liar.frames = told(
        ROOT, *batches(tree), *batches([gone(entry.path) for entry in tree], 1), Frame(round=2)
    )
    started = time.process_time()
    consumer.get()
    assert time.process_time() - started < WITHIN


@pytest.mark.slow
def test_many_that_come_anew(liar, consumer, monkeypatch):
    """So does sending each anew."""
    _without_a_disk(monkeypatch)
    anew = [a_file(entry.path) for entry in DUE]
    liar.frames = told(ROOT, *batches(DUE), *batches(anew, 1), *batches(anew, 2))
    started = time.process_time()
    consumer.get()
    assert time.process_time() - started < WITHIN


@pytest.mark.slow
def test_removals_of_trees_within_trees(liar, consumer, monkeypatch):
    """Nor does a chain of directories, each removed with all below it, from the deepest up."""
    _without_a_disk(monkeypatch)
    chain = ["/".join(["d"] * depth) for depth in range(1, 1500)]
    removals = [gone(path) for path in reversed(chain)]
    liar.frames = told(ROOT, *map(a_directory, chain), *batches(removals, 1, 100))
    started = time.process_time()
    consumer.get()
    assert time.process_time() - started < WITHIN


def _without_a_disk(monkeypatch):
    """Leave out the disk, whose time is its own: what is tried is how the time of this process grows.

    Which is measured on its processors, since on a busy machine it waits for them.
    """
    from lit_storage_client.fetch.tree import TreeWriter

    make = TreeWriter.make_directory

    def remember(self, entry):
        self._directories[entry.path] = entry
        if not entry.path:
            make(self, entry)

    monkeypatch.setattr(TreeWriter, "make_directory", remember)
    monkeypatch.setattr(TreeWriter, "write_whole", lambda self, entry, data: None)
    monkeypatch.setattr(TreeWriter, "finish_directories", lambda self: None)
    monkeypatch.setattr(os, "rename", functools.partial(_nothing_there, os.rename))


def _nothing_there(rename, old, new, **where):
    if new.startswith("removed-"):
        raise FileNotFoundError
    rename(old, new, **where)


def test_deadline_within_a_frame(liar, consumer, monkeypatch):
    """A frame that takes long to write does not outlast a timeout: it is looked at after each pack."""
    from lit_storage_client.fetch.tree import TreeWriter

    monkeypatch.setattr(TreeWriter, "write_pack", lambda *_: time.sleep(0.05))
    liar.frames = told(ROOT, [a_pack([f"f{number}"]) for number in range(1000)])
    timed(consumer, TransferTimeout, timeout=0.5)


PAGES = {
    "empty": lambda n: pb.ListFilesResponse(),
    "the same entry": lambda n: pb.ListFilesResponse(entries=[pb.Entry(path="x", kind=1)]),
    "who it is": lambda n: pb.ListFilesResponse(origin=WHO),
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("pause", [0, 0.02], ids=["at once", "now and then"])
def test_list_without_end(liar, consumer_of, page, pause):
    """Pages that bring nothing new end a list in time."""
    consumer, over = consumer_of(liar.record, progress_seconds=0.5), threading.Event()

    def pages(context):
        yield pb.ListFilesResponse(origin=WHO, entries=[pb.Entry(kind=2)])
        number = 0
        while context.is_active() and not over.wait(pause):
            yield page(number)
            number += 1

    liar.pages = pages
    started = time.monotonic()
    with pytest.raises(StorageError):
        list(consumer.remote.list(Location("trainer", "out")))
    over.set()
    assert time.monotonic() - started < WITHIN
