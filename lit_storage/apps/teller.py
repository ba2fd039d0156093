"""Tells the Flow of what a Work assigned, with at most one unsent message of it at any time.

`run` may assign faster than the Flow takes messages. So an assignment only notes a name and asks,
once, to be heard; values are looked up and pickled when the message is about to be sent, and a
name that was assigned a thousand times since is told once. Memory stays within the size of the
state, and a report that ends a run is one message behind at most.

`assigned` takes no lock: a signal handler may assign an attribute while an assignment is told.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from lit_storage.executors import Changed, Message, Report
from lit_storage.executors.work_state import Changes, Ledger

_LOG = logging.getLogger("lit_storage.work")

Post = Callable[[Message | Callable[[], Report | None]], None]
"""Sends a message in its turn, or what a function returns when its turn comes, unless that is None."""


class Teller:
    """The state of one Work, on its way to the Flow."""

    def __init__(self, attributes: Mapping[str, Any], post: Post) -> None:
        self._attributes = attributes
        self._post = post
        self._ledger = Ledger()
        self._looking = threading.Lock()  # never taken by `assigned`
        self._assigned: set[str] = set()
        self._asked = False
        self._held_back = False
        self._epoch = 0
        for name, value in attributes.items():
            self._ledger.note(name, value)

    def assigned(self, name: str) -> None:
        """Tell the Flow soon that an attribute was assigned or deleted."""
        self._assigned.add(name)
        if not self._asked and not self._held_back:
            self._ask()

    def received(self, name: str, value: Any) -> None:
        """Know that the Flow has this value: it sent it."""
        with self._looking:
            self._ledger.note(name, value)

    def forgotten(self, name: str) -> None:
        """Know that the Flow deleted the attribute."""
        with self._looking:
            self._ledger.forget(name)

    def report(self, make: Callable[[Changes], Report]) -> Report:
        """Return a report with all changes, in-place ones too. `sent` must follow when it is posted.

        In between, assignments wait, so that no older value overtakes a newer one.
        """
        self._held_back = True
        self._epoch += 1  # what was asked for before is in this report
        with self._looking:
            return make(self._ledger.changes(self._attributes))

    def sent(self) -> None:
        """Go on telling of assignments."""
        self._held_back = False
        self._asked = False
        if self._assigned:
            self._ask()

    def _ask(self) -> None:
        self._asked = True
        epoch = self._epoch
        self._post(lambda: self._changed(epoch))

    def _changed(self, epoch: int) -> Changed | None:
        if epoch != self._epoch:
            return None
        self._asked = False  # before the names are taken: one that comes later asks again
        names = set()
        while self._assigned:
            names.add(self._assigned.pop())
        try:
            with self._looking:
                changes = self._ledger.changes(self._attributes, only=names)
        except Exception:  # noqa: BLE001  pickling calls code of the user; the reports behind it must go on
            _LOG.exception("what was assigned to %s cannot be told", ", ".join(sorted(names)))
            return None
        return Changed(changes) if changes != Changes() else None
