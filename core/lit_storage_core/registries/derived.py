"""What a work record means once it is known who lives.

Invariant: ``failed`` of a Work that could not say so itself is derived: its record says running, and
that instance does not live. It is stored only by who then publishes what the Work left.
"""

from __future__ import annotations

import dataclasses

from lit_storage_proto.registry import WorkRecord, WorkState


def derive_state(record: WorkRecord, *, lives: bool) -> WorkRecord:
    """Return `record` as ``failed`` if it says running and its instance does not live."""
    if record.state is WorkState.RUNNING and not lives:
        return dataclasses.replace(record, state=WorkState.FAILED)
    return record
