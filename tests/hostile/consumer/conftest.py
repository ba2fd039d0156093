"""A consumer with something to lose around its target, and the peer that lies to it."""

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from lit_storage_client.fetch import fetch
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.direct import Ways
from lit_storage_client.peers.remote import Remote
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import OriginUnavailable, StorageError, TransferTimeout
from lit_storage_proto.limits import Limits
from lit_storage_proto.uri import Location
from tests.hostile.consumer.liar import ROOT, DirectLiar, Liar, told
from tests.waiting import within

SECONDS = 60  # none of these lies may hold a consumer for so long, on a machine that is busy
LONGEST_SENTENCE = 3000
VICTIM = os.path.join(os.path.dirname(__file__), "victim.py")
wait_until = within(30)


class Asked:
    """A registry of one record."""

    url = "memory:asked"
    spans_machines = False

    def __init__(self, record):
        self.record = record

    def work(self, name):
        return None

    def resolve(self, name, *, fresh=False):
        return self.record


def snapshot(base):
    """Return all that can be seen of a tree: kinds, modes, owners, times, texts and bytes.

    Of the room for staging, only what is left in it.
    """
    seen = {}
    for directory, names, files in os.walk(base):
        for name in [".", *names, *files]:
            path = os.path.normpath(os.path.join(directory, name))
            status = os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            times = () if path.endswith("/.staging") else (status.st_mtime_ns,)
            seen[path] = (status.st_mode, status.st_uid, status.st_gid, content, *times)
    return seen


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def helpers():
    """Return the threads that a transfer, or what lives on after one, started and that did not end."""
    return {t for t in threading.enumerate() if t.name.startswith("lit-storage-")}


class Consumer:
    """A storage root R, with an old tree at the target, and neighbours that no peer may touch."""

    def __init__(self, base, record, limits, ways):
        self.base = str(base)
        self.root = f"{base}/R"
        self.target = f"{self.root}/@trainer/out"
        for directory in ("R/@trainer/out/sub", "R/@trainer/other", "R/@else", "R/.staging", "outside"):
            os.makedirs(f"{base}/{directory}")
        for file in (
            "R/@trainer/out/sub/old",
            "R/@trainer/other/kept",
            "R/@else/kept",
            "R/own",
            "outside/key",
        ):
            with open(f"{base}/{file}", "w") as kept:
                kept.write(file)
        os.symlink("outside/key", f"{base}/link")
        os.chmod(f"{base}/outside", 0o700)
        self.channels = Channels(Security(token="secret"), limits)
        self.remote = Remote(Asked(record), self.channels, limits, ways)

    def ask(self, record, *, call=True):
        """Ask another peer from now on; with `call` at once, and once in each way that has one answer."""
        self.remote._registry.record = record
        if not call:
            return
        for call in (self.remote.exists, self.remote.stat):
            with contextlib.suppress(StorageError):
                call(Location("trainer", "out"))

    def get(self, **options):
        """Get the tree in place of the old one."""
        where = Location("trainer", "out")
        options = {"root": self.root, "target": self.target, "overwrite": True, "durable": False, **options}
        return fetch(self.remote, where, **options)

    @contextlib.contextmanager
    def untouched(self):
        """Hold that the block changes nothing on the disk, and leaves no descriptor or thread open."""
        wait_until(self._is_connected)  # the channel stands before descriptors are counted
        before, opened = snapshot(self.base), descriptors()
        others = helpers()  # of tests before: a replaced tree is kept for its readers, and a thread with it
        started = time.monotonic()
        yield
        assert time.monotonic() - started < SECONDS
        assert snapshot(self.base) == before
        wait_until(lambda: helpers() <= others)
        wait_until(lambda: descriptors() <= opened)

    def _is_connected(self):
        """Ask once; some of these consumers have less patience than a busy machine needs to connect."""
        with contextlib.suppress(OriginUnavailable, TransferTimeout):
            self.remote.exists(Location("trainer", "out"))
            return True

    def refuse(self, kind=StorageError, **options):
        """Get, which must fail and leave all as it was; return the sentence of the error."""
        with self.untouched(), pytest.raises(kind) as caught:
            self.get(**options)
        return sentence(caught.value)


def sentence(error):
    """Return what a person reads of an error: printable, and not endless."""
    text = str(error)
    assert text.isprintable(), ascii(text)
    assert len(text) < LONGEST_SENTENCE
    return text


@pytest.fixture
def liar():
    """A peer that says what the test gives it; an honest, empty tree until then."""
    peer = Liar()
    peer.frames = told(ROOT)
    yield peer
    peer.close()


@pytest.fixture
def consumer_of(tmp_path):
    """Make the consumer of a peer, with limits of seconds."""
    with contextlib.ExitStack() as stack:

        def make(record, ways=Ways.ALL, **limits):
            # No test waits until these are over: they are for a machine that stands still for seconds.
            times = {"connect_seconds": 10.0, "unary_seconds": 20.0, "progress_seconds": 20.0}
            limits = Limits(**{**times, "resume_seconds": 0.2, **limits})
            made = Consumer(tmp_path / "canary", record, limits, ways)
            stack.callback(made.channels.close)
            return made

        yield make


@pytest.fixture
def consumer(liar, consumer_of):
    """The consumer of `liar`."""
    return consumer_of(liar.record)


@pytest.fixture(scope="module")
def victim_process():
    """A consumer in a process of its own, whose memory is its own too."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, VICTIM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def victim(liar, victim_process, tmp_path):
    """Get in a process of its own; return the name of the error, and the bytes of memory that it took."""

    def run(what="get", port=None):
        order = {"port": port or liar.port, "root": str(tmp_path / "R"), "what": what}
        victim_process.stdin.write(json.dumps(order) + "\n")
        victim_process.stdin.flush()
        said = json.loads(victim_process.stdout.readline())
        return said["error"], said["bytes"]

    return run


@pytest.fixture
def direct_liar():
    """Make other ends of direct ways; they are closed afterwards."""
    with contextlib.ExitStack() as stack:
        yield lambda *family, **offer: stack.enter_context(contextlib.closing(DirectLiar(*family, **offer)))
