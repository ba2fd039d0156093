"""What every command of ``lit-storage`` has in common: where it looks, and how it ends."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from lit_storage.cli_output import report
from lit_storage_proto.errors import StorageError

if TYPE_CHECKING:
    from lit_storage.session import Session

P = ParamSpec("P")

FAILED, INTERRUPTED, BROKEN_PIPE = 1, 130, 141  # the last two as shells count signals

Json = Annotated[bool, typer.Option("--json", help="Print JSON, also of an error.")]


@dataclass(frozen=True, slots=True)
class Place:
    """Which root and registry a command is about; None is the default."""

    root: str | None
    registry: str | None

    def connect(self) -> Session:
        """Open the session of this command; it may raise what `lit_storage.connect` raises."""
        from lit_storage.session import connect

        return connect(root=self.root, registry=self.registry)


def place_of(context: typer.Context) -> Place:
    """Return what the options before the command said."""
    place = context.obj
    assert isinstance(place, Place)
    return place


def reporting(command: Callable[P, None]) -> Callable[P, None]:
    """Return `command` such that it says an error in one sentence and ends with the code for it."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has enough; what is still buffered must not raise at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except (StorageError, OSError) as error:
            raise typer.Exit(report(error, as_json=kwargs.get("as_json") is True)) from None

    return call
