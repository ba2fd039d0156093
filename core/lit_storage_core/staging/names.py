"""Names of a staging and of what lies in it: which process owns it, and how far it is.

``<id>.<state>/{owner,journal,swap,tree,old,held,parents}``. A staging that is being made has its owner in
its own name, since the file that names the owner is not there yet.
"""

from __future__ import annotations

import dataclasses
import enum

from lit_storage_core.system.process import ProcessIdentity

TREE = "tree"
OLD = "old"
OWNER = "owner"
SWAP = "swap"
ABANDONED = "abandoned"
"""What the file OWNER holds in place of an owner, of a staging that anybody may go on from."""


class State(enum.Enum):
    """How far a staging is; what its name ends with."""

    MAKING = ".making"
    FILLING = ".filling"
    SWAPPING = ".swapping"
    DISCARDING = ".discarding"


def name_with_owner(stem: str) -> str:
    """Return the name of a staging that is about to be made by this process."""
    owner = dataclasses.astuple(ProcessIdentity.current())
    return ",".join([stem, *map(str, owner)]) + State.MAKING.value


def owner_in(name: str) -> ProcessIdentity | None:
    """Return what `name_with_owner` put into a name; None where the owner's file says it."""
    match stem_of(name).split(","):
        case [_, pid, start_time, boot_id, pid_namespace]:
            return ProcessIdentity(int(pid), int(start_time), boot_id, pid_namespace)
    return None


def stem_of(name: str) -> str:
    """Return a name without its state."""
    for state in State:
        name = name.removesuffix(state.value)
    return name
