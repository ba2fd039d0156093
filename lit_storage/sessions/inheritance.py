"""What the programs that this process starts find in their environment: its root, registry and files.

Rules

 1. A child means what its parent means: what the parent was given in code wins over the variables that it
    inherited itself. A variable that a child sets for its own children wins in turn.
 2. No token and no password is put there, since an environment can be read for as long as its process lives.
    A child gets them from files: ``<root>/token``, LIT_STORAGE_TOKEN_FILE, LIT_STORAGE_ETCD_PASSWORD_FILE.
    A forked child also has them in its memory. Where the token was given in code and the environment names
    another one, the variables of tokens are unset, since rule 1 forbids that one: a child then has the token
    of its root, and whoever asks for the one in code refuses it.
 3. After the session the environment is as it was before, except for what the program itself has set since.
 4. What a session puts there is meant for its children. The process itself reads the former values, by
    `variable`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Protocol

from lit_storage_core.registries.database import file_of
from lit_storage_core.security.secret import TOKEN_FILE, read_tokens
from lit_storage_core.security.settings import Security
from lit_storage_proto.endpoint import split_address
from lit_storage_proto.errors import AccessDenied
from lit_storage_proto.registry import Registry

Variables = Mapping[str, str | None]
"""What a variable is to be; None: it is not set."""


class Settings(Protocol):
    """What a session was opened with."""

    root: str
    registry: Registry
    security: Security


def variables_of(session: Settings, *, artifacts_url: str | None = None, bind: str = "") -> Variables:
    """Return what a session hands on to its children.

    Args:
        session: whose children they are.
        artifacts_url: of the store of what this process declares; None: none was named.
        bind: ``HOST:PORT`` that this process was given to listen on; a port of its own is not handed on.
    """
    root = session.root
    variables: dict[str, str | None] = {"LIT_STORAGE_ROOT": root, **_registry_of(session.registry.url, root)}
    if artifacts_url is not None:
        variables["LIT_STORAGE_ARTIFACTS"] = artifacts_url
    if bind and split_address(bind)[1] == 0:
        variables["LIT_STORAGE_BIND"] = bind
    return {**variables, **_files_of(session.security.with_absolute_paths(), root)}


def _registry_of(url: str, root: str) -> Variables:
    if url.startswith("memory:"):  # which another process could not open
        return {}
    if url == os.environ.get("LIT_STORAGE_REGISTRY"):  # the user's own, for whatever root
        return {}
    is_of_root = file_of(url) == file_of(f"sqlite://{root}/registry.db")
    return {"LIT_STORAGE_REGISTRY": None if is_of_root else url}  # a child with another root has another one


def _files_of(security: Security, root: str) -> Variables:
    variables: dict[str, str | None] = {
        "LIT_STORAGE_TLS_CERT": security.certificate,
        "LIT_STORAGE_TLS_KEY": security.key,
        "LIT_STORAGE_TLS_CA": security.ca,
        "LIT_STORAGE_INSECURE": "1" if security.insecure else None,
    }
    if security.token_file is not None:
        is_of_root = security.token_file == os.path.join(root, TOKEN_FILE)
        variables["LIT_STORAGE_TOKEN_FILE"] = None if is_of_root else security.token_file
        variables["LIT_STORAGE_TOKEN"] = None  # of both, a child would not know which one counts
    elif security.token is not None and not _is_named(security.token):
        variables["LIT_STORAGE_TOKEN"] = variables["LIT_STORAGE_TOKEN_FILE"] = None
    return variables


def _is_named(token: str) -> bool:
    """Say whether the environment names this token."""
    named, file = os.environ.get("LIT_STORAGE_TOKEN"), os.environ.get("LIT_STORAGE_TOKEN_FILE")
    if named or not file:
        return named == token
    with contextlib.suppress(AccessDenied, OSError):
        return read_tokens(file)[0] == token
    return False


class ForkingParent:
    """The process that forked this one, as far as a session of this one needs it. Made right after the fork.

    Args:
        session: of the parent.
    """

    def __init__(self, session: Settings) -> None:
        self.session = session
        self._named = _named_tokens()

    def security_in(self, root: str) -> Security | None:
        """Return what a session in the root `root` has if it is given no security; None: what is named there.

        It is that of the parent, unless this process has named another token in its environment since.
        """
        is_same = root == self.session.root and _named_tokens() == self._named
        return self.session.security if is_same else None


def _named_tokens() -> tuple[str | None, str | None]:
    return variable("LIT_STORAGE_TOKEN"), variable("LIT_STORAGE_TOKEN_FILE")


class Inheritance:
    """Variables that are set in the environment of this process until they are taken back."""

    def __init__(self, variables: Variables) -> None:
        global _open
        self.process = os.getpid()
        self._variables = variables
        self._former = {name: os.environ.get(name) for name in variables}
        for name, value in variables.items():
            _set(name, value)
        _open = self

    def take_back(self) -> None:
        """Make each variable what it was, unless the program has changed it since."""
        global _open
        for name in self._variables:
            _set(name, self.former(name))
        if _open is self:
            _open = None

    def former(self, name: str) -> str | None:
        """Return what a variable was before, or what the program has made of it since."""
        value = os.environ.get(name)
        is_handed_on = name in self._variables and self._variables[name] == value
        return self._former[name] if is_handed_on else value


_open: Inheritance | None = None


def variable(name: str) -> str | None:
    """Return a variable as this process itself was given it, not as its open session hands it on.

    To a forked child, what the session of its parent handed on is what it was given.
    """
    is_own = _open is not None and _open.process == os.getpid()
    return _open.former(name) if _open is not None and is_own else os.environ.get(name)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
