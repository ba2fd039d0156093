"""A peer server in a process of its own, as the process that it serves for sees it.

Invariant: there is at most one such process for a `ServerProcess`, it listens where the first one did,
and it is gone after `stop`. If it is killed another one takes its place, unless that happens again and
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from lit_storage_client.security import Security
from lit_storage_proto.errors import OriginUnavailable
from lit_storage_proto.limits import Limits
from lit_storage_server.control import error_of, receive, send

_START_SECONDS = 60.0
_ANSWER_SECONDS = 30.0
_END_SECONDS = 5.0
_MOST_STARTS, _STARTS_SECONDS = 5, 60.0

_PROGRAM = "import sys; from lit_storage_server.child import main; main(int(sys.argv[1]), int(sys.argv[2]))"


class ServerProcess:
    """Serves what a process shares, under one name and instance id, from another process.

    Args:
        name: the name under which the registry lists this process.
        instance_id: new for each start of it.
        root: the storage root.
        bind: ``HOST:PORT`` to listen on; port 0 is any free one.
        security: what callers must show.
        limits: how many streams, and how long anything may take.
    """

    def __init__(
        self, name: str, instance_id: str, root: str, *, bind: str, security: Security, limits: Limits
    ) -> None:
        self._options = {
            "name": name,
            "instance_id": instance_id,
            "root": root,
            "bind": bind,
            "security": dataclasses.asdict(security),
            "limits": dataclasses.asdict(limits),
        }
        self._declared: list[str] = []
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._starts: list[float] = []
        self.endpoint = ""
        """``host:port`` that it listens on, once it has started."""

    def begin(self) -> None:
        """Start the process, without waiting for it; to be called once, before `start`."""
        self._starts.append(time.monotonic())
        ours, theirs = socket.socketpair()
        with theirs:
            # Modules are found where this process finds them, and never in its working directory.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            try:
                self._process = subprocess.Popen(  # noqa: S603  # this very interpreter
                    [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), str(os.getpid())],
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            except BaseException:
                ours.close()
                raise
        self._connection = ours

    def start(self) -> str:
        """Wait until it serves, and return the endpoint.

        Raises:
            AddressInUse: another process listens there.
            AccessDenied: it may not listen there, or a TLS file cannot be read.
            InvalidURI: `bind` is no address.
            OSError: the address is not one of this machine.
            OriginUnavailable: the process ended, or does not answer.
        """
        with self._lock:
            self.endpoint = self._welcome()
        threading.Thread(target=self._watch, name="lit-storage-server-watch", daemon=True).start()
        return self.endpoint

    def declare(self, path: str) -> None:
        """See `Shares.declare`."""
        with self._lock:
            self._ask(["declare", path], _ANSWER_SECONDS)
            self._declared.append(path)

    def stop(self, grace_seconds: float = 0.0) -> None:
        """See `PeerServer.stop`; the process is gone afterwards. A second call does nothing."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            try:
                if self.endpoint:
                    self._ask(["stop", float(grace_seconds)], grace_seconds + _ANSWER_SECONDS)
            except OriginUnavailable:
                pass  # it ended by itself
            finally:
                self._end()

    def _welcome(self) -> str:
        assert self._connection is not None
        try:
            send(self._connection, {**self._options, "declared": self._declared})
            return str(self._answer(_START_SECONDS))
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise self._lost() from None
            raise

    def _ask(self, message: Sequence[Any], seconds: float) -> Any:
        if self._connection is None:
            raise self._lost()
        try:
            send(self._connection, message)
        except OSError:
            raise self._lost() from None
        return self._answer(seconds)

    def _answer(self, seconds: float) -> Any:
        assert self._connection is not None
        self._connection.settimeout(seconds)
        try:
            answer = receive(self._connection)
        except (EOFError, TimeoutError, ConnectionError):
            raise self._lost() from None
        finally:
            self._connection.settimeout(None)
        if answer[0]:
            return answer[1]
        raise error_of(*answer[1:])

    def _lost(self) -> OriginUnavailable:
        return OriginUnavailable(
            f"the server process of {self._options['name']!r} ended or is stuck; see its standard error"
        )

    def _watch(self) -> None:
        """Start another process each time that the present one ends by itself."""
        while (process := self._process) is not None:
            process.wait()
            with self._lock:
                if self._stopped:
                    return
                recent = [at for at in self._starts if at > time.monotonic() - _STARTS_SECONDS]
                self._end()
                if len(recent) >= _MOST_STARTS:
                    return
                self._options["bind"] = self.endpoint
                try:
                    self.begin()
                    self._welcome()
                except (OSError, OriginUnavailable):
                    continue

    def _end(self) -> None:
        """Make sure that the process is gone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()  # which tells it to end
        if self._process is not None:
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                self._process.wait(_END_SECONDS)
