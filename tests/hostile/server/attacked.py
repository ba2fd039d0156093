"""Real servers to attack: a Work's, in the child process that it has, and the daemon of a machine."""

import contextlib
import json
import os
import subprocess
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_proto.v1 import path_storage_pb2_grpc as pb_grpc
from tests.conftest import script_of
from tests.processes import children_of

TOKEN = "some-token-of-tests"
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
SERVING = health_pb2.HealthCheckResponse.SERVING
KINDS = ("work", "daemon")

_WORK = """
import json, logging, sys
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits
from lit_storage_server.process.server_process import ServerProcess
logging.basicConfig()
root, token, limits = sys.argv[1:]
limits, security = Limits(**json.loads(limits)), Security(token=token)
server = ServerProcess("store", "i1", root, bind="127.0.0.1:0", security=security, limits=limits)
print(server.start(), flush=True)
sys.stdin.read()
server.stop(0.0)
"""


class Attacked:
    """A server that runs, and what it costs.

    Args:
        kind: "work" or "daemon".
        place: a new directory; the files are in `data`, which the daemon shares under that name.
        limits: fields of Limits.
        descriptors: how many the server may have; None leaves it as it is.
    """

    def __init__(self, kind, place, *, descriptors=None, metrics=False, data=None, **limits):
        self.kind, self.data = kind, data or place / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.prefix = "data/" if kind == "daemon" else ""
        self._log = place / "log"
        command = self._work(limits) if kind == "work" else self._daemon(place, limits, metrics)
        if descriptors is not None:
            command = ["prlimit", f"--nofile={descriptors}:{descriptors}", *command]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LIT_STORAGE_TOKEN": TOKEN}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
            )
        self.metrics = ""
        self.endpoint = self.process.stdout.readline().decode().strip() if kind == "work" else self._told()
        self.port = int(self.endpoint.rpartition(":")[2])
        self._channel = self.channel()
        self.stub = pb_grpc.PathStorageStub(self._channel)
        assert self.answers()

    @property
    def pid(self):
        """That of the process that serves."""
        return children_of(self.process.pid)[0] if self.kind == "work" else self.process.pid

    def path(self, path):
        """Return how a peer asks for a path in `data`."""
        return self.prefix + path if path else self.prefix.rstrip("/")

    def channel(self):
        return grpc.insecure_channel(self.endpoint, [("grpc.use_local_subchannel_pool", 1)])

    def answers(self, seconds=20):
        """Say whether health, Exists and Stat answer, each within `seconds`."""
        checked = health_pb2_grpc.HealthStub(self._channel).Check(
            health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True
        )
        request = pb.ExistsRequest(path=self.path(""))
        exists = self.stub.Exists(request, timeout=seconds, metadata=AUTHORIZED)
        stat = self.stub.Stat(pb.StatRequest(path=self.path("")), timeout=seconds, metadata=AUTHORIZED)
        return checked.status == SERVING and exists.exists and stat.entry.kind == 2

    def answers_again(self):
        """Say the same where a refusal, or no connection, is only a reason to ask again."""
        with contextlib.suppress(grpc.RpcError):
            return self.answers()
        return False

    def stream(self, path, *, stub=None, timeout=60, **options):
        """Begin a copy."""
        request = pb.StreamFilesRequest(path=self.path(path), **options)
        return (stub or self.stub).StreamFiles(request, timeout=timeout, metadata=AUTHORIZED)

    def streams_again(self, path):
        """Say whether a copy of a path goes through."""
        with contextlib.suppress(grpc.RpcError):
            return [*self.stream(path, timeout=20)][-1].HasField("summary")
        return False

    def log(self):
        return self._log.read_text(errors="replace")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def resident(self):
        """Return the bytes of memory that the server holds now."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def most_resident(self):
        """Return the most that it has ever held."""
        with open(f"/proc/{self.pid}/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self._channel.close()
        for child in children_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, 9)
        self.process.kill()
        self.process.communicate()

    def _work(self, limits):
        return [sys.executable, "-c", _WORK, str(self.data), TOKEN, json.dumps(limits)]

    def _daemon(self, place, limits, metrics):
        config = place / "config.toml"
        lines = ["[limits]", *(f"{name} = {value}" for name, value in limits.items())]
        config.write_text("\n".join(lines))
        command = [script_of("lit-storage"), "serve", "--log-format", "json", "--config", str(config)]
        command += ["--name", "store", "--root", str(place / "root"), "--share", f"data={self.data}"]
        return [*command, *(["--metrics", "0"] if metrics else [])]

    def _told(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            for line in self.log().splitlines():
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    if said["event"] == "metrics are served":
                        self.metrics = said["address"]
                    if said["event"] == "serving":
                        return said["listening"]
            time.sleep(0.05)
        raise AssertionError(self.log())
