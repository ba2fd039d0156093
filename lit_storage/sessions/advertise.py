"""Which address a process gives to those that are to dial it."""

from __future__ import annotations

import contextlib
import re
import socket

from lit_storage_core.registries.checked import check_endpoint
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
        host = _own_address(registry.url, host) if registry.spans_machines else "127.0.0.1"
    if is_wildcard(host) or (registry.spans_machines and is_loopback(host)):
        raise AccessDenied(
            f"{join_address(host, port)} cannot be dialed from other machines; set bind= or advertise= "
            "(LIT_STORAGE_BIND, LIT_STORAGE_ADVERTISE) to an address that they reach"
        )
    address = join_address(host, port)
    check_endpoint(address)
    return address


def _own_address(registry_url: str, wildcard: str) -> str:
    """Return the address of the interface through which a registry is reached.

    Of several hosts that a URL names it is the first one that is neither this machine's loopback nor
    unknown; where there is none, `wildcard` itself.
    """
    family = socket.AF_INET if "." in wildcard else socket.AF_UNSPEC  # 0.0.0.0 is not reached by IPv6
    for named in re.findall(r"[^/@,=]+:[0-9]+", registry_url):
        with contextlib.suppress(OSError):
            address = _address_towards(*split_address(named), family)
            if not is_loopback(address):
                return address
    return wildcard


def _address_towards(host: str, port: int, family: int) -> str:
    """Return from which address of this machine a host is reached.

    Raises:
        OSError: it has no address of this family, or there is no way to it.
    """
    for found, kind, protocol, _, address in socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM):
        # To connect a datagram socket sends nothing: it asks the routing table.
        with contextlib.suppress(OSError), socket.socket(found, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    raise OSError(f"there is no way to {host}")
