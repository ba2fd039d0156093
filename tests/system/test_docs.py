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


def blocks(page, language=""):
    """Return the blocks of a page of docs that are in a language."""
    text = (REPOSITORY / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


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


@pytest.mark.slow
def test_the_two_processes_run_twice(tmp_path):
    """The producer and the consumer of docs/works.md, as written, one after the other."""
    producer, consumer = blocks("works.md", "python")[:2]
    for _ in range(2):
        for code, output in ((producer, ""), (consumer, "weights\n")):
            ran = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
            )
            assert (ran.stdout, ran.stderr) == (output, "")


@pytest.mark.slow
def test_five_minutes_of_an_operator(tmp_path):
    """The commands of docs/daemon.md, as written, but for the installation."""
    first, second = blocks("daemon.md")[:2]
    (code,) = blocks("daemon.md", "python")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    program = tmp_path / "venv" / "bin" / "lit-storage"
    program.write_text(f"#!{sys.executable}\nfrom lit_storage.cli.main import main\nmain()\n")
    program.chmod(0o755)
    *prepare, serve = first.splitlines()[2:]
    shell = {"cwd": tmp_path, "text": True, "env": {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}}
    for command in prepare:
        subprocess.run(["sh", "-ec", command], check=True, timeout=60, **shell)
    daemon = subprocess.Popen(["sh", "-ec", f"exec {serve}"], stderr=subprocess.PIPE, **shell)
    try:
        assert "store-1" in daemon.stderr.readline()
        for command in second.splitlines():
            subprocess.run(["sh", "-ec", command], check=True, timeout=60, **shell)
        assert (tmp_path / "copy").read_text() == "hello\n"
        ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, **shell)
        assert ran.stdout == "hello\n\n"
    finally:
        daemon.terminate()
        daemon.communicate(timeout=60)
    assert daemon.returncode == 0
