"""Checks names that a peer sends, and shows them: the one place for both. Pure: no I/O.

Invariant: a name that passed `check_path` has no part that leads anywhere but one step down, and
a text that passed `shown` or `printable` cannot break a line, a terminal or an encoding.
"""

from __future__ import annotations

from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.limits import MAX_PATH_BYTES

MAX_PART_BYTES = 255  # NAME_MAX of Linux
_SHOWN_CHARACTERS = 200
_MOST_ID_CHARACTERS = 128


def shown(name: str) -> str:
    """Return a peer's or a user's text as it can stand in a sentence: quoted, escaped, not endless."""
    return repr(name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "…")


def printable(text: str) -> str:
    """Return `text` with each character that could break a line or steer a terminal written as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def is_id(text: str) -> bool:
    """Say whether a text can be the id of an instance or a machine, or stands for none."""
    return len(text) <= _MOST_ID_CHARACTERS and text.isprintable() and "/" not in text


def check_path(path: str) -> None:
    """Check a name that a peer sent, relative to the root of its tree; "" is the root itself.

    Raises:
        ProtocolViolation: it is absolute, too long, holds NUL, or has an empty part, "." or "..".
    """
    if not path:
        return
    parts = path.split("/")
    if "\0" in path or "" in parts or "." in parts or ".." in parts:
        raise ProtocolViolation(f"the peer sent the name {shown(path)}, which no entry of a tree can have")
    # A character is at most 4 bytes, so short names need not be encoded to be measured.
    if len(path) * 4 <= MAX_PART_BYTES:
        return
    if len(raw(path)) > MAX_PATH_BYTES or any(len(raw(part)) > MAX_PART_BYTES for part in parts):
        raise ProtocolViolation(f"the peer sent the name {shown(path)}, which is too long for Linux")


def raw(name: str) -> bytes:
    """Return a name as the bytes that the kernel takes, as ``os.fsencode`` does."""
    return name.encode("utf-8", "surrogateescape")
