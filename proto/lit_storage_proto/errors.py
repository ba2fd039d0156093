"""Every error that this product raises on purpose.

    StorageError
    ├── PathNotFound         FileNotFoundError   absent: the origin, or the path at it and in what it left
    ├── PathExists           FileExistsError     the target of a get is already there
    ├── AccessDenied         PermissionError     not shared, not permitted, or a wrong token
    ├── NotAttached          RuntimeError        no origin is known yet, or not in this place
    ├── OriginUnavailable    ConnectionError     the live Work, or the store of what it left, does not answer
    ├── RegistryUnavailable  ConnectionError     the registry does not answer
    ├── TransferTimeout      TimeoutError        a deadline passed
    ├── SourceChanged        RuntimeError        the files changed while they were copied
    ├── IntegrityError       OSError             bytes that do not match their digest
    ├── ProtocolViolation    ConnectionError     the peer breaks the rules of the wire
    ├── InvalidURI           ValueError          a name, path or URL outside the grammar
    ├── NameTaken            RuntimeError        a live Work already has the name
    ├── AddressInUse         OSError             the port to listen on is taken
    ├── ExecutorUnavailable  ConnectionError     there is no cluster for the Works to run on
    ├── InvalidApp           ValueError          an app that cannot be built from its file
    ├── InvalidConfig        ValueError          a setting of a daemon that cannot be used
    └── WorkError            RuntimeError        a Work ended without an exception to pass on

Each is also the built-in that a caller of ``pathlib`` or ``socket`` already catches. A full disk
and the like (ENOSPC, EIO) stay the plain ``OSError`` that the system raised.

An error's docstring is the sentence a person reads where no more is known. No module of gRPC is
imported here: `status` holds the table between these errors and status codes.
"""

from __future__ import annotations

import errno


class StorageError(Exception):
    """The files could not be handed over."""

    def __str__(self) -> str:
        if not self.args:
            return (type(self).__doc__ or "").split("\n", 1)[0]
        return " ".join(str(part) for part in self.args)


class _SystemError(StorageError, OSError):
    """An error of the system's kind: `errno` is set, and the text stays one sentence."""

    _errno = errno.EIO

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.errno = self._errno


class PathNotFound(_SystemError, FileNotFoundError):
    """Nothing is there: no such Work, or the Work neither has such a path nor left one."""

    _errno = errno.ENOENT


class PathExists(_SystemError, FileExistsError):
    """The target is already there; pass overwrite=True to replace it."""

    _errno = errno.EEXIST


class AccessDenied(_SystemError, PermissionError):
    """The path is not shared, or this process may not use it."""

    _errno = errno.EACCES


class NotAttached(StorageError, RuntimeError):
    """The path has no origin that can be asked from here."""


class OriginUnavailable(_SystemError, ConnectionError):
    """What holds the files, a live Work or the store of a stopped one, does not answer."""

    _errno = errno.EHOSTUNREACH


class RegistryUnavailable(_SystemError, ConnectionError):
    """The registry does not answer, so no name can be resolved."""

    _errno = errno.EHOSTUNREACH


class TransferTimeout(_SystemError, TimeoutError):
    """The transfer did not end, or made no progress, within its time."""

    _errno = errno.ETIMEDOUT


class SourceChanged(StorageError, RuntimeError):
    """The files changed at their origin while they were copied; get them again when they rest."""


class IntegrityError(_SystemError):
    """The bytes that arrived are not the bytes that were sent."""


class ProtocolViolation(_SystemError, ConnectionError):
    """The peer does not follow the protocol; both sides may need the same version."""

    _errno = errno.EPROTO


class InvalidURI(StorageError, ValueError):
    """The name, path or URL is not one that can be used."""


class NameTaken(StorageError, RuntimeError):
    """Another live process already serves under this name."""


class AddressInUse(_SystemError):
    """The address to listen on is taken by another process."""

    _errno = errno.EADDRINUSE


class ExecutorUnavailable(_SystemError, ConnectionError):
    """The cluster on which the Works are to run does not answer."""

    _errno = errno.EHOSTUNREACH


class InvalidApp(StorageError, ValueError):
    """The app cannot be built from its file."""


class InvalidConfig(StorageError, ValueError):
    """The configuration holds a setting that cannot be used."""


class WorkError(StorageError, RuntimeError):
    """A Work ended without an exception that could be passed on."""


def _publish_names() -> None:
    """Let tracebacks and pickles name each error as users import it, and not by this module."""
    for name, value in list(globals().items()):
        if isinstance(value, type) and issubclass(value, StorageError) and not name.startswith("_"):
            value.__module__ = "lit_storage"


_publish_names()
