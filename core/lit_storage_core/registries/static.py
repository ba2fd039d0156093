"""A registry that is a list: names and the endpoints at which they are to be found.

Invariant: it answers from its own text alone and never changes. Who lives is not known to it: a
record carries no instance id, which stands for whatever instance answers at the endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lit_storage_proto.endpoint import is_loopback, split_address
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.registry import Lease, LiveRecord, WorkRecord
from lit_storage_proto.uri import check_name

_ENDPOINT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})", re.ASCII)
_MOST_HOST_CHARACTERS = 253  # of a name of the DNS: RFC 1035, section 2.3.4


class StaticRegistry:
    """``static:name=host:port,…``, for fixed addresses and names of the DNS."""

    def __init__(self, text: str) -> None:
        """Read the list.

        Args:
            text: what follows ``static:``; an IPv6 address stands in brackets.

        Raises:
            InvalidURI: `text` is not such a list, or names a Work twice.
        """
        self._text = text
        self._live = _parse(text)

    @property
    def url(self) -> str:
        """The URL that opens the same list in another process."""
        return f"static:{self._text}"

    @property
    def spans_machines(self) -> bool:
        """True unless every endpoint is a loopback address."""
        return not all(is_loopback(split_address(record.endpoint)[0]) for record in self._live.values())

    def register(self, record: LiveRecord) -> None:
        """Do nothing for a name of the list, so that a Work which the list foresees can join.

        Raises:
            InvalidURI: the list does not have the name.
        """
        if record.name not in self._live:
            raise InvalidURI(
                f"the static registry does not list {record.name!r}, so nobody would find it; "
                f"add {record.name}=HOST:PORT to its URL"
            )

    def renew(self, lease: Lease, seconds: float) -> Lease | None:  # noqa: ARG002  # the port's signature
        """Return None: there are no leases here."""
        return None

    def unregister(self, name: str, instance_id: str) -> None:
        """Do nothing: the list stays as it is."""

    def resolve(self, name: str, *, fresh: bool = False) -> LiveRecord | None:  # noqa: ARG002  # the port's signature
        """Return the listed record of `name`, of any instance, or None if it is not listed."""
        return self._live.get(name)

    def update_work(self, record: WorkRecord) -> bool:  # noqa: ARG002  # the port's signature
        """Return False: no work records are kept."""
        return False

    def work(self, name: str) -> WorkRecord | None:  # noqa: ARG002  # the port's signature
        """Return None: no work records are kept."""
        return None

    def live(self) -> Sequence[LiveRecord]:
        """Return all listed records, by name, whether or not anybody answers there."""
        return [record for _, record in sorted(self._live.items())]

    def works(self) -> Sequence[WorkRecord]:
        """Return nothing: no work records are kept."""
        return []

    def end_by(self, deadline: float) -> None:
        """Do nothing: no call waits for anybody."""

    def close(self) -> None:
        """Do nothing: nothing is held open."""


def _parse(text: str) -> dict[str, LiveRecord]:
    records: dict[str, LiveRecord] = {}
    for item in text.split(","):
        name, _, endpoint = item.strip().partition("=")
        match = _ENDPOINT.fullmatch(endpoint)
        if match is None or not 0 < int(match["port"]) < 65536 or len(match["host"]) > _MOST_HOST_CHARACTERS:
            raise InvalidURI(f"{item[:200]!r} is no item of a static registry; write static:NAME=HOST:PORT,…")
        if check_name(name) in records:
            raise InvalidURI(f"the static registry lists {name!r} twice; keep one of the two")
        records[name] = LiveRecord(name, instance_id="", endpoint=endpoint, machine_id="")
    return records
