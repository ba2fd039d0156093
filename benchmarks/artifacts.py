"""Artifacts in S3 against bare s3fs: the same trees, to and from the same server, by one warm process.

rclone serves a directory in memory as S3. What is timed of ours is `Session.publish` of a path that was
never published, and `Path.get` of it when its Work does not run any more; of s3fs, ``put`` and ``get`` with
``recursive=True``. Each takes its turn within a round, and writes to a place that is empty.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator

from benchmarks.competitors import find, free_port, running
from benchmarks.figures import memory_results, reset_peak, status_mib
from benchmarks.processes import Process, remove
from benchmarks.rows import KIB, MIB, Bench, Result, make_file, make_small, unpack_wheel

_SECRET = "secret-of-a-benchmark"


def artifacts(bench: Bench) -> Iterator[Result]:
    """Publish and read artifacts in S3."""
    rclone = find("rclone")
    if rclone is None:
        bench.missing["rclone (s3)"] = None
        return
    with tempfile.TemporaryDirectory(prefix="bench-", dir=bench.memory) as directory:
        served, port = f"{directory}/served", free_port()
        os.makedirs(f"{served}/bucket")
        keys = ["--auth-key", f"key,{_SECRET}", "--config", "/dev/null"]
        command = [rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", *keys, served]
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with running(command, port), contextlib.ExitStack() as stack:

            def start() -> Process:
                process = Process("artifacts", f"{directory}/root", environment=environment)
                stack.callback(process.stop)
                return process

            worker = start()
            make_trees(bench, directory)
            name = unpack_wheel(f"{directory}/mixed", bench.quick)
            for what, tree, goal in (
                ("4 files of 128 MiB", "large", 0.9),
                ("5,000 files of 4 KiB", "small", 3.0),
                (f"a mixed tree ({name})", "mixed", 0.9),
            ):
                yield from compare(bench, worker, what, f"{directory}/{tree}", goal, directory)
                grown = memory(start, f"{directory}/{tree}", directory)
                yield from memory_results(f"memory for S3, {what}", grown)
            yield from again(bench, worker, f"{directory}/large")


def make_trees(bench: Bench, directory: str) -> None:
    os.makedirs(f"{directory}/large")
    for number in range(4):
        make_file(f"{directory}/large/{number}", bench.scaled(128 * MIB, 4 * MIB))
    make_small(f"{directory}/small", bench.scaled(5_000, 100), 4 * KIB)


def compare(
    bench: Bench, worker: Process, what: str, tree: str, goal: float, directory: str
) -> Iterator[Result]:
    seconds: dict[str, list[float]] = {turn: [] for turn in ("publish", "put", "get", "s3fs get")}
    target = f"{directory}/copy"
    turns = list(seconds)
    for number in range(bench.rounds + 1):
        name = f"work-{uuid.uuid4().hex[:8]}"
        writes = turns[:2] if number % 2 else turns[1::-1]
        reads = turns[2:] if number % 2 else turns[:1:-1]
        for turn in (*writes, *reads):
            remove(target)
            taken = worker.ask(do=turn, name=name, tree=tree, to=target)
            if number or bench.quick:
                seconds[turn].append(taken)
        worker.ask(do="forget", name=name, tree=tree, to=target)
    remove(target)
    yield Result(f"to S3: {what}", "s3fs.put(recursive=True)", "s", seconds["publish"], seconds["put"], goal)
    yield Result(
        f"from S3: {what}", "s3fs.get(recursive=True)", "s", seconds["get"], seconds["s3fs get"], goal
    )


def memory(start: Callable[[], Process], tree: str, directory: str) -> dict[str, float]:
    """Measure what publishing and getting take above rest, each in a process that did little before."""
    os.makedirs(f"{directory}/tiny", exist_ok=True)
    make_file(f"{directory}/tiny/file", 1 * MIB)
    name, grown = f"work-{uuid.uuid4().hex[:8]}", {}
    for side, turn in (("publisher", "publish"), ("consumer", "get")):
        process = start()
        for each, suffix in ((f"{directory}/tiny", "-tiny"), (tree, "")):
            if turn == "get":
                remove(f"{directory}/copy")
            before = reset_peak(process.pid)
            process.ask(do=turn, name=name + suffix, tree=each, to=f"{directory}/copy")
            grown[side] = status_mib(process.pid, "VmHWM") - before
        process.stop()
    remove(f"{directory}/copy")
    return grown


def again(bench: Bench, worker: Process, tree: str) -> Iterator[Result]:
    """Publish a tree of which one file is new."""
    first, second = [], []
    for _ in range(bench.rounds):
        name = f"work-{uuid.uuid4().hex[:8]}"
        first.append(worker.ask(do="publish", name=name, tree=tree, to=""))
        with open(f"{tree}/new", "wb") as file:
            file.write(os.urandom(KIB))
        second.append(worker.ask(do="publish", name=name, tree=tree, to=""))
        os.unlink(f"{tree}/new")
        worker.ask(do="forget", name=name, tree=tree, to="")
    yield Result("to S3 again, one small file is new", "the first time", "s", second, first)
