"""The numbers that bound a wait, a message or a queue, with their defaults.

No wait is without a number. Those that a user may want to change are fields of `Limits`, a frozen
value: give another one to ``join``, ``connect`` or ``App``. A number that only one module needs,
and that nobody would change, is a named constant of that module.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass, fields

from lit_storage_proto.errors import InvalidConfig

KIB = 1024
MIB = 1024 * KIB

# The wire's own rules; two peers must agree on them, so they cannot be set.
MAX_MESSAGE_BYTES = 4 * MIB  # gRPC's customary limit on what is received
MAX_FRAME_BYTES = 1 * MIB  # what a sender keeps every message of a stream within
MAX_FRAME_FIELDS = 32_768  # of such a message, and of each chunk and pack in it
MAX_NAME_CHARACTERS = 128
MAX_PATH_BYTES = 64 * KIB  # over Linux' PATH_MAX of 4 KiB: trees are walked through directory fds
MAX_LINKS = 40  # followed on the way to one path, as many as Linux does: path_resolution(7)
MAX_LINKED_DIRECTORIES = 10_000  # to which the links of one tree lead
MAX_HELD_FILES = 10_000  # that one request names
MAX_TREE_BYTES = 2048 * MIB  # of memory for what is remembered of a tree; small files in packs are not
TREE_ENTRY_BYTES = 128  # of a name alone; with a large file, a directory or a link some four times as much
MAX_RANGES = 10_000  # of one request: more are asked for in further ones
MAX_MANIFEST_BYTES = 1024 * MIB  # of a version in a store of artifacts
OBJECT_BYTES = 8 * MIB  # of an object in a store of artifacts; the last one of a version may be smaller


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait and how much to hold. Times are in seconds, sizes in bytes.

    Raises:
        InvalidConfig: a value is no number of its kind, or outside of what can be meant.
    """

    connect_seconds: float = 5.0
    """Until a channel to a peer stands."""
    unary_seconds: float = 10.0
    """One Exists or Stat, from call to answer."""
    resolve_seconds: float = 5.0
    """One look-up or change in the registry, with all that is tried again within it."""
    lease_seconds: float = 15.0
    """How long a silent holder keeps its name, in a registry of leases; whole seconds, 2 or more."""
    watch_seconds: float = 3.0
    """What a registry said is taken from memory while it was heard of within so long."""
    progress_seconds: float = 60.0
    """A stream that carries nothing new for so long is given up, on either side. A message counts once it is
    whole, which on a line of less than 9 kB/s takes longer: raise this and `resume_seconds` there, or lower
    the origin's `chunk_bytes`."""
    least_bytes_per_second: int = 256
    """What a stream brings makes up for waiting at this rate; slower, it is given up as if it were silent."""
    resume_seconds: float = 60.0
    """How long a get goes on trying to reach an origin again after contact was lost, in sum, with what it
    waited in contact before; what comes makes up for it, at `least_bytes_per_second`. 0: never again."""
    stop_grace_seconds: float = 30.0
    """From asking a Work to stop until it is killed."""
    publish_seconds: float = 30.0
    """What a Work that stops, or whose run returned, may take to publish what it declared."""
    custody_seconds: float = 5.0
    """How often a custodian looks for Works that ended; the end of one that it has seen it learns at once."""
    linger_seconds: float = 1.0
    """How long a stopping server keeps its connections after the last stream, so that it is read."""
    start_seconds: float = 60.0
    """From starting a Work's process until it is registered."""
    staging_seconds: float = 24 * 3600.0
    """Age at which staged files are discarded whose owner cannot be looked up."""
    reader_seconds: float = 30.0
    """How long a replaced tree stays for readers that hold a descriptor of its directory."""
    chunk_bytes: int = 512 * KIB
    """Largest run of bytes of one file in one message; what is more than a frame holds is cut to that."""
    server_streams: int = 16
    """Streams that one peer server runs at once; more are refused with RESOURCE_EXHAUSTED."""
    peer_share: float = 0.75
    """Part of `server_streams`, rounded up, that one peer may have; 1 lets it have all. See `places`."""
    server_reserve: int = 8
    """Threads kept for Exists, Stat and health while all streams run."""
    fetch_workers: int = 4
    """Transfers that one automatic transfer runs at once."""
    store_seconds: float = 30.0
    """One request to a store of artifacts, with all that is tried again within it."""
    store_requests: int = 3
    """Requests that one transfer has under way at a store of artifacts, of up to 8 MiB each."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name), whole=field.type == "int")


def check_timeout(timeout: object) -> None:
    """Refuse what is no timeout of a call: None, or seconds from 0 on.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative or NaN.
    """
    if timeout is None:
        return
    if not isinstance(timeout, numbers.Real) or isinstance(timeout, bool):
        raise TypeError(f"timeout={timeout!r} is not a number; give seconds, or None to wait without a limit")
    try:
        is_duration = float(timeout) >= 0
    except OverflowError:
        is_duration = False
    if not is_duration:
        raise ValueError(f"timeout={timeout!r:.40} is not a duration; give seconds from 0 on, or None")


# 23 days. poll(2), sockets and gRPC take milliseconds as a signed 32-bit integer, which ends at 24.8 days.
_MOST_SECONDS = 2_000_000
_MOST_COUNT = 4096
_MOST = {"chunk_bytes": 64 * MIB, "least_bytes_per_second": 1024 * MIB, "peer_share": 1}


def _check(name: str, value: object, *, whole: bool) -> None:
    least = 0 if name.endswith("_seconds") else 1 if whole else 1 / _MOST_COUNT
    most = _MOST.get(name, _MOST_COUNT if whole else _MOST_SECONDS)
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not (is_number and least <= value <= most):  # type: ignore[operator]
        kind = "a whole number" if whole else "a number"
        try:
            given = f"and is {value!r:.40}"
        except ValueError:  # Python writes no number of more than 4,300 digits
            given = "and is far from that"
        raise InvalidConfig(f"the limit {name} must be {kind} from {least} to {most:.10g}, {given}")
