"""However an app's code is started, the processes of its Works find their classes."""

import os
import subprocess
import sys
import textwrap

import pytest

WORKS = """
from lit_storage import Work
class Quiet(Work):
    def run(self):
        print("ran in", type(self).__module__)
"""
APP = """
from lit_storage import App, Flow
class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.quiet = Quiet()
    def run(self):
        self.quiet.run()
def main():
    App(Pipeline()).run()
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def run(root, tmp_path):
    """Run Python in a directory with a package; return exit code and output."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "works.py").write_text(WORKS)
    (package / "imported.py").write_text("from .works import Quiet\n" + APP)
    (package / "whole.py").write_text(WORKS + APP)

    def run(*arguments, text=None):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "LIT_STORAGE_ROOT": str(root)},
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_script(run):
    """The script is loaded by its path, without its main block."""
    assert run("package/whole.py") == (0, "ran in __mp_main__\n")


@pytest.mark.slow
def test_a_module_run_with_m(run):
    """A module of a package may import its neighbours relatively."""
    assert run("-m", "package.imported") == (0, "ran in package.works\n")


@pytest.mark.slow
def test_an_app_built_by_a_function_elsewhere(run):
    """The App need not be at the top level of the main file."""
    assert run("-c", "from package import whole; whole.main()") == (0, "ran in package.whole\n")


def test_an_interactive_session(run):
    """A class that stands in no file cannot be loaded elsewhere, and the sentence says what to do."""
    code, said = run("-", text=textwrap.dedent(WORKS + APP))
    assert code == 1
    assert "write it into a file and import it" in said
