"""The rows of the table: what is copied, by whom, and which ratio is to be reached.

Each row is a function of a `Bench`; it yields one `Result` for each competitor. Competitors take turns
within a round, and the order changes from round to round. Before each turn a file as large as what is
copied is written and removed, since memory that is touched for the first time is what varies most.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.competitors import QUIET, Competitor, Competitors, find
from benchmarks.processes import Process, remove

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass
class Result:
    """Ours against one competitor, or a figure of ours alone."""

    row: str
    against: str
    unit: str
    ours: list[float]
    theirs: list[float] = field(default_factory=list)
    goal: float | None = None
    at_most: bool = False
    """Whether the goal is an upper bound, and the ratio that of ours to theirs."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios: how many times as fast ours is."""
        if not self.theirs:
            return None
        pairs = zip(self.ours, self.theirs, strict=True)
        return statistics.median(a / b if self.at_most else b / a for a, b in pairs)

    @property
    def reached(self) -> bool | None:
        value = self.ratio if self.theirs else max(self.ours)
        if self.goal is None or value is None:
            return None
        return value <= self.goal if self.at_most else value >= self.goal


class Bench:
    """Where a run works, and how large it is."""

    def __init__(self, memory: str, disk: str, rounds: int, quick: bool) -> None:
        self.memory = memory
        self.disk = disk
        self.rounds = rounds
        self.quick = quick
        self.missing: dict[str, None] = {}
        self.notes: list[str] = []

    def scaled(self, size: int, quick: int) -> int:
        return quick if self.quick else size

    @contextlib.contextmanager
    def place(self, parent: str, **environment: str) -> Iterator[Place]:
        """Make an origin and a consumer in a directory of their own."""
        with (
            tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as directory,
            contextlib.ExitStack() as stack,
        ):
            root = f"{directory}/root"
            os.makedirs(f"{root}/works/origin")
            os.makedirs(f"{directory}/copies")
            os.makedirs(f"{directory}/scratch")
            origin = Process("origin", root, "origin", environment=environment)
            stack.callback(origin.stop)
            consumer = Process("consumer", root, environment=environment)
            stack.callback(consumer.stop)
            files = f"{root}/works/origin"
            competitors = Competitors(files, f"{directory}/scratch", stack)
            place = Place(self, files, f"{directory}/copies", root, origin, consumer, competitors)
            yield place
            self.missing.update(dict.fromkeys(competitors.missing))


@dataclass
class Place:
    """One origin, one consumer, and the competitors over the same files."""

    bench: Bench
    files: str
    copies: str
    root: str
    origin: Process
    consumer: Process
    competitors: Competitors
    how: str = ""

    def get(self, name: str, *, durable: bool = False) -> float:
        """Get a path into an empty place, and return the seconds."""
        seconds, _, _, self.how = self.consumer.ask(
            do="get", uri=f"lit://@origin/{name}", to=self.target(name), durable=durable
        )
        return float(seconds)

    def target(self, name: str) -> str:
        return f"{self.copies}/{name}"

    def clear(self, name: str, size: int) -> None:
        """Remove a copy, and touch as much memory as the next one takes."""
        remove(self.target(name))
        with open(f"{self.copies}/touch", "wb") as file:
            block = bytes(MIB)
            for _ in range(size // MIB):
                file.write(block)
        os.unlink(f"{self.copies}/touch")

    def compare(
        self, row: str, name: str, size: int, goals: dict[Competitor, float | None], *, durable: bool = False
    ) -> Iterator[Result]:
        """Run ours and theirs in turn."""
        turns: dict[str, Callable[[], float]] = {"": lambda: self.get(name, durable=durable)}
        for competitor in goals:
            turns[competitor.label] = lambda competitor=competitor: competitor.run(name, self.target(name))
        seconds: dict[str, list[float]] = {label: [] for label in turns}
        order = list(turns)
        for number in range(self.bench.rounds + 1):
            for label in order[number % len(order) :] + order[: number % len(order)]:
                self.clear(name, size)
                taken = turns[label]()
                if number or self.bench.quick:  # the first round touches code and memory for the first time
                    seconds[label].append(taken)
        remove(self.target(name))
        if not goals:
            yield Result(row, "", "s", seconds[""], note=self.how)
        for competitor, goal in goals.items():
            yield Result(
                row, competitor.label, "s", seconds[""], seconds[competitor.label], goal, note=self.how
            )


WIRE = {"LIT_STORAGE_LOCAL_COPY": "0"}


def with_goals(found: list[Competitor], *goals: float | None) -> dict[Competitor, float | None]:
    """Give the competitors that are there their goals, in the order in which they were asked for."""
    return dict(zip(found, [*goals, *[None] * len(found)], strict=False))


def make_file(path: str, size: int) -> None:
    block = os.urandom(MIB)
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(block)


def make_small(directory: str, files: int, size: int = 4 * KIB, width: int = 1000) -> None:
    content = os.urandom(size + files)
    for number in range(files):
        if number % width == 0:
            inner = f"{directory}/d{number // width:04}"
            os.makedirs(inner)
        with open(f"{inner}/f{number:06}", "wb") as file:
            file.write(content[number : number + size])


def large(bench: Bench) -> Iterator[Result]:
    """One large file over the wire."""
    size = bench.scaled(2 * GIB, 16 * MIB)
    with bench.place(bench.memory, **WIRE) as place:
        make_file(f"{place.files}/large", size)
        goals: dict[Competitor, float | None] = {}
        for label, goal in (("rsync", 1.4), ("nginx", 1.5), ("naive", 2.3), ("rclone", None), ("cp", None)):
            goals |= with_goals(place.competitors.start(label), goal)
        yield from place.compare("one file of 2 GiB", "large", size, goals)


def encrypted(bench: Bench) -> Iterator[Result]:
    """The same with TLS on both sides."""
    try:
        import trustme
    except ImportError:
        bench.notes.append("mTLS: trustme is not installed")
        return
    size = bench.scaled(2 * GIB, 16 * MIB)
    with tempfile.TemporaryDirectory() as keys:
        authority = trustme.CA()
        certificate = authority.issue_cert("origin", "localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(f"{keys}/ca")
        certificate.private_key_pem.write_to_path(f"{keys}/key")
        os.chmod(f"{keys}/key", 0o600)
        for part in certificate.cert_chain_pems:
            part.write_to_path(f"{keys}/cert", append=True)
        tls = {f"LIT_STORAGE_TLS_{name}": f"{keys}/{name.lower()}" for name in ("CA", "CERT", "KEY")}
        with bench.place(bench.memory, **WIRE, **tls) as place:
            make_file(f"{place.files}/large", size)
            goals = with_goals(place.competitors.start("scp"), 2.0)
            yield from place.compare("one file of 2 GiB, mTLS", "large", size, goals)


def small(bench: Bench) -> Iterator[Result]:
    """Many small files over the wire."""
    count = bench.scaled(20_000, 200)
    with bench.place(bench.memory, **WIRE) as place:
        make_small(f"{place.files}/small", count)
        goals: dict[Competitor, float | None] = {}
        for label, goal in (("rsync", 2.2), ("cp a", 0.9), ("copytree", None)):
            goals |= with_goals(place.competitors.start(label), goal)
        yield from place.compare("20,000 files of 4 KiB", "small", count * 4 * KIB, goals)


def mixed(bench: Bench) -> Iterator[Result]:
    """An unpacked wheel over the wire."""
    with bench.place(bench.memory, **WIRE) as place:
        tree = f"{place.files}/mixed"
        name = unpack_wheel(tree, bench.quick)
        size = sum(os.path.getsize(f"{top}/{file}") for top, _, files in os.walk(tree) for file in files)
        goals: dict[Competitor, float | None] = {}
        for label, goal in (("rsync", 1.5), ("cp a", None), ("copytree", None)):
            goals |= with_goals(place.competitors.start(label), goal)
        yield from place.compare(f"a mixed tree ({name})", "mixed", size, goals)


def unpack_wheel(tree: str, quick: bool) -> str:
    """Unpack the wheel of scipy, or copy what is installed here where it cannot be had."""
    with tempfile.TemporaryDirectory() as scratch:
        if not quick:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary=:all:",
                "scipy",
            ]
            got = subprocess.run(command, cwd=scratch, check=False, timeout=300, **QUIET)
            wheels = [name for name in os.listdir(scratch) if name.endswith(".whl")]
            if got.returncode == 0 and wheels:
                shutil.unpack_archive(f"{scratch}/{wheels[0]}", tree, "zip")
                return "-".join(wheels[0].split("-")[:2])
    import xxhash

    package = os.path.dirname(xxhash.__file__)
    if not quick:
        package = os.path.dirname(package)
    shutil.copytree(package, tree, symlinks=True)
    return os.path.basename(package)


def same_machine(bench: Bench) -> Iterator[Result]:
    """One large file whose origin is on this machine."""
    size = bench.scaled(2 * GIB, 16 * MIB)
    with bench.place(bench.memory) as place:
        make_file(f"{place.files}/large", size)
        goals = with_goals(place.competitors.start("cp"), 0.95)
        yield from place.compare("same machine, one file of 2 GiB", "large", size, goals)


def reflinks(bench: Bench) -> Iterator[Result]:
    """The same on file systems that share blocks, on loop mounts."""
    if os.getuid() != 0:
        bench.notes.append("btrfs and xfs: only root can mount them")
        return
    size = bench.scaled(2 * GIB, 16 * MIB)
    for kind in ("btrfs", "xfs"):
        mkfs = find(f"mkfs.{kind}")
        if mkfs is None:
            bench.missing[f"mkfs.{kind}"] = None
            continue
        with tempfile.TemporaryDirectory(prefix="bench-", dir=bench.disk) as scratch:
            image, mount = f"{scratch}/image", f"{scratch}/mount"
            os.mkdir(mount)
            with open(image, "wb") as file:
                file.truncate(8 * GIB)
            subprocess.run([mkfs, "-q", image], check=True, **QUIET)
            if subprocess.run(["mount", "-o", "loop", image, mount], check=False, **QUIET).returncode:
                bench.notes.append(f"{kind}: loop mounts are not allowed here")
                continue
            try:
                with bench.place(mount) as place:
                    make_file(f"{place.files}/large", size)
                    subprocess.run(["sync", "-f", mount], check=True)
                    goals = with_goals(place.competitors.start("cp without reflink"), 20.0)
                    yield from place.compare(f"same machine on {kind}", "large", 0, goals)
            finally:
                subprocess.run(["umount", mount], check=False, **QUIET)


def disk(bench: Bench) -> Iterator[Result]:
    """A real disk, flushed and not."""
    size = bench.scaled(512 * MIB, 16 * MIB)
    count = bench.scaled(20_000, 200)
    with bench.place(bench.disk, **WIRE) as place:
        make_file(f"{place.files}/large", size)
        make_small(f"{place.files}/small", count)
        subprocess.run(["sync", "-f", place.files], check=True)
        for label, name in (("one file of 512 MiB", "large"), ("20,000 files of 4 KiB", "small")):
            plain = with_goals(place.competitors.start("cp a"))
            yield from place.compare(f"{label}, real disk, not flushed", name, 0, plain)
            flushed = with_goals(place.competitors.start("cp a and sync"))
            yield from place.compare(f"{label}, real disk, durable", name, 0, flushed, durable=True)
