"""A private authority and the certificates that it issues, as files of one directory.

    DIRECTORY/ca.pem, ca.key            the authority; the key stays where it is
    DIRECTORY/issued/NAME/cert.pem      shown by the Work or daemon NAME, to those it serves and those it asks
                          key.pem       its private key
                          ca.pem        whom it trusts

Invariants. A key is written once whole, readable by its owner alone, and never shown. The key of an
authority is never written over. Renewing exchanges each file in one rename, so whoever reads them anew
finds the old one or the new one.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_storage_core.security.secret import read_key, read_pem
from lit_storage_core.system.names import shown
from lit_storage_core.system.write_once import write_once
from lit_storage_proto.errors import (
    AccessDenied,
    InvalidConfig,
    InvalidURI,
    PathExists,
    PathNotFound,
    StorageError,
)
from lit_storage_proto.uri import check_name

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_CERTIFICATE, CA_KEY, ISSUED = "ca.pem", "ca.key", "issued"
CERTIFICATE, KEY = "cert.pem", "key.pem"
MOST_DAYS = 20 * 366

_CLOCKS_DIFFER = datetime.timedelta(minutes=5)
_MOST_COMMON_NAME = 64  # characters: ub-common-name of RFC 5280
_LIKE_AN_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3,}")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*")


@dataclass(frozen=True, slots=True)
class Issued:
    """What was made, and until when it is good."""

    name: str
    directory: str
    names: tuple[str, ...]
    """For which the certificate is good; of an authority none."""
    not_after: datetime.datetime
    """In UTC."""


def init(directory: str, *, days: int) -> Issued:
    """Make an authority in a directory, which is made too.

    Args:
        directory: readable by nobody else from then on, if it is new.
        days: how long it is good.

    Raises:
        PathExists: there is one.
        AccessDenied: the directory cannot be written, or others could.
        InvalidConfig: `cryptography` is not installed.
    """
    _require_cryptography()
    with _writing(directory):
        _make_private(directory)
        if os.path.lexists(os.path.join(directory, CA_CERTIFICATE)):
            raise PathExists(
                f"there is an authority in {shown(directory)}, and it is never written over; name another "
                "directory with --dir"
            )
        key_file = os.path.join(directory, CA_KEY)
        # A key without a certificate is what a kill left.
        write_once(key_file, _pem_of(_new_key()), mode=0o600)
        certificate = _authority(_load_key(key_file), _days(days))
        write_once(os.path.join(directory, CA_CERTIFICATE), _certificate_pem(certificate), mode=0o644)
    return Issued("", directory, (), certificate.not_valid_after_utc)


def issue(directory: str, name: str, *, hosts: Sequence[str] = (), days: int) -> Issued:
    """Issue a certificate for a Work or a daemon; another one in its place if there is one.

    Args:
        directory: of `init`.
        name: under which it registers.
        hosts: further names and addresses for which it is good, as for a list of addresses (``static:``).
        days: how long it is good, and not longer than its authority.

    Raises:
        InvalidURI: `name` is outside the grammar, looks like an address, or a host is none.
        PathNotFound: there is no authority.
        PathExists: it would be good for another name that has one; case makes no difference to TLS.
        AccessDenied: a file cannot be read or written, others could, or the authority has expired.
        InvalidConfig: `cryptography` is not installed.
    """
    _require_cryptography()
    check_name(name)
    if _LIKE_AN_ADDRESS.fullmatch(name):
        raise InvalidURI(f"the name {name!r} looks like an address, which a certificate does not tell apart")
    names = tuple(dict.fromkeys([name, *map(_checked_host, hosts)]))
    with _writing(directory):
        authority, authority_key = _load_authority(directory)
        where = _directory_for(directory, name, names)
        key = _new_key()
        certificate = _leaf(name, names, key, authority, authority_key, _days(days))
        for file, text, mode in (
            (CA_CERTIFICATE, _certificate_pem(authority), 0o644),
            (KEY, _pem_of(key), 0o600),
            (CERTIFICATE, _certificate_pem(certificate), 0o644),
        ):
            _replace(os.path.join(where, file), text, mode)
    return Issued(name, where, names, certificate.not_valid_after_utc)


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise InvalidConfig(
            "certificates are made with the package 'cryptography', which is not installed: "
            "pip install 'lit-storage[certs]'"
        ) from None


def _days(days: int) -> datetime.timedelta:
    if not 1 <= days <= MOST_DAYS:
        raise InvalidConfig(f"a certificate can be good for 1 to {MOST_DAYS} days, and not for {days}")
    return datetime.timedelta(days=days)


@contextlib.contextmanager
def _writing(directory: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        where = shown(os.fsdecode(error.filename or directory))
        raise AccessDenied(f"{where} cannot be written ({error.strerror or error})") from None


def _make_private(directory: str) -> None:
    """Make a directory that nobody else may enter; one that others may write is refused."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(directory, mode=0o700)
    status = os.stat(directory)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise AccessDenied(
            f"others can write {shown(directory)}, and so put an authority of their own there; chmod go-w "
            "it, or name another directory with --dir"
        )


def _directory_for(directory: str, name: str, names: Sequence[str]) -> str:
    issued = os.path.join(directory, ISSUED)
    _make_private(directory)
    _make_private(issued)
    where = os.path.join(issued, name)
    renewed = _names_of(os.path.join(where, CERTIFICATE))
    folded = {each.lower() for each in names}
    for other in os.listdir(issued):
        if other != name and other.lower() in folded and other not in renewed:
            raise PathExists(
                f"there is a certificate for {other!r}, and this one would be good for it too (names that "
                "differ in case alone are one to TLS): take another name or host"
            )
    _make_private(where)
    return where


def _replace(path: str, text: str, mode: int) -> None:
    """Write a file anew: whoever reads it finds the old one or the new one, also after a power cut."""
    temporary = f"{path}.{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _checked_host(host: str) -> str:
    """Return a host name or an address, as it stands in a certificate."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host) or _LIKE_AN_ADDRESS.fullmatch(host):
        raise InvalidURI(f"{shown(host)} is neither the name nor the address of a host")
    return host


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _pem_of(key: EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _certificate_pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _load_key(path: str) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_key(path)
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise AccessDenied(f"{shown(path)} holds no key of an authority; make one in another directory")
    return key


def _load_authority(directory: str) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509

    certificate_file, key_file = (os.path.join(directory, file) for file in (CA_CERTIFICATE, CA_KEY))
    if not (os.path.lexists(certificate_file) and os.path.lexists(key_file)):
        raise PathNotFound(
            f"there is no authority in {shown(directory)}; make one with `lit-storage certs init`, or name "
            "its directory with --dir"
        )
    try:
        certificate = x509.load_pem_x509_certificate(read_pem(certificate_file))
    except ValueError:
        raise AccessDenied(f"{shown(certificate_file)} holds no certificate") from None
    key = _load_key(key_file)
    if certificate.public_key() != key.public_key():
        raise AccessDenied(f"{shown(certificate_file)} is not the certificate of {shown(key_file)}")
    return certificate, key


def _names_of(path: str) -> frozenset[str]:
    """Return the names for which the certificate in a file is good; none if it holds none."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(read_pem(path))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return frozenset()
    return frozenset(names.get_values_for_type(x509.DNSName))


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(key: EllipticCurvePrivateKey, lifetime: datetime.timedelta) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    # Another one has another name, so that both can be trusted while one takes the place of the other.
    subject = _subject(f"lit-storage authority {secrets.token_hex(4)}")
    public, now = key.public_key(), datetime.datetime.now(datetime.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(key, hashes.SHA256())
    )


def _leaf(
    name: str,
    names: Sequence[str],
    key: EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: EllipticCurvePrivateKey,
    lifetime: datetime.timedelta,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    now = datetime.datetime.now(datetime.UTC)
    if authority.not_valid_after_utc <= now:
        raise AccessDenied(
            f"the authority expired on {authority.not_valid_after_utc:%Y-%m-%d}; make another one in another "
            "directory, and let all trust both for a while"
        )
    begin = max(now - _CLOCKS_DIFFER, authority.not_valid_before_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(min(now + lifetime, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )


def _subject(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    # Nobody who verifies looks at it.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_MOST_COMMON_NAME])])


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
