"""Eight Works on three hosts exchange checkpoints, while processes are killed and lines are cut.

Nothing is torn: whatever is in place, at any time and after any kill, is one checkpoint to the last bit, and
never an older one than before. Nothing is lost: when all is calm again, everybody gets the last
checkpoint of everybody. Nothing is left: no process, and no staged file.

It lasts for SOAK_SECONDS; SOAK_SEED repeats the choices of an earlier one.
"""

import collections
import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import children_of

SECONDS = float(os.environ.get("SOAK_SECONDS") or 20)
CALM_SECONDS = 90.0
WORKS = [f"work-{index}" for index in range(8)]
PROGRAM = os.path.join(os.path.dirname(__file__), "soak_work.py")
LINE = {"delay_seconds": 0.002, "mbit": 200}


class Soaked:
    """One Work and the processes that it had, each after the one before was killed."""

    def __init__(self, name, machine, port, numbers):
        self.name = name
        self.machine = machine
        self._port = port
        self._numbers = numbers
        self._text = b""
        self.process = None
        self.counts = collections.Counter()
        self.answers = collections.deque()
        self.pid = 0

    def start(self):
        if self.process is not None:
            self.process.stdout.close()
            self.process.stdin.close()
        others = [name for name in WORKS if name != self.name]
        words = [self.name, f"{self.machine.address}:{self._port}", str(self._numbers.random()), *others]
        # What it printed last may be half a line.
        self._text, self.pid = b"", 0
        self.process = self.machine.host.start(
            sys.executable,
            PROGRAM,
            *words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.machine.directory / f"{self.name}.log").open("ab"),
            env=self.machine.environment,
            start_new_session=True,
        )

    def read(self):
        """Take what it told meanwhile."""
        more = os.read(self.process.stdout.fileno(), 1 << 16)
        *lines, self._text = (self._text + more).split(b"\n")
        for line in map(json.loads, lines):
            assert "broken" not in line, (self.name, line)
            kind = next(iter(line))
            self.counts[f"{kind} {line[kind]}" if kind in ("failed", "refused") else kind] += 1
            self.pid = line.get("joined", self.pid)
            self.answers.append(line)
        return bool(more)

    def say(self, word):
        self.answers.clear()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{word}\n".encode())
            self.process.stdin.flush()

    def children(self):
        """Ids of the processes that it started: of the one that serves."""
        return children_of(self.pid)


class Soak:
    """All of them, and what is done to them."""

    def __init__(self, network, seed):
        self._network = network
        self._numbers = random.Random(seed)
        self._cut = {}  # host -> when it is mended
        machines = network.machines[:3]
        self.works = [
            Soaked(name, machines[index % 3], 7710 + index, random.Random(f"{seed} {name}"))
            for index, name in enumerate(WORKS)
        ]
        self.done = collections.Counter()

    def run(self, seconds):
        """Let them work, and hurt one every second or two."""
        for work in self.works:
            work.start()
        self._listen_until(lambda: all(work.counts["made"] for work in self.works), CALM_SECONDS)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._listen(self._numbers.uniform(0.5, 2.0))
            self._hurt()
        for host in list(self._cut):
            self._mend(host)

    def settle(self):
        """Let all get the last checkpoint of all; return what each had made and what each got last."""
        alive = dict.fromkeys(self.works, False)
        deadline = time.monotonic() + CALM_SECONDS
        while not all(alive.values()):  # one that lost its name ends, and is started again
            assert time.monotonic() < deadline, alive
            for work in self.works:
                if not alive[work] and work.pid:
                    work.say("finish")
            self._listen_until(lambda: False, 1.0)
            for work in self.works:
                alive[work] = alive[work] or any("finished" in line for line in work.answers)
        made = {
            work.name: next(line["finished"] for line in work.answers if "finished" in line)
            for work in self.works
        }
        got = {}
        for work in self.works:
            for other in WORKS:
                if other != work.name:
                    got[work.name, other] = self._get(work, other, deadline + CALM_SECONDS)
        return made, got

    def leave(self):
        for work in self.works:
            work.process.stdin.close()
        for work in self.works:
            assert work.process.wait(60) == 0, work.name
            work.process.stdout.close()

    def _get(self, work, other, deadline):
        while True:
            work.say(f"get {other}")
            while not work.answers:
                assert time.monotonic() < deadline, (work.name, other)
                self._listen(0.05)
            if "got" in work.answers[0]:
                return work.answers[0]["generation"]

    def _hurt(self):
        now = time.monotonic()
        for host in [host for host, when in self._cut.items() if when <= now]:
            self._mend(host)
        victim = self._numbers.choice(self.works)
        what = self._numbers.choice(["work", "work", "server", "line"])
        if what == "line" and victim.machine.host not in self._cut:
            self._network.cut(victim.machine.host)
            # Also for longer than the lease lasts, and than a stream may be silent.
            self._cut[victim.machine.host] = now + self._numbers.choice([1.0, 3.0, 10.0])
        elif what == "work" and victim.pid:
            self._kill(victim.pid)
        elif what == "server" and victim.pid:
            for pid in victim.children():
                self._kill(pid)
        self.done[what] += 1

    def _kill(self, pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _mend(self, host):
        del self._cut[host]
        self._network.mend(host)

    def _listen(self, seconds):
        """Hear what they tell for so long, and start each again that ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            by_fd = {work.process.stdout.fileno(): work for work in self.works}
            for fd in select.select(list(by_fd), [], [], left)[0]:
                work = by_fd[fd]
                if not work.read():
                    work.process.wait(60)
                    work.start()

    def _listen_until(self, condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            self._listen(0.1)


@pytest.mark.timeout(SECONDS + 6 * CALM_SECONDS)
def test_works_exchange_checkpoints_while_all_breaks(network, record_property):
    """Whatever is killed or cut when, no checkpoint is torn or lost, and nothing is left of it all."""
    seed = os.environ.get("SOAK_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"SOAK_SEED={seed}")
    made = network(4, **LINE)
    registry = made.machines[3]
    with registry.etcd() as etcd:
        url = etcd.new_url()
        for machine in made.machines:
            machine.environment["LIT_STORAGE_REGISTRY"] = url
        soak = Soak(made, seed)
        soak.run(SECONDS)
        last, got = soak.settle()
        soak.leave()
        assert got == {(name, other): last[other] for name, other in got}
        assert [machine.host.processes() for machine in made.machines[:3]] == [[], [], []]
    counts = sum((work.counts for work in soak.works), collections.Counter())
    said = f"done {dict(soak.done)}, told {dict(sorted(counts.items()))}, {sum(last.values())} checkpoints"
    print(said)
    record_property("soak", said)
    for work in soak.works:
        staged = work.machine.files_of(work.name) / ".staging"
        assert not staged.exists() or list(staged.iterdir()) == [], work.name
    assert counts["got"] > len(got)
