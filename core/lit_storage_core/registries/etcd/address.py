"""What an ``etcd://`` URL says: the members of a cluster, and the prefix of our keys. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lit_storage_proto.endpoint import is_loopback, join_address, split_address
from lit_storage_proto.errors import InvalidURI

DEFAULT_PORT = 2379  # of clients: https://etcd.io/docs/v3.4/op-guide/configuration/

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """Where a registry is."""

    endpoints: tuple[str, ...]
    """``HOST:PORT`` of each member that may be asked; those that are left serve if one is gone."""
    prefix: str
    """What all keys begin with, without slashes around it."""

    @classmethod
    def from_rest(cls, rest: str) -> EtcdAddress:
        """Read what follows ``etcd:`` in a URL.

        Raises:
            InvalidURI: it is not of the form above, or holds a user or a password.
        """
        hosts, slash, prefix = rest.removeprefix("//").partition("/")
        if "@" in rest:  # not shown: it may hold a password
            raise InvalidURI(
                "the URL of an etcd registry holds no user or password, since URLs are shown and logged; "
                "set LIT_STORAGE_ETCD_USER and LIT_STORAGE_ETCD_PASSWORD_FILE"
            )
        if not (rest.startswith("//") and hosts and slash and _PREFIX.fullmatch(prefix.rstrip("/"))):
            raise InvalidURI(
                f"'etcd:{rest[:200]}' is no etcd registry; write etcd://HOST:PORT,HOST:PORT/PREFIX, "
                "with a prefix of letters, digits and ._-/ of its own for each set of Works"
            )
        return cls(tuple(dict.fromkeys(map(_endpoint, hosts.split(",")))), prefix.rstrip("/"))

    @property
    def url(self) -> str:
        """The URL with every port in it."""
        return f"etcd://{','.join(self.endpoints)}/{self.prefix}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can use it."""
        return all(is_loopback(split_address(endpoint)[0]) for endpoint in self.endpoints)


def _endpoint(item: str) -> str:
    host, colon, port = item.rpartition(":")
    if not colon or port.endswith("]"):  # the colon is one of an IPv6 address
        host, port = item, str(DEFAULT_PORT)
    if not (_HOST.fullmatch(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidURI(f"{item!r} is no member of an etcd registry; write HOST, HOST:PORT or [IPV6]:PORT")
    return join_address(host.strip("[]"), int(port))
