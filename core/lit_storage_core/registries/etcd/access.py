"""Who this process is to etcd: a user with a password, TLS files, both or neither.

    LIT_STORAGE_ETCD_USER            with role-based access
    LIT_STORAGE_ETCD_PASSWORD_FILE   a file that nobody else may read
    LIT_STORAGE_ETCD_PASSWORD        the password itself, where there is no file
    LIT_STORAGE_ETCD_CA _CERT _KEY   PEM files; unset: no TLS

Invariant: the password leaves this module only in a request to etcd, or to a process of our own that
renews a lease, and there through a socket. It stands in no `repr`, error or log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from lit_storage_core.security.settings import Security
from lit_storage_proto.endpoint import is_loopback, split_address
from lit_storage_proto.errors import AccessDenied

_VARIABLE = "LIT_STORAGE_ETCD_"


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """What is shown to etcd; `certificate`, `key` and `ca` are paths of PEM files.

    Raises:
        AccessDenied: only one of user and password, or of certificate and key, is given.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    certificate: str | None = None
    key: str | None = None
    ca: str | None = None

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise AccessDenied(
                f"etcd takes a user and a password, and only one of the two is given; set {_VARIABLE}USER "
                f"and {_VARIABLE}PASSWORD_FILE, or neither"
            )
        if (self.certificate is None) != (self.key is None):
            raise AccessDenied(
                f"TLS to etcd needs the certificate and its key; set {_VARIABLE}CERT and {_VARIABLE}KEY"
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> EtcdAccess:
        """Return what the variables above say.

        Raises:
            AccessDenied: they contradict each other, or the file of the password cannot be used.
        """
        environment = os.environ if environment is None else environment

        def given(kind: str) -> str | None:
            return environment.get(_VARIABLE + kind) or None

        password, file = given("PASSWORD"), given("PASSWORD_FILE")
        if file is not None:
            password = _read_password(file)
        return cls(given("USER"), password, *(_absolute(given(kind)) for kind in ("CERT", "KEY", "CA")))

    @property
    def transport(self) -> Security:
        """The TLS part."""
        return Security(None, self.certificate, self.key, self.ca)

    def check_endpoints(self, endpoints: tuple[str, ...]) -> None:
        """Refuse to send a password in clear to another machine.

        Raises:
            AccessDenied: it would be.
        """
        others = [endpoint for endpoint in endpoints if not is_loopback(split_address(endpoint)[0])]
        if self.password is not None and not self.transport.tls and others:
            raise AccessDenied(
                f"the password for etcd would travel in clear to {others[0]}; set {_VARIABLE}CA, so that TLS "
                "is used"
            )


def secret_files(environment: Mapping[str, str] | None = None) -> list[str]:
    """Return the files that the variables above name and that others must not read."""
    environment = os.environ if environment is None else environment
    files = (environment.get(_VARIABLE + kind) for kind in ("PASSWORD_FILE", "KEY"))
    return [os.path.abspath(file) for file in files if file]


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _read_password(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise AccessDenied(
                    f"the file {path!r} of etcd's password can be read by others: chmod 600 it"
                )
            password = file.read().strip("\n")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, AccessDenied):
            raise
        reason = getattr(error, "strerror", None) or "it is not text"
        raise AccessDenied(f"the file {path!r} of etcd's password cannot be read ({reason})") from None
    if not password:
        raise AccessDenied(f"the file {path!r} of etcd's password is empty")
    return password
