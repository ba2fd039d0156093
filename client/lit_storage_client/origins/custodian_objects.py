"""The manifests of a store on another machine, as its custodian hands them out.

What a stopped Work left there is listed by them with the same code as what is at hand. Its bytes are not
read through this, but as a live Work's are: from the custodian, under ``@NAME/PATH``.

Invariant: nothing is written or removed on another machine, and no more is held of what a custodian sends
than it may send: a listing is bounded, and a manifest by the size that was listed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lit_storage_core.artifacts.objects import Found
from lit_storage_proto.artifact import MANIFESTS
from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import AccessDenied, IntegrityError, PathNotFound, ProtocolViolation
from lit_storage_proto.limits import MAX_MANIFEST_BYTES, MIB
from lit_storage_proto.uri import LEFT_ABSOLUTE, LEFT_MANIFESTS, Location

if TYPE_CHECKING:
    from lit_storage_client.peers.remote import Remote

_MOST_LISTED_BYTES = 128 * MIB  # some hundred thousand manifests
_ENTRY_BYTES = 256  # that one entry takes, beside its name


def path_at_custodian(location: Location) -> str:
    """Return what a custodian calls a path of a Work."""
    path = LEFT_ABSOLUTE + location.path.lstrip("/") if location.path.startswith("/") else location.path
    return f"@{location.origin}/{path}".rstrip("/")


class CustodianObjects:
    """The manifests of one Work, for reading.

    Args:
        remote: asks the custodian.
        custodian: its name.
        name: of the Work.
        url: of the store.
    """

    def __init__(self, remote: Remote, custodian: str, name: str, url: str) -> None:
        self._remote = remote
        self._custodian = custodian
        self._name = name
        self._url = url
        self._sizes: dict[str, int] = {}

    @property
    def url(self) -> str:
        """See `Objects.url`."""
        return self._url

    def put(self, key: str, data: bytes) -> None:
        """Raise AccessDenied: nothing is written on another machine."""
        del data
        raise self._only_read(key)

    def read(self, key: str, start: int = 0, size: int | None = None) -> bytes:
        """See `Objects.read`."""
        from lit_storage_client.fetch.contents import contents

        most = min(self._sizes.get(key, MAX_MANIFEST_BYTES), MAX_MANIFEST_BYTES) if size is None else size
        data = bytearray()
        try:
            runs = contents(self._remote, self._at(key), offset=start, length=size)
            with contextlib.closing(runs):
                for run in runs:
                    data += run
                    if len(data) > most:
                        raise IntegrityError(
                            f"{key!r} in {self.url} is larger than {self._custodian!r} said: {most} bytes"
                        )
        except PathNotFound as error:
            raise FileNotFoundError(str(error)) from None
        if size is not None and len(data) != size:
            raise IntegrityError(f"{key!r} in {self.url} is shorter than it was")
        return bytes(data)

    def list(self, prefix: str) -> list[Found]:
        """See `Objects.list`."""
        found: list[Found] = []
        listed = 0
        for entry in self._remote.list(self._at(prefix)):
            listed += len(entry.path) + _ENTRY_BYTES
            if listed > _MOST_LISTED_BYTES:
                raise ProtocolViolation(
                    f"{self._custodian!r} lists more of what {self._name!r} left than any Work can leave"
                )
            if entry.kind is Kind.FILE:
                found.append(Found(f"{prefix}/{entry.path}", entry.size, entry.mtime_ns / 1e9))
        self._sizes = {each.key: each.size for each in found}
        return sorted(found)

    def remove(self, keys: Iterable[str]) -> None:
        """Raise AccessDenied, if there is anything to remove."""
        for key in keys:
            raise self._only_read(key)

    def close(self) -> None:
        """See `Objects.close`."""

    def _at(self, key: str) -> Location:
        if key != MANIFESTS and not key.startswith(f"{MANIFESTS}/"):
            raise self._only_read(key)
        below = LEFT_MANIFESTS + key.removeprefix(MANIFESTS)
        return Location(self._custodian, f"@{self._name}/{below}")

    def _only_read(self, key: str) -> AccessDenied:
        return AccessDenied(
            f"{key!r} of what {self._name!r} left is on another machine, that of {self._custodian!r}, from "
            "where it can only be read; run this command there"
        )
