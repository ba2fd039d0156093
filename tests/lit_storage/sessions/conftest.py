"""Fixtures for tests of roots that were moved or copied."""

import subprocess
import sys

import pytest

from tests.roots import LIVE, leave


@pytest.fixture
def old(tmp_path):
    """A root in which "train" left out, and its path."""
    leave(tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture
def moved(old, tmp_path):
    return old.rename(tmp_path / "new")


@pytest.fixture
def live():
    """Start a Work in a process of its own, which ends with its input."""
    started = []

    def start(root, name="train", text="live"):
        process = subprocess.Popen(
            [sys.executable, "-c", LIVE, str(root), name, text], stdin=-1, stdout=-1, text=True
        )
        started.append(process)
        assert process.stdout.readline().strip()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
