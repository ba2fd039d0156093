"""A Ray cluster of two nodes in a network namespace of its own, and programs that run beside it.

Ray binds to the machine's outer address, so that it is given a network that has only loopback. Two more
addresses of that stand for two machines; what is loopback to our own code is refused under Ray.

Run as a program, this is the cluster: it reads commands from its standard input, and ends with it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HEAD, OTHER = "10.77.0.1", "10.77.0.2"
SYSTEM = {"health_check_period_ms": 300, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 9}
SYSTEM |= {"prestart_worker_first_driver": False, "enable_worker_prestart": False}


class RayCluster:
    """Two nodes: one with the resource "head", one with "other" and two GPUs that are none."""

    def __init__(self) -> None:
        self.namespace = f"litray{os.getpid()}"
        self.command = ["ip", "netns", "exec", self.namespace]
        self.directory = tempfile.mkdtemp(prefix="lsray")  # short: it holds Unix sockets
        self.environment = {
            "RAY_TMPDIR": self.directory,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DEDUP_LOGS": "0",
            "RAY_COLOR_PREFIX": "0",
            "LIT_STORAGE_LOCAL_COPY": "0",  # the nodes are not one machine
            "PYTHONUNBUFFERED": "1",
        }
        _ip("netns", "add", self.namespace)
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        for address in (HEAD, OTHER):
            _ip("-n", self.namespace, "addr", "add", f"{address}/32", "dev", "lo")
        self._log = os.path.join(self.directory, "log")
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [*self.command, sys.executable, __file__],
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.environment["RAY_ADDRESS"] = self._answer()

    def kill_other(self) -> None:
        """Kill the node "other", as when its machine is lost."""
        self._tell("kill")

    def add_other(self) -> None:
        """Start the node "other" anew."""
        self._tell("add")

    def start(self, *command: str, env: dict[str, str], **options: object) -> "subprocess.Popen[str]":
        """Start a program in the namespace, as an App's."""
        return subprocess.Popen(
            [*self.command, *command],
            env={**os.environ, **self.environment, **env},
            text=True,
            **options,
        )

    def close(self) -> None:
        """End the cluster and all that is left in its namespace."""
        try:
            self._process.communicate(timeout=30)
        finally:
            self._process.kill()
            self._process.wait()
            left = _ip("netns", "pids", self.namespace).split()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            _ip("netns", "del", self.namespace)
            shutil.rmtree(self.directory, ignore_errors=True)

    def _tell(self, command: str) -> None:
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        assert line, Path(self._log).read_text(encoding="utf-8")
        return str(json.loads(line))


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout


def _main() -> None:
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 << 20, "include_dashboard": False}
    head = {"num_cpus": 4, "resources": {"head": 100}, "node_ip_address": HEAD, **memory}
    other = {
        "num_cpus": 4,
        "num_gpus": 2,
        "resources": {"other": 100, "big_disk": 1},
        "node_ip_address": OTHER,
        **memory,
    }
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": SYSTEM})
    node = cluster.add_node(**other, env_vars={"LIT_STORAGE_MACHINE_ID": "other"})
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write(json.dumps(cluster.address) + "\n")
    for command in sys.stdin:
        if command.strip() == "kill":
            cluster.remove_node(node, allow_graceful=False)
        else:
            node = cluster.add_node(**other, env_vars={"LIT_STORAGE_MACHINE_ID": "other"})
        answers.write('"done"\n')
    cluster.shutdown()


if __name__ == "__main__":
    _main()
