"""The adapters of the Registry port, chosen by the scheme of a URL.

    sqlite:///path/to/registry.db     many processes of one machine
    etcd://host:2379,…/prefix         many machines
    static:name=host:port,…           a fixed list
    memory: or memory:NAME            one process, for tests

Invariant: one URL is one registry, for every process that can open it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_core.registries.sqlite import SqliteRegistry
from lit_storage_core.registries.static import StaticRegistry
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry

if TYPE_CHECKING:
    from lit_storage_core.registries.etcd.access import EtcdAccess

_KNOWN = "sqlite://PATH, etcd://HOST:PORT,…/PREFIX, static:NAME=HOST:PORT,… and memory:NAME"


def open_registry(url: str, *, machine_id: str, limits: Limits, access: EtcdAccess | None = None) -> Registry:
    """Open the registry that `url` names; the file of a sqlite registry is made if it is missing.

    Nothing is asked of an etcd registry yet.

    Args:
        url: see the list above; a relative path is taken from the current directory.
        machine_id: what `lit_storage_core.system.machine.machine_id` returns.
        limits: `resolve_seconds` bounds every wait for the registry.
        access: who this process is to etcd; None: what the environment says.

    Raises:
        InvalidURI: no adapter has this scheme, or the rest of `url` is not what it takes.
        AccessDenied: the file cannot be made or written by this process, or a password for etcd would
            travel in clear.
        RegistryUnavailable: the file is damaged, of another machine, on a network file system, or
            stays locked.
    """
    scheme, _, rest = url.partition(":")
    match scheme:
        case "sqlite" if rest.startswith("//") and len(rest) > 2:
            return SqliteRegistry(rest[2:], machine_id=machine_id, timeout_seconds=limits.resolve_seconds)
        case "etcd":
            # gRPC and protobuf's messages are loaded only where they are used.
            from lit_storage_core.registries.etcd.access import EtcdAccess
            from lit_storage_core.registries.etcd.registry import EtcdRegistry

            access = access or EtcdAccess.from_environment()
            return EtcdRegistry(rest, machine_id=machine_id, access=access, limits=limits)
        case "static":
            return StaticRegistry(rest)
        case "memory":
            return MemoryRegistry(rest)
        case "sqlite":
            raise InvalidURI(f"{url!r} names no file; write sqlite:// and then its path")
    # The rest of an unknown URL is not shown: it may hold a password.
    raise InvalidURI(f"{scheme[:32]!r} is no kind of registry known here; use one of {_KNOWN}")


def renewal_of(registry: Registry) -> dict[str, Any] | None:
    """Return what `open_renewal` needs in another process of this machine, as JSON takes it.

    None: the registry has no leases.

    It may hold a password: it is sent through a socket of our own, and stands in no argument and no log.
    """
    if not registry.url.startswith("etcd:"):
        return None
    from lit_storage_core.registries.etcd.registry import EtcdRegistry

    assert isinstance(registry, EtcdRegistry), "no other one has such a URL"
    return {"url": registry.url, "access": dataclasses.asdict(registry.access)}


def open_renewal(renewal: Mapping[str, Any], limits: Limits) -> Registry:
    """Open the registry that `renewal_of` described, to renew leases for another process."""
    from lit_storage_core.registries.etcd.access import EtcdAccess

    access = EtcdAccess(**renewal["access"])
    return open_registry(renewal["url"], machine_id="", limits=limits, access=access)
