"""What every command of ``lit-storage`` has in common: where it looks, and how it ends."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from lit_storage.cli.output import report, report_interrupt
from lit_storage_proto.errors import PathNotFound, StorageError

if TYPE_CHECKING:
    from lit_storage.sessions.session import Session

P = ParamSpec("P")

FAILED, INTERRUPTED, BROKEN_PIPE = 1, 130, 141  # the last two as shells count signals

Json = Annotated[bool, typer.Option("--json", help="Print JSON, also of an error.")]
Root = Annotated[
    str | None, typer.Option(metavar="DIR", help="Root that the Works share; else the nearest .lit upwards.")
]
Registry = Annotated[
    str | None, typer.Option(metavar="URL", help="Registry of the Works; else the one in the root.")
]


@dataclass(frozen=True, slots=True)
class Place:
    """Which root and registry a command is about; None is the default."""

    root: str | None
    registry: str | None

    def connect(self) -> Session:
        """Open the session of this command; it may raise what `lit_storage.connect` raises.

        Raises:
            PathNotFound: there is no root. A look must not make one, which later apps would find.
        """
        from lit_storage.sessions import environment
        from lit_storage.sessions.session import connect

        root = environment.find_root(self.root)
        if not os.path.isdir(root):
            raise PathNotFound(
                f"there is no root {root!r}; go to where the app runs, or name its root with --root"
            )
        return connect(root=self.root, registry=self.registry)


def place_of(context: typer.Context, root: str | None, registry: str | None) -> Place:
    """Return what the options said, of which those after the command beat those before it."""
    before = context.obj
    assert isinstance(before, Place)
    return Place(root or before.root, registry or before.registry)


def reporting(command: Callable[P, None]) -> Callable[P, None]:
    """Return `command` such that it says an error in one sentence and ends with the code for it."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt as interrupt:
            for note in getattr(interrupt, "__notes__", ()):
                report_interrupt(note, as_json=kwargs.get("as_json") is True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has enough; what is still buffered must not raise at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except (StorageError, OSError) as error:
            raise typer.Exit(report(error, as_json=kwargs.get("as_json") is True)) from None

    return call
