"""The command ``lit-storage``: run an app, and look at or copy what Works share.

Every command ends with 0, with 1 where it failed, with 2 where it was used wrongly, or with 130
after Ctrl-C, and says what went wrong in one sentence on stderr. What needs gRPC is imported where
it is used, so that help and wrong usage are answered at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from lit_storage import cli_files
from lit_storage.cli_command import FAILED, Json, Place, place_of, reporting
from lit_storage.cli_output import print_json, printable
from lit_storage_proto.errors import StorageError
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState

main = typer.Typer(
    name="lit-storage",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run apps whose Works hand each other files, and reach those files.",
)


@main.callback()
def options(
    context: typer.Context,
    root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Root that the Works share; else the nearest .lit upwards."),
    ] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="URL", help="Registry of the Works; else the one in the root.")
    ] = None,
) -> None:
    """Take the options that stand before every command."""
    context.obj = Place(root, registry)


@main.command(context_settings={"allow_interspersed_args": False})
@reporting
def run(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="APP.PY", help="The file that defines the App.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="What the file finds in sys.argv.")
    ] = None,
) -> None:
    """Run the App that a file defines."""
    place = place_of(context)
    for name, value in (("LIT_STORAGE_ROOT", place.root), ("LIT_STORAGE_REGISTRY", place.registry)):
        if value is not None:
            os.environ[name] = value  # an App is made with what its environment says
    from lit_storage.app import load_app
    from lit_storage.supervisor import WorkTraceback

    try:
        load_app(file, arguments).run()
    except Exception as error:
        if isinstance(error.__cause__, WorkTraceback):
            typer.echo(str(error.__cause__).strip(), err=True)
        elif isinstance(error, StorageError):
            raise
        else:
            traceback.print_exception(error)  # the user's own code, outside of any Work
        raise typer.Exit(FAILED) from None


@main.command()
@reporting
def works(context: typer.Context, as_json: Json = False) -> None:
    """List the Works that run, and those that ended."""
    with place_of(context).connect() as session:
        rows = _rows(
            {w.name: w for w in session.registry.works()}, {r.name: r for r in session.registry.live()}
        )
    if as_json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("NAME", "STATE", "ENDPOINT", "INSTANCE", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(printable(value or "-") for value in row.values()))
    # A pipe has no width to fold to.
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)


main.command("ls")(cli_files.list_files)
main.command()(cli_files.stat)
main.command()(cli_files.get)
main.command()(cli_files.cat)


def _rows(known: dict[str, WorkRecord], live: dict[str, LiveRecord]) -> list[dict[str, str | None]]:
    """Return a row for each Work, by name; a registry may know one by either record alone."""
    return [
        {
            "name": name,
            "state": known[name].state.value if name in known else WorkState.RUNNING.value,
            "endpoint": live[name].endpoint if name in live else None,
            "instance": (live.get(name) or known[name]).instance_id,
        }
        for name in sorted(known.keys() | live.keys())
    ]
