"""Finds and lists what an artifact holds. Pure: no I/O.

Invariant: nothing but entries of the manifest is returned, and a link is followed only as long as what
it means lies in the same artifact, as a live Work follows links within what it shares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from lit_storage_proto.artifact import Manifest, StoredEntry
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError
from lit_storage_proto.limits import MAX_LINKED_DIRECTORIES, MAX_LINKS

MOST_FOLLOWED = 1_000_000
"""Entries that come by links, beside those that there are: a few links to each other multiply."""


class Item(NamedTuple):
    """One entry under the path that it is asked for by, and what of the artifact it is."""

    entry: Entry
    stored: StoredEntry


class ArtifactTree:
    """The entries of one manifest, as paths below its declared path."""

    def __init__(self, manifest: Manifest) -> None:
        self._by_path = manifest.by_path
        self._children: dict[str, list[StoredEntry]] | None = None

    def find(self, path: str) -> StoredEntry | None:
        """Return what a path means, links followed; None if nothing is there."""
        if (found := self._by_path.get(path)) is not None and found.entry.kind is not Kind.SYMLINK:
            return found
        pending, reached, links = path.split("/")[::-1], list[str](), 0
        while pending:
            name = pending.pop()
            if name == "..":
                if not reached:
                    return None
                reached.pop()
                continue
            if name in ("", "."):
                continue
            found = self._by_path.get("/".join([*reached, name]))
            if found is None:
                return None
            if found.entry.kind is not Kind.SYMLINK:
                reached.append(name)
                continue
            links += 1
            if links > MAX_LINKS or found.entry.link_target.startswith("/"):
                return None
            pending += found.entry.link_target.split("/")[::-1]
        return self._by_path.get("/".join(reached))

    def below(self, root: StoredEntry, *, recursive: bool = True, follow: bool = False) -> Iterator[Item]:
        """Yield `root` and what lies below it, a directory before what it holds.

        Args:
            root: one of the entries; it comes with the path "", and the others with theirs below it.
            recursive: False yields direct children only.
            follow: whether links come as what they mean; those that mean nothing, or hold themselves,
                are skipped.
        """
        yield _at(root, "")
        if root.entry.kind is Kind.DIRECTORY:
            yield from self._in(root.entry.path, "", recursive, follow)

    def _in(self, directory: str, shown: str, recursive: bool, follow: bool) -> Iterator[Item]:
        """Yield what a directory holds, with paths below `shown`; no recursion, trees are deep."""
        linked = found = 0
        pending: list[tuple[str, str, frozenset[str]]] = [(directory, shown, frozenset())]
        while pending:
            real, name, above = pending.pop()
            for child in self._held_by(real):
                path = _join(name, child.entry.path.rpartition("/")[2])
                found += 1
                if found > len(self._by_path) + MOST_FOLLOWED:
                    raise IntegrityError(
                        f"the links of an artifact lead to more than {MOST_FOLLOWED} files; get it with its "
                        'links as they are: symlinks="keep"'
                    )
                meant: StoredEntry | None = child
                if follow and child.entry.kind is Kind.SYMLINK:
                    meant = self.find(child.entry.path)
                    if meant is not None and meant.entry.kind is Kind.DIRECTORY:
                        linked += 1
                        holds_itself = meant.entry.path in above | {real} or _is_above(meant.entry.path, real)
                        if holds_itself or linked > MAX_LINKED_DIRECTORIES:
                            meant = None
                if meant is None or (follow and meant.entry.kind is Kind.SKIPPED):
                    yield Item(Entry(path, Kind.SKIPPED, 0, 0, child.entry.mtime_ns), child)
                    continue
                yield _at(meant, path)
                if recursive and meant.entry.kind is Kind.DIRECTORY:
                    pending.append((meant.entry.path, path, above | {real} if follow else above))

    def _held_by(self, directory: str) -> list[StoredEntry]:
        if self._children is None:
            self._children = {}
            for path, stored in self._by_path.items():
                if path:
                    self._children.setdefault(path.rpartition("/")[0], []).append(stored)
        return self._children.get(directory, [])


def _at(stored: StoredEntry, path: str) -> Item:
    entry = stored.entry
    return Item(entry if entry.path == path else dataclasses.replace(entry, path=path), stored)


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _is_above(directory: str, path: str) -> bool:
    return not directory or path.startswith(directory + "/")
