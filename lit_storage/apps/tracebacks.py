"""Tracebacks as users need them: they begin where their own code does."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

_OURS = ("lit_storage", "lit_storage_client", "lit_storage_core", "lit_storage_proto", "lit_storage_server")


def user_traceback(error: BaseException) -> str:
    """Return the traceback of `error` without our frames at its top; "" where there are no others."""
    trace = _skip_ours(error.__traceback__)
    if trace is None and error.__cause__ is None and not isinstance(error, SyntaxError):
        return ""
    return "".join(traceback.format_exception(type(error), error, trace))


def user_line(error: BaseException) -> str:
    """Return ``FILE:LINE, in FUNCTION`` of the user's code that last had a hand in `error`, or ""."""
    last = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if not _is_not_users(frame.f_globals.get("__name__", "")):
            last = f"{frame.f_code.co_filename}:{line}, in {frame.f_code.co_qualname}"
    return last


def _skip_ours(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and _is_not_users(trace.tb_frame.f_globals.get("__name__", "")):
        trace = trace.tb_next
    return trace


def _is_not_users(module: str) -> bool:
    package = module.partition(".")[0]
    return package in _OURS or package in sys.stdlib_module_names
