"""The commands that look after what stopped Works left: artifacts ls, rm and prune."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lit_storage.cli_command import Json, Registry, Root, place_of, reporting
from lit_storage.cli_output import age, human_size, print_json, print_table, printable
from lit_storage_proto.errors import IntegrityError, PathNotFound
from lit_storage_proto.uri import Location, parse_remote

if TYPE_CHECKING:
    from lit_storage.session import Session
    from lit_storage_client.artifacts import ArtifactStore, Kept
    from lit_storage_proto.artifact import Manifest

artifacts = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Look after what Works that have stopped left to be read.",
)

Which = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME[:PATH]]", help="Of one Work, or of one of its declared paths; else of all."
    ),
]


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one declared path; without a manifest it is damaged."""

    store: ArtifactStore
    kept: Kept
    manifest: Manifest | None

    @property
    def path(self) -> str:
        """The declared path; of a damaged one the name that it has in the store."""
        return self.manifest.path if self.manifest is not None else self.kept.unit

    @property
    def where(self) -> str:
        """The path as the command line takes it."""
        return f"{self.store.name}:{self.path}"

    @property
    def state(self) -> str:
        """How the Work was when it was published, or what is wrong with it."""
        if self.manifest is None:
            return "damaged"
        if self.manifest.removed:
            return "removed"
        return "unclean" if self.manifest.unclean else "clean"

    @property
    def fields(self) -> dict[str, Any]:
        """What JSON shows."""
        return {
            "uri": str(Location(self.store.name, self.path)),
            "version": self.kept.version.number,
            "instance": self.kept.version.instance_id,
            "state": self.state,
            "files": self.manifest.files if self.manifest is not None else None,
            "bytes": self.manifest.bytes if self.manifest is not None else None,
            "published": self.kept.published,
            "store": self.store.url,
        }


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
        versions = list(_versions(session, which))
    if as_json:
        print_json([version.fields for version in versions])
        return
    print_table(
        ["PATH", "VERSION", "STATE", "FILES", "SIZE", "PUBLISHED", "STORE"],
        [
            [
                version.where,
                str(version.kept.version.number),
                version.state,
                "-" if version.manifest is None else str(version.manifest.files),
                "-" if version.manifest is None else human_size(version.manifest.bytes),
                age(int(version.kept.published * 1e9)),
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
        _remove(versions)


@artifacts.command()
@reporting
def prune(
    context: typer.Context,
    keep: Annotated[int, typer.Option("--keep", min=1, metavar="N", help="How many of each path stay.")],
    which: Which = None,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """Remove all but the newest whole versions of each declared path, and what no version needs."""
    with place_of(context, root, registry).connect() as session:
        kept: dict[tuple[int, str], int] = {}
        surplus, stores = [], {}
        for version in _versions(session, which):
            stores[id(version.store)] = version.store
            unit = (id(version.store), version.kept.unit)
            if kept.get(unit, 0) >= keep:
                surplus.append(version)
            elif version.manifest is not None:
                kept[unit] = kept.get(unit, 0) + 1
        _remove(surplus, list(stores.values()))


def kept_paths(session: Session, name: str) -> list[str]:
    """Return the declared paths of a Work that can be read when it does not run."""
    newest: dict[str, Version] = {}
    for version in _versions(session, name):
        if version.manifest is not None:
            newest.setdefault(version.kept.unit, version)
    return sorted(
        version.path
        for version in newest.values()
        if version.manifest is not None and not version.manifest.removed
    )


def _versions(session: Session, which: str | None) -> Iterator[Version]:
    """Yield versions by Work and path, the newest first; each store is asked once."""
    location = None if which is None else parse_remote(which)
    if location is None:
        names = [work.name for work in session.registry.works()]
    else:
        assert location.origin is not None
        names = [location.origin]
    for name in names:
        store = session.origins.store(name)
        if store is None:
            continue
        versions = [Version(store, kept, _manifest(store, kept)) for kept in store.versions()]
        # Damaged ones have no path that could be compared; they go with those of their Work.
        path = location.path if location is not None else ""
        if path:
            versions = [version for version in versions if version.path == path]
        yield from sorted(versions, key=lambda version: version.path)


def _manifest(store: ArtifactStore, kept: Kept) -> Manifest | None:
    try:
        return store.manifest(kept)
    except (IntegrityError, FileNotFoundError):
        return None


def _remove(versions: list[Version], stores: list[ArtifactStore] | None = None) -> None:
    by_store: dict[int, tuple[ArtifactStore, list[Kept]]] = {id(store): (store, []) for store in stores or []}
    for version in versions:
        by_store.setdefault(id(version.store), (version.store, []))[1].append(version.kept)
    freed = sum(store.remove(kept) for store, kept in by_store.values())
    for version in versions:
        typer.echo(f"removed {printable(version.where)} version {version.kept.version.number}")
    typer.echo(f"{len(versions)} removed, {human_size(freed)} freed", file=sys.stderr)
