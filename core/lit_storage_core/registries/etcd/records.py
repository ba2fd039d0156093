"""Records as values of etcd's keys: JSON objects, one member a field. Pure.

Invariant: a value that a later version wrote can be read: members that are not known are passed
over, and those that are lacking have their default.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any, TypeVar

from lit_storage_core.registries.checked import checked
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import RegistryUnavailable
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState

R = TypeVar("R", LiveRecord, WorkRecord)

_HOLDER = "holder"  # beside the fields of a live record: the process that registered it
_MOST_DECODED = 1 << 14
MOST_BYTES = 1 << 14
"""Of a record. What is larger was written by nobody here, and is not kept in memory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """Where records are."""

    prefix: str

    @property
    def live_prefix(self) -> bytes:
        """What the keys of all live records begin with."""
        return f"{self.prefix}/live/".encode("ascii")

    @property
    def work_prefix(self) -> bytes:
        """What the keys of all work records begin with."""
        return f"{self.prefix}/work/".encode("ascii")

    def live(self, name: str) -> bytes:
        """Return the key of a live record."""
        return self.live_prefix + name.encode()

    def work(self, name: str) -> bytes:
        """Return the key of a work record."""
        return self.work_prefix + name.encode()

    def is_ours(self, key: bytes) -> bool:
        """Say whether a key is that of a record of this registry, and not of one within it."""
        return key.count(b"/") == self.live_prefix.count(b"/")


def end_of(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with `prefix`, whose last byte is not 255."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def encode_live(record: LiveRecord, holder: str) -> bytes:
    """Return a live record and the text of the process that holds it."""
    return _encode({**dataclasses.asdict(record), _HOLDER: holder})


def encode_work(record: WorkRecord) -> bytes:
    """Return a work record."""
    return _encode(dataclasses.asdict(record))


@functools.lru_cache(_MOST_DECODED)
def decode_live(name: str, value: bytes) -> tuple[LiveRecord, str]:
    """Return the live record of a name and the text of its holder, empty where none is told.

    Raises:
        RegistryUnavailable: it is none, or that of another name.
    """
    members = _decode(name, value)
    holder = members.get(_HOLDER)
    return _record(LiveRecord, name, members), holder if isinstance(holder, str) else ""


def decode_work(name: str, value: bytes) -> WorkRecord:
    """Return the work record of a name.

    Raises:
        RegistryUnavailable: it is none, or that of another name.
    """
    members = _decode(name, value)
    try:
        members["state"] = WorkState(members.get("state", ""))
    except (TypeError, ValueError):
        raise _damaged(name) from None
    return _record(WorkRecord, name, members)


def _encode(members: dict[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def _decode(name: str, value: bytes) -> dict[str, Any]:
    try:
        members = json.loads(value) if len(value) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        raise _damaged(name) from None
    if not isinstance(members, dict) or members.get("name") != name:
        raise _damaged(name)
    return members


def _record(kind: type[R], name: str, members: dict[str, Any]) -> R:
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in members:
            values[field.name] = members[field.name]
            # The annotations are text; all but the enumeration are built-in types.
            if type(members[field.name]).__name__ not in (field.type, "WorkState"):
                raise _damaged(name)
    try:
        return checked(kind(**values))
    except (TypeError, ValueError):
        raise _damaged(name) from None


def _damaged(name: str) -> RegistryUnavailable:
    return RegistryUnavailable(
        f"what the etcd registry holds of {shown(name[:200])} is no record; other programs must not write "
        "below its prefix: remove the keys live/NAME and work/NAME there with etcdctl"
    )
