"""Assignments to the attributes of a Work: what is accepted, what is stored, and who is notified.

A refused assignment raises and leaves the attribute as it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lit_storage.apps.attributes import is_managed
from lit_storage.apps.internals import attributes_of, internals, is_work
from lit_storage.apps.paths_in_values import Copies, replace_paths
from lit_storage.executors.work_state import MOST_LEVELS, is_public, is_too_deep
from lit_storage.paths import home
from lit_storage.paths.mistypes import warn_of_mistyped_value
from lit_storage.paths.path import Path, attach, with_consumer, with_origin
from lit_storage_proto.uri import SCHEME


def accepted(work: object, name: str, value: Any) -> Any:
    """Return what `value` becomes as an attribute: a ``lit://`` str becomes a Path, a Path gets its origin.

    Raises:
        TypeError: `value` is a Work.
        ValueError: `value` is state that is nested too deeply.
    """
    if value is None or type(value) in (bool, int, float):
        return value
    if is_work(value):
        raise TypeError(f"{name!r} cannot hold a Work: assign it to the Flow, and pass its Paths to run()")
    if is_public(name) and is_too_deep(value):
        raise ValueError(
            f"{name!r} cannot be nested more than {MOST_LEVELS} levels deep, since it is state; flatten it, "
            "or assign it in run() to an attribute whose name starts with '_'"
        )
    value = path_of_text(value)
    return _placed(work, value) if isinstance(value, Path) else value


def path_of_text(value: Any) -> Any:
    """Return the Path that a str means if it starts with ``lit://``; any other value as it is.

    A str that looks like a mistyped URI is warned of.
    """
    if not isinstance(value, str):
        return value
    warn_of_mistyped_value(value)
    return Path(value) if value.startswith(SCHEME) else value


def _placed(work: object, path: Path) -> Path:
    """Return `path` with this Work as its origin, or as its consumer where it has an origin."""
    origin = internals(work).origin
    if path.origin_name == origin.name is not None:
        return path
    if path._origin is not None:
        return with_consumer(path, origin)
    here = home.current()
    path = with_origin(path, origin)
    return attach(path, origin, here) if here is not None and origin.name is not None else path


def assign(work: object, name: str, set_attribute: Callable[[], None], *, is_accepted: bool) -> None:
    """Assign an attribute and notify who watches `work`; restore what is stored where that raises.

    No getter of the user is called: it may take a lock that the caller holds.

    Args:
        work: the Work.
        name: of the attribute.
        set_attribute: assigns it.
        is_accepted: whether the value is what `accepted` returned; otherwise it is replaced by that.
    """
    attributes = attributes_of(work)
    # A setter of the user may change any attribute.
    changing = None if is_managed(type(work), name) else name
    before = attributes.stored(changing)
    set_attribute()
    attributes.note(name)
    try:
        if not is_accepted:
            accept_stored(work, name)
        report_assignment(work, name)
    except Exception:
        attributes.restore(before, changing)
        raise


def report_assignment(work: object, name: str) -> None:
    """Notify who watches `work` that an attribute was assigned or deleted."""
    own = internals(work)
    if own.supervisor is not None:
        own.supervisor.assigned(name)
    if own.on_assign is not None:
        own.on_assign(work, name)


def followed(set_attribute: Callable[[Any, str, Any], None]) -> Callable[[Any, str, Any], None]:
    """Return a ``__setattr__`` of the user such that its assignments are noticed without a call of `super()`.

    attrs generates such a method for validators, and dataclasses do for frozen ones.
    """
    if hasattr(set_attribute, "_lit_follows"):
        return set_attribute

    @functools.wraps(set_attribute)
    def set_and_report(work: object, name: str, value: Any) -> None:
        assign(work, name, lambda: set_attribute(work, name, value), is_accepted=False)

    set_and_report._lit_follows = True  # type: ignore[attr-defined]
    return set_and_report


def accept_stored(work: object, name: str) -> None:
    """Let an attribute be what `accepted` makes of it, where it was assigned without."""
    attributes = attributes_of(work)
    if attributes.is_stored(name) and name in attributes:
        value = attributes[name]
        new = accepted(work, name, value)
        if new is not value:
            attributes[name] = new


def own_paths(work: object, name: str | None = None) -> Copies:
    """Make this Work the origin of each Path that has none in its attributes, also in containers.

    Args:
        work: the Work.
        name: look at this attribute alone.

    Returns:
        The immutable containers that were copied.
    """
    attributes, origin = attributes_of(work), internals(work).origin
    copies: Copies = {}
    for each in [name] if name is not None else list(attributes):
        if each in attributes:
            value = attributes[each]
            owned = replace_paths(value, lambda path: with_origin(path, origin), copies)
            if owned is not value:
                attributes[each] = owned
    return copies
