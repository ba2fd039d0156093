"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")  # pid, uid and gid: unix(7)


def is_own_or_root(connected: socket.socket) -> bool:
    """Say whether a process of this user, or of root, made the other end of a Unix socket."""
    return _user_of(connected) in (0, os.geteuid())


def _user_of(connected: socket.socket) -> int:
    """Return the user id of the process that made the other end: unix(7), SO_PEERCRED."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return int(user)
