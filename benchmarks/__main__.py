"""Measures lit-storage side by side with what people use instead, in one run.

make bench BENCH_ARGS="--rounds 5 --only large,small --save docs"
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

from benchmarks import artifacts, figures, registry, rows
from benchmarks.ballast import ballast
from benchmarks.report import as_json, machine, picture, table
from benchmarks.rows import Bench, Result

ROWS: dict[str, Callable[[Bench], Iterator[Result]]] = {
    "large": rows.large,
    "mtls": rows.encrypted,
    "small": rows.small,
    "mixed": rows.mixed,
    "local": rows.same_machine,
    "reflink": rows.reflinks,
    "exists": figures.latency,
    "busy": figures.busy,
    "memory": figures.memory,
    "growth": figures.growth,
    "disk": rows.disk,
    "s3": artifacts.artifacts,
    "registry": registry.registry,
}


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", help=f"some of {','.join(ROWS)}")
    options.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it works, and nothing else"
    )
    options.add_argument("--memory", default="/dev/shm", help="a directory in memory")
    options.add_argument("--disk", default=tempfile.gettempdir(), help="a directory on a real disk")
    options.add_argument("--save", metavar="DIRECTORY", help="write the results there, with --only a part")
    given = options.parse_args()
    in_memory = os.access(given.memory, os.W_OK)
    bench = Bench(given.memory if in_memory else given.disk, given.disk, given.rounds, given.quick)
    if not in_memory:
        bench.notes.append(f"{given.memory} cannot be written: nothing is memory-backed")
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        if in_memory and not given.quick:
            bench.notes.append(stack.enter_context(ballast(given.memory)))
        for name in given.only.split(",") if given.only else ROWS:
            for result in ROWS[name](bench):
                if given.quick:
                    result.row, result.goal = f"{result.row} (tiny)", None
                results.append(result)
                print(table([result]).splitlines()[-1], flush=True)
    print("\n" + table(results))
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))
    for missing in bench.missing:
        print(f"not installed: {missing}")
    for note in bench.notes:
        print(note)
    if given.save:
        save(given.save, results, bench, f"-{given.only}" if given.only else "")
    return 1 if any(result.reached is False for result in results) else 0


def save(directory: str, results: list[Result], bench: Bench, part: str) -> None:
    """Write the results beside the page that explains them, and into it; `part` is of some rows."""
    begin, end = (f"<!-- results{part}: {mark} -->" for mark in ("begin", "end"))
    with open(f"{directory}/benchmarks{part}.json", "w") as file:
        file.write(as_json(results, bench))
    if not part:
        with open(f"{directory}/benchmarks.svg", "w") as file:
            file.write(picture(results))
    page = f"{directory}/benchmarks.md"
    with open(page) as file:
        before, found, rest = file.read().partition(begin)
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    text = f"{begin}\n\nMedians of {bench.rounds} rounds; {facts}.\n\n{table(results)}\n\n{end}"
    with open(page, "w") as file:
        file.write(before + text + rest.partition(end)[2] if found else before.rstrip() + f"\n\n{text}\n")


if __name__ == "__main__":
    sys.exit(main())
