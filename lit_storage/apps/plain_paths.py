"""Warnings of arguments that name files but are no Path with an origin: these files are not handed over."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator

from lit_storage.apps.arguments import Arguments
from lit_storage.paths import home as homes
from lit_storage.paths.mistypes import hint_for, is_mistyped
from lit_storage.paths.path import Path
from lit_storage_proto.uri import SCHEME

_MOST_NAMED = 3  # of each sort in one call: a list of texts makes a few warnings and not thousands
_COPY = re.compile(r"/(flow|works/[^/]+)/@[^/]")  # where a root keeps copies of others' files


def warnings_of(arguments: Arguments, work: str) -> Iterator[str]:
    """Yield what to warn of in `arguments` of the ``run`` of the class `work`."""
    objects = [str(path) for path in arguments.paths if not _is_handed_over(path)]
    texts = dict.fromkeys([*arguments.texts, *objects])
    for text, which in _named([text for text in texts if is_mistyped(text)]):
        yield f"{which} passed to the run() of {work} as plain text: {hint_for(text)} in a Path"
    copies = {text: None for text in texts if _means_a_path(text)}
    for _, which in _named(list(copies)):
        yield (
            f"{which} passed to the run() of {work} as text, so the files that it means are not "
            "handed over; pass the Path itself: train.dir / 'x', and not f'{train.dir}/x'"
        )
    for text, which in _named([text for text in texts if text not in copies and _exists(text)]):
        yield (
            f"{which} passed to the run() of {work} as a plain path, so its files are not handed "
            f'over; assign "lit://…" or lit_storage.Path({text!r}) to an attribute of the Work that owns the '
            "files, and pass that"
        )


def _named(texts: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the first texts, each with the subject and verb of its sentence; the last one counts the rest."""
    last = min(len(texts), _MOST_NAMED) - 1
    for index, text in enumerate(texts[:_MOST_NAMED]):
        unnamed = len(texts) - _MOST_NAMED if index == last else 0
        yield text, f"{text!r} and {unnamed} more are" if unnamed > 0 else f"{text!r} is"


def _is_handed_over(path: pathlib.PurePath) -> bool:
    return isinstance(path, Path) and (path._origin is not None or path._unattached)


def _means_a_path(text: str) -> bool:
    """Say whether `text` is what a Path of another Work looks like, whether or not anything is there."""
    if text.startswith(SCHEME + "@"):
        return True
    home = homes.current()
    if home is None or "/@" not in text:
        return False
    root = os.path.dirname(home.storage_root)  # for the process of a Flow: R is <root>/flow
    path = os.path.abspath(text)
    return path.startswith(root + "/") and _COPY.match(path, len(root)) is not None


def _exists(text: str) -> bool:
    return "\0" not in text and os.path.exists(text)
