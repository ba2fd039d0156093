"""The commands that look after what stopped Works left: artifacts ls, rm and prune."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lit_storage.cli.command import FAILED, Json, Registry, Root, place_of, reporting
from lit_storage.cli.output import age, human_size, print_json, print_table
from lit_storage_core.system.names import printable
from lit_storage_proto.errors import IntegrityError, PathNotFound, StorageError
from lit_storage_proto.uri import Location, parse_remote

if TYPE_CHECKING:
    from lit_storage.sessions.session import Session
    from lit_storage_core.artifacts.store import ArtifactStore, Kept

T = TypeVar("T")

artifacts = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List and remove what stopped Works left.",
)

Which = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME[:PATH]]", help="Of one Work, or of one of its declared paths; else of all."
    ),
]


@dataclass(frozen=True, slots=True)
class Listed:
    """One version of one declared path, as far as it is shown; not its manifest, which may be large."""

    store: ArtifactStore
    kept: Kept
    path: str
    """The declared path; of a damaged version the name that it has in the store."""
    state: str
    """How the Work was when it was published, or what is wrong with it."""
    files: int | None
    bytes: int | None
    published_ns: int

    @property
    def where(self) -> str:
        """The path as the command line takes it."""
        return f"{self.store.name}:{self.path}"

    @property
    def fields(self) -> dict[str, Any]:
        """What JSON shows."""
        return {
            "uri": str(Location(self.store.name, self.path)),
            "version": self.kept.version.number,
            "instance": self.kept.version.instance_id,
            "state": self.state,
            "files": self.files,
            "bytes": self.bytes,
            "published_ns": self.published_ns,
            "store": self.store.url,
        }


def _listed(store: ArtifactStore, kept: Kept) -> Listed | None:
    try:
        manifest = store.manifest(kept)
    except FileNotFoundError:
        return None  # it was removed a moment ago
    except IntegrityError:
        return Listed(store, kept, kept.unit, "damaged", None, None, int(kept.modified * 1e9))
    state = "removed" if manifest.removed else "unclean" if manifest.unclean else "clean"
    return Listed(store, kept, manifest.path, state, manifest.files, manifest.bytes, manifest.published_ns)


@artifacts.command("ls")
@reporting
def list_versions(
    context: typer.Context,
    which: Which = None,
    as_json: Json = False,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """List the versions of what was declared, the newest first.

    The newest one that is whole is what `get` and its like read when the Work does not run. One is
    unclean if its Work was killed, and removed if its Work had removed the path.
    """
    with place_of(context, root, registry).connect() as session:
        versions, unread = _all_versions(session, which)
    if as_json:
        print_json([version.fields for version in versions])
    else:
        _print_versions(versions)
    if unread:
        raise typer.Exit(FAILED)


def _print_versions(versions: list[Listed]) -> None:
    print_table(
        ["PATH", "VERSION", "STATE", "FILES", "SIZE", "PUBLISHED", "STORE"],
        [
            [
                version.where,
                str(version.kept.version.number),
                version.state,
                "-" if version.files is None else str(version.files),
                "-" if version.bytes is None else human_size(version.bytes),
                age(version.published_ns),
                version.store.url,
            ]
            for version in versions
        ],
    )


@artifacts.command("rm")
@reporting
def remove(
    context: typer.Context,
    which: Annotated[
        str, typer.Argument(metavar="NAME[:PATH]", help="All that a Work left, or of one declared path.")
    ],
    number: Annotated[
        int | None, typer.Option("--version", metavar="N", help="Only this version, as `ls` numbers it.")
    ] = None,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """Remove artifacts, for good.

    Files that are in place stay where their Work wrote them; they are only not handed out any more.
    """
    with place_of(context, root, registry).connect() as session:
        versions = [
            version
            for version in _versions(session, which)
            if number is None or version.kept.version.number == number
        ]
        if not versions:
            raise PathNotFound(
                f"nothing is kept of {which!r}" + ("" if number is None else f" in version {number}")
            )
        _remove({versions[0].store: versions})


@artifacts.command()
@reporting
def prune(
    context: typer.Context,
    keep: Annotated[int, typer.Option("--keep", min=1, metavar="N", help="How many of each path stay.")],
    which: Which = None,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """Remove all but the newest versions of each path.

    Damaged versions do not count as kept. What no version needs any more goes too.
    """
    with place_of(context, root, registry).connect() as session:
        kept: Counter[tuple[ArtifactStore, str]] = Counter()
        surplus: dict[ArtifactStore, list[Listed]] = {}
        for version in _versions(session, which):
            of_store = surplus.setdefault(version.store, [])
            unit = (version.store, version.kept.unit)
            if kept[unit] >= keep:
                of_store.append(version)
            elif version.state != "damaged":
                kept[unit] += 1
        _remove(surplus)


def kept_paths(session: Session, name: str) -> list[str]:
    """Return the declared paths of a Work that can be read when it does not run."""
    store = session.origins.store(name)
    newest: dict[str, Listed] = {}
    for kept in store.versions() if store is not None else ():
        if kept.unit not in newest and store is not None:
            listed = _listed(store, kept)
            if listed is not None and listed.state != "damaged":
                newest[kept.unit] = listed
    return sorted(listed.path for listed in newest.values() if listed.state != "removed")


def unless_unread(call: Callable[[], T], default: T) -> tuple[T, bool]:
    """Return what `call` returns, and False; or `default` and True, having said why on stderr."""
    try:
        return call(), False
    except StorageError as error:
        typer.echo(printable(str(error)), err=True)
        return default, True


def _all_versions(session: Session, which: str | None) -> tuple[list[Listed], bool]:
    """Return versions, and whether what a Work left could not be read; of one that is named it is raised."""
    if which is not None:
        return _list_of(session, which), False
    versions: list[Listed] = []
    some_unread = False
    for work in session.registry.works():
        none: list[Listed] = []
        found, unread = unless_unread(partial(_list_of, session, work.name), none)
        versions += found
        some_unread |= unread
    return versions, some_unread


def _list_of(session: Session, which: str) -> list[Listed]:
    return list(_versions(session, which))


def _versions(session: Session, which: str | None) -> Iterator[Listed]:
    """Yield versions by Work and path, the newest first; each store is asked once."""
    location = None if which is None else parse_remote(which)
    names = [work.name for work in session.registry.works()] if location is None else [location.origin or ""]
    for name in names:
        store = session.origins.store(name)
        if store is None:
            continue
        listed = [each for kept in store.versions() if (each := _listed(store, kept)) is not None]
        if location is not None and location.path:
            listed = [each for each in listed if each.path == location.path]
        yield from sorted(listed, key=lambda each: each.path)


def _remove(versions: Mapping[ArtifactStore, Sequence[Listed]]) -> None:
    freed = sum(store.remove([each.kept for each in listed]) for store, listed in versions.items())
    removed = [each for listed in versions.values() for each in listed]
    for each in removed:
        typer.echo(f"removed {printable(each.where)} version {each.kept.version.number}")
    typer.echo(f"{len(removed)} removed, {human_size(freed)} freed", err=True)
