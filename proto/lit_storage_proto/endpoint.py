"""Addresses as ``HOST:PORT``: taken apart, put together, and told apart. Pure: nothing is looked up.

Invariant: ``join_address(*split_address(address))`` means the same as `address`. An IPv6 address
stands in brackets where a port follows it (RFC 3986, section 3.2.2), and without them elsewhere.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import quote

from lit_storage_proto.errors import InvalidURI

_SHOWN = 200  # characters of what is no address


def split_address(address: str) -> tuple[str, int]:
    """Return host, without brackets, and port.

    Raises:
        InvalidURI: it is not ``HOST:PORT``.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not (colon and host and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        raise InvalidURI(f"{address[:_SHOWN]!r} is no address: write HOST:PORT, or [IPV6]:PORT")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with brackets around a host that holds a colon."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def grpc_target(address: str) -> str:
    """Return what gRPC is to dial for ``HOST:PORT``.

    A bare "unix:80" or "xds:80" it would take for a URI of another scheme, and open a socket of this machine.
    What means something in a URI is quoted, so that a host is all that it can be.

    Raises:
        InvalidURI: as of `split_address`.
    """
    return "dns:///" + quote(join_address(*split_address(address)), safe=":.")


def is_loopback(host: str) -> bool:
    """Say whether `host`, without brackets, is reached from this machine alone.

    Of names only "localhost" is: what others mean is for the resolver to say, and may change.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return (mapped or address).is_loopback


def is_address(host: str) -> bool:
    """Say whether `host`, without brackets, is an address, and no name that is to be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_wildcard(host: str) -> bool:
    """Say whether `host`, without brackets, stands for all addresses of a machine; nobody can dial it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.strip("0") == ""  # which the system reads as 0.0.0.0
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_unspecified
