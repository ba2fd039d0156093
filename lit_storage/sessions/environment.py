"""Defaults from the environment: what the ``LIT_STORAGE_*`` variables of a user say.

    LIT_STORAGE_NAME               what the launcher's variables give: see `lit_storage.sessions.launcher`
    LIT_STORAGE_ROOT               the nearest .lit upwards from the working directory, else ./.lit
    LIT_STORAGE_REGISTRY           sqlite://<root>/registry.db
    LIT_STORAGE_ETCD_USER          who we are to an etcd:// registry: nobody
    LIT_STORAGE_ETCD_PASSWORD_FILE a file that nobody else may read (or LIT_STORAGE_ETCD_PASSWORD)
    LIT_STORAGE_ETCD_CA _CERT _KEY files; unset: no TLS to etcd
    LIT_STORAGE_BIND               127.0.0.1:0
    LIT_STORAGE_ADVERTISE          the address that is bound; of a wildcard, that towards the registry
    LIT_STORAGE_ARTIFACTS          in place: what a Work declared is read where it wrote it
    LIT_STORAGE_TOKEN              a random one kept in <root>/token
    LIT_STORAGE_TOKEN_FILE         in place of it, a file with one token a line: the first one is sent
    LIT_STORAGE_TLS_CERT _KEY _CA  files; unset: no TLS
    LIT_STORAGE_LOCAL_COPY         1; 0 copies over the wire also from an origin on this machine
    LIT_STORAGE_INSECURE           0; 1 lets the token travel in clear beyond this machine
    LIT_STORAGE_EXECUTOR           process; of an App
    LIT_STORAGE_MACHINE_ID         a random value kept in <root>/machine-id (read where that file is)

An argument beats its variable. While a session is open, its children find what it was given in code in these
variables, but for secrets. This process itself reads what it was given: see
`lit_storage.sessions.inheritance`. Those of etcd are read by `lit_storage_core.registries.etcd.access`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from dataclasses import replace

from lit_storage.sessions.inheritance import variable
from lit_storage_client.peers.direct import Ways
from lit_storage_core.artifacts.urls import check_url
from lit_storage_core.registries.database import file_of
from lit_storage_core.security.settings import Security, root_token_file
from lit_storage_core.system.directories import make_directory, permits
from lit_storage_core.system.root_identity import is_copy
from lit_storage_proto.errors import AccessDenied, PathNotFound

ROOT_NAME = ".lit"

_SHARED = 0o775  # less the umask: a group may share a root, all users of a machine may not
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# What asking for a directory says where none can be; in /proc, that it is not there.
_CANNOT_BE = (PermissionError, FileExistsError, FileNotFoundError, NotADirectoryError)


def find_root(root: str | os.PathLike[str] | None) -> str:
    """Return the absolute path of the root, without making it.

    Args:
        root: what the caller gave; None looks at the environment, then for ``.lit`` upwards from
            the working directory as git looks for ``.git``.

    Raises:
        AccessDenied: the one that was found is another user's, or every user can write it.
    """
    given = os.fspath(root) if root is not None else variable("LIT_STORAGE_ROOT")
    if given:
        return os.path.realpath(given)
    here = os.getcwd()
    above = here
    while not os.path.isdir(os.path.join(above, ROOT_NAME)):
        if above == os.path.dirname(above):
            return os.path.join(os.path.realpath(here), ROOT_NAME)
        above = os.path.dirname(above)
    found = os.path.join(above, ROOT_NAME)
    _check_found(found)
    return os.path.realpath(found)


def refuse_no_root(root: str | os.PathLike[str] | None) -> None:
    """Raise where nobody named a root or a registry, and no root is found.

    Args:
        root: as of `find_root`.

    Raises:
        PathNotFound: there is none.
        AccessDenied: as of `find_root`.
    """
    if root is not None or variable("LIT_STORAGE_ROOT") or variable("LIT_STORAGE_REGISTRY"):
        return
    found = find_root(None)
    if not os.path.isdir(found):
        raise PathNotFound(
            f"there is no root {found!r}, nor a {ROOT_NAME} above it; go to where the app runs, or name its "
            "root with root= or LIT_STORAGE_ROOT"
        )


def _check_found(root: str) -> None:
    """Refuse a root that another user may have put in the way: it says where files are read and written."""
    status, link = os.stat(root), os.lstat(root)
    if link.st_uid not in (os.geteuid(), 0) and stat.S_ISLNK(link.st_mode):
        whose = f"is a link of user {link.st_uid}"
    elif status.st_uid not in (os.geteuid(), 0):
        whose = f"belongs to user {status.st_uid}"
    elif status.st_mode & stat.S_IWOTH:
        whose = "can be written by every user of this machine"
    else:
        return
    raise AccessDenied(
        f"the root {root!r}, which was found above the working directory, {whose}; if it is meant, name it "
        "with root= or LIT_STORAGE_ROOT"
    )


def make_root(root: str) -> str:
    """Make the directory `root` and return it; git is told to pass over one that is new.

    Raises:
        AccessDenied: it cannot be made or written.
        OSError: the disk is full, and the like.
    """
    try:
        is_new = not os.path.isdir(root) or not os.listdir(root)
        make_directory(root, _SHARED)
        if not permits(root, os.W_OK | os.X_OK):
            raise PermissionError
        if is_new:  # in a directory of the user's own, git goes on to see what it saw
            with contextlib.suppress(FileExistsError):
                fd = os.open(os.path.join(root, ".gitignore"), _NEW_FILE, 0o644)
                with os.fdopen(fd, "w", encoding="ascii") as file:
                    file.write("*\n")
    except OSError as error:
        if not isinstance(error, _CANNOT_BE):
            error.filename = error.filename or root
            raise
        why = "is not writable" if isinstance(error, PermissionError) else "cannot be a directory"
        raise AccessDenied(
            f"the root {root!r} {why}; choose another one with root= or LIT_STORAGE_ROOT"
        ) from None
    return root


def open_root(root: str | os.PathLike[str] | None, registry: str | None, *, timeout_seconds: float) -> str:
    """Find the root and make it if it is missing; return its path, without links.

    A root that was copied is made a root of its own first: see `separate_copy`. So a process calls this
    before it reads anything else in the root.

    Args:
        root: as of `find_root`.
        registry: as of `registry_url`.
        timeout_seconds: how long to wait for other processes that use a copied registry.

    Raises:
        AccessDenied: as of `find_root` and `make_root`.
        StorageError: as of `is_copy` and `separate_copy`.
        OSError: the disk is full, and the like.
    """
    path = make_root(find_root(root))
    file = file_of(registry_url(registry, path))
    if is_copy(path, file):
        from lit_storage_server.publishing.copied_root import separate_copy

        separate_copy(path, file, timeout_seconds=timeout_seconds)
    return path


def make_storage_root(root: str, directory: str) -> str:
    """Make the directory `directory` below `root`, and return its path.

    Raises:
        AccessDenied: it cannot be made, or another user's link leads away from there.
    """
    path = root
    try:
        for part in directory.split("/"):
            path = os.path.join(path, part)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, _SHARED)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode) and status.st_uid not in (os.geteuid(), 0):
                raise AccessDenied(
                    f"the storage root {path!r} is a link of user {status.st_uid}, who would say which files "
                    "are served and written; remove it, or choose another root with root= or LIT_STORAGE_ROOT"
                )
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except AccessDenied:
        raise
    except OSError as error:
        raise AccessDenied(f"the storage root {path!r} cannot be made: {error.strerror}") from None
    return path


def registry_url(registry: str | None, root: str) -> str:
    """Return the URL of the registry to use."""
    return registry or variable("LIT_STORAGE_REGISTRY") or f"sqlite://{root}/registry.db"


def artifacts_url(artifacts: str | None) -> str | None:
    """Return the URL of the store in which what Works declare stays readable; None if it stays in place.

    Raises:
        InvalidURI: it is none, or holds a password.
    """
    given = artifacts or variable("LIT_STORAGE_ARTIFACTS")
    return check_url(given) if given else None


def bind_address(bind: str | None) -> str:
    """Return ``host:port`` to listen on; port 0 takes a free one."""
    return bind or variable("LIT_STORAGE_BIND") or "127.0.0.1:0"


def advertised_address(advertise: str | None) -> str | None:
    """Return the ``host:port`` or host that others should dial, or None to tell from what is bound."""
    return advertise or variable("LIT_STORAGE_ADVERTISE") or None


def security_of(security: Security | None, root: str) -> Security:
    """Return what proves who we are: as given, else of the environment, else the root's own token."""
    if security is not None:
        return security
    certificate, key, ca = tls_files()
    insecure = _switch("LIT_STORAGE_INSECURE", default="0")
    return replace(token_of(root), certificate=certificate, key=key, ca=ca, insecure=insecure)


def token_of(root: str) -> Security:
    """Return the token of the environment, or its file, else the file of the root's own.

    Raises:
        AccessDenied: as of `root_token_file`; or both are given.
    """
    token = variable("LIT_STORAGE_TOKEN") or None
    file = variable("LIT_STORAGE_TOKEN_FILE") or None
    if token is None:
        file = os.path.abspath(file) if file is not None else root_token_file(root)
    made = Security(token, token_file=file)
    made.tokens()  # raises now where the file cannot be used
    return made


def tls_files() -> tuple[str | None, str | None, str | None]:
    """Return the files of certificate, key and CA, each None where it is not named."""
    certificate, key, ca = (variable(f"LIT_STORAGE_TLS_{kind}") or None for kind in ("CERT", "KEY", "CA"))
    return certificate, key, ca


def executor_name(executor: str | None) -> str:
    """Return the name of what starts the Works of an App."""
    return executor or variable("LIT_STORAGE_EXECUTOR") or "process"


def direct_ways() -> Ways:
    """Return the ways beside gRPC on which files may be received.

    Raises:
        AccessDenied: LIT_STORAGE_LOCAL_COPY is neither 0 nor 1.
    """
    return Ways.ALL if _switch("LIT_STORAGE_LOCAL_COPY", default="1") else Ways.TCP


def _switch(name: str, *, default: str) -> bool:
    given = variable(name) or default
    if given not in ("0", "1"):
        raise AccessDenied(f"{name} is {given!r}; set it to 1 or 0")
    return given == "1"


def refuse_other_systems() -> None:
    """Raise OSError where files cannot be served: everywhere but on Linux."""
    if sys.platform != "linux":
        raise OSError(
            f"lit-storage moves files on Linux only, and this is {sys.platform}; run it in a container"
        )
