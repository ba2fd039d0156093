"""Who may call: the token of each call, the certificates of each connection, and where to listen.

Invariant: without the token no call but a health check reaches a handler, and its request is not
even read. A server that others on the network can reach never listens without a way to tell who
calls.
"""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Callable
from typing import Any

import grpc

from lit_storage_client.security import Security, read_pem
from lit_storage_proto.endpoint import is_loopback, split_address
from lit_storage_proto.errors import AccessDenied
from lit_storage_server.refusal import terminator

HEALTH_SERVICE = "grpc.health.v1.Health"


class TokenInterceptor(grpc.ServerInterceptor):
    """Ends every call without the token as UNAUTHENTICATED; health checks need none."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
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
        return hmac.compare_digest(value, self._expected)


def is_health(method: str) -> bool:
    """Say whether ``/service/Method`` is a health check, which needs no token."""
    return method.startswith(f"/{HEALTH_SERVICE}/")


def server_credentials(security: Security) -> grpc.ServerCredentials | None:
    """Return what a server listens with, or None without TLS. With a CA, clients must show a certificate.

    Raises:
        AccessDenied: a TLS file cannot be read, or the certificate is missing.
    """
    if not security.tls:
        return None
    if security.certificate is None or security.key is None:
        raise AccessDenied(
            "a server needs a certificate and its key to serve with TLS: set both beside the CA"
        )
    pair = (read_pem(security.key), read_pem(security.certificate))
    if security.ca is None:
        return grpc.ssl_server_credentials([pair])
    return grpc.ssl_server_credentials(
        [pair], root_certificates=read_pem(security.ca), require_client_auth=True
    )


def server_context(security: Security) -> ssl.SSLContext | None:
    """Return what a server's socket of the standard library is wrapped with, or None without TLS.

    As with `server_credentials`, clients must show a certificate where there is a CA.

    Raises:
        AccessDenied: a TLS file cannot be read.
    """
    if security.certificate is None or security.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(security.certificate, security.key)
        if security.ca is not None:
            context.load_verify_locations(security.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise AccessDenied(f"the TLS files cannot be used ({error.strerror or error})") from None
    return context


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
    if is_loopback(host):
        return host, port
    has_certificate = security.certificate is not None and security.key is not None
    if has_certificate and (security.ca is not None or security.token is not None):
        return host, port
    if security.token is not None and security.insecure:
        return host, port
    raise AccessDenied(
        f"{bind!r} can be reached from other machines: give a certificate, a key and a CA, or a certificate, "
        "a key and a token"
    )
