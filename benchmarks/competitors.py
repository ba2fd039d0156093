"""What people use instead: real servers on loopback, started here, each run a whole process.

Invariant: each is told to do what a get does: copy all, keep modes and times where it can, and write
without flushing. What is not installed is named, not left out in silence.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.processes import Process

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@dataclass(frozen=True, eq=False)
class Competitor:
    """A way to copy `name`, which lies in the directory that is served, to a target."""

    label: str
    command: Callable[[str, str], list[str]]

    def run(self, name: str, target: str) -> float:
        """Copy, and return the seconds."""
        command = self.command(name, target)
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=REPOSITORY, timeout=600, **QUIET)
        return time.perf_counter() - began


@dataclass(frozen=True, eq=False)
class Warm(Competitor):
    """One whose client is a process that runs on, as ours does."""

    client: Process

    def run(self, name: str, target: str) -> float:
        return float(self.client.ask(name=name, to=target))


def find(program: str) -> str | None:
    """Return where a program is; servers are often not on a user's PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, *, stop: list[str] | None = None) -> Iterator[None]:
    """Run a server for the length of a ``with`` block, from when it listens."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, **QUIET)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen")
            time.sleep(0.05)
        yield
    finally:
        if stop is not None:
            subprocess.run(stop, check=False, **QUIET)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def write(path: str, text: str, mode: int = 0o600) -> str:
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
    return path


class Competitors:
    """Starts servers over one directory, and stops them."""

    def __init__(self, directory: str, scratch: str, stack: contextlib.ExitStack) -> None:
        self._directory = directory
        self._scratch = scratch
        self._stack = stack
        self.missing: list[str] = []

    def start(self, *labels: str) -> list[Competitor]:
        """Return those of the competitors that are installed."""
        found = []
        for label in labels:
            competitor: Competitor | None = getattr(self, "_" + label.replace(" ", "_").replace("-", "_"))()
            if competitor is None:
                self.missing.append(label)
            else:
                found.append(competitor)
        return found

    def _rsync(self) -> Competitor | None:
        rsync = find("rsync")
        if rsync is None:
            return None
        port = free_port()
        configuration = write(
            f"{self._scratch}/rsyncd.conf",
            f"port = {port}\naddress = 127.0.0.1\nuse chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
            f"[files]\npath = {self._directory}\nread only = yes\n",
        )
        self._stack.enter_context(
            running([rsync, "--daemon", "--no-detach", f"--config={configuration}"], port)
        )
        address = f"rsync://127.0.0.1:{port}/files"
        return Competitor(
            "rsync daemon",
            lambda name, target: [
                rsync,
                "-a",
                "--whole-file",
                f"{address}/{name}",
                os.path.dirname(target) + "/",
            ],
        )

    def _nginx(self) -> Competitor | None:
        nginx, curl = find("nginx"), find("curl")
        if nginx is None or curl is None:
            return None
        port = free_port()
        user = "user root;" if os.getuid() == 0 else ""
        configuration = write(
            f"{self._scratch}/nginx.conf",
            f"{user} daemon off; pid {self._scratch}/nginx.pid; error_log stderr; worker_processes 1;"
            "events {} http { access_log off; sendfile on; client_body_temp_path /tmp; "
            f"proxy_temp_path {self._scratch}; fastcgi_temp_path {self._scratch}; "
            f"uwsgi_temp_path {self._scratch}; scgi_temp_path {self._scratch};"
            f"server {{ listen 127.0.0.1:{port}; root {self._directory}; }} }}",
        )
        self._stack.enter_context(running([nginx, "-p", self._scratch, "-c", configuration], port))
        return Competitor(
            "nginx -> curl",
            lambda name, target: [curl, "-sf", "-o", target, f"http://127.0.0.1:{port}/{name}"],
        )

    def _scp(self) -> Competitor | None:
        sshd, scp, keygen = find("sshd"), find("scp"), find("ssh-keygen")
        if sshd is None or scp is None or keygen is None:
            return None
        port, keys = free_port(), f"{self._scratch}/ssh"
        os.makedirs(keys, mode=0o700)
        if os.getuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # sshd asks for it
        for name in ("host", "user"):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", f"{keys}/{name}"], check=True)
        shutil.copy(f"{keys}/user.pub", f"{keys}/authorized")
        options = {
            "ListenAddress": "127.0.0.1",
            "AuthorizedKeysFile": f"{keys}/authorized",
            "StrictModes": "no",
            "PidFile": f"{keys}/pid",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
        }
        command = [sshd, "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", f"{keys}/host"]
        command += ["-o", "Subsystem=sftp internal-sftp"]
        for key, value in options.items():
            command += ["-o", f"{key}={value}"]
        self._stack.enter_context(running(command, port))
        quiet = ["-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        user = os.environ.get("USER") or "root"
        return Competitor(
            "scp",
            lambda name, target: [
                *[scp, "-rp", "-P", str(port), "-i", f"{keys}/user", *quiet],
                *[f"{user}@127.0.0.1:{self._directory}/{name}", target],
            ],
        )

    def _rclone(self) -> Competitor | None:
        rclone = find("rclone")
        if rclone is None:
            return None
        port = free_port()
        serve = [
            rclone,
            "serve",
            "http",
            self._directory,
            "--addr",
            f"127.0.0.1:{port}",
            "--config",
            "/dev/null",
        ]
        self._stack.enter_context(running(serve, port))
        source = f":http,url='http://127.0.0.1:{port}':"
        return Competitor(
            "rclone (http)",
            lambda name, target: [rclone, "copyto", "--config", "/dev/null", f"{source}{name}", target],
        )

    def _cp(self) -> Competitor:
        return Competitor("cp", lambda name, target: ["cp", f"{self._directory}/{name}", target])

    def _cp_a(self) -> Competitor:
        return Competitor("cp -a", lambda name, target: ["cp", "-a", f"{self._directory}/{name}", target])

    def _cp_without_reflink(self) -> Competitor:
        return Competitor(
            "cp --reflink=never",
            lambda name, target: ["cp", "--reflink=never", f"{self._directory}/{name}", target],
        )

    def _cp_a_and_sync(self) -> Competitor:
        script = 'cp -a "$0" "$1" && sync -f "$1"'
        return Competitor(
            "cp -a; sync -f",
            lambda name, target: ["sh", "-c", script, f"{self._directory}/{name}", target],
        )

    def _copytree(self) -> Competitor:
        script = "import shutil, sys; shutil.copytree(*sys.argv[1:], symlinks=True)"
        return Competitor(
            "shutil.copytree",
            lambda name, target: [sys.executable, "-c", script, f"{self._directory}/{name}", target],
        )

    def _naive(self) -> Competitor:
        server = Process("naive-server", self._directory)
        self._stack.callback(server.stop)
        client = Process("naive-client", str(server.ready))
        self._stack.callback(client.stop)
        return Warm("generated stubs", lambda name, target: [], client)
