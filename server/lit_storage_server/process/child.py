"""The process in which a Work's peer server runs, so that no computation of the Work keeps it waiting.

A thread of a program that computes in Python waits up to 5 ms for the interpreter after each system
call, and a get from it takes some thirty times as long. `server_process` starts this one and tells it
what to do: one JSON object a message, each with its length before it, each answered in turn.

Invariants. It ends with its parent, however that ends and whatever it is doing: with the parent's
process, whoever else holds the other end of their connection, or at the end of that connection. And
where the name is held by a lease it ends before that may have: with `LEASE_LOST`, or by the kernel.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import ProtocolViolation, RegistryUnavailable, StorageError
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Lease, Registry
from lit_storage_server.process.control import LEASE_LOST, described, encode, receive
from lit_storage_server.rpc.descriptors import raise_limit
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares

if TYPE_CHECKING:  # where there are no leases, they are not loaded
    from lit_storage_core.registries.leases import LeaseKeeper
    from lit_storage_server.process.fence import Fence

_LOOK_MILLISECONDS = 1000


def main(parent: int) -> None:
    """Serve for the process `parent`, which holds the other end of the socket that is standard input."""
    code = 1
    raise_limit()
    try:
        threading.Thread(target=_end_with, args=(parent,), name="lit-storage-parent", daemon=True).start()
        with contextlib.suppress(EOFError, BrokenPipeError):
            _converse(socket.socket(fileno=0))
        code = 0
    except Exception:  # noqa: BLE001  # whatever it is, the process ends here, and says why
        traceback.print_exc()
    finally:
        os._exit(code)  # a call that still runs must not hold it up


class Served:
    """The server and what it shares.

    Args:
        options: `name`, `instance_id`, `root`, `bind`; `security` and `limits` by their fields; the
            paths in `declared`; `hold` as of the message of that name, or None; `follow_links` as of
            `Shares`.
        on_lost: called in a thread when the lease is lost, or may soon be.
        is_alone: whether this process does nothing else, so that it may be killed where that thread
            cannot run.
    """

    def __init__(
        self, options: Mapping[str, Any], *, on_lost: Callable[[], None], is_alone: bool = False
    ) -> None:
        self._name = options["name"]
        self._limits = Limits(**options["limits"])
        self._hold = options["hold"]
        self._on_lost = on_lost
        self._is_alone = is_alone
        self._fence: Fence | None = None
        self._registry: Registry | None = None
        self._keeper: LeaseKeeper | None = None
        self._shares = Shares(options["root"], name=options["name"], follow_links=options["follow_links"])
        for path in options["declared"]:
            # It could be shared once. What has become of it since is looked at whenever it is opened.
            with contextlib.suppress(StorageError):
                self._shares.declare(path)
        self._server = PeerServer(
            options["name"],
            options["instance_id"],
            self._shares,
            bind=options["bind"],
            security=Security(**options["security"]),
            limits=self._limits,
        )

    def start(self) -> str:
        """See `PeerServer.start`; nothing is served under a lease that another process lost meanwhile.

        Raises:
            RegistryUnavailable: whether the lease goes on is not known.
        """
        if self._hold is not None:
            registry = self._open(self._hold)
            lease = registry.renew(_lease(self._hold), self._limits.resolve_seconds)
            if lease is None:
                self._on_lost()
                raise RegistryUnavailable(f"the lease of {self._name!r} has ended")
            self._keep(registry, lease)
        return self._server.start()

    def cut(self) -> None:
        """Serve nobody any more, from now on."""
        self._server.stop(0.0)
        self._shares.close()

    def do(self, message: Any) -> None:
        """Do what a message says.

        Raises:
            ProtocolViolation: it says nothing known.
            InvalidURI, AccessDenied: see `Shares.declare`.
        """
        match message:
            case ["declare", str(path)]:
                self._shares.declare(path)
            case ["hold", dict(hold)]:
                lease = _lease(hold)
                self._put_off(lease)  # before anything else, which may fail or take its time
                self._end_keeping()
                self._keep(self._open(hold), lease)
            case ["expect", float(since)]:
                self._put_off(Lease(0, self._limits.lease_seconds, since))
            case ["release"]:
                if self._keeper is not None:
                    self._keeper.let_end()
            case ["stop", float(seconds)]:
                self._server.stop(seconds)
                self._shares.close()
                self._end_keeping()
                if self._fence is not None:
                    self._fence.lift()
            case _:
                raise ProtocolViolation("the server process does not know what it is asked to do")

    def _open(self, hold: Mapping[str, Any]) -> Registry:
        from lit_storage_core.registries import open_renewal

        self._registry = open_renewal(hold, self._limits)
        return self._registry

    def _keep(self, registry: Registry, lease: Lease) -> None:
        from lit_storage_core.registries.leases import LeaseKeeper

        self._put_off(lease)
        self._keeper = LeaseKeeper(
            self._name, lease, registry.renew, on_lost=self._on_lost, on_renewed=self._put_off
        )
        self._keeper.start()

    def _put_off(self, lease: Lease) -> None:
        if self._is_alone:
            from lit_storage_core.registries.leases import safe_end
            from lit_storage_server.process.fence import Fence

            self._fence = self._fence or Fence()
            self._fence.set((safe_end(lease) + lease.end) / 2)  # the keeper's thread comes first, if it can

    def _end_keeping(self) -> None:
        """Keep no lease any more; the fence stays where it is."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.release()
        if self._registry is not None:
            self._registry.close()


def _lease(hold: Mapping[str, Any]) -> Lease:
    number, seconds, since = hold["lease"]
    return Lease(number, seconds, since)


def _converse(connection: socket.socket) -> None:
    """Start as the first message says and answer the others, until the connection ends."""
    served: Served | None = None
    while True:
        message = receive(connection)
        answer: list[Any] = [True, None]
        try:
            if served is None:
                served = Served(message, on_lost=lambda: os._exit(LEASE_LOST), is_alone=True)
                answer[1] = served.start()
            else:
                served.do(message)
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to the other side
            answer = [False, *described(error)]
        connection.sendall(encode(answer))


def _end_with(parent: int) -> None:
    """End this process when `parent` has ended, and at once if it ended before anybody looked."""
    ended, look = select.poll(), None
    try:
        ended.register(os.pidfd_open(parent), select.POLLIN)
    except OSError:  # a kernel or a sandbox that has none, or it is gone
        look = _LOOK_MILLISECONDS
    while os.getppid() == parent:
        ended.poll(look)
    os._exit(0)
