"""How long a checkpoint takes from the end of one Work's run to the start of the next one's.

Both Works run already. The time is from the last line of ``Train.run`` to the first line of
``Deploy.run``, so it holds everything in between: return, call, transfer, verification, swap. As every
automatic transfer, it is not flushed to disk. ``cp -a`` of the same tree, in turn with it and not
flushed either, shows what this machine's memory and file system allow.

    python benchmarks/handover.py [--rounds 7] [--files 20] [--megabytes 200] [--directory DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from typing import Any

from lit_storage import App, Flow, Path, Work

EXISTS_CALLS = 500


class Train(Work):
    def __init__(self) -> None:
        super().__init__()
        self.checkpoint = "lit://checkpoint"

    def run(self, files: int, file_bytes: int) -> float:
        """Write a checkpoint; return when that ended, in seconds of the machine's monotonic clock."""
        os.makedirs(self.checkpoint, exist_ok=True)
        for number in range(files):
            (self.checkpoint / f"shard-{number:03}").write_bytes(os.urandom(file_bytes))
        os.sync()  # what the writing left behind is not the hand-over's to pay
        return time.monotonic()


class Deploy(Work):
    def run(self, checkpoint: Path, whole_bytes: int) -> float:
        """Return when this began; the files must all be here."""
        began = time.monotonic()
        assert sum(file.stat().st_size for file in checkpoint.iterdir()) == whole_bytes
        return began


class Ask(Work):
    def run(self, uri: str) -> list[float]:
        """Return the seconds of each of many exists_remote() calls, after a first one."""
        path, seconds = Path(uri), []
        assert path.exists_remote()
        for _ in range(EXISTS_CALLS):
            began = time.perf_counter()
            path.exists_remote()
            seconds.append(time.perf_counter() - began)
        return seconds


class Pipeline(Flow):
    def __init__(self, rounds: int, files: int, file_bytes: int) -> None:
        super().__init__()
        self.train, self.deploy, self.ask = Train(), Deploy(), Ask()
        self.rounds, self.files, self.file_bytes = rounds, files, file_bytes
        self.handover_seconds: list[float] = []
        self.cp_seconds: list[float] = []
        self.exists_seconds: list[float] = []

    def run(self) -> None:
        copy = os.path.join(os.environ["LIT_STORAGE_ROOT"], "works/deploy/@train/checkpoint")
        for number in range(self.rounds + 1):
            ended = self.train.run(self.files, self.file_bytes)
            began = self.deploy.run(self.train.checkpoint, self.files * self.file_bytes)
            if number:  # the first round touches memory and code for the first time
                self.handover_seconds = [*self.handover_seconds, began - ended]
                self.cp_seconds = [*self.cp_seconds, cp_seconds(copy)]
        self.exists_seconds = self.ask.run("lit://@train/checkpoint/shard-000")


def cp_seconds(tree: str) -> float:
    """Return the seconds of a copy of `tree` beside it by cp."""
    copy = tree + ".cp"
    began = time.monotonic()
    subprocess.run(["cp", "-a", tree, copy], check=True)
    seconds = time.monotonic() - began
    shutil.rmtree(copy)
    return seconds


def figures(pipeline: Pipeline) -> dict[str, Any]:
    """Return what is reported: medians, in seconds and bytes, and all rounds."""
    whole_bytes = pipeline.files * pipeline.file_bytes
    handover = statistics.median(pipeline.handover_seconds)
    return {
        "files": pipeline.files,
        "bytes": whole_bytes,
        "handover_seconds": handover,
        "handover_bytes_per_second": whole_bytes / handover,
        "cp_seconds": statistics.median(pipeline.cp_seconds),
        "handover_over_cp": statistics.median(
            ours / theirs for ours, theirs in zip(pipeline.handover_seconds, pipeline.cp_seconds, strict=True)
        ),
        "exists_remote_seconds": statistics.median(pipeline.exists_seconds),
        "exists_remote_99th_seconds": statistics.quantiles(pipeline.exists_seconds, n=100)[98],
        "rounds": {"handover_seconds": pipeline.handover_seconds, "cp_seconds": pipeline.cp_seconds},
    }


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--files", type=int, default=20)
    options.add_argument("--megabytes", type=int, default=200, help="of the whole checkpoint")
    options.add_argument("--directory", help="where to work; a temporary one is made in it")
    options.add_argument("--json", action="store_true", help="print JSON")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as root:
        os.environ["LIT_STORAGE_ROOT"] = root
        pipeline = Pipeline(given.rounds, given.files, given.megabytes * 1_000_000 // given.files)
        App(pipeline).run()
    found = figures(pipeline)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    speed = found["handover_bytes_per_second"] / 1e9
    print(f"run() -> run(), {given.megabytes} MB in {given.files} files, median of {given.rounds} rounds:")
    print(f"  hand-over           {found['handover_seconds']:.3f} s  ({speed:.2f} GB/s)")
    print(f"  cp -a               {found['cp_seconds']:.3f} s")
    print(f"  round by round      {found['handover_over_cp']:.1f} times the time of cp")
    print(f"warm exists_remote(), median of {EXISTS_CALLS} calls:")
    print(f"  median              {found['exists_remote_seconds'] * 1e3:.2f} ms")
    print(f"  99th percentile     {found['exists_remote_99th_seconds'] * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
