"""How a path carries its origin: construction, derivation and text, without any file operation.

Invariants
 1. A path is a value: nothing changes it in place, and equality and hash are pathlib's.
 2. Every path derived from a path keeps its origin. Only the constructor, ``/`` and ``joinpath``
    compare origins, before they do anything.
 3. A ``lit://`` path whose storage root is not known never yields a string for the file system:
    ``os.fspath`` of it, ``pathlib.Path`` of it, and all that touches a disk raise NotAttached. Once this
    process has a session they mean its place there. Value, text and hash stay, so that it is found in sets.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar, cast

from lit_storage.paths import home as homes
from lit_storage.paths import unattached
from lit_storage.paths.guarded import GuardedPosixPath
from lit_storage.paths.home import Home
from lit_storage.paths.mistypes import warn_of_mistype
from lit_storage.paths.origin import Origin
from lit_storage.paths.pydantic_field import not_attached_for
from lit_storage_proto import uri as uris
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.uri import SCHEME, Location

P = TypeVar("P", bound="OriginPath")
M = TypeVar("M", bound=Callable[..., Any])


def in_session(method: M) -> M:
    """Return a method that a path from before the session leaves to its counterpart in the session."""

    @functools.wraps(method)
    def call(self: OriginPath, *args: Any, **options: Any) -> Any:
        here = self._here()
        return method(self, *args, **options) if here is self else call(here, *args, **options)

    return cast(M, call)


class OriginPath(GuardedPosixPath):
    """A pathlib path with an origin and a consumer, which every derived path keeps."""

    # Defaults of the class: a plain Path, the most frequent one, stores none of them.
    _origin: Origin | None = None
    _consumer: Origin | None = None
    _unattached: bool = False

    def __init__(self, *segments: str | os.PathLike[str], **options: Any) -> None:
        first = segments[0] if segments else None
        if isinstance(first, str) and first.startswith(SCHEME):
            segments = (_of_uri(first, segments[1:]), *segments[1:])
        for index, segment in enumerate(segments):
            if isinstance(segment, str) and ":" in segment:
                warn_of_mistype(segment, is_first=not index)
        if not any(isinstance(segment, OriginPath) for segment in segments):
            super().__init__(*segments, **options)
            return
        origin = _common_origin(segments)
        super().__init__(*_values(segments), **options)
        mark(self, origin, _first_consumer(segments), is_lit=_is_lit(segments))

    # --- Deriving -------------------------------------------------------------------------------

    def with_segments(self, *segments: str | os.PathLike[str]) -> Self:
        """Return a path from segments, with the origin and consumer of this one. Never compares origins."""
        path = type(self)(*_values(segments))
        mark(path, self._origin, self._consumer, is_lit=self._unattached or _is_lit(segments))
        return path

    def joinpath(self, *segments: str | os.PathLike[str]) -> Self:
        """Return this path joined with segments of the same origin, or of none.

        Raises:
            TypeError: a segment is of another origin.
        """
        return self._joined((self, *segments))

    def __truediv__(self, key: str | os.PathLike[str]) -> Self:
        if not isinstance(key, (str, os.PathLike)):
            return NotImplemented
        return self._joined((self, key))

    def __rtruediv__(self, key: str | os.PathLike[str]) -> Self:
        if not isinstance(key, (str, os.PathLike)):
            return NotImplemented
        return self._joined((key, self))

    def _joined(self, segments: Sequence[str | os.PathLike[str]]) -> Self:
        for index, segment in enumerate(segments):
            if isinstance(segment, str) and ":" in segment:
                warn_of_mistype(segment, is_first=not index)
        origin = _common_origin(segments)
        path = self.with_segments(*segments)
        mark(path, origin, self._consumer or _first_consumer(segments), is_lit=path._unattached)
        return path

    @property
    def parent(self) -> Self:
        """The path one part up; ``lit://`` and ``/`` are their own parents."""
        return self if self._unattached and len(self.parts) == 1 else super().parent

    @property
    def parents(self) -> Sequence[Self]:
        """The paths above this one, nearest first."""
        return super().parents[: len(self.parts) - 1] if self._unattached else super().parents

    def rename(self, target: str | os.PathLike[str]) -> Self:
        """Rename this file or directory; return the new path, with the origin of `target` if it is a Path."""
        os.rename(self, target)
        return self._landed(target)

    def replace(self, target: str | os.PathLike[str]) -> Self:
        """As `rename`, and replace a file that is there."""
        os.replace(self, target)
        return self._landed(target)

    def _landed(self, target: str | os.PathLike[str]) -> Self:
        path = self.with_segments(target)
        if isinstance(target, OriginPath):
            mark(path, target._origin, target._consumer, is_lit=False)
        return path

    def readlink(self) -> Self:
        """Return what this link holds, as a path without origin."""
        path = self.with_segments(*_values((os.readlink(self),)))
        mark(path, None, None, is_lit=False)
        return path

    def is_absolute(self) -> bool:
        """Say whether the path starts at a root; one without a storage root does not."""
        return not self._unattached and super().is_absolute()

    # --- Its place in the session ---------------------------------------------------------------

    def _here(self) -> Self:
        """Return this path as this process has it now: itself, unless it was made before the session."""
        if not self._unattached:
            return self
        home, name = homes.current(), self.origin_name
        if home is None or name is None:
            return self
        origin = self._origin if self._origin is not None else Origin(name)
        return made(type(self), place_of(home, name, self._value()), origin, self._consumer, is_lit=False)

    @in_session
    def absolute(self) -> Self:
        """Return this path made absolute, without resolving links."""
        return super().absolute()

    @in_session
    def resolve(self, strict: bool = False) -> Self:
        """Return this path made absolute, with links resolved."""
        return super().resolve(strict)

    @in_session
    def as_uri(self) -> str:
        """Return the path as a ``file:`` URI."""
        return super().as_uri()

    # --- Text -----------------------------------------------------------------------------------

    def _value(self) -> str:
        return super().__str__()

    def __str__(self) -> str:
        return unattached.text_of_value(self._value()) if self._unattached else super().__str__()

    def __fspath__(self) -> str:
        if not self._unattached:
            return super().__str__()
        here = self._here()
        if here is self:
            raise not_attached_for(sys._getframe(1))(
                f"{str(self)!r} has no place on this machine yet: "
                "use it in a Work's run(), or after lit_storage.join()"
            )
        return here.__fspath__()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def origin_name(self) -> str | None:
        """The name of the Work that owns the files, or None where it has none (yet)."""
        if self._origin is None and self._unattached and (home := homes.current()) is not None:
            return home.name
        return self._origin.name if self._origin is not None else None

    @property
    def consumer_name(self) -> str | None:
        """The name of the Work that holds this Path now, or None."""
        return self._consumer.name if self._consumer is not None else None


def place_of(home: Home, owner_name: str, value: str) -> str:
    """Return the value that an unattached one of the Work `owner_name` has in a process with `home`."""
    parts = unattached.parts_below_origin(value, owner_name)
    is_absolute = parts[:1] == [unattached.ABSOLUTE]
    base = homes.value_of(home, Location(owner_name, "/" if is_absolute else ""))
    return os.path.join(base, *parts[is_absolute:])


def _values(segments: Sequence[Any]) -> list[Any]:
    """Return segments as pathlib may join them, with no meaning of ``lit://`` left."""
    values: list[Any] = []
    for segment in segments:
        if isinstance(segment, OriginPath):
            if segment._unattached:
                values.clear()  # it stands for an absolute path
            # pathlib takes more than the text from a path: a pattern keeps its trailing slash
            is_lit = segment._unattached
            values.append(
                _plain(segment._value(), is_first=True) if is_lit else pathlib.PurePosixPath(segment)
            )
        elif isinstance(segment, str) and ":" in segment:
            values.append(_plain(segment, is_first=not values))
        else:
            values.append(segment)
    return values


def _plain(text: str, *, is_first: bool) -> str | pathlib.PurePosixPath:
    """Return the text of a plain path in a form that the constructor neither converts nor warns of."""
    if is_first and text.lower().startswith(unattached.ROOT):
        return "./" + text
    return text if text.endswith("/") else pathlib.PurePosixPath(text)


def _common_origin(segments: Sequence[Any]) -> Origin | None:
    common: Origin | None = None
    for segment in segments:
        origin = segment._origin if isinstance(segment, OriginPath) else None
        if common is not None and origin is not None and not common.same(origin):
            raise TypeError(
                f"paths of different origins cannot be joined: {common.name!r} and {origin.name!r}; "
                "join os.fspath() of one of them"
            )
        common = common or origin
    return common


def _first_consumer(segments: Sequence[Any]) -> Origin | None:
    consumers = (segment._consumer for segment in segments if isinstance(segment, OriginPath))
    return next((consumer for consumer in consumers if consumer is not None), None)


def _is_lit(segments: Sequence[Any]) -> bool:
    return any(isinstance(segment, OriginPath) and segment._unattached for segment in segments)


def mark(path: OriginPath, origin: Origin | None, consumer: Origin | None, *, is_lit: bool) -> None:
    """Complete a path that was just made, and that nobody else has seen."""
    if origin is not path._origin:
        path._origin = origin
    if consumer is not path._consumer:
        path._consumer = consumer
    if is_lit and not path._unattached and path.parts[:1] == (unattached.ROOT,):
        path._unattached = True
        path._withhold_segments()


def made(cls: type[P], value: str, origin: Origin | None, consumer: Origin | None, *, is_lit: bool) -> P:
    """Return a path with this value; its origin is not looked for, even in a session."""
    path = cls(*_values((value,)))
    mark(path, origin, consumer, is_lit=is_lit)
    return path


def _of_uri(text: str, later: Sequence[Any]) -> OriginPath:
    location = uris.parse(text)
    for value in _values(("", *later)):
        uris.normalise(os.fspath(value))
    if location == Location(None, "") and uris.is_reserved(
        pathlib.PurePosixPath(*_values(("", *later))).as_posix()
    ):
        raise InvalidURI(
            f"{later[0]!r} is reserved directly under a storage root; write {SCHEME}@NAME/PATH in one string"
        )
    home = homes.current()
    name = location.origin if location.origin is not None or home is None else home.name
    origin = None if name is None else Origin(name)
    if home is None or origin is None:
        return made(OriginPath, unattached.value_of_text(str(location)), origin, None, is_lit=True)
    return made(OriginPath, homes.value_of(home, location), origin, None, is_lit=False)
