"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct

_CREDENTIALS = struct.Struct("3i")  # pid, uid and gid: unix(7)


def user_of(connected: socket.socket) -> int:
    """Return the user id of the process that made the other end of a Unix socket: unix(7), SO_PEERCRED."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return int(user)
