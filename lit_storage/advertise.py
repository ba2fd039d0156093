"""Which address a process gives to those that are to dial it."""

from __future__ import annotations

import contextlib
import re
import socket

from lit_storage_proto.endpoint import is_loopback, is_wildcard, join_address, split_address
from lit_storage_proto.errors import AccessDenied
from lit_storage_proto.registry import Registry


def advertised_endpoint(endpoint: str, advertise: str | None, registry: Registry) -> str:
    """Return the ``host:port`` that others dial.

    Raises:
        InvalidURI: `advertise` is no address.
        AccessDenied: others of a registry of many machines could not dial it.
    """
    host, port = split_address(endpoint)
    if advertise is not None:
        is_whole = advertise.startswith("[") or advertise.count(":") == 1
        host, port = split_address(advertise) if is_whole else (advertise, port)
    elif is_wildcard(host):
        host = _own_address(registry.url) if registry.spans_machines else "127.0.0.1"
    if is_wildcard(host) or (registry.spans_machines and is_loopback(host)):
        raise AccessDenied(
            f"{join_address(host, port)} cannot be dialed from other machines; set bind= or advertise= "
            "(LIT_STORAGE_BIND, LIT_STORAGE_ADVERTISE) to an address that they reach"
        )
    return join_address(host, port)


def _own_address(registry_url: str) -> str:
    """Return the address of the interface through which the first host of a registry is reached."""
    named = re.search(r"[/=](?:[^/@,]*@)?([^/@,=]+:\d+)", registry_url)
    if named is None:
        return "127.0.0.1"
    host, port = split_address(named[1])
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        # To connect a datagram socket sends nothing: it asks the routing table.
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    return "127.0.0.1"
