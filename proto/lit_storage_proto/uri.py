"""Names of Works and ``lit://`` URIs: their grammar, parsed and written without any I/O.

    lit://a/b               a/b below the storage root of this Work
    lit:///data/x           /data/x on the file system of this Work
    lit://@trainer/a/b      a/b below the storage root of the Work "trainer"
    lit://@trainer//data/x  /data/x on the file system of the Work "trainer"

The text of a URI is that of ``os.fsdecode``: no character is percent-encoded, and a byte that is
not UTF-8 is a surrogate escape. ``..`` never occurs, so that no URI means a path outside of what
it names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.limits import MAX_NAME_CHARACTERS

SCHEME = "lit://"
STAGING = ".staging"

# What a custodian calls what stopped Works left: ``@NAME/a/b``, ``@NAME/@/data/x`` and ``@NAME/@manifests``.
# Directly below ``@NAME`` no path of a Work begins with "@": such names are reserved in a storage root.
LEFT_ABSOLUTE = "@/"
LEFT_MANIFESTS = "@manifests"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Location:
    """Whose files, and where among them.

    `origin` is the name of a Work, or None for "this Work". `path` is relative to the storage
    root of the origin ("" is the root itself), or absolute.
    """

    origin: str | None
    path: str

    def __str__(self) -> str:
        if self.origin is None:
            return SCHEME + self.path
        return f"{SCHEME}@{self.origin}/{self.path}" if self.path else f"{SCHEME}@{self.origin}"


def check_name(name: str) -> str:
    """Return `name` if a Work may be called so.

    A name is parts joined by dots, each ``[A-Za-z0-9_][A-Za-z0-9_-]*``, at most 128 characters.

    Raises:
        InvalidURI: the name is outside this grammar.
    """
    if len(name) > MAX_NAME_CHARACTERS or not _NAME.fullmatch(name):
        shown = name if len(name) <= MAX_NAME_CHARACTERS else name[:32] + "…"
        raise InvalidURI(
            f"{shown!r} cannot be the name of a Work: use letters, digits, '_' and '-', in parts "
            f"joined by dots, at most {MAX_NAME_CHARACTERS} characters"
        )
    return name


def is_reserved(path: str) -> bool:
    """Say whether `path`, relative to a storage root, lies under a name that is kept for copies."""
    first = path.split("/", 1)[0]
    return first.startswith("@") or first == STAGING


def lies_below(path: str, directory: str) -> bool:
    """Say whether a path of a Work is another one than `directory`, and within it.

    Args:
        path: as of `Location`.
        directory: the same; "" is the storage root, in which no absolute path lies.
    """
    if path == directory:
        return False
    return path.startswith(f"{directory.rstrip('/')}/") if directory else not path.startswith("/")


def normalise(path: str) -> str:
    """Return `path` without empty and "." parts; it stays relative or absolute.

    Raises:
        InvalidURI: a part is ".." or holds NUL.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidURI(
            f"{path!r} holds '..', which could lead out of what is shared; write the path without it"
        )
    if "\0" in path:
        raise InvalidURI(f"{path!r} holds a NUL character, which no file name can")
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def parse(text: str) -> Location:
    """Parse a ``lit://`` URI.

    Raises:
        InvalidURI: `text` is not one, names a Work outside the grammar, holds "..", or is a path
            of one's own under a reserved name.
    """
    if not text.startswith(SCHEME):
        raise InvalidURI(f"{text!r} is not a URI of files: it must start with {SCHEME!r}")
    rest = text[len(SCHEME) :]
    origin = None
    if rest.startswith("@"):
        authority, _, rest = rest[1:].partition("/")
        origin = check_name(authority)
    path = normalise(rest)
    if is_reserved(path):
        raise InvalidURI(
            f"{text!r} is reserved: directly under a storage root, '@…' and '{STAGING}' hold copies"
        )
    return Location(origin, path)


def parse_remote(text: str) -> Location:
    """Parse what a person types for a Work's path: ``trainer:a/b``, ``trainer`` or a URI with one.

    Raises:
        InvalidURI: `text` names no Work, or is outside the grammar.
    """
    if text.startswith(SCHEME):
        location = parse(text)
        if location.origin is None:
            name, _, below = location.path.partition("/")
            if not _NAME.fullmatch(name):
                raise InvalidURI(f"{text!r} names no Work; write {SCHEME}@NAME/PATH or NAME:PATH")
            uri, short = str(Location(name, below)), f"{name}:{below}"
            raise InvalidURI(f"{text!r} names no Work; if {name!r} is one, write {uri!r} or {short!r}")
        return location
    name, _, path = text.partition(":")
    path = normalise(path)
    if is_reserved(path):
        raise InvalidURI(
            f"{text!r} is reserved: directly under a storage root, '@…' and '{STAGING}' hold copies"
        )
    return Location(check_name(name), path)
