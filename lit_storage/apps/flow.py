"""`Flow`: the tree of Works, and the order in which they run.

A Work is named after the attributes that lead to it, joined by dots: ``train``, ``stage.train``,
``workers.0``, ``workers.key``. Naming changes nothing but `Origin.name` and the Paths, which are
replaced by attached ones.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from lit_storage.apps.class_attributes import class_paths
from lit_storage.apps.paths_in_values import Copies, replace_paths
from lit_storage.apps.work import Work, internals, own_paths
from lit_storage.paths.home import Home
from lit_storage.paths.mistypes import warn_of_mistyped_value
from lit_storage.paths.path import Path, attach
from lit_storage_proto.errors import NameTaken
from lit_storage_proto.uri import SCHEME, check_name


class Flow(abc.ABC):
    """Holds Works (and other Flows) as attributes; subclass it and write `run`.

    An attribute that is a str starting with ``lit://`` becomes a `Path`, which has no origin until
    it becomes an attribute of a Work. So does one of the class when the App is built. A Flow moves no files.
    """

    @abc.abstractmethod
    def run(self) -> Any:
        """Call the `run` of the Works. Runs once, in the main process."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, str):
            warn_of_mistyped_value(value)
            value = Path(value) if value.startswith(SCHEME) else value
        object.__setattr__(self, name, value)


def name_works(flow: Flow, taken: Collection[str] = ()) -> dict[str, Work]:
    """Name each Work of the tree that has no name yet; return all of them by name.

    Nothing is named where one name cannot be given.

    Args:
        flow: the root of the tree.
        taken: names that a new Work cannot have, since another one serves under them.

    Raises:
        InvalidURI: the attributes and keys that lead to a Work make no name.
        NameTaken: those of two Works make the same name, or one that is taken.
    """
    works: dict[str, Work] = {}
    seen: set[int] = set()
    for path, member in _members(flow, ""):
        if not isinstance(member, Work) or id(member) in seen:
            continue
        seen.add(id(member))
        given = internals(member).origin.name
        name = check_name(path) if given is None else given
        if name in works:
            raise NameTaken(f"two Works of the Flow would both be {name!r}; rename an attribute or key")
        if given is None and name in taken:
            raise NameTaken(f"{name!r} was another Work before, which still serves; stop() that one first")
        works[name] = member
    for name, member in works.items():
        internals(member).origin.assign(name)
    return works


def attach_paths(flow: Flow, here: Home) -> None:
    """Replace each Path in the attributes of the tree whose origin has a name by an attached one.

    Each ``lit://`` text of a class becomes an attribute of the instance before that.
    """

    def attached(path: Path) -> Path:
        origin = path._origin
        return path if origin is None or origin.name is None else attach(path, origin, here)

    holders = (flow, *(member for _, member in _members(flow, "")))
    owned = _own_all_paths(holders)
    copies: Copies = {}
    for holder in holders:
        attributes = vars(holder)
        for name, value in list(attributes.items()):
            if name != "_lit":
                if isinstance(holder, Flow):
                    value = replace_paths(value, lambda path: path, owned)
                attributes[name] = replace_paths(value, attached, copies)


def _own_all_paths(holders: Iterable[Work | Flow]) -> Copies:
    """Make each Work the origin of the Paths in its attributes, those of its class among them.

    Returns:
        The immutable containers that were copied. A Flow may hold their originals: in place of them, it
        takes the copy of the first Work.
    """
    owned: Copies = {}
    for holder in holders:
        vars(holder).update(class_paths(holder))
        if isinstance(holder, Work):
            owned = {**own_paths(holder), **owned}
    return owned


def _members(
    value: Any, prefix: str, *, seen: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Work | Flow]]:
    """Yield each Work and Flow below `value` with the dotted name of the way to it."""
    if id(value) in seen:
        return
    seen |= {id(value)}
    for key, item in _children(value):
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(item, (Work, Flow)):
            yield name, item
        if not isinstance(item, Work):
            yield from _members(item, name, seen=seen)


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Flow):
        yield from list(vars(value).items())
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif isinstance(value, dict):
        yield from list(value.items())
