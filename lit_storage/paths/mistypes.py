"""Warns of text that was probably meant as a ``lit://`` URI and is a plain path.

It is no error: a file may have such a name. Text that begins with "./" says so, and is never warned of.
"""

from __future__ import annotations

import re
import sys
import warnings

from lit_storage_proto.uri import SCHEME

_MISTYPED = re.compile(r"lit:(?:[/@]|$)", re.IGNORECASE)
_WITHIN = re.compile(r"/lit:(?:/|$)", re.IGNORECASE)
_WORD = SCHEME.rstrip("/")


def warn_of_mistype(text: str, *, is_first: bool = True) -> None:
    """Warn if `text`, a path or a part of one, looks like a URI and is none.

    Args:
        text: what pathlib takes for a path.
        is_first: whether it begins the path.
    """
    hint = "" if text.startswith("./") else _hint(text, is_first)
    if hint:
        warnings.warn(
            f"{text!r} is a plain path, and not a URI of files: {hint}", stacklevel=_depth_of_caller()
        )


def warn_of_mistyped_value(text: str) -> None:
    """Warn if `text`, any value of a program, begins as a URI that is mistyped."""
    if is_mistyped(text):
        warnings.warn(f"{text!r} is plain text: {hint_for(text)}", stacklevel=_depth_of_caller())


def is_mistyped(text: str) -> bool:
    """Say whether `text`, any value of a program, begins as a URI that is mistyped."""
    return len(text) > len(_WORD) and _MISTYPED.match(text) is not None and not text.startswith(SCHEME)


def hint_for(text: str) -> str:
    """Return how to write `text`, which `is_mistyped`."""
    return _hint(text, True)


def _hint(text: str, is_first: bool) -> str:
    """Return how to write what was probably meant; "" for text that is all right."""
    start = _MISTYPED.match(text)
    if start is not None and not is_first:
        return f"{SCHEME} stands only at the beginning; make the Path from this text alone"
    if start is not None and not text.startswith(SCHEME):
        return f"write {SCHEME + text[len(_WORD) :].lstrip('/')!r}"
    if (within := _WITHIN.search(text, 1)) is not None:
        return f"{SCHEME} stands only at the beginning; write {SCHEME + text[within.end() :].lstrip('/')!r}"
    return ""


def _depth_of_caller() -> int:
    """Return the stack level, as `warnings.warn` counts it, of the code that is not ours or pathlib's."""
    frame, depth = sys._getframe(2), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("lit_storage", "pathlib")
    ):
        frame, depth = frame.f_back, depth + 1
    return depth
