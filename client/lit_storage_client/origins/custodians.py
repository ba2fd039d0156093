"""The custodians of each machine, as the registry said a moment ago.

To find them all live names are read, which is too much to be done for each question about a Work that
stopped.

Invariant: what is remembered is at most `seconds` old, and is forgotten once asking one of them failed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

from lit_storage_proto.registry import LiveRecord, Registry

_MOST_MACHINES = 256


class Custodians:
    """Finds the custodians of a machine. May be used from any thread.

    Args:
        registry: knows them.
        seconds: for how long they are remembered.
    """

    def __init__(self, registry: Registry, seconds: float) -> None:
        self._registry = registry
        self._seconds = seconds
        self._known: OrderedDict[str, tuple[float, Sequence[LiveRecord]]] = OrderedDict()
        self._changing = threading.Lock()

    def of(self, machine_id: str) -> Sequence[LiveRecord]:
        """Return them. That there is none is not remembered: one that is started is seen at once.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """
        with self._changing:
            asked, found = self._known.get(machine_id, (0.0, ()))
        if found and time.monotonic() - asked < self._seconds:
            return found
        asked = time.monotonic()
        found = tuple(
            record for record in self._registry.live() if record.custodian and record.machine_id == machine_id
        )
        with self._changing:
            self._known.pop(machine_id, None)
            if found:
                self._known[machine_id] = (asked, found)
            if len(self._known) > _MOST_MACHINES:
                self._known.popitem(last=False)
        return found

    def forget(self, machine_id: str) -> None:
        """Ask the registry the next time."""
        with self._changing:
            self._known.pop(machine_id, None)
