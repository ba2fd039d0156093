"""A program whose executable is no Python is never started a second time."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import os, sys
{mark}
sys.executable = os.path.abspath("program")
from lit_storage import App, Flow, Path, Work, join

class Quiet(Work):
    def run(self):
        return "ran"

class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.quiet = Quiet()
    def run(self):
        print(self.quiet.run())

def outputs(session):
    path = Path("lit://out")
    os.makedirs(path, exist_ok=True)
    session.declare(path)

if __name__ == "__main__":
    {what}
    print("done")
"""
LAUNCHER = """#!/bin/sh
echo "$@" >> starts
[ $(wc -l < starts) -gt 3 ] || exec {} program.py
"""
FROZEN = "sys.frozen = True"
EMBEDDED = ""
NAMED = "import multiprocessing; multiprocessing.set_executable({!r}); sys.frozen = True"


@pytest.fixture
def run(tmp_path):
    """Run a program as its own executable; return what it printed, once it was started once alone."""

    def run(what, mark, **variables):
        (tmp_path / "program.py").write_text(PROGRAM.format(what=what, mark=mark))
        launcher = tmp_path / "program"
        launcher.write_text(LAUNCHER.format(sys.executable))
        launcher.chmod(0o755)
        environment = {**os.environ, "LIT_STORAGE_ROOT": str(tmp_path / ".lit"), **variables}
        done = subprocess.run(
            ["./program"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert len((tmp_path / "starts").read_text().splitlines()) == 1
        return done.stdout + done.stderr

    return run


def test_an_app_in_a_frozen_program_is_refused(run):
    """The sentence names two ways out."""
    output = run("App(Pipeline()).run()", FROZEN)
    assert "is a frozen program and not Python alone; run the program with python, or name" in output


@pytest.mark.parametrize("mark", [EMBEDDED, NAMED.format(sys.executable)])
def test_an_app_runs_with_another_python(run, mark):
    """That of the installation in which Python is embedded, or the one that the program named."""
    output = run("App(Pipeline()).run()", mark)
    assert output == "ran\ndone\n"


def test_a_joined_process(run):
    """Threads of its own serve its files."""
    output = run("with join('p') as session: outputs(session)", FROZEN)
    assert "no other Python can be started" in output
    assert output.startswith("done\n") or output.endswith("done\n")


def test_a_publication_at_exit(run):
    """What only another process could publish by then is left out, and a warning says how to avoid that."""
    output = run("session = join('p'); outputs(session)", FROZEN, LIT_STORAGE_ARTIFACTS="memory://frozen")
    assert "done" in output
    assert "use join() as a context manager, or close()" in output
