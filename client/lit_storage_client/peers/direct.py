"""The direct way of a stream: a plain socket beside gRPC, on which the same messages go faster.

Invariant: the ticket goes only to the host that the call was made to, or to a socket of this
machine whose name is of the one form that a peer may give. A way that cannot be had is no error:
the stream then stays where it is. What the socket carries is described at ``Direct`` in
``v1/path_storage.proto``.
"""

from __future__ import annotations

import array
import contextlib
import enum
import os
import queue
import re
import socket
import threading
import time
from dataclasses import dataclass

from lit_storage_client.peers.peer_identity import address_of, certified_name
from lit_storage_client.peers.stripes import StripedReceiver, fill, worthwhile_stripes
from lit_storage_core.security.credentials import Credentials
from lit_storage_core.security.tls_socket import StreamSocket, TlsSocket
from lit_storage_core.system.unix_socket import is_own_or_root
from lit_storage_proto.direct import COPIED, COPYING, HEADER, HELLO, STRIPED_HELLO, TICKET_BYTES
from lit_storage_proto.errors import ProtocolViolation, StorageError
from lit_storage_proto.frames import Direct
from lit_storage_proto.limits import MAX_FRAME_BYTES
from lit_storage_proto.registry import LiveRecord

Connection = socket.socket | TlsSocket | StripedReceiver

# Where sender, reader and writer share two cores, each waits until the others have had their turn;
# with 2 MiB ahead a get took a fifth longer than with 8.
_MESSAGES_AHEAD = 16

_UNIX_NAME = re.compile(r"lit-storage-[0-9a-f]{32}")
_ONE_DESCRIPTOR = socket.CMSG_SPACE(array.array("i").itemsize)


class Ways(enum.Flag):
    """Which direct ways may be taken up."""

    NONE = 0
    TCP = enum.auto()
    UNIX = enum.auto()
    ALL = TCP | UNIX


@dataclass(frozen=True, slots=True)
class Dialer:
    """Takes up what peers offer."""

    credentials: Credentials
    connect_seconds: float
    ways: Ways = Ways.ALL

    def dial(self, offer: Direct, record: LiveRecord) -> DirectWay | None:
        """Begin to connect to what the peer of `record` offers, if that may be taken up."""
        if len(offer.ticket) != TICKET_BYTES or not self.ways & Ways.ALL:
            return None
        try:
            return DirectWay(self, offer, record)
        except RuntimeError:  # no more threads can be had: all comes over gRPC then
            return None


class _Message:
    """One message and its data, in a buffer that is filled again and again."""

    __slots__ = ("_buffer", "descriptors", "error", "parts")

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray())
        self.parts: tuple[memoryview, memoryview] | None = None
        """The message and its data; None if the connection ended instead."""
        self.descriptors: list[int] = []
        """Those that came with it."""
        self.error: StorageError | None = None
        """What is wrong with it, if anything."""

    def receive(self, connected: Connection) -> bool:
        """Take the next one from a connection; say whether another one may follow it."""
        header = memoryview(bytearray(HEADER.size))
        if not self._receive_header(connected, header):
            return False
        message_bytes, data_bytes = HEADER.unpack(header)
        if message_bytes > MAX_FRAME_BYTES or data_bytes > MAX_FRAME_BYTES:
            self.error = ProtocolViolation(f"the peer sent a message of {message_bytes} + {data_bytes} bytes")
            return False
        size = message_bytes + data_bytes
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        if not fill(connected, self._buffer[:size]):
            return False
        self.parts = self._buffer[:message_bytes], self._buffer[message_bytes:size]
        return True

    def drop(self) -> None:
        """Let go of what it holds, so that the next one can take its place."""
        self.parts = None
        while self.descriptors:
            os.close(self.descriptors.pop())

    def _receive_header(self, connected: Connection, header: memoryview) -> bool:
        if not isinstance(connected, socket.socket) or connected.family != socket.AF_UNIX:
            return fill(connected, header)
        count, ancillary, _, _ = connected.recvmsg_into([header], _ONE_DESCRIPTOR, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors = array.array("i")
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
                self.descriptors += descriptors
        return count > 0 and fill(connected, header[count:])


class DirectWay:
    """One connection. Its thread makes it, since nobody waits for that, and reads ahead on it.

    So two processors share what a consumer has to do: one copies from the network while the other
    writes.
    """

    def __init__(self, dialer: Dialer, offer: Direct, record: LiveRecord) -> None:
        self._dialer = dialer
        self._socket: Connection | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._taken: _Message | None = None
        self._ahead: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        for _ in range(_MESSAGES_AHEAD):
            self._free.put(_Message())
        self._thread = threading.Thread(
            target=self._run, args=(offer, record), name="lit-storage-direct", daemon=True
        )
        self._thread.start()

    def receive(self) -> tuple[memoryview, memoryview] | None:
        """Return the next message and its data, which the one after it overwrites; None at the end.

        Raises:
            ProtocolViolation: it is longer than it may be.
        """
        if self._taken is not None:
            self._taken.drop()
            self._free.put(self._taken)
        self._taken = self._ahead.get()  # the wait is bounded by whoever cancels
        if self._taken.error is not None:
            raise self._taken.error
        return self._taken.parts  # without any, the status of the call says more

    def take_descriptor(self) -> int:
        """Return the descriptor that came with the last message; it belongs to the caller.

        Raises:
            ProtocolViolation: none came.
        """
        if self._taken is None or not self._taken.descriptors:
            raise ProtocolViolation("the peer sent bytes by descriptor, and no descriptor")
        return self._taken.descriptors.pop()

    def acknowledge(self, *, done: bool) -> None:
        """Tell the origin that its descriptor is being read, or has been."""
        if isinstance(self._socket, socket.socket):
            with contextlib.suppress(OSError):  # who is gone is noticed at the next message
                self._socket.send(COPIED if done else COPYING, socket.MSG_DONTWAIT)

    def cancel(self) -> None:
        """End the connection, whoever waits for it; `close` is still to be called."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
        self._free.put(None)
        self._ahead.put(_Message())  # wakes whoever waits, also after the end of the thread

    def close(self) -> None:
        """Close it; nobody may be waiting for it. A second call does nothing."""
        self.cancel()
        if self._socket is not None:  # else nobody waits for the thread: it connects, and closes that again
            self._thread.join(self._dialer.connect_seconds)
        if self._taken is not None:
            self._taken.drop()
        with contextlib.suppress(queue.Empty):
            while True:
                self._ahead.get_nowait().drop()

    def _run(self, offer: Direct, record: LiveRecord) -> None:
        message = _Message()
        try:
            connected = self._connect(offer, record)
            if connected is not None:
                with contextlib.closing(connected):
                    message = self._read_ahead(connected)
        finally:
            self._ahead.put(message)

    def _connect(self, offer: Direct, record: LiveRecord) -> Connection | None:
        connected: Connection | None = None
        with contextlib.suppress(OSError, StorageError, ValueError):
            connected = self._dial_unix(offer) or self._dial_tcp(offer, record)
        if connected is None:
            return None
        with self._lock:
            if self._closed:
                connected.close()
                return None
            connected.settimeout(None)  # waits are bounded by whoever cancels
            self._socket = connected
        return connected

    def _read_ahead(self, connected: Connection) -> _Message:
        """Take one message after the other; return the one at which the connection ended."""
        while (message := self._free.get()) is not None:
            try:
                if not message.receive(connected):
                    return message
            except ProtocolViolation as error:
                message.error = error
                return message
            except OSError:
                return message
            self._ahead.put(message)
        return _Message()

    def _dial_unix(self, offer: Direct) -> socket.socket | None:
        if not self._dialer.ways & Ways.UNIX or not _UNIX_NAME.fullmatch(offer.unix_name):
            return None
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.settimeout(self._dialer.connect_seconds)
            connected.connect(f"\0{offer.unix_name}")
            if not is_own_or_root(connected):  # anybody may take a name of the abstract namespace
                connected.close()
                return None
            connected.sendall(HELLO + offer.ticket)
        except OSError:
            connected.close()
            return None
        return connected

    def _dial_tcp(self, offer: Direct, record: LiveRecord) -> Connection | None:
        if not self._dialer.ways & Ways.TCP or not 0 < offer.tcp_port < 1 << 16:
            return None

        def dial() -> StreamSocket:
            return self._begin_tcp(self._connect_tcp(offer, record), STRIPED_HELLO, offer, record)

        started = time.monotonic()
        connected = self._connect_tcp(offer, record)
        count = worthwhile_stripes(connected, time.monotonic() - started, offer.stripes)
        if count == 1:
            return self._begin_tcp(connected, HELLO, offer, record)
        return StripedReceiver(self._begin_tcp(connected, STRIPED_HELLO, offer, record), dial, count)

    def _connect_tcp(self, offer: Direct, record: LiveRecord) -> socket.socket:
        host, _ = address_of(record)
        return socket.create_connection((host, offer.tcp_port), self._dialer.connect_seconds)

    def _begin_tcp(
        self, connected: socket.socket, hello: bytes, offer: Direct, record: LiveRecord
    ) -> socket.socket | TlsSocket:
        begun: socket.socket | TlsSocket = connected
        try:
            tls = self._dialer.credentials.tls()
            if tls is not None:
                seconds, name = self._dialer.connect_seconds, certified_name(record)
                begun = TlsSocket(connected, tls.context, seconds, server_hostname=name)
            begun.sendall(hello + offer.ticket)
            begun.settimeout(None)  # waits are bounded by whoever cancels
        except BaseException:
            begun.close()
            raise
        return begun
