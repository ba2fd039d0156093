"""What a get did, as its caller is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Transfer:
    """One finished get."""

    files: int
    """Regular files that were written."""
    bytes: int
    """Bytes of content that were written."""
    seconds: float
    """From the call to the new tree in its place."""
    how: str
    """How most of the bytes came: "stream": over the wire; "copy": copied on this machine by its kernel;
    "reflink": sharing blocks with the original; "own": one's own path, nothing to transfer. With ",
    renamed twice" the file system cannot exchange names, so for a moment the target was missing."""
    skipped: tuple[str, ...] = ()
    """Devices, sockets, FIFOs, and links that leave the tree, relative to it: the first of them."""
    skipped_count: int = 0
    """How many there were in all."""
    hard_linked: int = 0
    """Files that have other names at their origin too; here each is a file of its own."""
    unsettled: tuple[str, ...] = ()
    """With ``on_change="accept"``, what was still changing, relative to the target: the first 100."""
    unsettled_count: int = 0
    """How many there were in all."""
