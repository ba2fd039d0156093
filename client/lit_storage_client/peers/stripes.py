"""A direct way made of several TCP connections, as its consumer reads it.

One connection over a long and lossy line is as fast as its congestion window lets it be: with the
loss-based control of most systems, about 1.2 segments / (round trip * sqrt(loss)) (Mathis et al., 1997),
which at 40 ms and 0.5 % is 5 Mbit/s, however wide the line. Several side by side are as much faster.

Invariant: what comes out is what the origin put in, in its order, whichever connection carried
which part: a segment is given out by its number alone, and none is passed over. More is held here
than can be given out only as far as two segments a connection; the rest waits in the kernel, and
so with the origin. What is carried is described at ``Direct`` in ``v1/path_storage.proto``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable

from lit_storage_core.security.tls_socket import StreamSocket
from lit_storage_proto.direct import MAX_SEGMENT_BYTES, MAX_STRIPES, SEGMENT
from lit_storage_proto.errors import ProtocolViolation, StorageError

# What loss costs a connection grows with the round trip, and so does what makes up for it. Where the round
# trip is short, one connection takes as much as the processors can move, and others would only cost some.
_RTT_SECONDS_A_STRIPE = 0.0025
_SHORT_RTT_SECONDS = 0.005

_RTT_OF_TCP_INFO = struct.Struct("=68xI")  # tcpi_rtt in µs, of struct tcp_info: linux/tcp.h
_SEGMENTS_HELD = 2  # of each connection: one that is taken, one that arrives meanwhile


def worthwhile_stripes(connected: socket.socket, connect_seconds: float, most: int) -> int:
    """Return how many connections the way to a peer is worth.

    Args:
        connected: the first one, just made.
        connect_seconds: what that took. It tells less than the kernel's measure, since this process may not
            have run at once; but there may be no measure where a packet of the handshake was lost.
        most: how many the peer takes.
    """
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT_OF_TCP_INFO.size)
    (rtt_us,) = _RTT_OF_TCP_INFO.unpack(info) if len(info) == _RTT_OF_TCP_INFO.size else (0,)
    return stripes_for(rtt_us / 1e6 or connect_seconds, most)


def stripes_for(rtt_seconds: float, most: int) -> int:
    """Return how many connections a round trip is worth."""
    if rtt_seconds < _SHORT_RTT_SECONDS:
        return 1
    return max(1, min(int(rtt_seconds / _RTT_SECONDS_A_STRIPE), most, MAX_STRIPES))


class _Segments:
    """The segments that one connection brought and nobody took yet; all under the lock of its receiver."""

    def __init__(self, lock: threading.Lock) -> None:
        self._buffers = [memoryview(bytearray(MAX_SEGMENT_BYTES)) for _ in range(_SEGMENTS_HELD)]
        self._free = _SEGMENTS_HELD
        self._released = threading.Condition(lock)
        self._waits = False

    @property
    def is_full(self) -> bool:
        """Whether the connection is not read on before a segment is given back."""
        return self._waits and not self._free

    def acquire(self) -> memoryview:
        """Wait for a buffer; they come in turn, for so they are given back."""
        self._waits = True
        self._released.wait_for(lambda: self._free)
        self._waits = False
        self._free -= 1
        self._buffers.append(self._buffers.pop(0))
        return self._buffers[-1]

    def release(self) -> None:
        """Give one back."""
        self._free += 1
        self._released.notify()


class StripedReceiver:
    """As much of a socket as `direct` needs; one thread reads it, any may shut it down.

    Args:
        first: a connection that has shown its ticket.
        dial: makes another one; OSError where it cannot.
        count: how many connections there are to be; fewer where the system starts no more threads.

    Raises:
        OSError: it starts none, and `first` is closed.
    """

    def __init__(self, first: StreamSocket, dial: Callable[[], StreamSocket], count: int) -> None:
        self._dial = dial
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._carrying: list[_Segments] = []
        self._segments: dict[int, tuple[memoryview, _Segments]] = {}
        self._next = 0
        self._taken = memoryview(b"")
        self._taken_from: _Segments | None = None
        self._ended = self._shut = False
        self._error: ProtocolViolation | None = None
        self._open: set[StreamSocket] = set()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(first if number == 0 else None,),
                name=f"lit-storage-stripe-{number}",
                daemon=True,
            )
            for number in range(count)
        ]
        self._running = count
        for number, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError:  # no more threads can be had; those that there are do
                self._do_without(self._threads[number:])
                break
        if not self._threads:
            first.close()
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _do_without(self, threads: list[threading.Thread]) -> None:
        with self._arrived:
            self._threads = [thread for thread in self._threads if thread not in threads]
            self._running -= len(threads)
            self._arrived.notify_all()

    def settimeout(self, seconds: float | None) -> None:
        """Do nothing: whoever waits here is woken by `shutdown`."""

    def recv_into(self, buffer: memoryview) -> int:
        """Fill some of `buffer`; return how much, 0 at the end.

        Raises:
            ProtocolViolation: what came is no segment, or none that was due.
        """
        if not self._taken:
            self._take()
        count = min(len(self._taken), len(buffer))
        buffer[:count] = self._taken[:count]
        self._taken = self._taken[count:]
        return count

    def shutdown(self, how: int) -> None:
        """End all connections, whoever waits for them."""
        with self._arrived:
            self._shut = True
            for stripe in self._open:
                with contextlib.suppress(OSError):
                    stripe.shutdown(how)
            self._arrived.notify_all()

    def close(self) -> None:
        """Close all connections; one that is still being made is closed then. A second call does nothing."""
        self.shutdown(socket.SHUT_RDWR)
        with self._arrived:
            self._release_taken()
            for _, source in self._segments.values():
                source.release()
            self._segments.clear()

    def _take(self) -> None:
        """Wait for the next segment, and hold it; hold an empty one at the end."""
        with self._arrived:
            self._release_taken()
            self._arrived.wait_for(
                lambda: (
                    self._ended
                    or self._next in self._segments
                    or self._error
                    or self._shut
                    or self._is_lost()
                )
            )
            if self._error is not None:
                raise self._error
            if self._ended or self._shut or self._next not in self._segments:
                return
            self._taken, self._taken_from = self._segments.pop(self._next)
            self._next += 1
            if not self._taken:
                self._ended = True

    def _release_taken(self) -> None:
        if self._taken_from is not None:
            self._taken_from.release()
            self._taken_from = None

    def _is_lost(self) -> bool:
        """Say whether nobody can bring the next segment: those that go on have brought later ones."""
        return sum(segments.is_full for segments in self._carrying) >= self._running

    def _run(self, stripe: StreamSocket | None) -> None:
        try:
            if stripe is None:
                stripe = self._dial()
            with contextlib.closing(stripe):
                with self._arrived:
                    if self._shut:
                        return
                    self._open.add(stripe)
                try:
                    self._carry(stripe)
                finally:
                    with self._arrived:
                        self._open.discard(stripe)
        except ProtocolViolation as error:
            self._error = error
        except (OSError, StorageError, ValueError):
            pass  # if it was needed, the origin notices too, and the status of the call says so
        finally:
            with self._arrived:
                self._running -= 1
                self._arrived.notify_all()

    def _carry(self, stripe: StreamSocket) -> None:
        segments = _Segments(self._lock)
        with self._arrived:
            self._carrying.append(segments)
        try:
            self._carry_into(segments, stripe)
        finally:
            with self._arrived:
                self._carrying.remove(segments)

    def _carry_into(self, segments: _Segments, stripe: StreamSocket) -> None:
        header = memoryview(bytearray(SEGMENT.size))
        while fill(stripe, header):
            number, size = SEGMENT.unpack(header)
            if size > MAX_SEGMENT_BYTES:
                raise ProtocolViolation(f"the peer sent a segment of {size} bytes")
            with self._arrived:
                self._arrived.notify_all()  # it may be the last one that could bring the next segment
                buffer = segments.acquire()
            if self._shut or not fill(stripe, buffer[:size]):
                return
            with self._arrived:
                if self._shut:
                    return
                if number < self._next or number in self._segments:
                    raise ProtocolViolation(f"the peer sent segment {number} twice")
                self._segments[number] = buffer[:size], segments
                self._arrived.notify_all()


def fill(connected: StreamSocket | StripedReceiver, buffer: memoryview) -> bool:
    """Fill `buffer`; say whether the connection lasted that long."""
    filled, size = 0, len(buffer)
    while filled < size:
        count = connected.recv_into(buffer[filled:])
        if not count:
            return False
        filled += count
    return True
