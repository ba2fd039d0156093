"""What runs in an actor of Ray for one Work: it starts a `node_host` and carries messages, nothing more.

No message is lost or said twice when the connection between App and actor breaks and comes back: each side
says how far it got, and is given again what it may not have seen.

Invariant: the Work's host is started once; messages leave here in the order in which they came.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pickle
import socket
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from lit_storage.executors import Start, app_file
from lit_storage.executors.process import interpreter_flags
from lit_storage.executors.ray.node_host import PROGRAM, Ended
from lit_storage_core.system.interpreter import find_interpreter

_MOST_MESSAGES, _MOST_BYTES = 1000, 4 << 20  # of one answer, which may be given again


@dataclass(frozen=True, slots=True)
class Program:
    """The App's own program, which the Work's process on another machine is to resemble."""

    path: list[str]
    """``sys.path``, without what belongs to the installation of its Python."""
    arguments: list[str]
    directory: str
    """Its working directory."""
    flags: list[str] = field(default_factory=list)
    """Of its interpreter."""

    @classmethod
    def of_this_process(cls) -> Program:
        """Return what this process is."""
        own = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
        path = [os.path.abspath(entry) for entry in sys.path if not entry.startswith(own)]
        return cls(path, sys.argv, os.getcwd(), interpreter_flags())

    def path_here(self) -> list[str]:
        """Return what ``sys.path`` is for a Work of it in this process's place."""
        path = [app_file.place_of(entry, self.directory) for entry in self.path]
        return list(dict.fromkeys([*path, *sys.path]))


class WorkActor:
    """One Work, as Ray holds it.

    Its methods are called in two concurrency groups, "say" and "take", of one thread each.

    Args:
        name: of the Work; Ray shows it before each line that the Work prints.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._node = ""
        self._connection: Connection | None = None
        self._said = 0
        self._taken = 0
        self._untaken: list[bytes] = []
        self._ended = False

    def __repr__(self) -> str:
        return self._name

    def begin(self, token: str | None, start: Start, program: Program) -> str:
        """Start the Work, unless that is done.

        Args:
            token: of `start`, apart from it: Ray may keep what is large in a file.
            start: who the Work is; without an address to listen on it is the node's.
            program: the App's.

        Returns:
            The node's address, as Ray knows it.
        """
        if self._connection is None:
            ray: Any = importlib.import_module("ray")
            self._node = str(ray.util.get_node_ip_address())
            self._connection = self._host(self._on_this_node(token, start, program), program)
        return self._node

    def say(self, first: int, orders: list[bytes]) -> None:
        """Pass orders to the Work's host.

        Args:
            first: how many there were before these; those that are here already are passed over.
            orders: pickled ones.
        """
        assert self._connection is not None
        for order in orders[max(0, self._said - first) :]:
            try:
                self._connection.send_bytes(order)
            except OSError:
                pass  # the host has ended, of which `take` tells
            self._said += 1

    def take(self, taken: int) -> list[bytes]:
        """Return what the host says next, one pickled message at least.

        Args:
            taken: how many messages have arrived, so that they are not returned again.
        """
        del self._untaken[: taken - self._taken]
        self._taken = taken
        assert self._connection is not None
        size = sum(map(len, self._untaken))
        while not self._untaken or (not self._ended and self._connection.poll()):
            if len(self._untaken) >= _MOST_MESSAGES or size >= _MOST_BYTES:
                break
            self._untaken.append(self._receive(self._connection))
            size += len(self._untaken[-1])
        return list(self._untaken)

    def _receive(self, connection: Connection) -> bytes:
        try:
            return connection.recv_bytes()
        except (EOFError, OSError):
            self._ended = True
            return pickle.dumps(Ended(f"was lost: what held it on {self._node} was killed"))

    def _on_this_node(self, token: str | None, start: Start, program: Program) -> Start:
        bind = None if os.environ.get("LIT_STORAGE_BIND") else start.bind or f"{self._node}:0"
        return dataclasses.replace(
            start,
            security=dataclasses.replace(start.security, token=token),
            file=app_file.moved(start.file, program.directory),
            bind=bind,
        )

    def _host(self, start: Start, program: Program) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            subprocess.Popen(  # noqa: S603  this interpreter, and no argument of anyone else's
                [
                    *(find_interpreter(), *getattr(program, "flags", ())),  # an App of before sends none
                    *("-c", PROGRAM, str(theirs.fileno()), f"lit-storage host of {self._name}"),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        connection: Connection = Connection(ours.detach())
        connection.send((program.path_here(), program.arguments))
        connection.send(start)
        return connection
