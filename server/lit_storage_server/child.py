"""The process in which a Work's peer server runs, so that no computation of the Work keeps it waiting.

A thread of a program that computes in Python waits up to 5 ms for the interpreter after each system
call; a server in such a thread moves a hundredth of what it could. `process` starts this one and tells
it what to do: one JSON object a message, each with its length before it, each answered in turn.

Invariant: it ends with its parent, however that ends: at the end of their connection, or, where a
forked child of the parent still holds the other end of it, with the parent's process itself. Signals
that are meant for the Work do not end it, for a Work goes on serving until it has left.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Mapping
from typing import Any

from lit_storage_client.security import Security
from lit_storage_proto.limits import Limits
from lit_storage_server.control import described, receive, send
from lit_storage_server.peer import PeerServer
from lit_storage_server.shares import Shares


def main(descriptor: int, parent: int) -> None:
    """Serve for the process `parent`, which holds the other end of the socket `descriptor`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection, selectors.DefaultSelector() as selector:
        watched = os.pidfd_open(parent)
        if os.getppid() != parent:
            return  # it ended before it could be watched
        selector.register(watched, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        served = _Served(receive(connection))
        _answer(connection, served.start)
        while all(key.fileobj is connection for key, _ in selector.select()):
            try:
                message = receive(connection)
            except (EOFError, ConnectionError):
                break
            _answer(connection, lambda message=message: served.do(message))
            if served.stopped:
                break
    os._exit(0)  # a call that still runs must not hold it up


class _Served:
    """The server and what it shares."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._shares: Shares | None = None
        self._server: PeerServer | None = None
        self.stopped = False

    def start(self) -> str:
        options = self._options
        self._shares = Shares(options["root"], name=options["name"])
        for path in options["declared"]:
            self._shares.declare(path)
        self._server = PeerServer(
            options["name"],
            options["instance_id"],
            self._shares,
            bind=options["bind"],
            security=Security(**options["security"]),
            limits=Limits(**options["limits"]),
        )
        return self._server.start()

    def do(self, message: Any) -> None:
        assert self._shares is not None
        assert self._server is not None
        match message:
            case ["declare", str(path)]:
                self._shares.declare(path)
            case ["stop", float(seconds)]:
                self.stopped = True
                self._server.stop(seconds)


def _answer(connection: socket.socket, call: Any) -> None:
    try:
        answer = [True, call()]
    except Exception as error:  # noqa: BLE001  # whatever it is belongs to the other side
        answer = [False, *described(error)]
    with contextlib.suppress(OSError):
        send(connection, answer)
