"""README stays short, its example is right, and no link between pages leads nowhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
PAGES = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("deploy/*.md")]


@pytest.fixture
def example(tmp_path):
    """The app of README, in a file."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "app.py"
    path.write_text(code)
    return path


def test_readme_is_short():
    """It is read in a few minutes; what is longer has a page in docs."""
    assert README.count("\n") <= 140


def test_links():
    """A link to a file of the repository leads to one."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
def test_example_runs(example):
    """It prints what Train wrote and Deploy got."""
    environment = {**os.environ, "LIT_STORAGE_ROOT": str(example.parent / "root")}
    ran = subprocess.run(
        [sys.executable, example], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("['model.txt']\n", "")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None, reason="only the environment of `make setup` has mypy"
)
def test_example_type_checks(example):
    """mypy finds nothing in it, as strictly as it can."""
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", example.parent, example],
        cwd=example.parent,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert checked.stdout.startswith("Success"), checked.stdout
