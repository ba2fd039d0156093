"""The commands of an operator: serve, which is a daemon, and health, which asks whether one answers."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lit_storage.cli.command import Registry, Root, place_of, reporting
from lit_storage_proto.errors import AccessDenied, InvalidConfig, OriginUnavailable

if TYPE_CHECKING:
    from lit_storage_core.security.settings import Security
    from lit_storage_server.daemon.config import Config


def _shares(items: list[str] | None) -> dict[str, str] | None:
    shares: dict[str, str] = {}
    for item in items or ():
        name, equals, directory = item.partition("=")
        if not (equals and name and directory):
            raise InvalidConfig(f"--share takes NAME=DIRECTORY, as in data=/data, and {item!r} is none")
        if name in shares:
            raise InvalidConfig(f"--share names {name!r} twice; give the second directory another name")
        shares[name] = os.path.abspath(directory)
    return shares or None


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


@reporting
def serve(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Under which others reach it.")
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            "--share",
            metavar="NAME=DIRECTORY",
            help="What others may read, as NAME/… of this daemon. May be repeated.",
        ),
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to listen; else LIT_STORAGE_BIND, else loopback."),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="HOST[:PORT]", help="What others dial, where it is not what is bound."),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE.toml", help="Settings; options beat them.")
    ] = None,
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Holds the token; else LIT_STORAGE_TOKEN or _TOKEN_FILE, else the root's own.",
        ),
    ] = None,
    tls_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificate chain, PEM; else LIT_STORAGE_TLS_CERT.")
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its private key; else LIT_STORAGE_TLS_KEY.")
    ] = None,
    tls_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Authority that the certificates of callers must be of; else LIT_STORAGE_TLS_CA.",
        ),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let a token travel in clear beyond this machine.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Metrics for Prometheus, to whoever reaches it; on loopback unless HOST.",
        ),
    ] = None,
    custodian: Annotated[
        bool | None,
        typer.Option(
            "--custodian/--no-custodian",
            help="Look after what stopped Works of the root left: publish for the killed, hand out to other "
            "machines. By default it does.",
        ),
    ] = None,
    drain_seconds: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long transfers may go on after SIGTERM; by default 30."),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="plain|json", help="How lines on stderr are written.")
    ] = None,
    root: Root = None,
    registry: Registry = None,
) -> None:
    """Share directories of this machine, as a daemon.

    Others read them until it gets SIGTERM or Ctrl-C. It also is the custodian of the root: what Works of
    this machine left is published if they were killed, and handed out to other machines. TLS files and
    that of the token are read anew when they change.
    """
    from lit_storage_server.daemon.config import make_config, read_config
    from lit_storage_server.daemon.daemon import Daemon
    from lit_storage_server.daemon.logs import set_up

    place = place_of(context, root, registry)
    flags: dict[str, Any] = {
        "name": name,
        "shares": _shares(share),
        "bind": bind,
        "advertise": advertise,
        "registry": place.registry,
        "root": place.root,
        "token_file": _absolute(token_file),
        "certificate": _absolute(tls_cert),
        "key": _absolute(tls_key),
        "ca": _absolute(tls_ca),
        "insecure": insecure,
        "metrics": metrics,
        "custodian": custodian,
        "drain_seconds": drain_seconds,
        "log_format": log_format,
    }
    file = read_config(config) if config is not None else {}
    made = make_config(_environment() | file, flags)
    set_up(made.log_format)
    _serve(made, Daemon)


def _serve(config: Config, daemon: Any) -> None:
    from lit_storage.sessions import environment
    from lit_storage.sessions.advertise import advertised_endpoint
    from lit_storage_server.daemon.daemon import Place
    from lit_storage_server.rpc.descriptors import raise_limit

    environment.refuse_other_systems()
    raise_limit()
    root = environment.open_root(config.root, config.registry, timeout_seconds=config.limits.resolve_seconds)
    place = Place(
        root,
        environment.registry_url(config.registry, root),
        _security(config, root),
        lambda endpoint, registry: advertised_endpoint(endpoint, config.advertise, registry),
    )
    daemon(config, place).run()


def _environment() -> dict[str, str]:
    """Return what the environment says of a daemon, by the names of its settings."""
    from lit_storage.sessions import environment

    certificate, key, ca = environment.tls_files()
    said = {
        "bind": os.environ.get("LIT_STORAGE_BIND"),
        "advertise": os.environ.get("LIT_STORAGE_ADVERTISE"),
        "certificate": certificate,
        "key": key,
        "ca": ca,
    }
    return {setting: value for setting, value in said.items() if value}


def _security(config: Config, root: str) -> Security:
    from lit_storage.sessions import environment
    from lit_storage_core.security.settings import Security

    if config.token_file is None:
        given = environment.token_of(root)
    else:
        given = Security(token_file=config.token_file)
        try:
            given.tokens()
        except AccessDenied as error:
            raise InvalidConfig(str(error)) from None
    return dataclasses.replace(
        given, certificate=config.certificate, key=config.key, ca=config.ca, insecure=config.insecure
    )


@reporting
def health(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where it listens.")],
    service: Annotated[
        str, typer.Option(metavar="SERVICE", help="Of which the status is asked; by default of all.")
    ] = "",
    tls_name: Annotated[
        str, typer.Option(metavar="NAME", help="What its certificate is for, where that is not its host.")
    ] = "",
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="How long to wait.")
    ] = 5,
) -> None:
    """Ask a daemon or a Work whether it serves.

    A container's health check does so; no token is needed. Ends with 0 if it says SERVING, else with 1.
    TLS files are taken from LIT_STORAGE_TLS_CERT, _KEY and _CA.
    """
    from lit_storage.sessions import environment
    from lit_storage_client.peers.health import check_health
    from lit_storage_core.security.settings import Security
    from lit_storage_proto.endpoint import split_address

    split_address(address)
    security = Security(None, *environment.tls_files())
    status = check_health(address, security, service=service, tls_name=tls_name, seconds=timeout)
    if status != "SERVING":
        raise OriginUnavailable(
            f"{address} answers and says {status}: it is stopping, or has no such service"
        )
    typer.echo(status)
