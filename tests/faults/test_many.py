"""A tree of a hundred thousand files is sent while it is walked, not after."""

import os

import pytest

DIRECTORIES, FILES = 100, 1000
CONTENT = b"x" * 400  # so that what can be on its way at once is a small part of all


@pytest.fixture
def root(in_memory):
    return f"{in_memory}/root"


@pytest.mark.slow
def test_the_first_frame_comes_before_the_end_of_the_walk(origin, fork, root):
    """What is made after the first frame has arrived, in most of the directories, comes in its turn."""
    for directory in range(DIRECTORIES):
        where = f"{origin.files}/many/{directory}"
        os.makedirs(where)
        for number in range(FILES):
            fd = os.open(f"{where}/{number}", os.O_WRONLY | os.O_CREAT)
            os.write(fd, CONTENT)
            os.close(fd)
    child = fork("stream", root=root, uri="lit://@origin/many")
    assert child.next() == {"ready": True}
    for directory in range(DIRECTORIES):
        with open(f"{origin.files}/many/{directory}/marker", "w"):
            pass
    child.tell()
    came = child.next()
    assert sum(came["files"]) - came["marked"] == DIRECTORIES * FILES
    assert came["files"][0] < DIRECTORIES * FILES / 50
    assert came["marked"] > DIRECTORIES / 2
