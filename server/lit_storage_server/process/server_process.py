"""A peer server in a process of its own, as the process that it serves for sees it.

Invariant: there is at most one such process for a `ServerProcess`, it listens where the first one did,
and it is gone after `stop`. If it ends by itself another one takes its place, at most `_MOST_STARTS` in
`_STARTS_SECONDS`: with more to do it waits, and goes on. Where the name is held by a lease, the process
renews it, and has ended before anybody else can have the name; the next one is another instance, which
serves nobody until it is registered.

It has the user, the root directory and the namespaces that its parent had when it was started: a program
that gives up rights does so before it joins. Where no other Python can be started, as in a frozen or an
embedding program, threads of this one serve, with what `child` says of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lit_storage_core.security.child_environment import without_secrets
from lit_storage_core.security.settings import Security
from lit_storage_core.system.boot_clock import boot_seconds
from lit_storage_core.system.interpreter import find_interpreter
from lit_storage_proto.errors import NameTaken, NotAttached, OriginUnavailable
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Lease
from lit_storage_server.process.control import LEASE_LOST, encode, error_of, receive

if TYPE_CHECKING:
    from lit_storage_server.process.child import Served

_START_SECONDS = 60.0
_ANSWER_SECONDS = 30.0
_END_SECONDS = 5.0
_MOST_STARTS, _STARTS_SECONDS = 5, 60.0
_EXPECT_SECONDS = 0.1  # between looks at whether a lease has come
_CLAIM_SECONDS = 1.0  # between attempts to register anew in a registry that does not answer

_PROGRAM = (
    "import sys; (_, _, parent, *sys.path) = sys.argv; from lit_storage_server.process.child import main; "
    "main(int(parent))"
)
# A Work goes on serving until it has left. Its process group is the server's too: to kill that ends both.
_FOR_THE_WORK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOG = logging.getLogger("lit_storage.server")

Claim = Callable[[str], Lease | None]
"""Registers the endpoint under another instance id; raises NameTaken where somebody else has the name."""


class ServerProcess:
    """Serves what a process shares, under one name and instance id, from another process.

    It may be used from any thread of the process that made it.

    Args:
        name: the name under which the registry lists this process.
        instance_id: new for each start of it.
        root: the storage root.
        bind: ``HOST:PORT`` to listen on; port 0 is any free one.
        security: what callers must show.
        limits: how many streams, and how long anything may take.
        follow_links: as of `Shares`.
    """

    def __init__(
        self,
        name: str,
        instance_id: str,
        root: str,
        *,
        bind: str,
        security: Security,
        limits: Limits,
        follow_links: bool = False,
    ) -> None:
        self._name = name
        self._options = {
            "name": name,
            "instance_id": instance_id,
            "root": root,
            "bind": bind,
            "limits": dataclasses.asdict(limits),
            "hold": None,
            "follow_links": follow_links,
        }
        self._renewal: Mapping[str, Any] = {}
        self._claim: Claim | None = None
        self._claiming = threading.Lock()
        self._is_expecting = False
        """Whether a lease has been asked for that nobody renews yet."""
        self._is_unclaimed = False
        """Whether the present instance is not registered yet, in place of one whose lease was lost."""
        self._security = security.with_absolute_paths()
        self._declared: dict[str, None] = {}
        self._owner = os.getpid()
        self._modules = [entry for entry in sys.path if entry]  # never the working directory
        self._starts: deque[float] = deque(maxlen=_MOST_STARTS)
        # Held by whoever speaks with the process or exchanges it. A signal handler may then call `stop`.
        self._lock = threading.RLock()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._inside: Served | None = None
        self._serving = False
        self._stopping = threading.Event()
        self.endpoint = ""
        """``host:port`` that it listens on, once it has started."""

    def start(self) -> str:
        """Wait until it serves, and return the endpoint; to be called once.

        Raises:
            AddressInUse: another process listens there.
            AccessDenied: it may not listen there, or a TLS file cannot be read.
            InvalidURI: `bind` is no address.
            OSError: the address is not one of this machine.
            OriginUnavailable: the process ended, or does not answer.
        """
        with self._lock:
            try:
                self._spawn()
            except OSError as error:
                _LOG.warning(
                    "the files of %r are served by threads of its own process, slowly while it computes, "
                    "for no other Python can be started: %s",
                    self._name,
                    error.strerror or error,
                )
            self._welcome()
            if self._process is not None:
                self._watcher = threading.Thread(
                    target=self._watch, args=(self._process,), name="lit-storage-server-watch", daemon=True
                )
                self._watcher.start()
        return self.endpoint

    def declare(self, path: str) -> None:
        """See `Shares.declare`.

        Raises:
            NotAttached: this process was forked from the one that is served for.
            OriginUnavailable: the process is gone, and no other one could be started yet.
        """
        if os.getpid() != self._owner:
            raise NotAttached(
                f"process {os.getpid()} was forked from {self._name!r}; declare paths where join() was called"
            )
        with self._lock:
            if path in self._declared:
                return
            try:
                self._ask(["declare", path], _ANSWER_SECONDS)
            except OriginUnavailable:  # it ended a moment ago, and the watcher comes to it too late
                self._replace()
                self._ask(["declare", path], _ANSWER_SECONDS)
            self._declared[path] = None

    def expect_lease(self) -> None:
        """Let the process end in the time of a lease if `hold` is not called by then, and start no other one.

        To be called before a lease is asked for: this process may be stopped between that and `hold`.

        Raises:
            OriginUnavailable: the process is gone, and no other one could be started yet.
        """
        with self._lock:
            self._is_expecting = True
            self._ask(["expect", boot_seconds()], _ANSWER_SECONDS)

    def hold(self, lease: Lease, renewal: Mapping[str, Any], claim: Claim) -> None:
        """Renew the lease of the name from now on, and register anew where it is lost all the same.

        Args:
            lease: as the registry gave it for the endpoint and the instance id.
            renewal: as `lit_storage_core.registries.renewal_of`.
            claim: called in a thread with the id of another instance, until it returns or raises NameTaken.

        Raises:
            OriginUnavailable: the process is gone, and no other one could be started yet.
        """
        with self._lock:
            self._renewal, self._claim = renewal, claim
            self._tell_hold(lease)

    def release(self) -> None:
        """Renew the lease no more, and register no more; to be called before the name is given back.

        What is served goes on until `stop`, and at the most until the lease ends.
        """
        if os.getpid() != self._owner or self._claim is None:
            return
        self._stopping.set()  # no other process is started from now on
        with self._claiming:  # a registration under way is waited for, so that it can be undone
            self._claim = None
        with self._lock, contextlib.suppress(OriginUnavailable):
            if self._serving:
                self._ask(["release"], _END_SECONDS)

    def stop(self, grace_seconds: float = 0.0) -> None:
        """See `PeerServer.stop`; process and thread are gone afterwards. A second call does nothing."""
        if os.getpid() != self._owner:  # a forked child must not end its parent's server
            return
        self._stopping.set()
        connection = self._connection
        if connection is not None and not self._serving:  # somebody waits for it to start: no more
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self._lock:
            try:
                if self._serving:
                    self._ask(["stop", float(grace_seconds)], grace_seconds + _END_SECONDS)
            except OriginUnavailable:
                pass  # it ended by itself
            finally:
                self._end()
        if self._watcher is not None:
            self._watcher.join(_END_SECONDS)

    def _spawn(self) -> None:
        self._starts.append(time.monotonic())
        # Paths are decoded there as they are here.
        flags = ["-I" if sys.flags.isolated else "-P", f"-Xutf8={sys.flags.utf8_mode}"]
        command = [find_interpreter(), *flags, "-c", _PROGRAM]
        ours, theirs = socket.socketpair()
        # Blocked in this thread, they are so in the child too, from its first moment to its last.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_WORK)
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603  # this very interpreter
                    [*command, f"lit-storage server of {self._name}", str(self._owner), *self._modules],
                    stdin=theirs.fileno(),  # it gets there whatever is closed here
                    env=without_secrets(),
                    stdout=subprocess.DEVNULL,
                )
            except BaseException:
                ours.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._connection = ours

    def _welcome(self) -> None:
        """Say what is to be served, and wait until it is."""
        options = {
            **self._options,
            "bind": self.endpoint or self._options["bind"],
            "security": dataclasses.asdict(self._security),
            "declared": list(self._declared),
        }
        if self._stopping.is_set():  # looked at after the connection is there for `stop` to see
            raise self._lost()
        if self._process is None:
            from lit_storage_server.process.child import Served

            self._inside = Served(options, on_lost=self._lost_inside)
            self.endpoint = self._inside.start()
        else:
            self.endpoint = str(self._ask(options, _START_SECONDS))
        self._serving = True

    def _ask(self, message: Any, seconds: float) -> Any:
        """Return the answer to a message, or raise the error that it is."""
        if self._inside is not None:
            return self._inside.do(message)
        data = encode(message)
        connection = self._connection
        if connection is None:
            raise self._lost()
        try:
            connection.settimeout(seconds)
            connection.sendall(data)
            answer = receive(connection)
        except BaseException as error:
            # How much of it went over is not known, so that nothing can be said on it any more.
            self._end()
            if isinstance(error, (EOFError, OSError)):
                raise self._lost() from None
            raise
        if answer[0]:
            return answer[1]
        raise error_of(*answer[1:])

    def _lost(self) -> OriginUnavailable:
        return OriginUnavailable(
            f"the server process of {self._name!r} ended or is stuck; see its standard error"
        )

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Start another process each time that the present one ends by itself."""
        while True:
            # It is not reaped here: its number stays its own for whoever holds the lock.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            if self._stopping.wait(self._pause_seconds()):
                return
            with self._lock:
                if self._stopping.is_set():
                    return
                if self._process is process:  # else `declare` came first
                    with contextlib.suppress(OSError):  # it was told, and is tried again
                        self._replace()
                assert self._process is not None
                process = self._process
            if self._is_unclaimed and not self._reclaim():
                return

    def _replace(self) -> None:
        """Start another process in the place of one that is gone or stuck.

        Raises:
            OSError: it could not be started, or there were too many of late.
        """
        if self._process is None or self._stopping.is_set() or self._pause_seconds() > 0:
            raise self._lost()
        self._end()
        code = self._process.returncode
        if code == LEASE_LOST:
            self._begin_instance()
        try:
            self._spawn()
            self._welcome()
        except BaseException as error:
            self._end()
            if not self._stopping.is_set():
                _LOG.warning(
                    "the server process of %r ended (%s), and another one fails: %s", self._name, code, error
                )
            raise
        _LOG.warning("the server process of %r ended (%s); another one serves", self._name, code)

    def _tell_hold(self, lease: Lease) -> None:
        hold = {**self._renewal, "lease": [lease.id, lease.seconds, lease.since]}
        self._options["hold"] = hold
        self._is_expecting = False
        try:
            self._ask(["hold", hold], _ANSWER_SECONDS)
        except OriginUnavailable:  # as in `declare`; the next one is told of it at its start
            self._replace()

    def _begin_instance(self) -> None:
        """Be another instance from now on: the lease of the present one is lost."""
        self._options["hold"] = None
        self._options["instance_id"] = uuid.uuid4().hex
        self._is_unclaimed = True

    def _reclaim(self) -> bool:
        """Register the present instance; say whether it was, and nobody else has the name."""
        instance_id, is_told = str(self._options["instance_id"]), False
        while True:
            with self._claiming:
                if self._claim is None or self._stopping.is_set():
                    return False
                try:
                    with contextlib.suppress(OriginUnavailable):  # then it serves nobody either
                        self.expect_lease()
                    lease = self._claim(instance_id)
                    break
                except NameTaken as error:
                    _LOG.error("%r serves nobody any more: its lease was lost, and %s", self._name, error)
                    self._stopping.set()
                    with self._lock:
                        self._end()
                        if self._inside is not None:
                            self._inside.cut()
                    return False
                except Exception as error:  # noqa: BLE001  whatever it is, this thread is to go on
                    if not is_told:
                        _LOG.warning(
                            "%r cannot be registered anew, and goes on trying: %s", self._name, error
                        )
                    is_told = True
            if self._stopping.wait(_CLAIM_SECONDS):
                return False
        with self._lock:
            self._is_unclaimed = False
            if lease is not None and not self._stopping.is_set():
                with contextlib.suppress(OSError):  # the watcher tries it again
                    self._tell_hold(lease)
        _LOG.warning("%r is registered anew: its lease had been lost", self._name)
        return True

    def _lost_inside(self) -> None:
        """As what the watcher does, where threads of this process serve."""
        inside = self._inside
        assert inside is not None
        inside.cut()
        threading.Thread(target=self._again_inside, name="lit-storage-server-watch", daemon=True).start()

    def _again_inside(self) -> None:
        with self._lock:
            self._begin_instance()
        while not self._stopping.is_set():
            try:
                with self._lock:
                    self._welcome()
            except OSError as error:
                _LOG.warning("%r serves nobody now, and goes on trying: %s", self._name, error)
                self._stopping.wait(_CLAIM_SECONDS)
            else:
                self._reclaim()
                return

    def _pause_seconds(self) -> float:
        """Return how long to wait until another process may be started."""
        if self._is_expecting:
            return _EXPECT_SECONDS
        if len(self._starts) < _MOST_STARTS:
            return 0.0
        return max(0.0, self._starts[0] + _STARTS_SECONDS - time.monotonic())

    def _end(self) -> None:
        """Make sure that the process is gone: what it was to do is done, or cannot be asked any more."""
        self._serving = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a disk or network file system hangs
                self._process.wait(_END_SECONDS)
