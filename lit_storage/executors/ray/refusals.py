"""What an App must say otherwise when its Works run on many machines: told before anything starts.

Invariant: nothing is looked up or made here; that Ray's own addresses reach is looked at by the executor.
"""

from __future__ import annotations

import os

from lit_storage.sessions import environment
from lit_storage.sessions.inheritance import variable
from lit_storage_core.security.settings import Security
from lit_storage_proto.endpoint import is_loopback, split_address
from lit_storage_proto.errors import AccessDenied, InvalidApp, InvalidURI

_ONE_MACHINE = ("sqlite", "memory", "static")


def refuse_what_stays_here(root: str | os.PathLike[str] | None, registry: str | None) -> None:
    """Raise where Works on other machines could not use what the App is told.

    Args:
        root: as the App was given it.
        registry: the same.

    Raises:
        InvalidApp: a relative root or none, a registry that cannot serve many machines, or loopback.
    """
    _refuse_root(root)
    _refuse_registry(environment.registry_url(registry, ""))
    for name in ("LIT_STORAGE_BIND", "LIT_STORAGE_ADVERTISE"):
        given = variable(name)
        if given and is_loopback(_host(given)):
            raise InvalidApp(
                f"{name}={given} is reached from one machine only, and executor='ray' runs Works on "
                "many; unset it, and each Work listens on its node's address"
            )


def refuse_open_door(security: Security) -> None:
    """Raise where Works that listen for other machines could not tell who asks.

    Raises:
        AccessDenied: there is neither TLS nor leave to do without.
    """
    from lit_storage_server.rpc.auth import check_bind

    try:
        check_bind("0.0.0.0:0", security)
    except AccessDenied:
        raise AccessDenied(
            "executor='ray' lets Works listen for other machines: name TLS files in LIT_STORAGE_TLS_CERT, "
            "_KEY and _CA (or security=), or set LIT_STORAGE_INSECURE=1 where everybody on the network may "
            "read the token and the files"
        ) from None


def _refuse_root(root: str | os.PathLike[str] | None) -> None:
    given = os.fspath(root) if root is not None else variable("LIT_STORAGE_ROOT") or ""
    if not os.path.isabs(given):
        what = (
            f"the root {given!r} is relative to a directory" if given else "no root is given, so it would be"
        )
        what += "" if given else " .lit in a directory"
        raise InvalidApp(
            f"{what} of this machine, and executor='ray' runs Works on many; name an absolute path that "
            "every node can make and write, with root= or LIT_STORAGE_ROOT"
        )


def _refuse_registry(url: str) -> None:
    """Raise for a registry of one machine. It may hold a password, so that it is not shown."""
    scheme, _, rest = url.partition(":")
    if scheme in _ONE_MACHINE:
        raise InvalidApp(
            f"a {scheme}: registry serves the Works of one machine, and executor='ray' runs them on many; "
            "name one that all nodes reach, as etcd://HOST:2379, with registry= or LIT_STORAGE_REGISTRY"
        )
    for endpoint in rest.removeprefix("//").partition("/")[0].rpartition("@")[2].split(","):
        if is_loopback(_host(endpoint)):
            raise InvalidApp(
                f"the registry's address {endpoint} is reached from this machine only, and executor='ray' "
                "runs Works on many; name it by an address that all nodes reach"
            )


def _host(address: str) -> str:
    """Return the host of an address whose port may be missing."""
    try:
        return split_address(address)[0]
    except InvalidURI:
        return address.strip("[]")
