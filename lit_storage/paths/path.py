"""Path: a ``pathlib.Path`` that also knows whose files it means, and can get them.

Invariant: `get` writes below R/@origin, or to the ``to=`` it is given, and nowhere else.

Left out of pathlib: ``WindowsPath``. CPython's own tests of pathlib pass with this class on Python 3.11 to
3.15, with what 3.14 added (``copy``, ``copy_into``, ``move``, ``move_into`` and ``info``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from lit_storage.paths import home as homes
from lit_storage.paths import unattached
from lit_storage.paths.copies import copies
from lit_storage.paths.home import Home
from lit_storage.paths.lookups import LookupPath
from lit_storage.paths.origin import Origin, recall
from lit_storage.paths.origin_path import in_session, made, mark, place_of
from lit_storage.paths.progress import Progress, telling
from lit_storage_proto import uri as uris
from lit_storage_proto.errors import InvalidURI, NotAttached, PathExists, PathNotFound
from lit_storage_proto.limits import check_timeout
from lit_storage_proto.uri import SCHEME, Location

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

    from lit_storage_client.fetch import Transfer
    from lit_storage_proto.entry import Entry

P = TypeVar("P", bound="Path")

__all__ = ["Origin", "Path", "Progress", "attach", "with_consumer", "with_origin"]


class Path(LookupPath):
    """A path of this machine and the Work whose files it stands for."""

    # --- Whose files ----------------------------------------------------------------------------

    @property
    def uri(self) -> str | None:
        """The ``lit://`` text of the path: ``lit://a`` of one's own files, ``lit://@trainer/a`` of others'.

        None: the path has no origin, or lies where its origin has no name for it.
        """
        location = self._location()
        if location is None:
            return None
        home = homes.current()
        own = home is not None and location.origin == home.name
        return str(Location(None, location.path) if own else location)

    # --- exists and get -------------------------------------------------------------------------

    @in_session
    def exists_local(self) -> bool:
        """Say whether the path is on this machine; no other process is asked.

        Raises:
            NotAttached: here no file may be looked at, or the path has no place yet.
        """
        if self._origin is not None:
            homes.refuse("exists_local()")
        return os.path.exists(self)

    @in_session
    def exists_remote(self) -> bool:
        """Say whether its origin has the path, or left it when it stopped.

        Raises:
            NotAttached: the path has no origin, or here no other Work may be asked.
            OriginUnavailable, TransferTimeout, RegistryUnavailable: nobody can say.
            AccessDenied: the origin, or the store of what it left, refuses this process.
            IntegrityError: what the origin left is damaged.
            InvalidURI: what that store needs is not installed here.
        """
        name = self._checked_origin("exists_remote()", "there is no other place to look at")
        location = self._location()
        if location is None:
            return False
        if self._is_own(name):
            return os.path.exists(self)
        return homes.transport("exists_remote()").exists(location)

    @in_session
    def stat_remote(self) -> Entry:
        """Return kind, size, mode and mtime of the path at its origin, or as it left it.

        Raises:
            NotAttached: the path has no origin, or here no other Work may be asked.
            PathNotFound: the path is not there, and was not left there.
            InvalidURI: the path lies where its origin has no name for it.
            OriginUnavailable, TransferTimeout, RegistryUnavailable: nobody can say.
        """
        name = self._checked_origin(
            "stat_remote()", "there is nothing to describe but the file itself: use stat()"
        )
        location = self._checked_location()
        return _own_entry(self) if self._is_own(name) else homes.transport("stat_remote()").stat(location)

    def get(
        self,
        overwrite: bool = False,
        *,
        to: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        durable: bool = True,
        on_change: Literal["raise", "accept"] = "raise",
        symlinks: Literal["keep", "follow"] | None = None,
        progress: Progress | None = None,
    ) -> Transfer:
        """Copy the path, file or whole directory, from its origin to this machine.

        Where its Work does not run any more, what that one left of what it declared is copied, in the
        same way.

        The copy appears at once and whole, or not at all: it is put together out of sight, verified,
        and renamed into its place. Every look-up finds the old files or the new ones; whoever has an
        old file open, or mapped with ``mmap``, keeps the old one. To open several files of one
        version, open their directory first and go through its descriptor: a directory that is
        replaced stays for ``Limits.reader_seconds`` and no longer. One's own path transfers nothing.

        What is kept: bytes, names, modes without set-id bits, mtimes in ns, empty directories, holes.
        Hard links become files of their own. Sockets, FIFOs and devices are left out. The Transfer
        counts them.

        Args:
            overwrite: replace what is there, file or directory, as a whole: extra local files are gone
                then, and a symbolic link is itself replaced.
            to: copy there, and not into it; by default to this path's own value. Missing parents are made.
                ``lit://`` text means a path of this Work.
            timeout: seconds for the whole transfer; None: as long as bytes arrive. Where contact is
                lost, the transfer goes on from what was verified for `Limits.resume_seconds` more,
                in sum; what comes makes up for it at `Limits.least_bytes_per_second`.
            durable: whether the copy outlives a power cut. True: one ``syncfs`` before the copy takes
                its place, and an ``fsync`` of its directory after it, so that a cut leaves the old
                files or the new ones, and after `get` has returned the new ones. False, for what can
                be fetched anew: nothing is flushed, and a cut may leave the new names with
                files that are empty or cut short.
            on_change: what becomes of files that still change at their origin after they were sent
                anew three times. "raise": SourceChanged names them. "accept": one that only grew is
                taken at the size it had, and the others are copied as they are and named in
                `Transfer.unsettled`. Writes through ``mmap`` at the origin are not noticed.
            symlinks: what becomes of symbolic links. "keep": those that stay in the tree are copied as
                links; those that leave it are left out, and named in `Transfer.skipped`. "follow":
                what they mean is copied, as far as the origin shares it, as with the caches of
                Hugging Face; the others are left out and named. None: what the Work that owns the
                files has set, as of `Work(symlinks=)` and `join(symlinks=)`; that is "keep" where it has
                set nothing. What a Work that has stopped left is as it was published.
            progress: True draws a bar on stderr if that is a terminal, or in the cell of a notebook,
                and nothing elsewhere. Or whom to tell: a function of the bytes done and the bytes in
                all (None while that is unknown), or an fsspec ``Callback``. It is called in this
                thread; the bytes done never become fewer, and are all of them in the last call alone,
                when the copy is in its place. What it raises ends the get, which leaves the target
                as it was; in the last call, the copy stays. One's own path tells nothing.

        Returns:
            Files, bytes, seconds, how they came, and what was left out.

        Raises:
            NotAttached: the path has no origin, or here nothing may be transferred.
            InvalidURI: the path lies where its origin has no name for it.
            PathExists: something is there already, and `overwrite` is not set.
            PathNotFound: the path is not at its origin, or its Work does not run and did not leave it.
            AccessDenied: the origin does not share the path, or the target cannot be written.
            SourceChanged: the files went on changing while they were copied.
            OriginUnavailable: the Work is live by the registry, or what it left is kept, but that cannot
                be reached.
            TransferTimeout: `timeout` passed, or nothing new came for `Limits.progress_seconds`, or less
                than `Limits.least_bytes_per_second` for longer than that.
            RegistryUnavailable: the registry does not answer.
            IntegrityError: bytes were damaged on their way, or are missing.
            ProtocolViolation: the peer breaks the rules of the wire.
            ValueError: `on_change` or `symlinks` is none of its words, `timeout` is negative or NaN, or `to`
                is the working directory, a home directory, the root of an App or the storage root of
                a Work, or holds one of them.
            TypeError: `overwrite` or `durable` is not a bool, `timeout` is not a number, or `progress` is
                none of what it may be.
            OSError: the disk is full, and the like.
        """
        _check_flag("overwrite", overwrite, "; the place of a copy is to=" if _is_path(overwrite) else "")
        _check_flag("durable", durable)
        check_timeout(timeout)
        here = self._here()
        name = here._checked_origin("get()", "there is nowhere to get it from")
        location = here._checked_location()
        _check_choice("on_change", on_change, ("raise", "accept"))
        _check_choice("symlinks", symlinks, (None, "keep", "follow"))
        home = homes.home_of(name, here._value())
        if home is None or here._is_own(name):
            return here._own_transfer(to)
        target = homes.value_of(home, location) if to is None else absolute(to)
        if to is None and not overwrite and os.path.lexists(target):
            raise PathExists(f"{target!r} exists already; pass overwrite=True to replace it")
        with telling(progress, self.name or name) as tell:
            transfer = homes.transport("get()").get(
                location,
                target,
                confined=to is None,
                overwrite=overwrite,
                timeout=timeout,
                durable=durable,
                on_change=on_change,
                symlinks=symlinks,
                progress=tell,
            )
        if to is None:
            copies.add(target)
        return transfer

    def _checked_origin(self, action: str, consequence: str) -> str:
        if self._origin is not None:
            homes.refuse(action)
        name = self.origin_name
        if self._unattached:
            self._refuse_unattached(action)
        if name is None:
            raise NotAttached(
                f"{action}: {str(self)!r} belongs to no Work, so {consequence}; "
                "a Path has an origin once it is an attribute of a Work, or made from 'lit://…'"
            )
        if homes.current() is None:
            homes.transport(action)
        return name

    def _refuse_unattached(self, action: str) -> None:
        if homes.current() is not None:
            raise NotAttached(
                f"{action}: {str(self)!r} means files of this process, and one that only connected has none; "
                "write lit://@NAME/PATH"
            )
        raise NotAttached(
            f"{action}: {str(self)!r} is not attached yet; call it in a Work's run(), "
            "or after lit_storage.join() or lit_storage.connect()"
        )

    def _checked_location(self) -> Location:
        location = self._location()
        if location is None:
            raise InvalidURI(
                f"{self._value()!r} lies outside of what {self.origin_name!r} shares; "
                "use a path below the one that was handed over"
            )
        return location

    def _is_own(self, name: str) -> bool:
        home = homes.home_of(name, self._value())
        return home is not None and home.name == name

    def _own_transfer(self, to: str | os.PathLike[str] | None) -> Transfer:
        from lit_storage_client.fetch import Transfer

        if to is not None:
            raise InvalidURI(
                f"{self._value()!r} is this Work's own; copy it with shutil, get() only copies others' files"
            )
        if not os.path.lexists(self):
            raise _own_not_found(self)
        return Transfer(files=0, bytes=0, seconds=0.0, how="own", skipped=())

    # --- Travelling -----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, str | None]:
        """Return the path as strings for JSON: keys uri, path, origin, consumer and machine."""
        home = homes.current()
        return {
            "uri": self.uri,
            "path": str(self),
            "origin": self.origin_name,
            "consumer": self.consumer_name,
            "machine": home.machine_id if home is not None else None,
        }

    @classmethod
    def from_dict(cls, data: dict[str, str | None]) -> Self:
        """Return the path that `to_dict` wrote, rooted in the session of this process.

        Raises:
            InvalidURI: `data` does not come from `to_dict`.
        """
        text, path, name, consumer = (data.get(key) for key in ("uri", "path", "origin", "consumer"))
        if not isinstance(path, str) or not all(
            isinstance(each, str | None) for each in (text, name, consumer)
        ):
            raise InvalidURI(f"{data!r} is no Path; give what to_dict() returned")
        origin = recall(name)
        return _arrived(cls, text, path, origin, recall(consumer))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        from lit_storage.paths.pydantic_field import core_schema

        return core_schema(cls, cls._json_text)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        from lit_storage.paths.pydantic_field import JSON_SCHEMA

        return dict(JSON_SCHEMA)

    def _json_text(self) -> str:
        return str(self) if self.origin_name is None else str(self._checked_location())

    def __reduce__(self) -> tuple[Any, ...]:
        tokens = tuple("" if origin is None else origin.token for origin in (self._origin, self._consumer))
        return _unpickle, (type(self), self.to_dict(), *tokens)


# --- What Works and Apps do with Paths ----------------------------------------------------------


def with_origin(path: P, origin: Origin) -> P:
    """Return `path` with `origin`, or `path` itself if it has one already."""
    if path._origin is not None:
        return path
    return made(type(path), path._value(), origin, path._consumer, is_lit=path._unattached)


def with_consumer(path: P, consumer: Origin) -> P:
    """Return `path` with `consumer` as the Work that holds it."""
    return made(type(path), path._value(), path._origin, consumer, is_lit=path._unattached)


def attach(path: P, origin: Origin, home: Home) -> P:
    """Return `path` as an attribute of the Work `origin` has it in a process with `home`.

    An unattached path gets its value. A plain one, which its Work's ``__init__`` made, means a
    path on that Work's machine.

    Raises:
        NotAttached: the Work has no name yet.
    """
    owner = path._origin if path._origin is not None else origin
    if owner.name is None:
        raise NotAttached(f"{str(path)!r} cannot be attached before its Work has a name; build the App first")
    value = path._value()
    if path._unattached:
        value = place_of(home, owner.name, value)
    elif (
        owner.same(origin) and owner.name != home.name and homes.location_of(home, owner.name, value) is None
    ):
        value = homes.value_of(home, Location(owner.name, os.path.abspath(value)))
    return made(type(path), value, owner, path._consumer, is_lit=False)


def _arrived(cls: type[P], text: str | None, path: str, origin: Origin | None, consumer: Origin | None) -> P:
    home = homes.current()
    is_lit = path.startswith(SCHEME)
    if is_lit and origin is not None and home is not None and home.name == origin.name and text == path:
        # This very process, or its parent, made it before its session.
        return made(cls, unattached.value_of_text(path), origin, consumer, is_lit=True)
    if origin is None and is_lit and home is not None and home.name is not None:
        origin = Origin(home.name)
    name = origin.name if origin is not None else None
    if text is None or name is None:
        return made(cls, unattached.value_of_text(path) if is_lit else path, origin, consumer, is_lit=is_lit)
    location = uris.parse(text)
    if location.origin not in (None, name):
        raise InvalidURI(f"{text!r} is said to be of {name!r}; give what to_dict() returned")
    location = Location(name, location.path)
    if home is None:
        return made(cls, unattached.value_of_text(str(location)), origin, consumer, is_lit=True)
    return made(cls, homes.value_of(home, location), origin, consumer, is_lit=False)


def _unpickle(cls: type[P], data: dict[str, str | None], origin_token: str, consumer_token: str) -> P:
    path = cls.from_dict(data)
    origin = path._origin if path._origin is not None else recall(None, origin_token)
    consumer = path._consumer if path._consumer is not None else recall(None, consumer_token)
    mark(path, origin, consumer, is_lit=False)
    return path


# --- get ----------------------------------------------------------------------------------------


def absolute(path: str | os.PathLike[str]) -> str:
    """Return `path` from ``/`` on, with ".." left to the file system: it may follow a link."""
    text = os.fspath(Path(path) if isinstance(path, str) and path.startswith(SCHEME) else path)
    parts = (text if os.path.isabs(text) else os.path.join(os.getcwd(), text)).split("/")
    return "/" + "/".join(part for part in parts if part not in ("", "."))


def _is_path(value: object) -> bool:
    return isinstance(value, str | bytes | os.PathLike)


def _check_flag(argument: str, value: object, hint: str = "") -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{argument}={value!r} is not a bool; use True or False{hint}")


def _check_choice(argument: str, value: str | None, choices: Sequence[str | None]) -> None:
    if value not in choices:
        raise ValueError(f"{argument}={value!r} is none of {', '.join(map(repr, choices))}")


def _own_not_found(path: Path) -> PathNotFound:
    location = path._location()
    advice = homes.advice(location) if location is not None else ""
    return PathNotFound(f"{os.fspath(path)!r} is this Work's own, and it is not there{advice}")


def _own_entry(path: Path) -> Entry:
    from lit_storage_proto.entry import Entry, Kind

    try:
        status = path.stat()
    except FileNotFoundError:
        raise _own_not_found(path) from None
    kinds = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY}
    kind = kinds.get(stat.S_IFMT(status.st_mode), Kind.SKIPPED)
    size = status.st_size if kind is Kind.FILE else 0
    return Entry("", kind, size, status.st_mode & 0o777, status.st_mtime_ns)
