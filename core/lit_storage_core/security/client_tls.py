"""What a client's connections are made with, of one state of the TLS files."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import grpc

from lit_storage_core.security.tls_files import TlsFiles


@dataclass(frozen=True, slots=True)
class ClientTls:
    """One state of the TLS files, for a channel of gRPC and for a socket of the standard library."""

    channel: grpc.ChannelCredentials
    context: ssl.SSLContext


def client_tls(files: TlsFiles) -> ClientTls:
    """Return what TLS files mean for a client. Without an authority, those of the system are trusted.

    Raises:
        AccessDenied: they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    files.load_into(context)
    return ClientTls(grpc.ssl_channel_credentials(files.ca, files.key, files.certificate), context)
