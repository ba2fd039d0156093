"""One file, directory or link as a value, and its two-way passage to the wire.

Names are ``str`` as of ``os.fsdecode`` on this side; on the wire they are ``string`` where that
is valid UTF-8, else ``bytes``. Generated types do not travel further in than this module and
`frames`.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import Final, Protocol

from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.v1 import path_storage_pb2 as pb

MIN_TIME_NS: Final = -(2**63)
MAX_TIME_NS: Final = 2**63 - 1
"""The last time that the wire can hold, in the year 2262; the first one lies as far before 1970."""


class Kind(enum.IntEnum):
    """What an entry is; the numbers are those of EntryKind on the wire."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    SKIPPED = 4
    REMOVED = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or symbolic link with its metadata."""

    path: str
    """Relative to the path asked for; "" for that path itself."""
    kind: Kind
    size: int = 0
    """Bytes of a regular file."""
    mode: int = 0
    """Permission bits, 0o000 to 0o777."""
    mtime_ns: int = 0
    link_target: str = ""
    version: bytes = b""
    """Changes whenever the content may have changed; opaque."""
    hard_linked: bool = False
    """Whether the file has other names at its origin too."""


class _Named(Protocol):
    path: str
    path_bytes: bytes


def is_utf8(name: str) -> bool:
    """Say whether `name` holds no surrogate escape, so that it can travel as ``string``."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def set_path(message: _Named, path: str) -> None:
    """Write `path` into the one of ``path`` and ``path_bytes`` that can hold it."""
    if is_utf8(path):
        message.path = path
    else:
        message.path_bytes = os.fsencode(path)


def get_path(message: _Named) -> str:
    """Read the path of a message, whichever of its two fields holds it."""
    return _text(message.path, message.path_bytes)


def _text(text: str, raw: bytes) -> str:
    if text and raw:
        raise ProtocolViolation("a message names one path in two spellings")
    return os.fsdecode(raw) if raw else text


def time_on_wire(time_ns: int) -> int:
    """Return a time in nanoseconds, or the nearest one that the wire can hold: file systems hold others."""
    return max(MIN_TIME_NS, min(time_ns, MAX_TIME_NS))


def to_wire(entry: Entry) -> pb.Entry:
    """Return the generated message for `entry`."""
    message = pb.Entry(
        kind=int(entry.kind),  # type: ignore[arg-type]  # the numbers are the wire's
        size=entry.size,
        mode=entry.mode,
        mtime_ns=time_on_wire(entry.mtime_ns),
        version=entry.version,
        hard_linked=entry.hard_linked,
    )
    set_path(message, entry.path)
    if is_utf8(entry.link_target):
        message.link_target = entry.link_target
    else:
        message.link_target_bytes = os.fsencode(entry.link_target)
    return message


def from_wire(message: pb.Entry) -> Entry:
    """Return the value of a generated message.

    Raises:
        ProtocolViolation: its kind is none that this version knows, or a name has two spellings.
    """
    try:
        kind = Kind(message.kind)
    except ValueError:
        raise ProtocolViolation(f"the peer sent an entry of the unknown kind {message.kind}") from None
    return Entry(
        get_path(message),
        kind,
        message.size,
        message.mode,
        message.mtime_ns,
        _text(message.link_target, message.link_target_bytes),
        message.version,
        message.hard_linked,
    )
