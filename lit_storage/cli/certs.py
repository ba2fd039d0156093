"""The commands that make certificates: certs init and certs issue."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lit_storage.cli import certificates
from lit_storage.cli.certificates import CA_CERTIFICATE, CA_KEY, CERTIFICATE, KEY, MOST_DAYS, Issued
from lit_storage.cli.command import Json, reporting
from lit_storage.cli.output import print_json
from lit_storage_core.system.names import printable

certs = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Make certificates for Works and daemons.",
)

Directory = Annotated[
    str, typer.Option("--dir", metavar="DIR", help="Where the authority is; by default ./certs.")
]
Days = Annotated[int, typer.Option(min=1, max=MOST_DAYS, metavar="DAYS", help="How long it is good.")]


@certs.command()
@reporting
def init(
    directory: Directory = "certs",
    days: Days = 3650,
    as_json: Json = False,
) -> None:
    """Make an authority: ca.pem, which everybody gets, and ca.key, which stays here.

    It is never written over. To exchange it, make another one in another directory and let all trust both:
    put both ca.pem into one file. They read it anew by themselves.
    """
    made = certificates.init(os.path.abspath(directory), days=days)
    _tell(made, {"ca": CA_CERTIFICATE, "key": CA_KEY}, as_json=as_json)


@certs.command()
@reporting
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the Work or the daemon.")],
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="A further name or address for which it is good, and so a Work of that name too. May be "
            "repeated.",
        ),
    ] = None,
    directory: Directory = "certs",
    days: Days = 90,
    as_json: Json = False,
) -> None:
    """Issue a certificate with which NAME serves and asks others; again to renew it.

    The directory that it prints is what NAME needs: LIT_STORAGE_TLS_CERT, _KEY and _CA name its files. Copied
    over those of a running process, they are used from the next connection on.
    """
    made = certificates.issue(os.path.abspath(directory), name, hosts=host or (), days=days)
    _tell(made, {"certificate": CERTIFICATE, "key": KEY, "ca": CA_CERTIFICATE}, as_json=as_json)


def _tell(made: Issued, files: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        fields = {kind: os.path.join(made.directory, file) for kind, file in files.items()}
        whom = {"name": made.name, "names": list(made.names)} if made.name else {}
        print_json({**whom, **fields, "not_after": made.not_after.isoformat()})
        return
    what = f"for {', '.join(made.names)}, " if made.names else ""
    where, until = f"{printable(made.directory)}: {', '.join(files.values())}", f"{made.not_after:%Y-%m-%d}"
    typer.echo(f"{where}; {what}good until {until}")
