"""A Work on a node whose App is on another machine: the executor ``process``, at the end of a socket.

Who holds the other end, the actor of `lit_storage.executors.ray.actor`, only carries messages. Here is what
an App does for a Work on its own machine: its process is started, stopped and killed, and what it left is
published, where its files are.

Invariant: when this program has ended, so has the Work. It outlives the other end of its socket for as long
as the Work may take to unwind and to publish.
"""

from __future__ import annotations

import contextlib
import os
import threading
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection

from lit_storage.executors import Command, Joined, Message, Start
from lit_storage.executors.process import ProcessExecutor, ProcessWorker
from lit_storage.sessions.persistence import see_to_end, tell

_LEAVE_SECONDS = 5.0  # for what a Work does beside publishing, and for telling of its end

# A worker of Ray that ends kills its own children, and no others
# (https://docs.ray.io/en/latest/ray-core/user-spawn-processes.html). So that child is a process that only
# waits, and this program is a grandchild: a Work whose App was killed can unwind and publish.
PROGRAM = """
import os, sys
sys.path[:] = filter(None, sys.path)
if child := os.fork():
    os.closerange(3, 1 << 16)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:], sys.argv[:] = connection.recv()
from lit_storage.executors.ray.node_host import main
main(connection)
"""


@dataclass(frozen=True, slots=True)
class StopWithin:
    """To the host: see `Worker.stop`."""

    grace_seconds: float


@dataclass(frozen=True, slots=True)
class Kill:
    """To the host: see `Worker.kill`."""


@dataclass(frozen=True, slots=True)
class Ended:
    """From the host: the Work's process has ended; there is nothing after this."""

    how: str


Order = Command | StopWithin | Kill
Said = Message | Ended


def main(connection: Connection) -> None:
    """Run the Work that the first message describes, until it has ended."""
    os.set_inheritable(connection.fileno(), False)
    start = connection.recv()
    assert isinstance(start, Start)
    NodeHost(connection, start).run()


class NodeHost:
    """One Work of this node.

    Args:
        connection: to the App's side; a message that it does not take holds up the Work's next ones.
        start: who the Work is.
    """

    def __init__(self, connection: Connection, start: Start) -> None:
        self._connection = connection
        self._start = start
        self._instance_id: str | None = None
        self._gone = threading.Event()

    def run(self) -> None:
        """Return when the Work has ended."""
        limits = self._start.limits
        executor = ProcessExecutor(limits.stop_grace_seconds + limits.publish_seconds)
        try:
            worker = executor.start(self._start, self._say, self._ended)
            with contextlib.suppress(EOFError, OSError):
                while True:
                    self._do(worker, self._connection.recv())
            # The Work's end was told, or nobody is there any more to whom it belongs.
            worker.stop(limits.stop_grace_seconds)
            self._gone.wait(limits.publish_seconds + _LEAVE_SECONDS)
        finally:
            executor.close()

    def _do(self, worker: ProcessWorker, order: Order) -> None:
        match order:
            case StopWithin(seconds):
                # It takes its time, and a Kill may come meanwhile.
                threading.Thread(target=worker.stop, args=(seconds,), name="lit-stop", daemon=True).start()
            case Kill():
                worker.kill()
            case _:
                worker.send(order)

    def _say(self, message: Said) -> None:
        if isinstance(message, Joined):
            self._instance_id = message.instance_id
        with contextlib.suppress(OSError):  # nobody listens; what the Work says is still to be taken from it
            self._connection.send(message)

    def _ended(self, how: str) -> None:
        try:
            if self._instance_id is not None:
                self._see_to_end(self._instance_id)
            self._say(Ended(how))
        finally:
            self._gone.set()

    def _see_to_end(self, instance_id: str) -> None:
        """Give the Work's name back and publish what it left: here are its files."""
        from lit_storage_core.registries import open_registry
        from lit_storage_core.system.machine import machine_id

        start = self._start
        try:
            registry = open_registry(start.registry, machine_id=machine_id(start.root), limits=start.limits)
        except Exception as error:  # noqa: BLE001  whatever it is, the Flow is to hear of the Work's end
            tell([f"what {start.name!r} declared could not be published in its place: {error}"])
            return
        with closing(registry):
            see_to_end(start.root, registry, start.name, instance_id, start.limits)
