"""Messages between a process and the one that serves for it: JSON, each with its length before it."""

from __future__ import annotations

import errno
import json
import socket
import struct
from typing import Any

from lit_storage_proto import errors

_LENGTH = struct.Struct("<I")
_MOST_BYTES = 1 << 24


def receive(connection: socket.socket) -> Any:
    """Return the next message.

    Raises:
        EOFError: the other side is gone.
    """
    (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if size > _MOST_BYTES:
        raise EOFError("the message is longer than any can be")
    return json.loads(_exactly(connection, size))


def send(connection: socket.socket, message: Any) -> None:
    """Send one message."""
    text = json.dumps(message).encode("ascii")
    connection.sendall(_LENGTH.pack(len(text)) + text)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def described(error: Exception) -> tuple[str, int, str]:
    """Return an error as what `error_of` makes it of again."""
    if isinstance(error, OSError) and not isinstance(error, errors.StorageError):
        return type(error).__name__, error.errno or 0, error.strerror or str(error)
    return type(error).__name__, 0, str(error)


def error_of(name: str, number: int, text: str) -> Exception:
    """Return the error of this product with a name, else the OSError of a number."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.StorageError):
        return kind(text)
    return OSError(number or errno.EIO, text)
