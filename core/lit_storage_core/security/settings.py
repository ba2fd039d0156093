"""What a process shows and asks for when it speaks to a peer: a token, TLS files, both or neither.

Invariant: a token leaves this module only as call metadata. It stands in no `repr`, error or log.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lit_storage_core.security.secret import (
    TOKEN_FILE,
    Secret,
    check_token,
    is_refusal,
    new_token,
    read_tokens,
)
from lit_storage_core.system.directories import make_directory
from lit_storage_core.system.write_once import write_once
from lit_storage_proto.errors import AccessDenied

if TYPE_CHECKING:
    import ssl

    import grpc

    from lit_storage_core.security.tls_files import TlsFiles

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Security:
    """How calls are authenticated and encrypted; the files are read anew when they change.

    Raises:
        AccessDenied: the token cannot travel in a header, only one of key and certificate is given, or
            both a token and a file of tokens.
    """

    token: str | None = field(default=None, repr=False)
    """Sent with every call, and asked of every call that is served."""
    certificate: str | None = None
    """PEM file of the chain that this process shows."""
    key: str | None = None
    """PEM file of the private key of `certificate`; nobody else may read it."""
    ca: str | None = None
    """PEM file of the authorities whose certificates are trusted; with it, a server asks its clients for
    one."""
    insecure: bool = False
    """Whether the token may travel in clear beyond this machine, where everybody on the way reads it."""
    token_file: str | None = None
    """In place of `token`: a file that nobody else may read, with one token a line. The first one is sent,
    each of them is taken."""

    def __post_init__(self) -> None:
        if self.token is not None:
            wrong = check_token(self.token)
            if wrong:
                raise AccessDenied(f"the token cannot be sent: {wrong}")
            if self.token_file is not None:
                raise AccessDenied("a token and a file of tokens are given; leave out one of the two")
            object.__setattr__(self, "token", Secret(self.token))
        if (self.certificate is None) != (self.key is None):
            raise AccessDenied("TLS needs the certificate and its key: only one of the two is given")

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.certificate is not None or self.ca is not None

    @property
    def has_token(self) -> bool:
        """Whether calls carry a token, and are asked for one."""
        return self.token is not None or self.token_file is not None

    @property
    def tls_paths(self) -> tuple[str, ...]:
        """The TLS files there are."""
        return tuple(path for path in (self.certificate, self.key, self.ca) if path is not None)

    def with_absolute_paths(self) -> Security:
        """Return the same files by names that mean them in whatever directory they are read again."""
        paths = {name: getattr(self, name) for name in ("certificate", "key", "ca", "token_file")}
        return replace(
            self, **{name: os.path.abspath(path) for name, path in paths.items() if path is not None}
        )

    def tokens(self) -> tuple[Secret, ...]:
        """Return the tokens that are taken now, of which the first one is sent; none where none is asked for.

        Raises:
            AccessDenied: the file of tokens cannot be used.
        """
        if self.token_file is not None:
            return read_tokens(self.token_file)
        return () if self.token is None else (Secret(self.token),)

    def tls_files(self) -> TlsFiles:
        """Read the TLS files.

        Raises:
            AccessDenied: one cannot be read, or others could read the key.
        """
        from lit_storage_core.security.tls_files import read_tls_files

        return read_tls_files(self.certificate, self.key, self.ca)

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return the credentials of a client's channel, or None without TLS.

        Raises:
            AccessDenied: a TLS file cannot be used.
        """
        if not self.tls:
            return None
        from lit_storage_core.security.client_tls import client_tls

        return client_tls(self.tls_files()).channel

    def client_context(self) -> ssl.SSLContext | None:
        """Return what a client's socket of the standard library is wrapped with, or None without TLS.

        Raises:
            AccessDenied: a TLS file cannot be used.
        """
        if not self.tls:
            return None
        from lit_storage_core.security.client_tls import client_tls

        return client_tls(self.tls_files()).context

    def metadata(self) -> Metadata:
        """Return the metadata that every call carries."""
        return metadata_of(self.tokens())


def metadata_of(tokens: tuple[Secret, ...]) -> Metadata:
    """Return the metadata of a call that carries the first of some tokens."""
    return (("authorization", Secret(f"Bearer {tokens[0]}")),) if tokens else ()


def root_token_file(root: str) -> str:
    """Return the path ``<root>/token``, in which whoever comes first puts a random token.

    Raises:
        AccessDenied: this process may not make the file.
        OSError: the disk is full, and the like.
    """
    path = os.path.join(root, TOKEN_FILE)
    try:
        if not os.path.lexists(path):
            make_directory(root)
            write_once(path, new_token(), mode=0o600)
    except OSError as error:
        if not is_refusal(error):
            error.filename = error.filename or path
            raise
        raise AccessDenied(
            f"the token {path!r} cannot be made ({error.strerror}); check who owns {root!r}"
        ) from None
    return path


def root_token(root: str) -> str:
    """Return the token kept in ``<root>/token``; see `root_token_file`.

    Of processes that come at once one makes it, and all return what it wrote.

    Raises:
        AccessDenied: the file cannot be made or read, others could read it, or it is empty.
        OSError: the disk is full, does not give it, and the like.
    """
    return read_tokens(root_token_file(root))[0]
