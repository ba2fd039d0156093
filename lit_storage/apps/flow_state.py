"""The state of one Work as its Flow has it: what the Work reported, and what the Flow assigned since.

An attribute is *withheld* while its value is of a type that stays in the Work's process. The Flow keeps the
value that it had before: the last state, or what ``__init__`` set. The next process gets that value.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import MutableMapping
from typing import Any

from lit_storage.apps.attributes import setter_refused
from lit_storage.executors import by_value
from lit_storage.executors.work_state import Changes, Ledger, NotState, is_public, pickled_state


class FlowState:
    """The attributes of the Flow's copy of a Work, and how they differ from those in the Work's process.

    Args:
        work: the name of the Work.
        attributes: those of the Flow's copy, kept up to date here.
    """

    def __init__(self, work: str, attributes: MutableMapping[str, Any]) -> None:
        self.withheld: dict[str, str] = {}
        """What withheld attributes are, by name."""
        self._work = work
        self._attributes = attributes
        self._ledger = Ledger()
        self._to_send: set[str] = set()
        self._kept: dict[str, Any] = {}  # the last values of withheld attributes
        self._not_loaded: dict[str, bytes] = {}  # the same, where the Flow cannot load them
        self._to_send_back: dict[str, bytes] = {}

    def restore(self) -> list[str]:
        """Take the kept values for a process that is about to start; return the names of these attributes."""
        restored, self._kept = self._kept, {}
        for name, value in restored.items():
            del self.withheld[name]
            self._attributes[name] = value
        self._to_send_back = self._not_loaded.copy()
        return [*restored, *self._to_send_back]

    def begin(self) -> None:
        """Know that a new process has the attributes as they are now."""
        self._ledger = Ledger()
        for name, value in self._attributes.items():
            if is_public(name):
                self._ledger.note(name, value)
        self._to_send.clear()

    def assigned(self, name: str) -> None:
        """Know that the Flow assigned or deleted an attribute: the next `run` brings it along."""
        self._forget_withheld(name)
        self._to_send.add(name)

    def changes(self) -> Changes:
        """Return what the next `run` brings along.

        Raises:
            TypeError: something that the Flow assigned cannot be pickled.
        """
        known_there = {n: v for n, v in self._attributes.items() if n not in self.withheld}
        of_any_type = self._assigned()
        changes = self._ledger.changes(known_there)
        # What is withheld from the Flow has no value here: its absence is no deletion.
        deleted = tuple(name for name in changes.deleted if name not in self.withheld)
        sent_back, self._to_send_back = self._to_send_back, {}
        return Changes({**sent_back, **of_any_type, **changes.assigned}, {}, deleted)

    def _assigned(self) -> dict[str, bytes]:
        """Return what the Flow assigned, pickled, whatever its type.

        Raises:
            TypeError: something cannot be pickled.
        """
        names = list(self._to_send)
        assigned = {n: self._pickled(n) for n in names if is_public(n) and n in self._attributes}
        self._to_send.difference_update(names)
        return assigned

    def _pickled(self, name: str) -> bytes:
        value = self._attributes[name]
        try:
            return pickled_state(value)
        except NotState:
            pass
        try:
            return by_value.dumps(value)
        except Exception as error:
            raise TypeError(
                f"attribute {name!r} cannot be sent to the process of {self._work!r}: {error}"
            ) from error

    def apply(self, changes: Changes) -> None:
        """Take what the Work reported."""
        for name, pickled in changes.assigned.items():
            self._take(name, pickled)
        for name, kind in changes.withheld.items():
            self._withhold(name, kind)
        for name in changes.deleted:
            self._attributes.pop(name, None)
            self._ledger.forget(name)
            self._forget_withheld(name)

    def _take(self, name: str, pickled: bytes) -> None:
        try:
            value = pickle.loads(pickled)  # noqa: S301  from the App's own process
        except Exception as error:  # noqa: BLE001  its class may be one that only the Work can import
            self._withhold(name, f"value that cannot be loaded in the Flow ({error})")
            self._kept.pop(name, None)
            self._not_loaded[name] = pickled
            warnings.warn(f"attribute {name!r} of {self._work!r} cannot be loaded: {error}", stacklevel=2)
            return
        try:
            self._attributes[name] = value
        except Exception as error:  # noqa: BLE001  a setter of the user may raise anything
            warnings.warn(setter_refused(self._work, name, error), stacklevel=2)
        self._ledger.note(name, self._attributes.get(name, value))  # a setter may have changed it
        self._forget_withheld(name)

    def _withhold(self, name: str, kind: str) -> None:
        if name in self._attributes:
            self._kept[name] = self._attributes.pop(name)
        self.withheld[name] = kind

    def _forget_withheld(self, name: str) -> None:
        for known in (self.withheld, self._kept, self._not_loaded, self._to_send_back):
            known.pop(name, None)
