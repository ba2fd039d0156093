"""How a ``lit://`` path is spelt while no storage root is known: text for people, value for pathlib.

    text                    value (a relative path for pathlib)
    lit://a/b               lit:/a/b
    lit:///data/x           lit:/@/data/x
    lit://@trainer/a/b      lit:/@trainer/a/b
    lit://@trainer//data/x  lit:/@trainer/@/data/x

The two spellings translate into each other without loss, and a value holds its parts one by one,
so that pathlib can join and split it. Copies of others' files are spelt in the same way below their
base, once there is one. Nothing here touches a disk.
"""

from __future__ import annotations

from collections.abc import Iterable

from lit_storage_proto.uri import SCHEME, Location, is_reserved

ROOT = "lit:"
ABSOLUTE = "@"
"""The directory that stands for ``/`` of the origin. No own name can be so: ``@…`` is reserved."""


def value_of_text(text: str) -> str:
    """Return the value for the text of a ``lit://`` path. It may hold ".."."""
    rest = text.removeprefix(SCHEME)
    parts = [ROOT]
    if rest.startswith("@"):
        authority, _, rest = rest.partition("/")
        parts.append(authority)
    if rest.startswith("/"):
        parts.append(ABSOLUTE)
    return "/".join([*parts, *(part for part in rest.split("/") if part)])


def text_of_value(value: str) -> str:
    """Return the text for a value, the inverse of `value_of_text`."""
    parts = value.split("/")[1:]
    authority = parts.pop(0) if parts and parts[0].startswith("@") and parts[0] != ABSOLUTE else ""
    if parts and parts[0] == ABSOLUTE:
        parts[0] = ""
        if len(parts) == 1:
            parts.append("")
    return SCHEME + "/".join([authority, *parts] if authority else parts)


def parts_below_origin(value: str, origin_name: str | None) -> list[str]:
    """Return what follows the origin in a value; a first part "@" means absolute."""
    parts = value.split("/")[1:]
    if origin_name is not None and parts[:1] == ["@" + origin_name]:
        return parts[1:]
    return parts


def location_of_value(value: str, origin_name: str | None) -> Location | None:
    """Return what a value means, or None where it leaves its root or is reserved."""
    return location_of_parts(parts_below_origin(value, origin_name), origin_name)


def location_of_parts(parts: Iterable[str], origin_name: str | None) -> Location | None:
    """Return what parts below an origin mean; None if a ".." leaves its root, or ``/``, or if reserved."""
    kept: list[str] = []
    for part in parts:
        if part == ".." and (not kept or kept == [ABSOLUTE]):
            return None
        if part == "..":
            kept.pop()
        elif part not in ("", "."):
            kept.append(part)
    if kept[:1] == [ABSOLUTE]:
        return Location(origin_name, "/" + "/".join(kept[1:]))
    path = "/".join(kept)
    return None if is_reserved(path) else Location(origin_name, path)
