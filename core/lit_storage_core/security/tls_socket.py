"""TLS on a connected socket, in large steps.

The standard library's own SSLSocket asks the kernel for each record of 16 KiB twice, first for its
length, and acknowledges each to the sender; that costs more than decrypting it does. This one
receives many records at once, and sends many. Invariant: nothing that was not authenticated comes
out of it.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any

from lit_storage_proto.limits import KIB

_RECEIVED_BYTES = 256 * KIB
_SENT_BYTES = 128 * KIB  # what is encrypted is still in the processor's cache when it is sent


class TlsSocket:
    """As much of a socket as two peers need; one thread uses it at a time, but for `shutdown`.

    Args:
        connected: the plain connection, which belongs to this object from now on.
        context: of this side.
        seconds: how long the handshake may take.
        server_hostname: whom the certificate must name; None on the side of the server.

    Raises:
        OSError: the handshake failed (ssl.SSLError), or took too long (TimeoutError).
    """

    def __init__(
        self,
        connected: socket.socket,
        context: ssl.SSLContext,
        seconds: float,
        *,
        server_hostname: str | None = None,
    ) -> None:
        self.family = connected.family
        self._socket = connected
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._received,
            self._to_send,
            server_side=server_hostname is None,
            # As bytes, for text would have to be a name of the DNS, with parts of 63 characters at the most.
            server_hostname=None if server_hostname is None else server_hostname.encode("ascii"),
        )
        self._buffer = memoryview(bytearray(_RECEIVED_BYTES))
        self._shake_hands(time.monotonic() + seconds)

    def settimeout(self, seconds: float | None) -> None:
        """Bound each wait for the other side."""
        self._socket.settimeout(seconds)

    def recv_into(self, buffer: memoryview) -> int:
        """Fill some of `buffer`; return how much, 0 at the end."""
        while True:
            try:
                count: Any = self._tls.read(len(buffer), buffer)  # which typeshed takes for bytes
                return int(count)
            except ssl.SSLWantReadError:
                self._flush()
                if not self._receive():
                    return 0
            except ssl.SSLZeroReturnError:
                return 0

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end."""
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(memoryview(buffer))])

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all of `data`."""
        view = memoryview(data)
        for start in range(0, len(view), _SENT_BYTES):
            self._tls.write(view[start : start + _SENT_BYTES])
            self._flush()

    def shutdown(self, how: int) -> None:
        """End the connection, whoever waits for it."""
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        self._socket.close()

    def _shake_hands(self, deadline: float) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("the TLS handshake took too long") from None
                self._socket.settimeout(left)
                self._flush()
                self._receive()
            except ssl.SSLError:
                self._flush()  # the alert, which tells the other side why
                raise
        self._flush()

    def _flush(self) -> None:
        if self._to_send.pending:
            self._socket.sendall(self._to_send.read())

    def _receive(self) -> bool:
        count = self._socket.recv_into(self._buffer)
        if count:
            self._received.write(self._buffer[:count])
        else:
            self._received.write_eof()
        return count > 0


StreamSocket = socket.socket | TlsSocket
"""A connection in clear, or with TLS."""
