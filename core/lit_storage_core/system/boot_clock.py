"""A clock that also counts while the machine is suspended, so that a lease is never taken for younger."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux has it: clock_gettime(2)


def boot_seconds() -> float:
    """Return seconds since some moment, the same one for all processes of this machine's boot."""
    return time.clock_gettime(_CLOCK)
