"""Tells a service manager how far this process is: the protocol of sd_notify(3).

Invariant: a manager that does not listen holds nobody up, and no failure to tell it is an error.
"""

from __future__ import annotations

import contextlib
import os
import socket

VARIABLE = "NOTIFY_SOCKET"


def notify(*states: str) -> bool:
    """Send states such as ``READY=1`` to the socket that NOTIFY_SOCKET names; say whether one was sent.

    A name that begins with ``@`` is one of the abstract namespace.
    """
    name = os.environ.get(VARIABLE, "")
    if not name.startswith(("/", "@")):
        return False
    address = "\0" + name[1:] if name.startswith("@") else name
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(states).encode("utf-8", "surrogateescape"), os.fsencode(address))
        return True
    return False
