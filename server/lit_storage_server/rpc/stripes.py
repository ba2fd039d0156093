"""A direct way made of several TCP connections, as its origin writes it.

Invariant: every segment has the next number and is sent once, by whichever connection is free first;
after the one that is empty nothing more is sent. A connection that fails ends all of it: what it took
is lost with it. Nobody waits for one without a limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from lit_storage_core.security.tls_socket import StreamSocket
from lit_storage_proto.direct import MAX_SEGMENT_BYTES, SEGMENT

_SEGMENTS_AHEAD = 2  # that wait for a connection to be free


class StripedSender:
    """As much of a socket as a way needs. Connections are added at any time; one thread sends.

    Args:
        seconds: how long none of the connections may take anything.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._changed = threading.Condition()
        self._stripes: list[StreamSocket] = []
        self._waiting: deque[bytes] = deque()
        self._next = self._sending = self._steps = 0
        self._error: OSError | None = None
        self._finished = self._closed = False

    def add(self, stripe: StreamSocket) -> None:
        """Take another connection; it is closed with the others."""
        stripe.settimeout(self._seconds)
        with self._changed:
            if self._closed:
                stripe.close()
                return
            sender = threading.Thread(
                target=self._run, args=(stripe,), name="lit-storage-stripe", daemon=True
            )
            try:
                sender.start()
            except RuntimeError:  # no more threads can be had; the connections that there are do
                stripe.close()
                if not self._stripes:
                    self._error = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                return
            self._stripes.append(stripe)

    def sendall(self, *parts: bytes | memoryview) -> None:
        """Take over what is to be sent, as one after the other; it may be overwritten afterwards.

        Raises:
            OSError: a connection failed, or none took anything for too long (TimeoutError).
        """
        data = memoryview(b"".join(parts))
        count = -(-len(data) // MAX_SEGMENT_BYTES)
        for index in range(count):  # of equal sizes: a small one would cost as much as a large one
            self._put(data[len(data) * index // count : len(data) * (index + 1) // count])

    def finish(self) -> None:
        """Say that this was all, and wait until the kernel has it.

        Raises:
            OSError: as of `sendall`.
        """
        self._put(b"")
        with self._changed:
            self._wait_until(lambda: not (self._waiting or self._sending))
            self._finished = True

    def shutdown(self, how: int) -> None:
        """End all connections, whoever waits for them."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            for stripe in self._stripes:
                with contextlib.suppress(OSError):
                    stripe.shutdown(how)
            self._changed.notify_all()

    def close(self) -> None:
        """Close all connections, after what was sent if it was finished. A second call does nothing."""
        if not self._finished:
            self.shutdown(socket.SHUT_RDWR)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _put(self, data: bytes | memoryview) -> None:
        with self._changed:
            self._wait_until(lambda: len(self._waiting) < _SEGMENTS_AHEAD)
            self._waiting.append(SEGMENT.pack(self._next, len(data)) + data)
            self._next += 1
            self._changed.notify_all()

    def _wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait as long as some connection takes something, now and then."""
        while self._closed or not is_ready():
            if self._error is not None:
                raise self._error
            if self._closed:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            if not self._changed.wait_for(partial(self._has_stepped, self._steps), self._seconds):
                raise TimeoutError

    def _has_stepped(self, since: int) -> bool:
        return self._closed or self._steps != since

    def _run(self, stripe: StreamSocket) -> None:
        with contextlib.closing(stripe):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._closed)
                    if not self._waiting:
                        return
                    segment = self._waiting.popleft()
                    self._sending += 1
                    self._steps += 1
                    self._changed.notify_all()
                try:
                    stripe.sendall(segment)
                except OSError as error:
                    with self._changed:
                        self._error = self._error or error
                    self.shutdown(socket.SHUT_RDWR)
                    return
                with self._changed:
                    self._sending -= 1
                    self._steps += 1
                    self._changed.notify_all()
