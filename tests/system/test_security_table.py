"""SECURITY.md counts the attacks and faults that are tried, and names tests that there are."""

import collections
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "SECURITY.md").read_text()
ROW = re.compile(r"^\| `(tests/(?:hostile|faults)/[\w/]+\.py)` \|.*\| (\d+) \|$", re.MULTILINE)
SUM = re.compile(r"^\| (attacks|faults) together \|.*\| (\d+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.fixture(scope="module")
def collected() -> collections.Counter[str]:
    """How many cases each file has, those of the soak among them."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "tests/hostile", "tests/faults"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout
    return collections.Counter(line.split("::")[0] for line in listed.splitlines() if "::" in line)


def test_every_file_is_counted(collected: collections.Counter[str]) -> None:
    """Each file of attacks or faults has a row with as many cases as there are."""
    assert {file: int(count) for file, count in ROW.findall(TEXT)} == dict(collected)


@pytest.mark.parametrize(("what", "folder"), [("attacks", "tests/hostile/"), ("faults", "tests/faults/")])
def test_sums(collected: collections.Counter[str], what: str, folder: str) -> None:
    """The rows add up to what is said to be there together."""
    assert int(dict(SUM.findall(TEXT))[what]) == sum(
        count for file, count in collected.items() if file.startswith(folder)
    )


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(TEXT))))
def test_what_is_named_is_there(file: str, name: str) -> None:
    """A promise names a test that is there."""
    assert f"def {name}(" in (REPOSITORY / file).read_text() if name else (REPOSITORY / file).is_file()
