"""What the command line prints: nothing that steers a terminal, and JSON that a program can rely on.

Names of files and sentences of errors come from elsewhere, so each passes `printable` on its way
to a person. JSON is ASCII and carries names as they are, sizes in bytes and times in nanoseconds.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from lit_storage_core.system.names import printable
from lit_storage_proto.entry import Entry
from lit_storage_proto.errors import InvalidApp, InvalidConfig, InvalidURI, StorageError

if TYPE_CHECKING:
    from lit_storage_client.fetch import Transfer

_SECONDS_OF = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
_OPTION_OF = {"overwrite=True": "--overwrite", "root=": "--root", "registry=": "--registry"}
# Only a word of its own: a file may be named so.
_ARGUMENT = re.compile(rf"(?<!\S)({'|'.join(_OPTION_OF)})(?=[\s,;]|$)")


def human_size(size_bytes: int) -> str:
    """Return a size as people read it, such as ``1.5 MiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def age(mtime_ns: int) -> str:
    """Return how long ago a time was, such as ``3 minutes ago``; it is in nanoseconds since 1970 UTC."""
    seconds = time.time() - mtime_ns / 1e9
    if seconds < 0:
        return "in the future"
    for unit, length in _SECONDS_OF.items():
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"


def entry_fields(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON shows it."""
    fields: dict[str, Any] = {
        "path": entry.path,
        "kind": entry.kind.name.lower(),
        "size": entry.size,
        "mode": entry.mode,
        "mtime_ns": entry.mtime_ns,
    }
    return fields | ({"link_target": entry.link_target} if entry.link_target else {})


def entry_line(entry: Entry) -> str:
    """Return an entry as a person reads it, on one line."""
    kind = entry.kind.name.lower()
    size = human_size(entry.size) if kind == "file" else "-"
    link = f" -> {printable(entry.link_target)}" if entry.link_target else ""
    return f"{kind:<9}  {size:>9}  {age(entry.mtime_ns):>14}  {printable(entry.path)}{link}"


def transfer_line(target: str, transfer: Transfer) -> str:
    """Return what a get did, as a person reads it, on one line."""
    facts = [
        f"{printable(target)}: {_counted(transfer.files, 'file')}, "
        f"{human_size(transfer.bytes)} in {transfer.seconds:.2f} s"
    ]
    if transfer.hard_linked:
        facts.append(f"{_counted(transfer.hard_linked, 'hard link')} copied as files of their own")
    if transfer.unsettled_count:
        facts.append(f"{transfer.unsettled_count} still changing")
    if transfer.skipped_count:
        facts.append(f"{transfer.skipped_count} left out")
    return "; ".join(facts)


def transfer_notes(transfer: Transfer) -> list[str]:
    """Return what is to be known of files that are not simply copies, a line for each kind."""
    notes = []
    if transfer.unsettled_count:
        names = _names(transfer.unsettled, transfer.unsettled_count)
        notes.append(f"still changing when they were copied: {names}")
    if transfer.skipped_count:
        names = _names(transfer.skipped, transfer.skipped_count)
        notes.append(f"left out, as neither file nor directory nor a link within the tree: {names}")
    return notes


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _names(names: Sequence[str], count: int) -> str:
    """Return names for a line; an empty one is of the path itself."""
    return ", ".join(printable(name or ".") for name in names) + (", …" if count > len(names) else "")


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout."""
    typer.echo(json.dumps(value, indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(printable(value) for value in row))
    # A pipe has no width to fold to.
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)


def report(error: StorageError | OSError, *, as_json: bool = False, in_code: bool = False) -> int:
    """Say on stderr, in one sentence, what went wrong; return the exit code: 2 for wrong usage, else 1.

    The sentence names options of the command line, or, where it is about code of the user
    (`in_code`), arguments of Python.
    """
    message = _sentence(error)
    if not in_code:
        message = _ARGUMENT.sub(lambda match: _OPTION_OF[match[1]], message)
    if as_json:
        typer.echo(json.dumps({"error": type(error).__name__, "message": message}), err=True)
    else:
        typer.echo(printable(message), err=True)
    return 2 if isinstance(error, InvalidURI | InvalidApp | InvalidConfig) else 1


def report_interrupt(sentence: str, *, as_json: bool) -> None:
    """Say on stderr what became of a command after Ctrl-C."""
    if as_json:
        typer.echo(json.dumps({"error": "KeyboardInterrupt", "message": sentence}), err=True)
    else:
        typer.echo(printable(sentence), err=True)


def _sentence(error: StorageError | OSError) -> str:
    if isinstance(error, StorageError) or not error.strerror:
        return str(error)
    where = f": {error.filename!r}" if error.filename is not None else ""
    return f"{error.strerror}{where}"
