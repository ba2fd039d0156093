"""Ends a session whatever fails meanwhile.

Invariant: the end of a session never replaces the result of the program. Each step is taken whatever befell
the ones before, what fails is warned of, and the registry may take no longer than `LEAVE_SECONDS` in all.
So `Session.close` warns too, instead of raising: it stands in ``finally`` blocks and exit handlers, and what
the registry still says of this process ends with its lease or its process anyway. A SIGTERM that would raise
SystemExit waits until all steps are taken.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import ParamSpec

from lit_storage.sessions.persistence import listed, tell

LEAVE_SECONDS = 5.0

P = ParamSpec("P")

_LOG = logging.getLogger("lit_storage.work")


class Departure:
    """The steps by which one session ends.

    Args:
        name: of the Work; None for a session that only connected.
    """

    def __init__(self, name: str | None) -> None:
        self._who = repr(name) if name else "a connected process"
        self._unrecorded: Exception | None = None

    def step(self, action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do one step that needs no registry; warn if it fails."""
        try:
            action(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  the result of the program matters more
            _LOG.debug("a step of the end of %s failed", self._who, exc_info=True)
            tell([f"{self._who} could not leave properly: {_text(error)}"])

    def record(self, action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do one step that writes to the registry; `warn` reports the first that failed."""
        try:
            action(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  as in `step`
            self._unrecorded = self._unrecorded or error

    def warn(self, pending: Mapping[str, bool]) -> None:
        """Warn if the registry does not know of the end.

        Args:
            pending: declared paths that somebody else can still publish, from the note of this instance.
        """
        if self._unrecorded is None:
            return
        text = f"the registry does not record the end of {self._who}: {_text(self._unrecorded)}"
        if pending:
            text += (
                f"; what it declared ({listed(list(pending))}) can be read when the custodian of its root "
                "(lit-storage serve) has published it, or when this Work has run again"
            )
        tell([text])


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
