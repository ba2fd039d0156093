"""Messages between a process and the one that serves for it: JSON, each with its length before it."""

from __future__ import annotations

import errno
import json
import socket
import struct
from typing import Any

from lit_storage_proto import errors

LEASE_LOST = 75
"""The exit status of a process that serves no more since its lease has ended: EX_TEMPFAIL of sysexits.h."""

_LENGTH = struct.Struct("<I")
_MOST_BYTES = 1 << 28  # all declared paths go in one message
_MOST_CHARACTERS = 1 << 16  # of an error's text: it may quote what was far too long


def encode(message: Any) -> bytes:
    """Return one message as it is sent.

    Raises:
        ValueError: it is longer than `receive` takes.
    """
    text = json.dumps(message).encode("ascii")
    if len(text) > _MOST_BYTES:
        raise ValueError(f"the message has {len(text)} bytes, more than the {_MOST_BYTES} that one may have")
    return _LENGTH.pack(len(text)) + text


def receive(connection: socket.socket) -> Any:
    """Return the next message.

    Raises:
        EOFError: the other side is gone, or did not say what the other side says.
        TimeoutError: of the connection.
    """
    try:
        (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
        if size > _MOST_BYTES:
            raise EOFError("the message is longer than any can be")
        return json.loads(_exactly(connection, size))
    except (ConnectionError, ValueError) as error:
        raise EOFError(str(error)) from None


def described(error: Exception) -> tuple[str, int, str]:
    """Return an error as what `error_of` makes it of again."""
    text = str(error)
    number = 0
    if isinstance(error, OSError) and not isinstance(error, errors.StorageError):
        number, text = error.errno or 0, error.strerror or text
    elif not isinstance(error, errors.StorageError):
        text = f"{type(error).__name__}: {text}"  # nobody expected it, so its kind is worth a word
    # One that a module keeps for itself goes as the public one that it is.
    names = (kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    return next(names, type(error).__name__), number, text[:_MOST_CHARACTERS]


def error_of(name: str, number: int, text: str) -> Exception:
    """Return the error of this product with a name, else the OSError of a number."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.StorageError):
        return kind(text)
    return OSError(number or errno.EIO, text)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = connection.recv(min(size - len(data), 1 << 20))
        if not more:
            raise EOFError("the other side is gone")
        data += more
    return bytes(data)
