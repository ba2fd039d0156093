"""Works and consumers to kill, forked and so quickly made, and what is to be true of the trees afterwards."""

import contextlib
import errno
import fcntl
import glob
import json
import os
import random
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
import xxhash

from tests.processes import children_of
from tests.waiting import within

WARM = os.path.join(os.path.dirname(__file__), "warm.py")
FAILING_FS = os.path.join(os.path.dirname(__file__), "failing_fs.py")
SECONDS = 60  # nothing here takes so long, also on a machine that is busy with other things


@contextlib.contextmanager
def stopped(pid):
    """Let a process stand still in the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Child:
    """A forked process: what it tells is read with a deadline, and it is killed by descriptor."""

    def __init__(self, pid, pidfd, connection):
        self.pid = pid
        self._pidfd = pidfd
        self._connection = connection
        self._text = b""

    def next(self, seconds=SECONDS):
        """Return what it tells next; None if it ended without a word more."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._text:
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                more = self._connection.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            except TimeoutError:
                raise AssertionError(f"process {self.pid} said nothing for {seconds} s") from None
            if not more:
                return None
            self._text += more
        line, _, self._text = self._text.partition(b"\n")
        message = json.loads(line)
        assert "broken" not in message, message
        return message

    def rest(self):
        """Return all that it still tells until it ends."""
        return list(iter(self.next, None))

    def tell(self):
        self._connection.sendall(b"{}\n")

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.wait()

    def wait(self, seconds=SECONDS):
        assert select.select([self._pidfd], [], [], seconds)[0], f"process {self.pid} does not end"

    def has_ended(self):
        return self._pidfd < 0 or bool(select.select([self._pidfd], [], [], 0)[0])

    def kill_after(self, seconds):
        """Kill it, unless it ends before."""
        select.select([self._pidfd], [], [], seconds)
        self.kill()

    def children(self):
        """Ids of the processes that its threads started and that did not end."""
        return children_of(self.pid)

    def close(self):
        if self._pidfd >= 0:
            self.kill()
            self._connection.close()
            os.close(self._pidfd)
            self._pidfd = -1


class Forks:
    """Starts processes out of one that has imported everything.

    Args:
        before: words that go before the command, as those that run it in a namespace.
    """

    def __init__(self, before=()):
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*before, sys.executable, WARM, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=[theirs.fileno()],
            )
        self._requests.settimeout(SECONDS)
        self._children = []

    def __call__(self, role, **arguments):
        ours, theirs = socket.socketpair()
        with theirs:
            request = json.dumps({"role": role, **arguments}).encode()
            socket.send_fds(self._requests, [request], [theirs.fileno()])
        pid, descriptors, _, _ = socket.recv_fds(self._requests, 64, 1)
        self._children.append(Child(int(pid), descriptors[0], ours))
        return self._children[-1]

    def forget_ended(self):
        """Let go of those that have ended."""
        ended = [child for child in self._children if child.has_ended()]
        self._children = [child for child in self._children if child not in ended]
        for child in ended:
            child.close()

    def end_children(self):
        while self._children:
            self._children.pop().close()

    def close(self):
        self.end_children()
        self._requests.close()
        self._process.wait(SECONDS)


@pytest.fixture(scope="package")
def start_forks():
    return Forks


@pytest.fixture(scope="package")
def warm():
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def root(tmp_path):
    """Removed at once: some of these trees are large."""
    yield str(tmp_path / "root")
    shutil.rmtree(tmp_path / "root", ignore_errors=True)


@pytest.fixture
def fork(warm, root):
    """Start a process with a role of warm.py; all of a test end with it, and before its root does."""
    yield warm
    warm.end_children()


@pytest.fixture
def origin(fork, root):
    """A Work named 'origin' that serves; `files` is its storage root."""
    work = fork("origin", root=root)
    work.files = work.next()["serves"]
    return work


@pytest.fixture
def get(fork, root):
    """Get in a process of its own, and return how it went; "error" names the classes of what it raised."""

    def run(uri, **options):
        child = fork("get", root=root, uri=uri, **{"durable": False, "overwrite": True, **options})
        if options.get("failing"):
            return child.next()
        assert child.next() == {"ready": True}
        how = child.next()
        assert child.next() == {"left": True}
        child.close()
        return how

    return run


def _snapshot(path):
    """All of a tree that a copy keeps: kinds, modes, times, texts of links and a digest of each file."""
    found = {}
    pending = [""]
    while pending:
        below = pending.pop()
        full = f"{path}/{below}" if below else path
        status = os.lstat(full)
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(full)
        elif stat.S_ISREG(status.st_mode):
            content = f"{status.st_size} {_digest(full)}"
        else:
            pending += [f"{below}/{name}" if below else name for name in os.listdir(full)]
        found[below] = (status.st_mode, status.st_mtime_ns, content)
    return found


def _digest(path):
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


@pytest.fixture
def seed():
    """A new one each time; after a failure, FAULTS_SEED=number takes the very same decisions again."""
    seed = int(os.environ.get("FAULTS_SEED") or time.time_ns() % 10**9)
    print(f"FAULTS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def until():
    """Wait until a condition holds, for at most so many seconds; return what it said."""
    return within(SECONDS)


@pytest.fixture
def snapshot():
    return _snapshot


@pytest.fixture
def left(root):
    """Names of what gets of this root left: stagings, and a lock that somebody still holds."""

    def find(*beside):
        staging = f"{root}/connect/.staging"
        found = [f"{staging}/{name}" for name in os.listdir(staging)] if os.path.isdir(staging) else []
        for directory in beside:
            found += glob.glob(f"{glob.escape(directory)}/.lit-staging-*")
        found = [f"{path}: {os.listdir(path)}" for path in found]
        for directory in [staging, *beside]:
            found += ["lock of " + directory] if os.path.isdir(directory) and _is_locked(directory) else []
        return found

    return find


def _is_locked(directory):
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@pytest.fixture
def mounted(tmp_path):
    """Mount small memory file systems; skip where that is not allowed."""
    made = []

    def mount(name, options="size=64m"):
        place = tmp_path / name
        place.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            pytest.skip(f"no file system may be mounted here: {ended.stderr.strip()}")
        made.append(place)
        return str(place)

    yield mount
    for place in made:
        subprocess.run(["umount", "-l", str(place)], check=True)


class FailingFileSystem:
    """A mounted file system of failing_fs.py: `place` is where, and `backing` the directory behind it."""

    def __init__(self, directory):
        self.place, self.backing = f"{directory}/place", f"{directory}/backing"
        os.makedirs(self.place)
        os.mkdir(self.backing)
        self._plans, self.flags = [], True
        self._control, theirs = socket.socketpair()
        self._control.settimeout(SECONDS)
        with theirs:
            command = [sys.executable, FAILING_FS, self.backing, self.place, str(theirs.fileno())]
            self._log = open(f"{directory}/log", "w+")  # noqa: SIM115  # closed with the file system
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdout=self._log, stderr=subprocess.STDOUT
            )

    def wait(self):
        """Wait until it is mounted; say why it cannot be, if so."""
        within(SECONDS)(lambda: os.path.ismount(self.place) or self._process.poll() is not None)
        self._log.seek(0)
        return None if os.path.ismount(self.place) else self._log.read()[-200:]

    def fails(self, *operations, number=errno.EIO, after=0, times=1 << 60, how="fail", path=""):
        """Let calls fail from now on, too: after so many that do not, and so many times."""
        plan = {"operations": operations, "errno": number, "after": after, "times": times}
        self._plans.append({**plan, "how": how, "path": path})
        self._tell({"plans": self._plans})

    def refuse_flags(self):
        """Refuse to rename with flags, as many file systems of programs and networks do."""
        self.flags = False
        self._tell({"plans": self._plans, "flags": False})

    def allow_flags(self):
        """Rename with flags again."""
        self.flags = True
        self._tell({"plans": self._plans, "flags": True})

    def met(self):
        """Return how many calls have failed by now, or hang."""
        return self._tell({})[0]

    def lift(self):
        """Let nothing fail any more, and return how many calls did."""
        self._plans = []
        met, self.seen = self._tell({"plans": []})
        return met

    def _tell(self, plan):
        self._control.sendall(json.dumps(plan).encode() + b"\n")
        return json.loads(self._control.recv(1 << 16))

    def close(self):
        self._control.close()  # it ends, and with it whatever waits for it
        self._process.wait(SECONDS)
        subprocess.run(["umount", "-l", self.place], check=False, capture_output=True)
        self._log.close()


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory):
    """One for all tests of a module; skip where none can be mounted."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/fuse to mount a file system of our own with")
    disk = FailingFileSystem(tmp_path_factory.mktemp("failing"))
    try:
        why_not = disk.wait()
        if why_not is not None:
            pytest.skip(f"no file system of our own can be mounted: {why_not}")
        yield disk
    finally:
        disk.close()


@pytest.fixture
def failing(failing_disk):
    """The same, empty and well at the beginning."""
    failing_disk.lift()
    failing_disk.allow_flags()
    for name in os.listdir(failing_disk.backing):
        shutil.rmtree(f"{failing_disk.backing}/{name}", ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{failing_disk.backing}/{name}")
    yield failing_disk
    failing_disk.lift()


@pytest.fixture
def in_memory():
    """A directory on another file system than /tmp, in memory."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no /dev/shm to write to")
    place = f"/dev/shm/lit-storage-test-{os.getpid()}-{time.monotonic_ns()}"
    os.mkdir(place)
    yield place
    shutil.rmtree(place)
