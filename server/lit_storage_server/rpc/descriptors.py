"""How many descriptors a process that serves has, and how many of them connections may take.

Invariant: connections, which cost their callers no token, never take what files and directories need.
"""

from __future__ import annotations

import contextlib
import resource

_ENOUGH = 65_536
_MOST_CONNECTIONS = 4096  # of some 20 KiB each


def raise_limit() -> None:
    """Allow this process as many descriptors as its user may have, as far as they are of use.

    The customary 1,024 are for programs that call select(2), which this is none of.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections(listeners: int = 1) -> int:
    """Return how many connections each listener may have: half of the descriptors at the most for all."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(soft // 2, _MOST_CONNECTIONS)
    return max(1, most // listeners)
