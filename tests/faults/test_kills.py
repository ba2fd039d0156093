"""Whatever is killed at whatever moment of a get: the target is one version, whole, and nothing stays behind.

Some consumers are killed after a time, some at a line of the code that fetches (so that moments which
last microseconds have their turn), some at a number of bytes, so that parts are gone on from.
"""

import os
import shutil
import signal
import time

import pytest

MIB = 1 << 20
LARGE = 64 * MIB
URI = "lit://@origin/tree"


def make_tree(root, version, large_bytes):
    """Many kinds of entries; each file says in its content of which version it is."""
    os.makedirs(f"{root}/empty/inner")
    os.makedirs(f"{root}/closed")
    for name, size in (("large", large_bytes), ("medium", large_bytes // 7), ("closed/piece", 100_000)):
        with open(f"{root}/{name}", "wb") as file:
            file.write(version.encode() + os.urandom(size - len(version)))
    with open(f"{root}/sparse", "wb") as file:
        for offset in (0, MIB, 2 * MIB):
            file.seek(offset)
            file.write(version.encode() * 1000)
        file.truncate(4 * MIB)
    for number in range(150):
        directory = f"{root}/small/{number % 7}"
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/{number}", "w") as file:
            file.write(f"{version} {number} " * number)
    os.symlink("../large", f"{root}/small/up")
    os.symlink("empty", f"{root}/{version}-only")
    os.symlink("nowhere", f"{root}/dangling")
    os.chmod(f"{root}/closed", 0o555)
    os.chmod(f"{root}/medium", 0o440)


class Rounds:
    """Two versions of a tree, of which the origin has one and the consumer maybe the other."""

    def __init__(self, origin, seed, get, fork, snapshot, left, root):
        self.origin, self.seed, self.get, self.fork = origin, seed, get, fork
        self.snapshot, self.left, self.root = snapshot, left, root
        self.files = origin.files
        self.served, self.spare = f"{self.files}/tree", f"{self.files}/spare"
        self.target = f"{root}/connect/@origin/tree"
        self.to = None
        self.make(LARGE)

    def make(self, large_bytes):
        make_tree(self.served, "one", large_bytes)
        make_tree(self.spare, "two", large_bytes)
        self.versions = [self.snapshot(self.served), self.snapshot(self.spare)]

    def shrink(self, large_bytes):
        """Go on with other trees of smaller files, for the code around their transfer."""
        for tree in (self.served, self.spare):
            shutil.rmtree(tree)
        self.make(large_bytes)
        assert "error" not in self.again()

    def count_lines(self):
        """See how many lines of the code that fetches a get passes."""
        self.lines = {
            local_copy: self.again(local_copy=local_copy, die_at_line=1 << 40)["lines"]
            for local_copy in (True, False)
        }

    def choose(self, place):
        """Get to a target of one's own choice from now on, beside which copies are staged."""
        self.to = self.target = f"{self.root}/{place}"

    def again(self, **options):
        return self.get(URI, to=self.to, **options)

    def change(self):
        """Let the origin have the other version."""
        os.rename(self.served, f"{self.files}/moving")
        os.rename(self.spare, self.served)
        os.rename(f"{self.files}/moving", self.spare)
        self.versions.reverse()

    def prepare(self, absent=None):
        """Return the options of a get, after making its target an older version, or absent."""
        self.change()  # so what the last round got is old
        absent = self.seed.random() < 0.4 if absent is None else absent
        if absent and os.path.lexists(self.target):
            shutil.rmtree(self.target)
        self.before = None if absent else self.versions[1]
        return {
            "overwrite": not absent,
            "local_copy": self.seed.random() < 0.3,
            "durable": self.seed.random() < 0.05,
        }

    def start(self, **options):
        child = self.fork("get", root=self.root, uri=URI, to=self.to, **options)
        assert child.next() == {"ready": True}
        return child

    def now(self):
        return self.snapshot(self.target) if os.path.lexists(self.target) else None

    def check(self, **options):
        """See that the target is of one version, and that another get puts the present one in place."""
        now = self.now()
        assert now == self.before or now == self.versions[0], explain(now, self.before, self.versions[0])
        assert set(os.listdir(f"{self.root}/connect")) <= {"@origin", ".staging"}
        if self.seed.random() < 0.25:
            self.change()
        how = self.again(**{"local_copy": self.seed.random() < 0.3, **options})
        assert "error" not in how, how
        now = self.now()
        assert now == self.versions[0], explain(now, self.versions[0])
        assert self.left(os.path.dirname(self.target)) == []
        assert os.listdir(os.path.dirname(self.target)) == ["tree"]
        return how


def explain(now, *wanted):
    """What differs, for whoever reads a failure."""
    if now is None:
        return "the target is missing"
    return [
        {
            name: (now.get(name), each.get(name))
            for name in now.keys() | each.keys()
            if now.get(name) != each.get(name)
        }
        for each in wanted
        if each is not None
    ]


@pytest.fixture
def root(request, tmp_path, in_memory):
    """Mostly in memory, where two hundred kills take less than a minute."""
    root = f"{tmp_path if getattr(request, 'param', '') == 'disk' else in_memory}/root"
    yield root
    shutil.rmtree(root)


@pytest.fixture
def rounds(origin, seed, get, fork, snapshot, left, root):
    rounds = Rounds(origin, seed, get, fork, snapshot, left, root)
    assert "error" not in get(URI)
    rounds.usual = get(URI, local_copy=False)["seconds"]
    return rounds


def kill_a_consumer(rounds, until=None):
    """A consumer that gets again and again is killed after a random time."""
    options = rounds.prepare()
    rounds.start(times=1000, **options).kill_after(rounds.seed.uniform(0, 1.2 * rounds.usual))
    rounds.check()


def kill_at_a_line(rounds, until=None):
    """A consumer is killed at a line of the code that fetches; say whether it came to it."""
    options = rounds.prepare()
    line = rounds.seed.randrange(1, rounds.lines[options["local_copy"]])
    child = rounds.start(times=3 if options["overwrite"] else 1, die_at_line=line, **options)
    killed = child.rest()[-1:] != [{"left": True}]
    child.wait()
    rounds.check()
    return killed


def kill_at_bytes(rounds, until=None):
    """A consumer is killed when it has some bytes, and another one goes on from them."""
    options = rounds.prepare() | {"local_copy": False}
    child = rounds.start(die_at_bytes=rounds.seed.randrange(LARGE // 2, LARGE), **options)
    assert child.rest() == []
    child.wait()
    served = rounds.versions[0]
    jump = rounds.check(local_copy=False, watch=True)["jump"]
    # No other file comes in steps so large, and some MiB may not have been noted when it was killed.
    assert (jump > 8 * MIB) == (rounds.versions[0] is served)


def kill_the_server(rounds, until):
    """The process that serves for the origin is killed during a get."""
    options = rounds.prepare()
    (server,) = until(rounds.origin.children)
    child = rounds.start(**options)
    time.sleep(rounds.seed.uniform(0, rounds.usual))  # a moment, and no wait for anything
    os.kill(server, signal.SIGKILL)
    how = child.next()
    assert "error" not in how or how["error"][0] == "OriginUnavailable", how
    child.kill()
    until(lambda: set(rounds.origin.children()) - {server})
    until(lambda: "error" not in rounds.get("lit://@origin/spare/empty"))
    shutil.rmtree(os.path.dirname(rounds.target) + "/spare")
    rounds.check()


def kill_the_origin(rounds, until=None):
    """The origin is killed during a get, and another one takes its name at once."""
    options = rounds.prepare()
    child = rounds.start(**options)
    rounds.origin.kill_after(rounds.seed.uniform(0, rounds.usual))
    how = child.next()
    assert "error" not in how or how["error"][0] in ("OriginUnavailable", "PathNotFound"), how
    child.kill()
    rounds.origin = rounds.fork("origin", root=rounds.root)
    assert rounds.origin.next() == {"serves": rounds.files}
    rounds.check()


@pytest.mark.slow
@pytest.mark.parametrize(("root", "kills"), [("memory", 6), ("disk", 3)], indirect=["root"])
def test_a_consumer_at_any_time(rounds, kills):
    """A consumer that gets again and again is killed after a random time."""
    for _ in range(kills):
        kill_a_consumer(rounds)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["confined", "chosen"])
def test_a_consumer_at_any_line(rounds, where):
    """A consumer is killed at a line of the code that fetches, so also in moments of microseconds."""
    if where == "chosen":
        rounds.choose("elsewhere/tree")
    rounds.shrink(10 * MIB)
    rounds.count_lines()
    assert sum(kill_at_a_line(rounds) for _ in range(8)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("absent", [True, False])
def test_a_consumer_at_each_line_of_the_swap(rounds, absent):
    """Wherever a consumer is killed while it changes names, whoever looks finds one of the two trees."""
    rounds.shrink(1 * MIB)
    line = 0
    while True:
        line += 1
        rounds.prepare(absent)
        child = rounds.start(overwrite=True, durable=True, die_at_line=line, die_in="commit.py")
        if child.rest()[-1:] == [{"left": True}]:
            break
        child.wait()
        rounds.check()
    assert line > 20


@pytest.mark.slow
def test_a_consumer_that_is_gone_on_from(rounds):
    """A get goes on from the parts that a killed one verified, never with those of another version."""
    for _ in range(4):
        kill_at_bytes(rounds)


@pytest.mark.slow
def test_the_server_process(rounds, until):
    """A get whose origin is served anew goes on by itself, or ends with an error that says why."""
    for _ in range(3):
        kill_the_server(rounds, until)


@pytest.mark.slow
def test_the_origin(rounds):
    """A get whose origin was killed ends with an error, or well; the origin's name is free at once."""
    for _ in range(3):
        kill_the_origin(rounds)


@pytest.mark.soak
@pytest.mark.parametrize("root", ["memory", "disk"], indirect=True)
def test_whoever_at_any_time(rounds, until, soak_seconds, tally):
    """Consumers, servers and origins are killed at random moments, for as long as there is time."""
    rounds.count_lines()
    ways = [kill_a_consumer, kill_at_a_line, kill_at_bytes, kill_the_server, kill_the_origin]
    deadline = time.monotonic() + soak_seconds
    while time.monotonic() < deadline:
        rounds.seed.choice(ways)(rounds, until)
        rounds.fork.forget_ended()
        tally["kills"] += 1


@pytest.mark.slow
def test_a_consumer_that_makes_parents(rounds, left, root):
    """Wherever a consumer is killed that makes its target's parents too, no copy stays beside them."""
    rounds.shrink(1 * MIB)
    rounds.choose("new/parents/tree")
    line = 0
    while True:
        line += 1
        child = rounds.start(die_at_line=line, die_in="parents.py", durable=True)
        if child.rest()[-1:] == [{"left": True}]:
            break
        child.wait()
        assert rounds.now() == (rounds.versions[0] if os.path.exists(f"{root}/new") else None)
        assert "error" not in rounds.again(overwrite=True)
        assert all(each.endswith((": []", ": ['owner']")) for each in left(root, f"{root}/new/parents"))
        shutil.rmtree(f"{root}/new")
    assert line > 15
