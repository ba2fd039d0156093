"""The examples that are not tried elsewhere run as their first lines say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("store", ["in place", "s3"])
def test_keep_checkpoints(store, s3, tmp_path, monkeypatch):
    """Checkpoints are read when the app is over; in S3 there is a version for each run."""
    environment = {"LIT_STORAGE_ROOT": str(tmp_path / "root")}
    if store == "s3":
        environment["LIT_STORAGE_ARTIFACTS"] = s3("rclone")[1]
    environment = {**os.environ, **environment}
    ran = subprocess.run(
        [sys.executable, EXAMPLES / "keep_checkpoints.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.stderr == ""
    assert ran.stdout == "epoch-1.json: loss 1.00\nepoch-2.json: loss 0.50\nepoch-3.json: loss 0.33\n"
    command = [
        sys.executable,
        "-c",
        "from lit_storage.cli.main import main; main()",
        "artifacts",
        "ls",
        "--json",
    ]
    listed = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert [version["files"] for version in listed] == ([3] if store == "in place" else [3, 3, 2, 1])
