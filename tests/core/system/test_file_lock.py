"""Waiting for a lock on a directory."""

import errno
import os
import threading
import time

import pytest

from lit_storage_core.system import file_lock
from lit_storage_core.system.file_lock import lock, unlock, wait_for_lock


@pytest.fixture
def directory(tmp_path):
    """Opens the directory anew at each call, since a descriptor holds a lock."""
    fds = []

    def opened():
        fds.append(os.open(tmp_path, os.O_RDONLY))
        return fds[-1]

    yield opened
    for fd in fds:
        os.close(fd)


def test_a_lock_that_another_holds_is_waited_for(directory):
    """It is given up at the deadline, and taken when it is free."""
    held, other = directory(), directory()
    lock(held)
    assert not wait_for_lock(other, time.monotonic() + 0.05, pause_seconds=0.01)
    threading.Timer(0.05, unlock, (held,)).start()
    assert wait_for_lock(other, time.monotonic() + 10, pause_seconds=0.01)


def test_a_file_system_without_locks_lets_everybody_in(directory, monkeypatch):
    """There is nothing to wait for; another error is raised."""

    def refuse(fd, *, shared=False):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_lock, "lock", refuse)
    number = errno.ENOLCK
    assert wait_for_lock(directory(), time.monotonic(), pause_seconds=0.01)
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        wait_for_lock(directory(), time.monotonic(), pause_seconds=0.01)
