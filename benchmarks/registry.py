"""The registry of many machines: 10,000 names in a real etcd, of which 200 change each second.

One etcd with its data in memory, one process that changes records through the public port, and one that
watches. How long a change takes to be seen is from before it is asked for in the one process to when the
other one's cache has it, on the clock of the machine that both share.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.competitors import find
from benchmarks.figures import status_mib
from benchmarks.processes import Process, serve
from benchmarks.rows import Bench, Result
from tests.etcd_server import EtcdServers

RECORDS, CHANGES, SECONDS, THREADS = 10_000, 200, 10.0, 4


def registry(bench: Bench) -> Iterator[Result]:
    """Resolve among many names while they change."""
    if find("etcd") is None:
        bench.missing["etcd (etcd-server)"] = None
        return
    records, seconds = bench.scaled(RECORDS, 300), 1.0 if bench.quick else SECONDS
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=bench.memory) as directory,
        EtcdServers(Path(directory) / "etcd") as servers,
        contextlib.ExitStack() as stack,
    ):
        url = servers.new_url()
        writer, watcher = (Process("registry", url) for _ in range(2))
        stack.callback(writer.stop)
        stack.callback(watcher.stop)
        writer.ask(do="fill", records=records)
        before = status_mib(watcher.pid, "VmRSS")
        loaded = watcher.ask(do="watch", name="w00000")
        grown = status_mib(watcher.pid, "VmRSS") - before

        answered = servers.members[0].started_calls("KV")
        quiet = [watcher.ask(do="resolve", calls=20_000, records=records) for _ in range(bench.rounds)]
        asked = servers.members[0].started_calls("KV") - answered
        fresh = [watcher.ask(do="fresh", calls=300, records=records) for _ in range(bench.rounds)]
        if asked:
            raise RuntimeError(f"etcd was asked {asked} times for what the watch had told")
        yield Result(
            f"resolve() among {records:,} names",
            "asking etcd each time",
            "us",
            medians(quiet),
            medians(fresh),
        )

        before_cpu = processor_seconds(watcher.pid)
        idle = change(writer, records, seconds)
        spent = (processor_seconds(watcher.pid) - before_cpu) / seconds
        seen = watcher.ask(do="seen")
        times: list[list[float]] = []
        busy = change(writer, records, seconds, lambda: times.append(read(watcher, records)))
        late = watcher.ask(do="seen")
    bench.notes.append(
        f"registry: {asked} calls of etcd in {20_000 * bench.rounds:,} look-ups of names that live; "
        f"{len(seen) + len(late):,} changes were seen"
    )
    what = f"{CHANGES} changes a second"
    yield Result(f"resolve() during {what}", "median", "us", medians(times))
    yield Result(f"resolve() during {what}", "p99", "us", [percentile(each, 0.99) for each in times])
    yield Result(f"a change is seen, {what}", "median", "ms", [statistics.median(seen)])
    yield Result(f"a change is seen, {what}", "p99", "ms", [percentile(seen, 0.99)])
    yield Result(f"a change is seen by a process that resolves without pause, {what}", "p99", "ms",
                 [percentile(late, 0.99)])  # fmt: skip
    for beside, rate in (("", idle), ("and resolves without pause", busy)):
        yield Result(
            f"changes while one watches {beside}".rstrip(), "", "a second", [rate], goal=0.97 * CHANGES
        )
    yield Result(f"processor of a process that watches {what}", "", "% of a core", [100 * spent])
    yield Result(f"memory for {records:,} names", "", "MiB", [grown])
    yield Result(f"loading {records:,} names", "", "s", [loaded])


def change(writer: Process, records: int, seconds: float, beside: Any = None) -> float:
    """Change records for some time, and do something else beside it; return how many a second it were."""
    rate: list[float] = []
    request = {"do": "change", "records": records, "seconds": seconds, "per_second": CHANGES}
    thread = threading.Thread(target=lambda: rate.append(writer.ask(**request)))
    thread.start()
    while beside is not None and thread.is_alive():
        beside()
    thread.join()
    time.sleep(0.2)  # what was changed last is on its way
    return rate[0]


def read(watcher: Process, records: int) -> list[float]:
    found: list[float] = watcher.ask(do="resolve", calls=5_000, records=records)
    return found


def medians(rounds: list[list[float]]) -> list[float]:
    return [statistics.median(each) for each in rounds]


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))]


def processor_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_threads(call: Callable[[int], None]) -> None:
    """Call with 0, 1, … at once, and wait."""
    threads = [threading.Thread(target=call, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def process(url: str) -> None:
    """Fill a registry, change it, or watch it; times are in us, of what is seen in ms."""
    from lit_storage_core.registries import open_registry
    from lit_storage_core.registries.etcd.registry import EtcdRegistry
    from lit_storage_proto.limits import Limits
    from lit_storage_proto.registry import LiveRecord

    opened = open_registry(url, machine_id="bench", limits=Limits(lease_seconds=600.0))
    assert isinstance(opened, EtcdRegistry)
    seen: list[float] = []

    def record(number: int, endpoint: str) -> LiveRecord:
        return LiveRecord(f"w{number:05}", "0" * 32, endpoint, "another machine", f"w{number:05}")

    def register(numbers: range) -> None:
        for number in numbers:
            opened.register(record(number, "127.0.0.1:4000"))

    def fill(records: int) -> None:
        in_threads(lambda first: register(range(first, records, THREADS)))

    def watch(name: str) -> float:
        apply = opened._watch.cache.apply

        def applied(changes: Any, *, whole: bool = True) -> None:
            apply(changes, whole=whole)
            now = time.monotonic_ns()
            for _, _, value in changes:
                stamp = value.rpartition(b"at-")[2].partition(b":")[0] if value else b""
                if stamp.isdigit():
                    seen.append((now - int(stamp)) / 1e6)

        opened._watch.cache.apply = applied  # type: ignore[method-assign]
        began = time.perf_counter()
        while not opened.is_watching:
            opened.resolve(name)
        return time.perf_counter() - began

    def resolve(calls: int, records: int, fresh: bool) -> list[float]:
        names = [f"w{random.randrange(records):05}" for _ in range(calls)]
        taken = []
        for name in names:
            began = time.perf_counter_ns()
            found = opened.resolve(name, fresh=fresh)
            taken.append((time.perf_counter_ns() - began) / 1e3)
            assert found is not None
        return taken

    def change(records: int, seconds: float, per_second: int) -> float:
        began = time.monotonic()

        def some(first: int) -> None:
            for count in range(first, int(seconds * per_second), THREADS):
                time.sleep(max(0.0, began + count / per_second - time.monotonic()))
                opened.register(record(random.randrange(records), f"at-{time.monotonic_ns()}:1"))

        in_threads(some)
        return int(seconds * per_second) / (time.monotonic() - began)

    def answer(request: dict[str, Any]) -> Any:
        match request.pop("do"):
            case "fill":
                return fill(**request)
            case "watch":
                return watch(**request)
            case "resolve":
                return resolve(**request, fresh=False)
            case "fresh":
                return resolve(**request, fresh=True)
            case "change":
                return change(**request)
        kept, seen[:] = list(seen), []
        return kept

    serve(answer)
