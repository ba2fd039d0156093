"""What a call of StreamFiles asks for beside a path, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """What is here already of one file."""

    path: str
    """Relative to the path that is asked for."""
    version: bytes
    spans: Sequence[tuple[int, int]]
    """Ascending and disjoint: from this byte up to that one."""


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """What the frames of a call may hold, beside entries and chunks in order; as of StreamFilesRequest."""

    packs: bool = False
    holes: bool = False
    settle: bool = False
    accept_changes: bool = False
    follow_links: bool = False
    links_as_origin: bool = False
    """Whether the origin decides about links, unless they are followed anyway."""
    held: Sequence[Held] = ()
    direct: bool = False
