"""SECURITY.md names tests that there are, and every file of attacks and faults."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "SECURITY.md").read_text()
ROW = re.compile(r"^\| `(tests/[\w/]+\.py)` \| .+ \|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_what_is_named_is_there() -> None:
    """A promise names a test that is there."""
    for file, name in sorted(set(NAMED.findall(TEXT))):
        path = REPOSITORY / file
        assert path.is_file(), file
        assert not name or f"def {name}(" in path.read_text(), f"{file}::{name}"


def test_every_file_is_named() -> None:
    """The table of what is tried has one row for each file of attacks and faults."""
    files = sorted(
        str(path.relative_to(REPOSITORY))
        for folder in ("hostile", "faults")
        for path in (REPOSITORY / "tests" / folder).rglob("test_*.py")
    )
    assert sorted(ROW.findall(TEXT)) == files
