"""The benchmarks run, and write what the documentation shows."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)  # twenty seconds on two cores that do nothing else
def test_all_rows_are_measured_and_saved(tmp_path: Path) -> None:
    """Each row runs on tiny files; a table, a picture and every round are written."""
    page = (REPOSITORY / "docs" / "benchmarks.md").read_text()
    (tmp_path / "benchmarks.md").write_text(page)
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1", "--save", str(tmp_path)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=580)
    assert ran.returncode == 0, ran.stderr
    saved = json.loads((tmp_path / "benchmarks.json").read_text())
    rows = {result["what"].removesuffix(" (tiny)") for result in saved["results"]}
    assert {
        "same machine, one file of 2 GiB",
        "warm exists_remote()",
        "origin busy in a Python loop",
        "memory for 8 consumers, one slow",
        "one file of 512 MiB, real disk, durable",
    } <= rows
    assert all(value > 0 for result in saved["results"] for value in result["ours"] if result["unit"] == "s")
    ElementTree.parse(tmp_path / "benchmarks.svg")
    written = (tmp_path / "benchmarks.md").read_text()
    assert written.startswith(page.partition("<!-- results: begin -->")[0])
    assert "| same machine, one file of 2 GiB (tiny) |" in written
