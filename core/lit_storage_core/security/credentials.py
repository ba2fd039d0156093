"""The credentials of a client as they are now: token and TLS files, read anew when they change.

Invariant: what one call uses goes together. A call, a channel or a connection that has begun goes on with
what it began with.
"""

from __future__ import annotations

import threading

from lit_storage_core.security.client_tls import ClientTls, client_tls
from lit_storage_core.security.rotating import Rotating
from lit_storage_core.security.secret import Secret
from lit_storage_core.security.settings import Metadata, Security, metadata_of
from lit_storage_core.security.tls_files import TlsFiles


class Credentials:
    """What a session shows. May be used from any thread; files are first read when they are needed."""

    def __init__(self, security: Security) -> None:
        self.security = security
        self._making = threading.Lock()
        self._tokens: Rotating[tuple[Secret, ...], Metadata] | None = None
        self._tls: Rotating[TlsFiles, ClientTls] | None = None

    def metadata(self, *, wait: bool = False) -> Metadata:
        """Return the metadata that a call carries.

        Args:
            wait: whether to wait for another thread that reads the file anew; else what it held counts.

        Raises:
            AccessDenied: the file of tokens could never be used.
        """
        path = self.security.token_file
        if path is None:
            return metadata_of(self.security.tokens())
        with self._making:
            if self._tokens is None:
                self._tokens = Rotating("the token", [path], self.security.tokens, metadata_of)
        return self._tokens.get(wait=wait)

    def tls(self) -> ClientTls | None:
        """Return what connections are made with, the same object until the files change; None without TLS.

        Raises:
            AccessDenied: the TLS files could never be used.
        """
        if not self.security.tls:
            return None
        with self._making:
            if self._tls is None:
                self._tls = Rotating(
                    "the certificate", self.security.tls_paths, self.security.tls_files, client_tls
                )
        return self._tls.get()
