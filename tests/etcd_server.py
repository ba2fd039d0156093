"""Real etcd servers for as long as a test or a benchmark needs them: one, or a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

_START_SECONDS = 60.0
_READY = b"serving client traffic"


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has, below those that the kernel gives to whoever connects."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found += [port] * (port not in found)
    return found


class EtcdMember:
    """One server; it may be killed, stopped, and started again with what it has on its disk."""

    def __init__(
        self,
        name: str,
        client: str,
        peer: str,
        directory: Path,
        prefix: Sequence[str],
        options: Sequence[str],
    ) -> None:
        self.name = name
        self.endpoint = client
        """``HOST:PORT`` of clients."""
        self.peer_url = f"http://{peer}"
        self._directory = directory
        self._log = directory / f"{name}.log"
        self._prefix = list(prefix)
        self._options = list(options)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str, scheme: str) -> None:
        """Start it; it may not be ready before the other members are started too."""
        program = shutil.which("etcd")
        assert program is not None, "etcd is not installed: apt-get install etcd-server etcd-client"
        url = f"{scheme}://{self.endpoint}"
        command = [*self._prefix, program, "--name", self.name, "--logger", "zap"]
        command += ["--data-dir", str(self._directory / self.name)]
        command += ["--listen-client-urls", url, "--advertise-client-urls", url]
        command += ["--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url]
        command += ["--initial-cluster", cluster, "--heartbeat-interval", "50", "--election-timeout", "500"]
        # Each test makes little data; the default would be mapped whole.
        command += ["--quota-backend-bytes", str(1 << 30), *self._options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
            )

    def wait(self) -> None:
        """Wait until it answers clients."""
        assert self.process is not None
        end = time.monotonic() + _START_SECONDS
        while _READY not in self._log.read_bytes():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, f"etcd is not ready: {self._log.read_text()[-4000:]}"
            time.sleep(0.02)

    def started_calls(self, service: str) -> int:
        """Return how many calls of a service, as ``KV``, it has begun to answer: by its own count."""
        with urllib.request.urlopen(f"http://{self.endpoint}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        counted = [
            line
            for line in lines
            if line.startswith("grpc_server_started_total") and f'"etcdserverpb.{service}"' in line
        ]
        return sum(int(float(line.rpartition(" ")[2])) for line in counted)

    def signal(self, number: int) -> None:
        """Send it a signal, as SIGSTOP, after which it stands still, and SIGCONT."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def forget(self) -> None:
        """Remove what it has on its disk, once it was killed."""
        shutil.rmtree(self._directory / self.name)

    def kill(self) -> None:
        """Kill it; what it has written stays for the next `start`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


class EtcdServers:
    """A cluster of members on loopback, or wherever `addresses` are.

    Args:
        directory: for data and logs.
        members: how many, where no addresses are given.
        addresses: ``(client HOST:PORT, peer HOST:PORT)`` of each.
        prefixes: what each command begins with, as ``["ip", "netns", "exec", NAME]``.
        options: more options for each member.
        scheme: ``https`` where the options say with which certificate.
    """

    def __init__(
        self,
        directory: Path,
        members: int = 1,
        *,
        addresses: Sequence[tuple[str, str]] | None = None,
        prefixes: Sequence[Sequence[str]] | None = None,
        options: Sequence[str] = (),
        scheme: str = "http",
    ) -> None:
        if addresses is None:
            ports = free_ports(2 * members)
            addresses = [
                (f"127.0.0.1:{client}", f"127.0.0.1:{peer}")
                for client, peer in zip(ports[::2], ports[1::2], strict=True)
            ]
        prefixes = prefixes or [()] * len(addresses)
        directory.mkdir(parents=True, exist_ok=True)
        self.scheme = scheme
        self.members = [
            EtcdMember(f"m{number}", client, peer, directory, prefix, options)
            for number, ((client, peer), prefix) in enumerate(zip(addresses, prefixes, strict=True))
        ]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def endpoints(self) -> str:
        """All endpoints, as a URL and etcdctl take them."""
        return ",".join(member.endpoint for member in self.members)

    @property
    def cluster(self) -> str:
        return ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    def start(self, *members: EtcdMember) -> None:
        """Start those that are given, else all, and wait until they answer."""
        for member in members or self.members:
            member.start(self.cluster, self.scheme)
        for member in members or self.members:
            member.wait()

    def stop(self) -> None:
        for member in self.members:
            with contextlib.suppress(OSError):
                if member.process is not None:
                    member.signal(signal.SIGCONT)
            member.kill()

    def new_url(self) -> str:
        """Return the URL of a registry that nobody else uses."""
        return f"etcd://{self.endpoints}/tests/{uuid.uuid4().hex[:12]}"

    def control(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run etcdctl, and return what it prints."""
        done = subprocess.run(
            ["etcdctl", "--dial-timeout", "20s", "--command-timeout", "20s"]
            + ["--endpoints", ",".join(f"{self.scheme}://{m.endpoint}" for m in self.members)]
            + list(arguments),
            env={**os.environ, "ETCDCTL_API": "3", **(environment or {})},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def leader(self) -> EtcdMember:
        """Return the member that leads."""
        for line in json.loads(self.control("endpoint", "status", "--write-out", "json")):
            status = line["Status"]
            if status["header"]["member_id"] == status["leader"]:
                endpoint = line["Endpoint"].rpartition("/")[2]
                return next(member for member in self.members if member.endpoint == endpoint)
        raise AssertionError("no member leads")


class Gate:
    """A way to one address that can be cut, or hold back what it is sent."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._is_open = threading.Event()
        self._is_open.set()
        self._flows = threading.Event()
        self._flows.set()
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """End all connections, and take none until `open`."""
        self._is_open.clear()
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Carry nothing until `open`; connections stay."""
        self._flows.clear()

    def open(self) -> None:
        self._is_open.set()
        self._flows.set()

    def close(self) -> None:
        self._listener.close()
        self.open()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                if not self._is_open.is_set():
                    near.close()
                    continue
                far = socket.create_connection(self._target, 5)
                with self._lock:
                    self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError), one, other:
            while data := one.recv(1 << 16):
                self._flows.wait(60)
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)
