"""Hosts of a test: network namespaces that are joined by `forwarder.py`, and programs on them."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import uuid

FORWARDER = os.path.join(os.path.dirname(__file__), "forwarder.py")
SECONDS = 60.0  # nothing that is made or ended here takes so long, also on a busy machine


def why_not():
    """Return why no hosts can be made here, or None."""
    if os.geteuid() != 0:
        return "hosts are network namespaces, which only uid 0 can make"
    if not os.path.exists("/dev/net/tun"):
        return "hosts are joined through /dev/net/tun, which is not there"
    name = f"lit{uuid.uuid4().hex[:8]}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    except FileNotFoundError:
        return "hosts are made by ip of iproute2, which is not installed"
    if made.returncode:
        return f"hosts cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


class Host:
    """One host: programs run on it by `command` before theirs."""

    def __init__(self, namespace, number):
        self.namespace = namespace
        self.number = number
        self.address = f"10.78.0.{number}"
        self.command = ["ip", "netns", "exec", namespace]

    def start(self, *argv, **options):
        """Start a program on it; `Popen` as of subprocess."""
        return subprocess.Popen([*self.command, *argv], **options)

    def run(self, *argv):
        """Run a program on it and return what it prints."""
        result = subprocess.run([*self.command, *argv], capture_output=True, text=True, timeout=SECONDS)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def processes(self):
        """Return the ids of all processes on it."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in listed.stdout.split()]

    def set_interface(self, state):
        """Take the interface "down", which the system knows, unlike that of a line that is cut; or "up"."""
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "lab0", state], check=True)


class Network:
    """Hosts, from when the block begins until it ends; whatever runs on them then is killed.

    Args:
        hosts: how many.
        delay_seconds: of each packet, one way.
        loss: the chance that one is dropped.
        mbit: the rate of each host, in either direction.
        mtu: the largest packet.
    """

    def __init__(self, hosts, *, delay_seconds=0.0, loss=0.0, mbit=1000.0, mtu=1500):
        prefix = f"lit{uuid.uuid4().hex[:6]}-"
        self.hosts = [Host(f"{prefix}{number}", number) for number in range(1, hosts + 1)]
        self._argv = [sys.executable, FORWARDER, prefix, *map(str, (hosts, delay_seconds, loss, mbit, mtu))]

    def __enter__(self):
        # In a session of its own, so that Ctrl-C is for the tests, which then end it.
        self._forwarder = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        self._expect("up")
        return self

    def __exit__(self, *exc_info):
        for host in self.hosts:
            for pid in host.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._forwarder.stdin.close()
        self._forwarder.wait(SECONDS)
        self._forwarder.stdout.close()

    def cut(self, host):
        """Let nothing reach a host any more, nor leave it."""
        self._order(f"cut {host.number}")

    def mend(self, host):
        """Let all pass again."""
        self._order(f"mend {host.number}")

    def _order(self, order):
        self._forwarder.stdin.write(f"{order}\n")
        self._expect(order)

    def _expect(self, said):
        assert select.select([self._forwarder.stdout], [], [], SECONDS)[0], "the forwarder is silent"
        assert self._forwarder.stdout.readline().strip() == said
