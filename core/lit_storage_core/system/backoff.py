"""How long to wait between attempts. Pure: it does not sleep."""

from __future__ import annotations

from collections.abc import Iterator


def backoff(first_seconds: float, longest_seconds: float) -> Iterator[float]:
    """Yield without an end the pauses between attempts, each twice the one before, up to the longest."""
    pause = first_seconds
    while True:
        yield pause
        pause = min(pause * 2, longest_seconds)
