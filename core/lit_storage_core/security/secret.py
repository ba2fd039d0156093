"""Secrets: text that does not show itself, and files that nobody else may read or have written.

Invariant: what `read_private` returns was read from a regular file of this user or of root that no
other user could read, so that neither a planted file nor a planted link is taken for a secret.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from typing import Any

from lit_storage_core.system.names import shown
from lit_storage_core.system.replace_file import replace_file
from lit_storage_proto.errors import AccessDenied

TOKEN_FILE = "token"  # noqa: S105  # the name of the file below a root, not a token

_TOKEN_BYTES = 32
_MOST_TOKEN_BYTES = 64 * 1024
_MOST_PEM_BYTES = 1 << 20
_MOST_TOKENS = 16
# What a path answers that is not this process's to use, or whose file system has no hard links.
_REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
    *(errno.ENOENT, errno.EOPNOTSUPP, errno.ENAMETOOLONG, errno.ENXIO),
)
_FOR_OTHERS = 0o077
_FOR_OTHERS_THAN_A_GROUP = 0o037  # root gives a file to a service by its group, as Kubernetes and systemd do


class Secret(str):
    """Text that goes where text goes, and whose `repr` shows none of it, nor of a part of it.

    So it stands in no traceback with local variables and in no `repr` of what holds it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"

    def __getitem__(self, key: Any) -> Secret:
        return Secret(super().__getitem__(key))


def check_token(token: str) -> str:
    """Return what is wrong with a token, "" where nothing is; it is not shown."""
    if not (token.isascii() and token.isprintable() and token.strip()):
        return "it must be printable ASCII and not empty"
    if token != token.strip():
        return "it must not begin or end with a space"
    return ""


def read_tokens(path: str) -> tuple[Secret, ...]:
    """Return the tokens of a file, one a line: the first one is sent, and all of them are taken.

    Raises:
        AccessDenied: it cannot be read, others could read or write it, or what it holds is no token.
    """
    tokens, wrong = _tokens_of(path)
    if wrong:
        raise AccessDenied(f"the token in {shown(path)} cannot be used: {wrong}")
    return tokens


def _tokens_of(path: str) -> tuple[tuple[Secret, ...], str]:
    """Return tokens, or what is wrong with them: no frame of an error may hold any."""
    data = read_private(path, "token", _MOST_TOKEN_BYTES)
    tokens = tuple(Secret(line.strip().decode("latin-1")) for line in data.split(b"\n") if line.strip())
    if not tokens:
        return (), "the file is empty; write a token into it"
    if len(tokens) > _MOST_TOKENS:
        return (), f"the file has more than {_MOST_TOKENS} lines, each of which would be one"
    if any(check_token(token) or " " in token for token in tokens):
        return (), "each line must be one token, of printable ASCII without spaces"
    return tokens, ""


def new_token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def renew_root_token(root: str) -> None:
    """Put another random token into the token file of a root that was copied; without a file do nothing.

    Raises:
        OSError: the disk is full, and the like.
    """
    path = os.path.join(root, TOKEN_FILE)
    if os.path.lexists(path):
        replace_file(path, lambda _inode: new_token(), mode=0o600)


def read_key(path: str) -> bytes:
    """Return what the file of a private key holds.

    Raises:
        AccessDenied: it cannot be read, or others could read or write it.
    """
    return read_private(path, "private key", _MOST_PEM_BYTES)


def read_pem(path: str) -> bytes:
    """Return what the file of certificates holds.

    Raises:
        AccessDenied: it cannot be read, or every user may write it, and so say who is trusted.
    """
    data, status = _read(path, "certificate", _MOST_PEM_BYTES)
    if status.st_mode & stat.S_IWOTH:
        raise AccessDenied(f"the certificate in {shown(path)} can be written by every user: chmod o-w it")
    return data


def read_private(path: str, what: str, most_bytes: int) -> bytes:
    """Return what a file holds that nobody else may read or have written.

    Args:
        path: a regular file, or a link of this user or of root to one.
        what: it holds, for the sentence of an error.
        most_bytes: that it may have.

    Raises:
        AccessDenied: it cannot be read, is longer, belongs to another user, or others may read it.
    """
    data, status = _read(path, what, most_bytes)
    if status.st_uid not in (0, os.geteuid()):
        raise AccessDenied(
            f"the {what} in {shown(path)} belongs to another user (uid {status.st_uid}), who may know it; "
            "name a file of your own"
        )
    if stat.S_IMODE(status.st_mode) & (_FOR_OTHERS_THAN_A_GROUP if status.st_uid == 0 else _FOR_OTHERS):
        raise AccessDenied(
            f"the {what} in {shown(path)} can be read or written by others: make a new one if they may have, "
            "and chmod 600 it; where its file system keeps no modes, name a file elsewhere"
        )
    return data


def is_refusal(error: OSError) -> bool:
    """Say whether a path is not this process's to use; else it is the disk that fails."""
    return error.errno in _REFUSALS


def _read(path: str, what: str, most_bytes: int) -> tuple[bytes, os.stat_result]:
    try:
        named = os.lstat(path)
        if stat.S_ISLNK(named.st_mode) and named.st_uid not in (0, os.geteuid()):
            raise AccessDenied(
                f"the {what} in {shown(path)} is not read: it is a link of another user (uid {named.st_uid})"
            )
        # A FIFO would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise AccessDenied(f"the {what} in {shown(path)} cannot be used (it is no regular file)")
            data = file.read(most_bytes + 1)
    except OSError as error:
        if isinstance(error, AccessDenied):
            raise
        if not is_refusal(error):
            error.filename = error.filename or path
            raise
        raise AccessDenied(f"the {what} in {shown(path)} cannot be used ({error.strerror})") from None
    if len(data) > most_bytes:
        raise AccessDenied(f"the {what} in {shown(path)} cannot be used: it has more than {most_bytes} bytes")
    return data, status
