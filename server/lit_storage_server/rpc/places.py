"""How many streams run at once, and how many of them may be one peer's.

Invariant: no peer holds more than its share of the places, so that others find one, whatever it does with
those that it has; and each place is free again when its stream has ended.

A peer is who can be told from another: by the name in a certificate, where callers must show one; else by
the host that it calls from; and on loopback by its connection, since every process there calls from the
same host, and has a connection of its own.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Iterator

import grpc

from lit_storage_server.rpc.refusal import abort

_LOOPBACK = ("ipv4:127.", "ipv6:%5B::1%5D:", "ipv6:[::1]:", "ipv6:%5B::ffff:127.", "ipv6:[::ffff:127.")


class Places:
    """The fixed number of streams that run at once, and their end when the server stops.

    Args:
        name: of the server, for the sentences of refusals.
        count: how many there are.
        share: what part of them one peer may hold, rounded up.
    """

    def __init__(self, name: str, count: int, share: float = 1.0) -> None:
        self._free = self._count = count
        self._most_of_one = math.ceil(count * share)
        self._of_peers: Counter[str] = Counter()
        self._closed = False
        self._changed = threading.Condition()
        self._name = name
        self._busy = f"{name!r} already runs {count} streams; try again in a moment"
        self._stopping = f"{name!r} is stopping; resolve the name again"

    @contextlib.contextmanager
    def taken(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Hold a place for the length of a ``with`` block, or end the call where there is none."""
        peer = peer_of(context)
        refusal = self._take(peer)
        if refusal is not None:
            abort(context, *refusal)
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._of_peers[peer] -= 1
                if not self._of_peers[peer]:
                    del self._of_peers[peer]
                self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Refuse further streams, and wait up to `seconds` for the running ones.

        Returns:
            Whether there were any, and all have ended.
        """
        with self._changed:
            self._closed = True
            running = self._free < self._count
            return self._changed.wait_for(lambda: self._free == self._count, seconds) and running

    def _take(self, peer: str) -> tuple[grpc.StatusCode, str] | None:
        with self._changed:
            if self._closed:
                return grpc.StatusCode.UNAVAILABLE, self._stopping
            if not self._free:
                return grpc.StatusCode.RESOURCE_EXHAUSTED, self._busy
            if self._of_peers[peer] >= self._most_of_one:
                return grpc.StatusCode.RESOURCE_EXHAUSTED, (
                    f"{self._name!r} already runs {self._most_of_one} streams for this peer, and keeps the "
                    "others for others; try again in a moment"
                )
            self._free -= 1
            self._of_peers[peer] += 1
            return None


def peer_of(context: grpc.ServicerContext) -> str:
    """Return what tells one peer from another, as of the module's head."""
    names = context.peer_identities()
    if names:
        return "certificate " + b" ".join(sorted(names)).decode("utf-8", "replace")
    address = context.peer()
    if address.startswith(_LOOPBACK) or not address.startswith("ip"):
        return address
    return address.rpartition(":")[0]
