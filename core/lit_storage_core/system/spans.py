"""Runs of bytes of one file, each from this byte up to that one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]


def without(held: Sequence[Span], size: int) -> list[Span]:
    """Return what of a file of `size` bytes is not in `held`, which ascends and is disjoint."""
    rest, position = [], 0
    for start, end in held:
        if position < min(start, size):
            rest.append((position, min(start, size)))
        position = max(position, end)
    if position < size:
        rest.append((position, size))
    return rest


def clipped(size: int, offset: int, length: int | None) -> Span:
    """Return where a part begins and ends that was asked for of a file of `size` bytes.

    Args:
        size: of the file.
        offset: where the part begins; behind the end of the file it is empty.
        length: how many bytes it has at the most; None is up to the end of the file.
    """
    begin = min(offset, size)
    return begin, size if length is None else min(size, begin + length)
