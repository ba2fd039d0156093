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
    """"stream": over the wire; "stream, renamed twice": the same, and the file system cannot exchange
    names, so for a moment the target was missing; "own": one's own path, nothing to transfer."""
    skipped: tuple[str, ...] = ()
    """Devices, sockets, FIFOs, and links that leave the tree, relative to it: the first of them."""
    skipped_count: int = 0
    """How many there were in all."""
