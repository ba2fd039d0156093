"""`Flow`: the tree of Works, and the order in which they run.

A Work is named after the attributes that lead to it, joined by dots: ``train``, ``stage.train``,
``workers.0``, ``workers.key``. Naming changes nothing but `Origin.name` and the Paths, which are
replaced by attached ones.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from lit_storage.apps.assignments import own_paths, path_of_text
from lit_storage.apps.attributes import Attributes
from lit_storage.apps.class_attributes import class_paths
from lit_storage.apps.internals import attributes_of, internals
from lit_storage.apps.paths_in_values import Copies, replace_paths
from lit_storage.apps.work import Work
from lit_storage.executors.work_state import is_flat
from lit_storage.paths.home import Home
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
        object.__setattr__(self, name, path_of_text(value))


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
    for path, member in _members(flow):
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

    holders = (flow, *(member for _, member in _members(flow)))
    owned = _own_all_paths(holders)
    copies: Copies = {}
    for holder in holders:
        attributes = _attributes(holder)
        for name, before in attributes.snapshot().items():
            value = replace_paths(before, lambda path: path, owned) if isinstance(holder, Flow) else before
            if (value := replace_paths(value, attached, copies)) is not before:
                attributes[name] = value


def _own_all_paths(holders: Iterable[Work | Flow]) -> Copies:
    """Make each Work the origin of the Paths in its attributes, those of its class among them.

    Returns:
        The immutable containers that were copied. A Flow may hold their originals: in place of them, it
        takes the copy of the first Work.
    """
    owned: Copies = {}
    for holder in holders:
        attributes = _attributes(holder)
        attributes.update(class_paths(holder))
        # A frozen dataclass, for one, assigns without `__setattr__` of Work or Flow.
        attributes.update({n: Path(text) for n, text in attributes.snapshot().items() if _is_lit_text(text)})
        if isinstance(holder, Work):
            owned = {**own_paths(holder), **owned}
    return owned


def _attributes(holder: Work | Flow) -> Attributes:
    return attributes_of(holder) if isinstance(holder, Work) else Attributes(holder)


def _is_lit_text(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(SCHEME)


def _members(root: Flow, prefix: str = "") -> Iterator[tuple[str, Work | Flow]]:
    """Yield each Work and Flow below `root` with the dotted name of the way to it."""
    seen: dict[int, Any] = {}  # with the containers, so that no other one gets the id of one of them
    rest: list[tuple[str, Any]] = [(prefix, root)]
    while rest:
        prefix, value = rest.pop()
        if value is not root and isinstance(value, (Work, Flow)):
            yield prefix, value
        if isinstance(value, Work) or id(value) in seen:
            continue
        children = _children(value)
        if not is_flat(children.values() if isinstance(children, dict) else children):
            seen[id(value)] = value
            keyed = children.items() if isinstance(children, dict) else enumerate(children)
            rest.extend(reversed([(f"{prefix}.{key}" if prefix else str(key), item) for key, item in keyed]))


def _children(value: Any) -> dict[Any, Any] | list[Any] | tuple[Any, ...]:
    if isinstance(value, Flow):
        return Attributes(value).snapshot()
    return value.copy() if isinstance(value, (list, dict)) else value if isinstance(value, tuple) else ()
