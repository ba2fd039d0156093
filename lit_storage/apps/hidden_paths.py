"""Warnings of Paths in attributes that are no state: they are neither shared nor fetched from there."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lit_storage.apps.paths_in_values import first_hidden_path
from lit_storage.executors.work_state import is_state
from lit_storage.paths.path import Path
from lit_storage.sessions.persistence import tell


class HiddenPaths:
    """Warns of the attributes of one Work, once for each attribute and type of its value."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._warned: set[tuple[str, type]] = set()

    def look(
        self, attributes: Mapping[str, Any], names: Iterable[str], known: Callable[[], Iterable[Path]]
    ) -> None:
        """Warn of each of `names` that holds a Path other than those `known` and those below them.

        Args:
            attributes: all attributes of the Work.
            names: which of them to look at.
            known: gives the Paths that are declared or fetched already, for another place holds them as well.
        """
        opaque = {
            name: attributes[name] for name in names if name in attributes and not is_state(attributes[name])
        }
        places: set[str] | None = None
        for name, value in opaque.items():
            if (name, type(value)) in self._warned:
                continue
            if places is None:
                places = {_place(path) for path in known()}
            path = first_hidden_path(value, functools.partial(_is_outside, places))
            if path is not None:
                self._warned.add((name, type(value)))
                tell([self._warning(name, value, path)])

    def _warning(self, name: str, value: Any, path: Path) -> str:
        return (
            f"attribute {name!r} of {self._work!r} is a {type(value).__name__}, which is no state, so the "
            f"Path {str(path)!r} in it is not handed over; assign the Path to an attribute of its own too"
        )


def _place(path: Path) -> str:
    return os.path.normpath(str(path))


def _is_outside(places: set[str], path: Path) -> bool:
    place = _place(path)
    return not any(place == each or place.startswith(each.rstrip("/") + "/") for each in places)
