"""The commands that look at or copy the files of a Work: ls, stat, get and cat."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from typing import Annotated

import typer

from lit_storage.cli.command import Json, Registry, Root, place_of, reporting
from lit_storage.cli.output import (
    age,
    entry_fields,
    entry_line,
    human_size,
    print_json,
    transfer_line,
    transfer_notes,
)
from lit_storage_core.system.names import printable
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import PathExists, ProtocolViolation
from lit_storage_proto.uri import Location, parse_remote

Remote = Annotated[
    str, typer.Argument(metavar="NAME:PATH", help="A path of a Work; lit://@NAME/PATH means the same.")
]


def _checked_destination(destination: str | None) -> str | None:
    if destination == "-":
        raise typer.BadParameter("a copy is no stream; use cat to write a file to stdout, or name it './-'")
    if destination == "":  # as of a variable that is not set
        raise typer.BadParameter("it is empty; '.' is the working directory")
    return destination


Destination = Annotated[
    str | None,
    typer.Argument(
        metavar="DEST",
        help="The copy itself, or where it goes if this ends in a slash or is a dot.",
        callback=_checked_destination,
    ),
]


@reporting
def list_files(
    context: typer.Context,
    remote: Remote,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also what lies deeper.")] = False,
    as_json: Json = False,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """List a directory of a Work; of a file, the file itself."""
    location = parse_remote(remote)
    with place_of(context, root, registry).connect() as session, session.hinting(location):
        entries = list(session.origins.list(location, recursive=recursive))
    if not entries:
        raise ProtocolViolation(f"the list of '{location}' came without the path itself")
    top, *below = entries
    shown = below if top.kind is Kind.DIRECTORY else [_named(top, location)]
    shown.sort(key=lambda entry: entry.path)
    if as_json:
        print_json([entry_fields(entry) for entry in shown])
        return
    for entry in shown:
        typer.echo(entry_line(entry))


@reporting
def stat(
    context: typer.Context,
    remote: Remote,
    as_json: Json = False,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """Describe one path of a Work."""
    location = parse_remote(remote)
    with place_of(context, root, registry).connect() as session, session.hinting(location):
        entry = _named(session.origins.stat(location), location)
    if as_json:
        print_json({"uri": str(location)} | entry_fields(entry))
        return
    typer.echo(f"uri   {printable(str(location))}")
    typer.echo(f"kind  {entry.kind.name.lower()}")
    if entry.kind is Kind.FILE:
        typer.echo(f"size  {human_size(entry.size)} ({entry.size} bytes)")
    typer.echo(f"mode  {entry.mode:04o}")
    typer.echo(f"time  {age(entry.mtime_ns)}")


@reporting
def get(
    context: typer.Context,
    remote: Remote,
    destination: Destination = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there, as a whole.")
    ] = False,
    follow_symlinks: Annotated[
        bool | None,
        typer.Option(
            "--follow-symlinks/--keep-symlinks",
            help="Copy what links mean, or the links; by default what the Work has set for its files.",
        ),
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Also take files that go on changing meanwhile.")
    ] = False,
    no_durable: Annotated[
        bool, typer.Option("--no-durable", help="Do not flush to the disk: a power cut may spoil the copy.")
    ] = False,
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show a bar, if stderr is a terminal.")
    ] = True,
    as_json: Json = False,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """Copy a file or a directory of a Work, verified.

    The copy appears at once and whole, or not at all. A file never replaces a directory.
    """
    from lit_storage.paths.bar import bar
    from lit_storage.paths.path import Path, absolute

    location = parse_remote(remote)
    target = _target(location, destination)
    with place_of(context, root, registry).connect() as session:
        if os.path.isdir(target):
            _refuse_replacing(target, session.origins.stat(location), overwrite=overwrite)
        target = absolute(target)
        with bar(_last_name(location), leave=False) if progress else contextlib.nullcontext() as tell:
            transfer = Path(str(location)).get(
                overwrite,
                to=target,
                durable=not no_durable,
                on_change="accept" if accept_changes else "raise",
                symlinks=None if follow_symlinks is None else "follow" if follow_symlinks else "keep",
                progress=tell,
            )
    if as_json:
        print_json({"uri": str(location), "target": target} | dataclasses.asdict(transfer))
        return
    typer.echo(transfer_line(target, transfer))
    for note in transfer_notes(transfer):
        typer.echo(note, err=True)


@reporting
def cat(
    context: typer.Context,
    remote: Remote,
    offset: Annotated[
        int, typer.Option("--offset", min=0, metavar="BYTES", help="Begin behind so many bytes.")
    ] = 0,
    length: Annotated[
        int | None, typer.Option("--length", min=0, metavar="BYTES", help="Write so many bytes at the most.")
    ] = None,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """Write a file of a Work, or a part of it, to stdout.

    Each chunk is verified before it is written.
    """
    from lit_storage_client.fetch.contents import contents

    location = parse_remote(remote)
    with place_of(context, root, registry).connect() as session, session.hinting(location):
        for data in contents(session.origins, location, offset=offset, length=length):
            sys.stdout.buffer.write(data)


def _named(entry: Entry, location: Location) -> Entry:
    """Return `entry`, whose path is "", under the name that a person would give it."""
    return dataclasses.replace(entry, path=_last_name(location))


def _last_name(location: Location) -> str:
    return location.path.rpartition("/")[2] or location.origin or ""


def _target(location: Location, destination: str | None) -> str:
    """Return where a copy goes.

    What stands at the target is replaced as a whole, so a directory is only ever written into
    where the destination says so.
    """
    if destination is None:
        return _last_name(location)
    into = destination.endswith("/") or os.path.basename(destination) in (".", "..")
    return os.path.join(destination, _last_name(location)) if into else destination


def _refuse_replacing(directory: str, source: Entry, *, overwrite: bool) -> None:
    """Raise PathExists unless `directory` may be replaced: by a directory, and with --overwrite.

    A person who leaves out the slash after a directory's name means to copy into it, as with cp.
    """
    if source.kind is Kind.DIRECTORY and overwrite:
        return
    ways = "end it with '/' to copy into it"
    if source.kind is Kind.DIRECTORY:
        ways += ", or replace it as a whole with --overwrite"
    raise PathExists(f"{directory!r} is a directory; {ways}")
