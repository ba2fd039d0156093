"""What the tests of several hosts share: hosts that trust each other, and programs on them."""

import contextlib
import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme

from tests.cluster import lab
from tests.etcd_server import EtcdServers

HERE = Path(__file__).parent
AGENT = str(HERE / "agent.py")
SECONDS = 120.0  # for what no test bounds more closely
PORT = 7700
HOSTS = 4
PROGRAMS = ["ip", "sysctl", "rsync", "etcd"]


def pytest_collection_modifyitems(items):
    """Skip these tests where there can be no hosts; or fail, where they are to run."""
    ours = [item for item in items if item.path.parent == HERE]
    reason = None
    if ours:
        lacking = [program for program in PROGRAMS if shutil.which(program) is None]
        reason = f"{' and '.join(lacking)} must be installed" if lacking else lab.why_not()
    if reason is None:
        return
    if os.environ.get("TESTS_NEED_HOSTS") == "1":
        raise pytest.UsageError(f"the tests of several hosts cannot run here: {reason}")
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=reason))


class Machine:
    """A host with a root, a machine id and certificates of its own, on which agents run."""

    def __init__(self, host, directory, identity):
        self.host = host
        self.address = host.address
        self.directory = directory
        self.root = directory / "lit"
        directory.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LIT_STORAGE_")}
        self.environment = {
            **kept,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "LIT_STORAGE_ROOT": str(self.root),
            "LIT_STORAGE_MACHINE_ID": f"machine-{host.number}",
            "LIT_STORAGE_TOKEN": "the-token-of-these-tests",
            **dict(
                zip(
                    ("LIT_STORAGE_TLS_CERT", "LIT_STORAGE_TLS_KEY", "LIT_STORAGE_TLS_CA"),
                    identity,
                    strict=True,
                )
            ),
        }
        self.agents = []

    def agent(self, **variables):
        """Start an agent, which has joined nothing yet."""
        self.agents.append(Agent(self, {**self.environment, **variables}))
        return self.agents[-1]

    def origin(self, name="origin", port=PORT, **how):
        """Start an agent that serves under a name; what it is told of the join is its `joined`."""
        agent = self.agent()
        agent.joined = agent.ask("join", name=name, bind=f"{self.address}:{port}", **how)
        return agent

    def consumer(self, **how):
        """Start an agent that only connects."""
        agent = self.agent()
        agent.ask("connect", **how)
        return agent

    def etcd(self):
        """Return an etcd of this machine, which runs for the length of a ``with`` block."""
        return EtcdServers(
            self.directory / "etcd",
            addresses=[(f"{self.address}:2379", f"{self.address}:2380")],
            prefixes=[self.host.command],
        )

    def files_of(self, name):
        """Return the directory in which a Work of this machine has its files."""
        return self.root / "works" / name


class Agent:
    """A program on a machine; see `agent.py`."""

    def __init__(self, machine, environment):
        self.machine = machine
        self._text, self.pid = b"", 0
        self._process = machine.host.start(
            sys.executable,
            AGENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=machine.directory,
            env=environment,
            start_new_session=True,
        )
        self.pid = self.hear()["ready"]

    def tell(self, do, **how):
        """Let it do something, and do not wait."""
        self._process.stdin.write(json.dumps({"do": do, **how}).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, seconds=SECONDS):
        """Return what it tells next."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._text:
            left = deadline - time.monotonic()
            readable = select.select([self._process.stdout], [], [], max(0.0, left))[0]
            assert readable, f"process {self.pid} is silent for {seconds} s"
            more = os.read(self._process.stdout.fileno(), 1 << 16)
            assert more, f"the agent ended with status {self._process.wait(SECONDS)}"
            self._text += more
        line, _, self._text = self._text.partition(b"\n")
        return json.loads(line)

    def ask(self, do, seconds=SECONDS, **how):
        """Let it do something, and return the answer, which is to be no error."""
        self.tell(do, **how)
        answer = self.hear(seconds)
        assert "error" not in answer, answer
        return answer

    def kill(self):
        """End it without a word; what it started has to notice."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait(SECONDS)

    def leave(self):
        """Let it leave its session and end."""
        self._process.stdin.close()
        assert self._process.wait(SECONDS) == 0

    def close(self):
        self.kill()
        self._process.stdout.close()
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()


@pytest.fixture(scope="session")
def identities(tmp_path_factory):
    """Files of a certificate, its key and the authority, for each host by its number."""
    authority, directory = trustme.CA(), tmp_path_factory.mktemp("identities")
    authority.cert_pem.write_to_path(directory / "ca")

    def write(number):
        names = ["origin", "other", *(f"work-{index}" for index in range(8))]
        certificate = authority.issue_cert(f"10.78.0.{number}", *names)
        certificate.private_key_pem.write_to_path(directory / f"{number}.key")
        for index, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(directory / f"{number}.pem", append=index > 0)
        return [str(directory / name) for name in (f"{number}.pem", f"{number}.key", "ca")]

    return {number: write(number) for number in range(1, HOSTS + 1)}


@pytest.fixture
def network(tmp_path, identities):
    """Make a network of machines; it is `machines` of what is returned, and ends with the test."""
    with contextlib.ExitStack() as stack:

        def make(hosts=2, **line):
            made = stack.enter_context(lab.Network(hosts, **line))
            made.machines = [
                Machine(host, tmp_path / f"host-{host.number}", identities[host.number])
                for host in made.hosts
            ]
            for machine in made.machines:
                stack.callback(lambda machine=machine: [agent.close() for agent in machine.agents])
            return made

        yield make


@pytest.fixture
def write_tree():
    """Write files of random bytes into a directory; return the digest of all."""

    def write(directory, files, size, seed=1):
        numbers = random.Random(seed)
        directory.mkdir(parents=True)
        for index in range(files):
            (directory / f"{index:05}").write_bytes(numbers.randbytes(size))
        return digest_of(directory)

    return write


@pytest.fixture
def digest():
    return digest_of


def digest_of(directory):
    """Return a digest of all names and bytes of a directory of files."""
    of_all = hashlib.sha256()
    for path in sorted(Path(directory).iterdir()):
        of_all.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return of_all.hexdigest()
