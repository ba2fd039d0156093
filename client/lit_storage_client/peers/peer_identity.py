"""Whom a client speaks to: what a peer's certificate must show, and to whom a token may go in clear.

Invariant: what a registry says decides where a peer is dialed, never who it is. Whoever can write a record
of "trainer" must still have a certificate for "trainer", and gets no token in clear beyond this machine.
"""

from __future__ import annotations

from lit_storage_core.security.settings import Security
from lit_storage_core.system.names import shown
from lit_storage_proto.endpoint import grpc_target, is_loopback, split_address
from lit_storage_proto.errors import AccessDenied, InvalidURI, OriginUnavailable
from lit_storage_proto.registry import LiveRecord

# What gRPC and BoringSSL say, and what it means here.
_MEANINGS = (
    (
        "Hostname Verification Check failed",
        "its certificate is not for {name!r}: give it one with `lit-storage certs issue {name}`",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate has expired, or is of no authority in LIT_STORAGE_TLS_CA",
    ),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS, as this process does"),
    (
        "Socket closed",
        "it hung up, as who asks for TLS does, or for another certificate: see LIT_STORAGE_TLS_CERT, _KEY "
        "and _CA",
    ),
)


def meaning_of(details: str, record: LiveRecord) -> str:
    """Return what an error of a connection means, in words of this product; "" where that is not known."""
    if "Stream removed" in details:  # it stood, so nobody was refused
        return ""
    for said, meaning in _MEANINGS:
        if said in details:
            return meaning.format(name=record.name)
    return ""


def address_of(record: LiveRecord) -> tuple[str, int]:
    """Return host and port at which a Work is dialed.

    Raises:
        OriginUnavailable: what the registry holds is no address.
    """
    try:
        return split_address(record.endpoint)
    except InvalidURI:
        raise OriginUnavailable(
            f"{record.name!r} is registered at {shown(record.endpoint[:200])}, which is no address"
        ) from None


def target_of(record: LiveRecord) -> str:
    """Return what gRPC dials for a record: a host and a port, whatever other schemes gRPC knows.

    Raises:
        OriginUnavailable: what the registry holds is no address.
    """
    address_of(record)
    return grpc_target(record.endpoint)


def certified_name(record: LiveRecord) -> str:
    """Return the name that the certificate of a Work must show: its own.

    A list of names and addresses that this process was given (``static:``) knows no instances; there it is
    the address that was written down.

    Raises:
        OriginUnavailable: what the registry holds is no address.
    """
    return record.name if record.instance_id else address_of(record)[0]


def check_clear(security: Security, record: LiveRecord) -> None:
    """Refuse to send a token in clear to another machine.

    Raises:
        AccessDenied: it would be.
        OriginUnavailable: what the registry holds is no address.
    """
    if security.tls or security.insecure or not security.has_token or is_loopback(address_of(record)[0]):
        return
    raise AccessDenied(
        f"the token would travel in clear to {record.name!r} at {shown(record.endpoint)}: name a CA in "
        "LIT_STORAGE_TLS_CA (or security=), or set LIT_STORAGE_INSECURE=1 on a network that you trust"
    )
