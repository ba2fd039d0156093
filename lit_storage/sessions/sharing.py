"""Whether a second `connect` means the session that its process has already.

An argument that is not given means whatever the session has. So a notebook cell, a Streamlit script or a
library function may call ``connect()`` again and again.
"""

from __future__ import annotations

import os
from typing import Protocol

from lit_storage.sessions import environment
from lit_storage_core.registries.database import file_of
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Registry


class Opened(Protocol):
    """What a session was opened with."""

    root: str
    registry: Registry
    registry_given: str
    """The URL of the registry as it was given, which may be spelled otherwise than the registry's own."""
    security: Security
    limits: Limits


def differing(
    session: Opened,
    root: str | os.PathLike[str] | None,
    registry: str | None,
    security: Security | None,
    limits: Limits | None,
) -> list[str]:
    """Return the names of the arguments that mean something else than the session has.

    Args:
        session: the one that is open.
        root: as of `connect`, as are the others; None means what the session has.
        registry: see `root`.
        security: see `root`.
        limits: see `root`.
    """
    is_other = {
        "root": root is not None and environment.find_root(root) != session.root,
        "registry": registry is not None and not _is_same_registry(session, registry),
        "security": security is not None
        and security.with_absolute_paths() != session.security.with_absolute_paths(),
        "limits": limits is not None and limits != session.limits,
    }
    return [name for name, differs in is_other.items() if differs]


def _is_same_registry(session: Opened, url: str) -> bool:
    file = file_of(url)
    return url in (session.registry.url, session.registry_given) or (
        file is not None and file == file_of(session.registry.url)
    )
