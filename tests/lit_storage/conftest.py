"""Fixtures for tests that run Apps and Works: a root of their own, and no session left behind."""

import os
import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root that nothing else uses, which the environment names."""
    root = tmp_path / "root"
    monkeypatch.setenv("LIT_STORAGE_ROOT", str(root))
    monkeypatch.chdir(tmp_path)
    return root


@pytest.fixture
def script(root, tmp_path):
    """Write an app file and start it as a user does; returns the process."""
    started = []

    def start(source, *arguments):
        file = tmp_path / f"app{len(started)}.py"
        file.write_text(textwrap.dedent(source))
        process = subprocess.Popen(
            [sys.executable, str(file), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
