"""Who may call: the token of each call, the certificates of each connection, and where to listen.

Invariant: without the token no call but a health check reaches a handler, and its request is not
even read. A server that others on the network can reach never listens without a way to tell who
calls.
"""

from __future__ import annotations

import hmac
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from lit_storage_core.security.rotating import Rotating
from lit_storage_core.security.secret import Secret
from lit_storage_core.security.settings import Security
from lit_storage_core.security.tls_files import TlsFiles
from lit_storage_proto.endpoint import is_loopback, split_address
from lit_storage_proto.errors import AccessDenied
from lit_storage_server.rpc.refusal import terminator

HEALTH_SERVICE = "grpc.health.v1.Health"


class TokenInterceptor(grpc.ServerInterceptor):
    """Ends every call without a token as UNAUTHENTICATED; health checks need none.

    Args:
        security: which has a token, or a file of tokens, each of which is taken, as the file is now.

    Raises:
        AccessDenied: the file cannot be used.
    """

    def __init__(self, security: Security) -> None:
        self._expected = _expected_of(security)
        self._refusal = terminator(
            grpc.StatusCode.UNAUTHENTICATED,
            "the token is missing or wrong; set LIT_STORAGE_TOKEN to the token of the origin",
        )

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler, or one that refuses."""
        if is_health(handler_call_details.method) or self._is_authentic(handler_call_details):
            return continuation(handler_call_details)
        return self._refusal

    def _is_authentic(self, details: grpc.HandlerCallDetails) -> bool:
        given = [value for key, value in details.invocation_metadata or () if key == "authorization"]
        if len(given) != 1:
            return False
        value = given[0] if isinstance(given[0], bytes) else given[0].encode("utf-8", "surrogateescape")
        # All are compared, so that how long it takes tells nothing of which one it was.
        return sum([hmac.compare_digest(value, expected) for expected in self._expected()]) > 0


def _expected_of(security: Security) -> Callable[[], list[bytes]]:
    def headers(tokens: tuple[Secret, ...]) -> list[bytes]:
        return [f"Bearer {token}".encode() for token in tokens]

    if security.token_file is not None:
        return Rotating("the token", [security.token_file], security.tokens, headers).get
    fixed = headers(security.tokens())
    return lambda: fixed


def is_health(method: str) -> bool:
    """Say whether ``/service/Method`` is a health check, which needs no token."""
    return method.startswith(f"/{HEALTH_SERVICE}/")


@dataclass(frozen=True, slots=True)
class _State:
    """One state of a server's TLS files, for gRPC and for sockets of the standard library."""

    configuration: grpc.ServerCertificateConfiguration
    context: ssl.SSLContext


class ServerTls:
    """What a server shows and asks for, as its files are now; with a CA, clients must show a certificate.

    A handshake that begins after the files have changed is made with the new ones. Files that cannot be
    used change nothing.

    Args:
        security: which has TLS files.

    Raises:
        AccessDenied: one cannot be used, or the certificate is missing.
    """

    def __init__(self, security: Security) -> None:
        if security.certificate is None or security.key is None:
            raise AccessDenied(
                "a server needs a certificate and its key to serve with TLS: set both beside the CA"
            )
        self._security = security
        self._state = Rotating("the certificate", security.tls_paths, security.tls_files, _state_of)

    def context(self) -> ssl.SSLContext:
        """Return what the next socket of the standard library is wrapped with."""
        return self._state.get().context

    def credentials(self) -> grpc.ServerCredentials:
        """Return what gRPC listens with."""
        return grpc.dynamic_ssl_server_credentials(
            self._state.get().configuration,
            self._configuration,
            require_client_authentication=self._security.ca is not None,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        return self._state.get().configuration


def _state_of(files: TlsFiles) -> _State:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files.load_into(context)
    if files.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    assert files.key is not None
    assert files.certificate is not None
    pair = (files.key, files.certificate)
    return _State(grpc.ssl_server_certificate_configuration([pair], files.ca), context)


def server_tls(security: Security) -> ServerTls | None:
    """Return what a server listens with, or None without TLS.

    Raises:
        AccessDenied: as of `ServerTls`.
    """
    return ServerTls(security) if security.tls else None


def check_bind(bind: str, security: Security) -> tuple[str, int]:
    """Return host and port of `bind` if a server with `security` may listen there.

    Args:
        bind: ``HOST:PORT`` or ``[IPV6]:PORT``; port 0 is any free one.
        security: what callers are asked for, and whether a token may travel in clear.

    Raises:
        InvalidURI: `bind` is no address.
        AccessDenied: others could reach the server, and nothing would tell who they are.
    """
    host, port = split_address(bind)
    if is_loopback(host) and _stays_here(host):
        return host, port
    has_certificate = security.certificate is not None and security.key is not None
    if has_certificate and (security.ca is not None or security.has_token):
        return host, port
    if security.has_token and security.insecure:
        return host, port
    raise AccessDenied(
        f"{bind!r} can be reached from other machines: give a certificate, a key and a CA, or a certificate, "
        "a key and a token"
    )


def _stays_here(host: str) -> bool:
    """Say whether all that a loopback host stands for is loopback, as the resolver of this machine has it."""
    if host.lower() != "localhost":
        return True  # an address stands for itself
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return True  # nobody can listen there
    return all(is_loopback(str(address[0])) for *_, address in found)
