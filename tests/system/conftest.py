"""Fixtures for tests that start apps and Works as a user does: as programs."""

import contextlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.etcd_server import EtcdServers
from tests.processes import kill_all
from tests.ray_apps import apps
from tests.ray_cluster import HEAD
from tests.waiting import within


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

    def end(self, timeout=100):
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
    kill_all(started)


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
    return within(60, pause=0.05)


@pytest.fixture(scope="session")
def ray_etcd(ray_cluster, tmp_path_factory):
    """A registry that both nodes reach."""
    addresses, prefixes = [(f"{HEAD}:23790", f"{HEAD}:23800")], [ray_cluster.command]
    with EtcdServers(tmp_path_factory.mktemp("etcd"), addresses=addresses, prefixes=prefixes) as servers:
        yield servers


@pytest.fixture
def app(ray_cluster, ray_etcd, tmp_path):
    """Start an App's file beside a cluster of Ray."""
    with apps(ray_cluster, ray_etcd, tmp_path) as start:
        yield start


@pytest.fixture
def left(ray_cluster):
    """Return the command lines in the namespace that are there for a Work."""
    marks = (
        "lit-storage Work",
        "lit-storage host",
        "lit-storage server",
        "WorkActor",
        "guard.py",
        "sleep\0600",
    )

    def find():
        pids = subprocess.run(
            ["ip", "netns", "pids", ray_cluster.namespace], capture_output=True, text=True, check=True
        ).stdout.split()
        lines = {}
        for pid in pids:
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_text()
                if any(mark in line for mark in marks):
                    lines[int(pid)] = line
        return lines

    return find
