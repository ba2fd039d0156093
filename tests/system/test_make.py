"""The Makefile tells a newcomer what it can do."""

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [
        "setup",
        "demo",
        "test",
        "test-all",
        "coverage",
        "soak",
        "test-cluster",
        "test-pythons",
        "test-newer-pythons",
        "check",
        "bench",
        "bench-handover",
        "proto",
        "proto-check",
        "lock",
        "audit",
    ],
)
def test_help(command: str) -> None:
    """`make` alone lists each command with what it does, and does nothing else."""
    listed = subprocess.run(
        ["make", "-C", REPOSITORY], check=True, capture_output=True, text=True, timeout=30
    )
    (line,) = [line for line in listed.stdout.splitlines() if line.split()[:2] == ["make", command]]
    assert len(line.split()) > 4
