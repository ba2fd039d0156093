"""The command ``lit-storage``: run an app, and look at or copy what Works share.

Every command ends with 0, with 1 where it failed, with 2 where it was used wrongly, or with 130
after Ctrl-C, and says what went wrong in one sentence on stderr. What needs gRPC is imported where
it is used, so that help and wrong usage are answered at once.
"""

from __future__ import annotations

import os
import traceback
from functools import partial
from typing import Annotated, Any

import typer

from lit_storage import __version__
from lit_storage.cli import artifacts, certs, files, serve
from lit_storage.cli.command import FAILED, Json, Place, Registry, Root, place_of, reporting
from lit_storage.cli.output import print_json, print_table, report
from lit_storage_core.artifacts.former_root import former_root_of
from lit_storage_core.system.names import printable
from lit_storage_proto.errors import StorageError
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState

main = typer.Typer(
    name="lit-storage",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run apps whose Works hand each other files, and reach those files.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]


@main.callback()
def options(
    context: typer.Context, root: Root = None, registry: Registry = None, version: Version = False
) -> None:
    """Take the options that may stand before every command, and after it as well."""
    del version  # printed already
    context.obj = Place(root, registry)


@main.command(context_settings={"allow_interspersed_args": False})
@reporting
def run(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="APP.PY", help="The file that defines the App.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="What the file finds in sys.argv.")
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Each Work begins with no files; what it had goes to ROOT/former."),
    ] = False,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """Run the App that a file defines.

    An archive of zipapp, or a directory with a __main__.py, will do too. Options of this command come before
    APP.PY; what follows it is for the app.
    """
    place = place_of(context, root, registry)
    for name, value in (("LIT_STORAGE_ROOT", place.root), ("LIT_STORAGE_REGISTRY", place.registry)):
        if value is not None:
            os.environ[name] = value  # an App is made with what its environment says
    from lit_storage.apps.app import load_app

    try:
        app = load_app(file, arguments)
        app.fresh |= fresh
        app.run()
    except Exception as error:  # noqa: BLE001  code of the user may raise anything
        raise typer.Exit(_tell(error)) from None


@main.command()
@reporting
def works(
    context: typer.Context,
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="Also which paths of theirs can be read when they are gone.")
    ] = False,
    as_json: Json = False,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """List the Works and daemons that run, and those that ended.

    A custodian is a daemon that hands out what stopped Works of its machine left. FORMER is where the files
    are that a Work had before it was run with --fresh.
    """
    with place_of(context, root, registry).connect() as session:
        rows: list[dict[str, Any]] = _rows(
            {w.name: w for w in session.registry.works()}, {r.name: r for r in session.registry.live()}
        )
        some_unread = False
        for row in rows if all_ else ():
            former = former_root_of(session.root, row["name"])
            row["former"] = former if os.path.isdir(former) else None
            row["kept"], unread = artifacts.unless_unread(
                partial(artifacts.kept_paths, session, row["name"]), ["?"]
            )
            some_unread |= unread
    if as_json:
        print_json(rows)
    else:
        headings = ["NAME", "STATE", "ENDPOINT", "INSTANCE", "CUSTODIAN"]
        headings += ["FORMER", "KEPT"] if all_ else []
        print_table(headings, [[_cell(value) for value in row.values()] for row in rows])
    if some_unread:
        raise typer.Exit(FAILED)


def _cell(value: str | list[str] | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    return ", ".join(value) or "-" if isinstance(value, list) else value or "-"


main.command("ls")(files.list_files)
main.command()(files.stat)
main.command()(files.get)
main.command()(files.cat)
main.command()(serve.serve)
main.command()(serve.health)
main.add_typer(artifacts.artifacts, name="artifacts")
main.add_typer(certs.certs, name="certs")


def _tell(error: Exception) -> int:
    """Say on stderr what ended an app, without frames of ours first; return the exit code."""
    from lit_storage.apps.supervisor import WorkTraceback
    from lit_storage.apps.tracebacks import user_line, user_traceback

    line = user_line(error)
    if isinstance(error.__cause__, WorkTraceback):
        text = str(error.__cause__)
    elif isinstance(error, StorageError) or (isinstance(error, OSError) and not line):
        code = report(error, in_code=bool(line))
        if line:
            typer.echo(f"  at {printable(line)}", err=True)
        return code
    elif line or isinstance(error, SyntaxError):
        text = user_traceback(error)
    elif error.__cause__ is not None:  # said on purpose, about what the app is made of
        text = "".join(traceback.format_exception_only(error))
    else:
        text = "".join(traceback.format_exception(error))
    typer.echo(text.rstrip(), err=True)
    return FAILED


def _rows(known: dict[str, WorkRecord], live: dict[str, LiveRecord]) -> list[dict[str, str | bool | None]]:
    """Return a row for each Work, by name; a registry may know one by either record alone."""
    return [
        {
            "name": name,
            "state": known[name].state.value if name in known else WorkState.RUNNING.value,
            "endpoint": live[name].endpoint if name in live else None,
            "instance": (live.get(name) or known[name]).instance_id,
            "custodian": name in live and live[name].custodian,
        }
        for name in sorted(known.keys() | live.keys())
    ]
