"""What a process shows and asks for when it speaks to a peer: a token, TLS files, both or neither.

Invariant: a token leaves this module only as call metadata. It stands in no `repr`, error or log.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lit_storage_client.write_once import write_once
from lit_storage_proto.errors import AccessDenied

if TYPE_CHECKING:
    import ssl

    import grpc

TOKEN_FILE = "token"  # noqa: S105  # the name of the file, not a token
_TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Security:
    """How calls are authenticated and encrypted; `certificate`, `key` and `ca` are paths of PEM files.

    Raises:
        AccessDenied: the token cannot travel in a header, or only one of key and certificate is given.
    """

    token: str | None = field(default=None, repr=False)
    """Sent with every call, and asked of every call that is served."""
    certificate: str | None = None
    """The chain that this process shows."""
    key: str | None = None
    """The private key of `certificate`."""
    ca: str | None = None
    """The authority whose certificates are trusted; with it, a server asks its clients for one."""
    insecure: bool = False
    """Whether the token may travel in clear beyond this machine, where everybody on the way reads it."""

    def __post_init__(self) -> None:
        token = self.token
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise AccessDenied("the token cannot be sent: it must be printable ASCII and not empty")
        if (self.certificate is None) != (self.key is None):
            raise AccessDenied("TLS needs the certificate and its key: only one of the two is given")

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.certificate is not None or self.ca is not None

    def with_absolute_paths(self) -> Security:
        """Return the same files by names that mean them in whatever directory they are read again."""
        paths = {name: getattr(self, name) for name in ("certificate", "key", "ca")}
        return replace(
            self, **{name: os.path.abspath(path) for name, path in paths.items() if path is not None}
        )

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return the credentials of a client's channel, or None without TLS.

        Raises:
            AccessDenied: a TLS file cannot be read.
        """
        if not self.tls:
            return None
        import grpc

        return grpc.ssl_channel_credentials(
            _read_if_given(self.ca), _read_if_given(self.key), _read_if_given(self.certificate)
        )

    def client_context(self) -> ssl.SSLContext | None:
        """Return what a client's socket of the standard library is wrapped with, or None without TLS.

        Raises:
            AccessDenied: a TLS file cannot be read.
        """
        if not self.tls:
            return None
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            raise AccessDenied(f"the TLS files cannot be used ({error.strerror or error})") from None
        return context

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata that every call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def root_token(root: str) -> str:
    """Return the token kept in ``<root>/token``, which is made at random by whoever comes first.

    Of processes that come at once one wins, and all return what it wrote.

    Raises:
        AccessDenied: the file cannot be made or read, or is empty.
    """
    path = os.path.join(root, TOKEN_FILE)
    try:
        if not os.path.exists(path):
            os.makedirs(root, exist_ok=True)
            write_once(path, secrets.token_urlsafe(_TOKEN_BYTES), mode=0o600)
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise AccessDenied(
            f"the token in {path!r} cannot be used ({reason}); check who owns {root!r}"
        ) from None
    if not token:
        raise AccessDenied(f"the token in {path!r} is empty; remove the file, and a new one is made")
    return token


def read_pem(path: str) -> bytes:
    """Return what a TLS file holds.

    Raises:
        AccessDenied: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise AccessDenied(f"the TLS file {path!r} cannot be read ({error.strerror})") from None


def _read_if_given(path: str | None) -> bytes | None:
    return None if path is None else read_pem(path)
