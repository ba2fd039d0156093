"""A part of a file, copied from descriptor to descriptor: whole, short, with holes, across file systems."""

import os

import pytest

from lit_storage_core.system.copy_span import COPY, REFLINK, copy_span
from lit_storage_proto.limits import MIB

CONTENT = os.urandom(3 * MIB + 17)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def target(tmp_path):
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def content(fd):
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)


def ignore(position):
    """Take a tick and do nothing."""


def test_a_whole_file(source, target):
    """All bytes are there, in whichever way the file system allows."""
    copied = copy_span(source, target, (0, len(CONTENT)), size=len(CONTENT), tick=ignore)
    assert copied.end == len(CONTENT)
    assert copied.how in (REFLINK, COPY)
    assert content(target) == CONTENT


def test_the_end_of_a_file(source, target):
    """A part that begins where the bytes that are there end completes them."""
    os.pwrite(target, CONTENT[:100_000], 0)
    copied = copy_span(source, target, (100_000, len(CONTENT)), size=len(CONTENT), tick=ignore)
    assert copied.end == len(CONTENT)
    assert content(target) == CONTENT


def test_a_part_in_the_middle_is_no_more_than_that(source, target):
    """Nothing behind the part that is asked for is copied."""
    copied = copy_span(source, target, (10, 1000), size=len(CONTENT), tick=ignore)
    assert copied == (1000, COPY)
    assert content(target) == bytes(10) + CONTENT[10:1000]


@pytest.mark.parametrize("shared_memory", [False, True])
def test_a_source_that_is_shorter(tmp_path, source, target, shared_memory):
    """The copy says up to where the bytes are there."""
    if shared_memory:
        os.unlink(tmp_path / "target")
        target = os.memfd_create("target")
    copied = copy_span(source, target, (0, len(CONTENT) + 5000), size=len(CONTENT) + 5000, tick=ignore)
    assert copied.end == len(CONTENT)
    assert content(target) == CONTENT
    if shared_memory:
        os.close(target)


def test_another_file_system(source):
    """Where the kernel copies nothing between the two, the bytes go through this process."""
    target = os.memfd_create("target")
    try:
        copied = copy_span(source, target, (0, len(CONTENT)), size=len(CONTENT), tick=ignore)
        assert copied == (len(CONTENT), COPY)
        assert content(target) == CONTENT
    finally:
        os.close(target)


def test_holes_stay_holes(tmp_path, target):
    """A file of 1 GiB with two pages of data takes no more room when copied, and is as long."""
    size = 1 << 30
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"a" * 4096, 0)
        os.pwrite(file.fileno(), b"b" * 4096, size // 2)
    source = os.open(tmp_path / "sparse", os.O_RDONLY)
    copied = copy_span(source, target, (0, size), size=size, tick=ignore)
    os.close(source)
    os.ftruncate(target, size)
    assert copied.end == size
    assert os.fstat(target).st_blocks * 512 < 1 * MIB
    assert os.pread(target, 4096, 0) == b"a" * 4096
    assert os.pread(target, 4096, size // 2) == b"b" * 4096


def test_it_ticks(source):
    """A long copy tells how far it is, up to its end."""
    target, ticks = os.memfd_create("target"), []
    copy_span(source, target, (0, len(CONTENT)), size=len(CONTENT), tick=ticks.append)
    os.close(target)
    assert ticks == sorted(ticks)
    assert ticks[-1] == len(CONTENT)
