"""The adapters of the Registry port, chosen by the scheme of a URL.

    sqlite:///path/to/registry.db     many processes of one machine
    static:name=host:port,…           a fixed list
    memory: or memory:NAME            one process, for tests

Invariant: one URL is one registry, for every process that can open it.
"""

from __future__ import annotations

from lit_storage_client.registries.memory import MemoryRegistry
from lit_storage_client.registries.sqlite import SqliteRegistry
from lit_storage_client.registries.static import StaticRegistry
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry

_KNOWN = "sqlite://PATH, static:NAME=HOST:PORT,… and memory:NAME"


def open_registry(url: str, *, machine_id: str, limits: Limits) -> Registry:
    """Open the registry that `url` names; the file of a sqlite registry is made if it is missing.

    Args:
        url: see the list above; a relative path is taken from the current directory.
        machine_id: what `lit_storage_client.machine.machine_id` returns.
        limits: `resolve_seconds` bounds every wait for the registry.

    Raises:
        InvalidURI: no adapter has this scheme, or the rest of `url` is not what it takes.
        AccessDenied: the file cannot be made or written by this process.
        RegistryUnavailable: the file is damaged, of another machine, on a network file system, or
            stays locked.
    """
    scheme, _, rest = url.partition(":")
    match scheme:
        case "sqlite" if rest.startswith("//") and len(rest) > 2:
            return SqliteRegistry(rest[2:], machine_id=machine_id, timeout_seconds=limits.resolve_seconds)
        case "static":
            return StaticRegistry(rest)
        case "memory":
            return MemoryRegistry(rest)
        case "sqlite":
            raise InvalidURI(f"{url!r} names no file; write sqlite:// and then its path")
    # The rest of an unknown URL is not shown: it may hold a password.
    raise InvalidURI(f"{scheme[:32]!r} is no kind of registry known here; use one of {_KNOWN}")
