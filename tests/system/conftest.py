"""Fixtures for tests that start apps and Works as a user does: as programs."""

import os
import subprocess
import sys
import textwrap
import time

import pytest


class Program:
    """A Python file that runs; what it prints is read line by line."""

    def __init__(self, file, environment):
        self.process = subprocess.Popen(
            [sys.executable, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        )

    def read_until(self, start):
        """Return the rest of the next line that starts with `start`."""
        for line in self.process.stdout:
            if line.startswith(start):
                return line[len(start) :].strip()
        raise AssertionError(f"ended without a line {start!r}: {self.process.communicate()[1]}")

    def end(self, timeout=40):
        """Wait for the end; return exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def program(root, tmp_path):
    """Start a Python file with this text, in a root of its own."""
    started = []

    def start(source):
        file = tmp_path / f"program{len(started)}.py"
        file.write_text(textwrap.dedent(source))
        started.append(Program(file, {"LIT_STORAGE_ROOT": str(root)}))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@pytest.fixture
def processes_of(root):
    """Return the ids of all processes whose environment names this test's root."""

    def find():
        mark = f"LIT_STORAGE_ROOT={root}".encode()
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        found.append(int(pid))
            except OSError:
                continue
        return found

    return find


@pytest.fixture
def eventually():
    """Wait until a condition holds, for at most so many seconds."""

    def wait(condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.05)

    return wait
