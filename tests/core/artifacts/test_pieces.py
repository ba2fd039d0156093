"""Pieces are exactly the bytes that are wanted, in order, each in its chunk or a hole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_storage_core.artifacts.pieces import pieces_of
from lit_storage_core.system.spans import clipped, without
from lit_storage_proto.artifact import Extent, StoredEntry
from lit_storage_proto.entry import Entry, Kind

CHUNK = 4


@st.composite
def spans(draw, size):
    """Ascending and disjoint runs within `size`."""
    points = sorted(draw(st.sets(st.integers(0, size), max_size=8)))
    return list(zip(points[::2], points[1::2], strict=False))


@st.composite
def files_and_wishes(draw):
    size = draw(st.integers(1, 40))
    data = draw(spans(size))
    count = sum(-(-(end - start) // CHUNK) for start, end in data)
    length = sum(end - start for start, end in data)
    stored = StoredEntry(
        Entry("f", Kind.FILE, size), tuple(data), (Extent(0, 7, length),) if length else (), b"d" * 16 * count
    )
    return stored, draw(spans(size))


@pytest.mark.slow
@given(files_and_wishes())
def test_they_are_what_is_wanted(case):
    """Joined, the pieces are the wanted runs; data come from chunks, all else is a hole."""
    stored, wanted = case
    data = {position for start, end in stored.data for position in range(start, end)}
    positions = []
    for piece in pieces_of(3, stored, wanted, CHUNK):
        run = range(piece.offset, piece.offset + piece.size)
        positions += run
        assert (piece.number, piece.size > 0) == (3, True)
        if piece.chunk is None:
            assert data.isdisjoint(run)
        else:
            assert data.issuperset(run)
            assert piece.chunk.offset <= run[0]
            assert run[-1] < piece.chunk.offset + piece.chunk.size
    assert positions == [position for start, end in wanted for position in range(start, end)]


@given(st.integers(0, 40).flatmap(lambda size: st.tuples(st.just(size), spans(size + 5))))
def test_what_is_not_held(case):
    """without returns the rest of a file, also where what is held goes beyond its end."""
    size, held = case
    there = {position for start, end in held for position in range(start, end)}
    rest = [position for start, end in without(held, size) for position in range(start, end)]
    assert rest == [position for position in range(size) if position not in there]


@given(st.integers(0, 40), st.integers(0, 50), st.one_of(st.none(), st.integers(0, 50)))
def test_a_part_is_a_slice(size, offset, length):
    """clipped means what slicing means."""
    begin, end = clipped(size, offset, length)
    assert (
        bytes(range(size))[begin:end]
        == bytes(range(size))[offset : None if length is None else offset + length]
    )
