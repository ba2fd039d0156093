"""The Objects port: a flat store of immutable runs of bytes, and what every adapter promises.

Invariant: an object is there whole or not at all, and is never written twice. What a reader has seen
in `list` or read once stays as it is until it is removed.

Rules of the port

 1. `read` returns exactly the bytes that were asked for, or raises. A short answer is damage.
 2. Absent is not unknown: FileNotFoundError says that the store answers and lacks the object. A store
    that cannot be reached, or lacks its bucket or directory, is OriginUnavailable, whoever is to blame.
 3. Every call over a network ends within the seconds that the adapter was given, whatever the other side
    does. A disk, also one that is mounted from elsewhere, answers in its own time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Found(NamedTuple):
    """An object, as it is listed."""

    key: str
    size: int
    modified: float
    """When it was written, in seconds since 1970-01-01 UTC; 0 where the store does not say."""


class Objects(Protocol):
    """Runs of bytes by keys: parts of ``[A-Za-z0-9_.-]+`` joined by "/". May be used from any thread."""

    @property
    def url(self) -> str:
        """Where they are, without secrets, for errors and for other processes."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write a new object.

        Raises:
            FileExistsError: there is one, and the store can tell; it stays as it is.
            AccessDenied: the store refuses this process.
            OriginUnavailable: the store cannot be reached, or its bucket or directory is missing.
            OSError: the store is full, and the like.
        """
        ...

    def read(self, key: str, start: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `start` on; None is up to the end.

        Raises:
            FileNotFoundError: there is no such object.
            IntegrityError: it is shorter.
            AccessDenied, OriginUnavailable, OSError: as of `put`.
        """
        ...

    def list(self, prefix: str) -> list[Found]:
        """Return all objects whose key begins with ``prefix/``, by key.

        Raises:
            AccessDenied, OriginUnavailable, OSError: as of `put`.
        """
        ...

    def close(self) -> None:
        """Make no more requests; objects stay. A second call does nothing."""
        ...

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over.

        Raises:
            AccessDenied, OriginUnavailable, OSError: as of `put`.
        """
        ...
