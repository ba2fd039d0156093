"""The rows that are no copies side by side: latency, a busy origin, memory, and how cost grows."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from benchmarks.processes import Process, remove
from benchmarks.rows import GIB, MIB, WIRE, Bench, Place, Result, make_file, make_small

MEMORY_GOAL_MIB = 96.0


def latency(bench: Bench) -> Iterator[Result]:
    """exists_remote() against the emptiest call that gRPC can make."""
    blocks, calls = (2, 20) if bench.quick else (40, 100)
    with bench.place(bench.memory) as place, contextlib.ExitStack() as stack:
        make_file(f"{place.files}/file", MIB)
        server = Process("unary-server")
        stack.callback(server.stop)
        client = Process("unary-client", str(server.ready))
        stack.callback(client.stop)
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(blocks + 1):
            asked = place.consumer.ask(do="exists", uri="lit://@origin/file", calls=calls)
            called = client.ask(calls=calls)
            if number:
                ours.append(sorted(asked)[calls // 2] * 1e3)
                theirs.append(sorted(called)[calls // 2] * 1e3)
        yield Result("warm exists_remote()", "empty unary call", "ms", ours, theirs, 1.5, at_most=True)


def busy(bench: Bench) -> Iterator[Result]:
    """A get from an origin that computes in Python, against one that is idle."""
    size = bench.scaled(1 * GIB, 16 * MIB)
    with bench.place(bench.memory, **WIRE) as place:
        make_file(f"{place.files}/large", size)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for number in range(bench.rounds + 1):
            for on in (True, False) if number % 2 else (False, True):
                place.clear("large", size)
                place.origin.ask(do="busy", on=on)
                taken = place.get("large")
                place.origin.ask(do="busy", on=False)
                if number or bench.quick:
                    seconds[on].append(taken)
        yield Result(
            "origin busy in a Python loop", "the same origin, idle", "s", seconds[True], seconds[False], 0.6
        )


def memory(bench: Bench) -> Iterator[Result]:
    """Peak resident memory above idle, of each side."""
    with bench.place(bench.memory, **WIRE) as place:
        make_file(f"{place.files}/first", 4 * MIB)
        make_file(f"{place.files}/large", bench.scaled(4 * GIB, 16 * MIB))
        make_small(f"{place.files}/small", bench.scaled(200_000, 200), 256)
        place.get("first")
        for row, name in (("memory for one file of 4 GiB", "large"), ("memory for 200,000 files", "small")):
            with watched(place) as peaks:
                place.get(name)
            remove(place.target(name))
            yield from memory_results(row, peaks)
        remove(f"{place.files}/small")
        make_small(f"{place.files}/small", bench.scaled(20_000, 200))
        yield from eight(bench, place)


def eight(bench: Bench, place: Place) -> Iterator[Result]:
    """Eight consumers at once, of which one is slow."""
    make_file(f"{place.files}/medium", bench.scaled(512 * MIB, 16 * MIB))
    with contextlib.ExitStack() as stack:
        others = []
        for number in range(8):
            other = Process("consumer", place.root, environment=WIRE)
            stack.callback(other.stop)
            other.ask(do="get", uri="lit://@origin/first", to=f"{place.copies}/first{number}")
            others.append(other)
        with watched(place, others) as peaks:
            threads = [
                threading.Thread(
                    target=other.ask,
                    kwargs={
                        "do": "get",
                        "uri": f"lit://@origin/{'medium' if number % 2 else 'small'}",
                        "to": f"{place.copies}/eight{number}",
                        "pause": 0.01 if number == 0 else 0.0,
                    },
                )
                for number, other in enumerate(others)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        yield from memory_results("memory for 8 consumers, one slow", peaks)


@contextlib.contextmanager
def watched(place: Place, consumers: list[Process] | None = None) -> Iterator[dict[str, float]]:
    """Measure by how much the largest process of each side grows, in MiB."""
    sides = {"origin": place.origin.family()[1:], "consumer": [c.pid for c in consumers or [place.consumer]]}
    before = {pid: reset_peak(pid) for pids in sides.values() for pid in pids}
    peaks: dict[str, float] = {}
    yield peaks
    for side, pids in sides.items():
        peaks[side] = max(status_mib(pid, "VmHWM") - before[pid] for pid in pids)


def reset_peak(pid: int) -> float:
    """Forget the peak of a process, and return what it has: see proc_pid_clear_refs(5)."""
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")
    return status_mib(pid, "VmRSS")


def status_mib(pid: int, name: str) -> float:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name + ":"))


def memory_results(row: str, peaks: dict[str, float]) -> Iterator[Result]:
    for side, grown in peaks.items():
        yield Result(row, "", "MiB", [grown], goal=MEMORY_GOAL_MIB, at_most=True, note=side)


def growth(bench: Bench) -> Iterator[Result]:
    """Cost for each file, and for each GiB, at several sizes."""
    with bench.place(bench.memory, **WIRE) as place:
        for count in (1_000, 10_000, 100_000) if not bench.quick else (100, 200):
            make_small(f"{place.files}/small", count)
            taken = repeated(place, "small", count * 4096)
            yield Result(f"{count:,} files of 4 KiB", "", "us a file", [each / count * 1e6 for each in taken])
            remove(f"{place.files}/small")
        for size in (64 * MIB, 512 * MIB, 4 * GIB) if not bench.quick else (MIB, 16 * MIB):
            make_file(f"{place.files}/large", size)
            taken = repeated(place, "large", size)
            yield Result(
                f"one file of {size // MIB:,} MiB", "", "s a GiB", [each * GIB / size for each in taken]
            )
            os.unlink(f"{place.files}/large")


def repeated(place: Place, name: str, size: int) -> list[float]:
    seconds = []
    for number in range(place.bench.rounds + 1):
        place.clear(name, size)
        taken = place.get(name)
        if number or place.bench.quick:
            seconds.append(taken)
    remove(place.target(name))
    return seconds
