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
import re
import socket
import struct
import threading
from dataclasses import dataclass

from lit_storage_client.security import Security
from lit_storage_proto.endpoint import split_address
from lit_storage_proto.errors import ProtocolViolation, StorageError
from lit_storage_proto.frames import Direct
from lit_storage_proto.limits import MAX_FRAME_BYTES
from lit_storage_proto.registry import LiveRecord

HELLO = b"LITDIRC1"
HEADER = struct.Struct("<II")
COPYING, COPIED = b"\x01", b"\x00"

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

    security: Security
    connect_seconds: float
    ways: Ways = Ways.ALL

    def dial(self, offer: Direct, record: LiveRecord) -> DirectWay | None:
        """Begin to connect to what the peer of `record` offers, if that may be taken up."""
        if not offer.ticket or not self.ways & Ways.ALL:
            return None
        return DirectWay(self, offer, record)


class DirectWay:
    """One connection. It is made in a thread of its own, since nobody waits for it."""

    def __init__(self, dialer: Dialer, offer: Direct, record: LiveRecord) -> None:
        self._dialer = dialer
        self._socket: socket.socket | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._header = bytearray(HEADER.size)
        self._buffer = memoryview(bytearray())
        self._descriptors: list[int] = []
        self._thread = threading.Thread(
            target=self._connect, args=(offer, record), name="lit-storage-direct", daemon=True
        )
        self._thread.start()

    def receive(self) -> tuple[memoryview, memoryview] | None:
        """Return the next message and its data, which the one after it overwrites; None at the end.

        Raises:
            ProtocolViolation: it is longer than it may be.
        """
        self._thread.join(self._dialer.connect_seconds)
        connected = self._socket
        if connected is None:
            return None
        try:
            if not self._receive_header(connected):
                return None
            message_bytes, data_bytes = HEADER.unpack(self._header)
            if message_bytes > MAX_FRAME_BYTES or data_bytes > MAX_FRAME_BYTES:
                raise ProtocolViolation(f"the peer sent a message of {message_bytes} + {data_bytes} bytes")
            size = message_bytes + data_bytes
            if len(self._buffer) < size:
                self._buffer = memoryview(bytearray(size))
            if not _fill(connected, self._buffer[:size]):
                return None
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            return None  # the status of the call says more
        return self._buffer[:message_bytes], self._buffer[message_bytes:size]

    def take_descriptor(self) -> int:
        """Return the descriptor that came with the last message; it belongs to the caller.

        Raises:
            ProtocolViolation: none came.
        """
        if not self._descriptors:
            raise ProtocolViolation("the peer sent bytes by descriptor, and no descriptor")
        return self._descriptors.pop()

    def acknowledge(self, *, done: bool) -> None:
        """Tell the origin that its descriptor is being read, or has been."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # who is gone is noticed at the next message
                self._socket.send(COPIED if done else COPYING, socket.MSG_DONTWAIT)

    def cancel(self) -> None:
        """End the connection, whoever waits for it; `close` is still to be called."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; nobody may be waiting for it. A second call does nothing."""
        self.cancel()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
        self._drop_descriptors()

    def _connect(self, offer: Direct, record: LiveRecord) -> None:
        connected = None
        with contextlib.suppress(OSError, StorageError, ValueError):
            connected = self._dial_unix(offer) or self._dial_tcp(offer, record)
        if connected is None:
            return
        with self._lock:
            if self._closed:
                connected.close()
            else:
                connected.settimeout(None)  # waits are bounded by whoever cancels
                self._socket = connected

    def _dial_unix(self, offer: Direct) -> socket.socket | None:
        if not self._dialer.ways & Ways.UNIX or not _UNIX_NAME.fullmatch(offer.unix_name):
            return None
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.settimeout(self._dialer.connect_seconds)
            connected.connect(f"\0{offer.unix_name}")
            connected.sendall(HELLO + offer.ticket)
        except OSError:
            connected.close()
            return None
        return connected

    def _dial_tcp(self, offer: Direct, record: LiveRecord) -> socket.socket | None:
        if not self._dialer.ways & Ways.TCP or not 0 < offer.tcp_port < 1 << 16:
            return None
        host, _ = split_address(record.endpoint)
        connected = socket.create_connection((host, offer.tcp_port), self._dialer.connect_seconds)
        try:
            context = self._dialer.security.client_context()
            if context is not None:
                connected = context.wrap_socket(connected, server_hostname=record.tls_name or host)
            connected.sendall(HELLO + offer.ticket)
        except BaseException:
            connected.close()
            raise
        return connected

    def _receive_header(self, connected: socket.socket) -> bool:
        header = memoryview(self._header)
        if connected.family != socket.AF_UNIX:
            return _fill(connected, header)
        self._drop_descriptors()
        count, ancillary, _, _ = connected.recvmsg_into([header], _ONE_DESCRIPTOR, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors = array.array("i")
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
                self._descriptors += descriptors
        return count > 0 and _fill(connected, header[count:])

    def _drop_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def _fill(connected: socket.socket, buffer: memoryview) -> bool:
    """Fill `buffer`; say whether the connection lasted that long."""
    filled, size = 0, len(buffer)
    while filled < size:
        count = connected.recv_into(buffer[filled:])
        if not count:
            return False
        filled += count
    return True
