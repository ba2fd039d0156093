"""How much time a get may lose before it is given up.

Invariant: time that passes is made up for by what comes, byte by byte, and by nothing else: neither by how
long a hole is, which costs a peer nothing to tell of, nor by another attempt. Else a peer that brings one
byte, waits and goes away, again and again, would be asked for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lit_storage_core.system.backoff import backoff
from lit_storage_proto.errors import PathNotFound, StorageError
from lit_storage_proto.frames import Frame
from lit_storage_proto.limits import Limits

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0


class Patience:
    """What one get has of it, over all of its attempts.

    Args:
        limits: `resume_seconds` may be lost in sum, out of contact, or in contact with a peer that went away
            after that; `least_bytes_per_second` make up for a second.
        return_seconds: how long an origin may be absent from its registry.
        deadline: when the get must have ended, on the clock of time.monotonic(); None for never.
    """

    def __init__(self, limits: Limits, return_seconds: float, deadline: float | None) -> None:
        self._limits = limits
        self._return_seconds = return_seconds
        self._deadline = deadline
        self._left = limits.resume_seconds
        self._since = 0.0  # when what was left was reckoned last, and what came since then
        self._came = self._in_frame = 0
        self._most = -1
        self._lost: StorageError | None = None
        self._until = 0.0
        self._absent_until: float | None = None
        self._pauses = backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)

    def weigh(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass frames on, and count what they bring."""
        for frame in frames:
            self._in_frame = frame.content_bytes
            self._came += frame.weight
            yield frame

    def advance(self, done: int) -> bool:
        """Take how many bytes are there, and say whether there were never so many: then there is contact."""
        if done <= self._most:
            return False
        now = time.monotonic()
        if self._most < 0:
            self._since = now
        elif self._lost is not None:
            # Of what came until now only the end is new.
            new = min(done - self._most, self._in_frame)
            self._lost, self._left, self._since, self._came = None, self._until - now, now, new
        self._most = done
        return True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the time that the block takes be nobody's: it is this side that works."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self._until = self._not_beyond_the_deadline(self._until + took)
        if self._absent_until is not None:
            self._absent_until += took

    def wait(self, error: StorageError) -> None:
        """Wait before another attempt.

        Raises:
            StorageError: there is to be none; it is the one that ended the last attempt that had contact.
        """
        now = time.monotonic()
        if self._lost is None:
            if self._most < 0 or isinstance(error, PathNotFound):
                raise error
            self._begin_to_wait(now)
            self._lost = error
        pause = next(self._pauses)
        if self._is_gone(error, now) or now + pause > self._until:
            raise self._lost
        time.sleep(pause)

    def _begin_to_wait(self, now: float) -> None:
        made_up = self._came / self._limits.least_bytes_per_second
        self._left = min(self._limits.resume_seconds, self._left + made_up - (now - self._since))
        self._until = self._not_beyond_the_deadline(now + self._left)
        self._absent_until = None
        # Where a little comes, again and again, pauses go on growing.
        if self._left == self._limits.resume_seconds:
            self._pauses = backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)

    def _not_beyond_the_deadline(self, moment: float) -> float:
        return moment if self._deadline is None else min(moment, self._deadline)

    def _is_gone(self, error: StorageError, now: float) -> bool:
        """Say whether the origin is absent for longer than it takes to come back."""
        if not isinstance(error, PathNotFound):
            self._absent_until = None
            return False
        if self._absent_until is None:
            self._absent_until = now + self._return_seconds
        return now >= self._absent_until
