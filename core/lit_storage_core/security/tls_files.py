"""What TLS files hold, as gRPC and the standard library take it: from the same bytes, read once."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from lit_storage_core.security.secret import read_key, read_pem
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import AccessDenied


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificate and key, the authority, or both."""

    certificate: bytes | None
    key: bytes | None
    ca: bytes | None
    names: tuple[str, ...]
    """The paths, for the sentence of an error."""

    def __repr__(self) -> str:
        return f"<TLS files {', '.join(self.names)}>"

    def load_into(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Let a context show and trust what they hold, and return it.

        Raises:
            AccessDenied: they hold no certificates, do not go together, or the key has a passphrase.
            OSError: the process has no descriptor or memory left to say so.
        """
        try:
            if self.certificate is not None and self.key is not None:
                with _as_file(self.certificate) as certificate, _as_file(self.key) as key:
                    context.load_cert_chain(certificate, key, _refuse_passphrase)
            if self.ca is not None:
                context.load_verify_locations(cadata=self.ca.decode("ascii", "ignore"))
        except (OSError, ValueError) as error:
            if isinstance(error, AccessDenied) or not isinstance(error, ssl.SSLError | ValueError):
                raise
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            names = ", ".join(map(shown, self.names))
            raise AccessDenied(
                f"the TLS files {names} cannot be used ({reason}); they must be PEM, and the key that of "
                "the certificate"
            ) from None
        return context


def read_tls_files(certificate: str | None, key: str | None, ca: str | None) -> TlsFiles:
    """Read the files with these paths.

    Raises:
        AccessDenied: one of them cannot be read, or others could read the key.
    """
    secret = None if key is None else read_key(key)
    return TlsFiles(
        None if certificate is None else read_pem(certificate),
        secret,
        None if ca is None else read_pem(ca),
        tuple(path for path in (certificate, key, ca) if path is not None),
    )


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Give bytes the name of a file, which is all that the standard library takes."""
    with os.fdopen(os.memfd_create("lit-storage-tls", os.MFD_CLOEXEC), "wb") as file:
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _refuse_passphrase() -> NoReturn:
    """Refuse a key that OpenSSL would ask somebody at the terminal to unlock."""
    raise AccessDenied("the private key has a passphrase, which nobody is there to type: remove it")
