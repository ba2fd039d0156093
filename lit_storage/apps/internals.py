"""What a Work is to the product, apart from its attributes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_storage.apps.attributes import INTERNALS, Attributes
from lit_storage.apps.supervisor import Supervisor
from lit_storage.executors import Resources
from lit_storage.paths.origin import Origin


@dataclass(slots=True)
class Internals:
    """What a Work is to the product. A pickle or a copy holds the settings alone."""

    origin: Origin = field(default_factory=Origin)
    parallel: bool = False
    persist: str = "stop"
    symlinks: Literal["keep", "follow"] = "keep"
    resources: Resources = field(default_factory=Resources)
    managed: set[str] = field(default_factory=set[str])
    """The names of its managed attributes."""
    supervisor: Supervisor | None = None
    on_assign: Callable[[Any, str], None] | None = None

    def take_settings(self, other: Internals) -> None:
        """Have the settings of `other`."""
        self.parallel, self.persist, self.symlinks = other.parallel, other.persist, other.symlinks
        self.resources = other.resources
        self.managed |= other.managed

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_settings, (self.parallel, self.persist, self.symlinks, self.resources, set(self.managed))


def _of_settings(
    parallel: bool,
    persist: str,
    symlinks: Literal["keep", "follow"],
    resources: Resources,
    managed: set[str],
) -> Internals:
    return Internals(Origin(), parallel, persist, symlinks, resources, managed)


def internals(work: object) -> Internals:
    """Return what `work` is to the product."""
    own: Internals | None = vars(work).get(INTERNALS)
    # A class may have a __new__ that does not call ours, or a __setstate__ that replaces __dict__.
    return own if own is not None else vars(work).setdefault(INTERNALS, Internals())


def attributes_of(work: object) -> Attributes:
    """Return the attributes of `work` by name."""
    return Attributes(work, internals(work).managed)


def is_work(value: object) -> bool:
    """Say whether `value` is a Work."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return False
    return isinstance(attributes.get(INTERNALS), Internals)
