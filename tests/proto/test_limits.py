"""Every limit is a positive number that can be set."""

import dataclasses

import pytest

from lit_storage_proto.limits import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_PATH_BYTES, Limits


def test_defaults():
    """Each default is finite, above zero, and of its declared type."""
    for field in dataclasses.fields(Limits):
        value = getattr(Limits(), field.name)
        assert (type(value).__name__, 0 < value < 10**9) == (field.type, True), field.name


def test_frozen():
    """A limit is set by making another value."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().unary_seconds = 1
    assert dataclasses.replace(Limits(), unary_seconds=1.5).unary_seconds == 1.5


def test_sizes_fit_into_each_other():
    """A chunk and the longest path fit into a frame, and a frame into a message."""
    assert Limits().chunk_bytes + 1024 <= MAX_FRAME_BYTES < MAX_MESSAGE_BYTES
    assert 4 * MAX_PATH_BYTES + 1024 <= MAX_FRAME_BYTES
