"""Logs of a daemon: one line an event, as text for people or as JSON for programs.

Invariant: an event is one line, whatever the names in it hold: what could break a line or steer a
terminal is escaped. No token is ever given to a logger.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any, TextIO

from lit_storage_core.system.names import printable
from lit_storage_server.rpc.observation import DONE, Seen

LOG = logging.getLogger("lit_storage.daemon")
_FIELDS = "lit_storage_fields"
_MOST_PATH_CHARACTERS = 4096  # what a caller asks for can be longer by far than any path


def log(level: int, event: str, /, **fields: Any) -> None:
    """Log an event of a daemon with its fields."""
    LOG.log(level, "%s", event, extra={_FIELDS: fields})


def set_up(log_format: str, stream: TextIO | None = None) -> None:
    """Send what this process logs to `stream`, by default its standard error.

    Args:
        log_format: ``plain`` or ``json``.
        stream: where to.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, event, and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainFormatter(logging.Formatter):
    """Time, level, event, and the fields as ``key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = getattr(record, _FIELDS, {})
        parts = [
            _time(record).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            record.levelname,
            printable(record.getMessage()),
            *(f"{key}={_value(value)}" for key, value in fields.items()),
        ]
        text = " ".join(parts)
        if record.exc_info:
            text += " traceback=" + _value(self.formatException(record.exc_info))
        return text


class TransferLog:
    """An `Observer` that logs a line for each transfer."""

    def began(self) -> None:
        """See `Observer.began`; nothing is logged."""

    def ended(self, seen: Seen) -> None:
        """See `Observer.ended`."""
        log(
            logging.INFO if seen.status == DONE else logging.WARNING,
            "transfer",
            peer=seen.peer,
            path=_shortened(seen.path).encode("unicode_escape", "surrogatepass").decode("ascii"),
            bytes=seen.bytes,
            seconds=round(seen.seconds, 3),
            status=seen.status,
            **({"reason": seen.reason} if seen.reason else {}),
        )

    def refused(self, kind: str) -> None:
        """See `Observer.refused`; metrics count them."""


def _time(record: logging.LogRecord) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(record.created, datetime.UTC)


def _shortened(path: str) -> str:
    return path if len(path) <= _MOST_PATH_CHARACTERS else path[:_MOST_PATH_CHARACTERS] + "..."


def _value(value: Any) -> str:
    text = str(value)
    return text if text.isascii() and text.isprintable() and " " not in text and text else repr(text)
