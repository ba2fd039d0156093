"""Whose files a Path means: an object with identity, whose name is given once and never changes.

A Work makes its Origin before it has a name. Every Path that derives from the Work's attributes
holds this one object, so that all of them learn the name in the moment the Work gets it.
"""

from __future__ import annotations

import uuid
import weakref

from lit_storage_proto.uri import check_name


class Origin:
    """The Work, named or not yet named, that owns the files of a Path."""

    __slots__ = ("__weakref__", "_name", "token")

    def __init__(self, name: str | None = None) -> None:
        self._name = None if name is None else check_name(name)
        self.token = uuid.uuid4().hex if name is None else ""
        """Finds an Origin without a name again, within this process; empty for one made with a name."""
        if self.token:
            _nameless[self.token] = self

    @property
    def name(self) -> str | None:
        """The name, or None as long as the Work has none."""
        return self._name

    def assign(self, name: str) -> None:
        """Give the name. The same name may be given again.

        Raises:
            InvalidURI: `name` cannot be the name of a Work.
            RuntimeError: another name was given before.
        """
        if self._name not in (None, name):
            raise RuntimeError(f"an origin keeps its name: it is {self._name!r} and cannot become {name!r}")
        self._name = check_name(name)

    def same(self, other: Origin) -> bool:
        """Say whether both are one Work: by identity, or by name where both have one."""
        return self is other or (self._name is not None and self._name == other._name)

    def __repr__(self) -> str:
        return f"Origin({self._name!r})"


_nameless: weakref.WeakValueDictionary[str, Origin] = weakref.WeakValueDictionary()


def recall(name: str | None, token: str = "") -> Origin | None:
    """Return the Origin that a name, or else a token of this process, stands for.

    Raises:
        InvalidURI: `name` cannot be the name of a Work.
    """
    return Origin(name) if name is not None else _nameless.get(token)
