"""One streaming call: its messages in order, given up when it is silent or late.

Invariant: `next` returns a message, raises StopIteration at the end of the call, or raises within
a known time. Time counts against the peer only while a message is waited for, so a slow disk on
this side is no silence on the other; and only what is new makes up for it, byte by byte, so a peer
cannot hold a call open with empty messages, nor with a byte now and then.

gRPC bounds a call as a whole but not its pauses. A timer thread does that: it sleeps until the
time at which the present wait is too long, and cancels the call.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import grpc

from lit_storage_proto.errors import OriginUnavailable, StorageError, TransferTimeout

T = TypeVar("T")


class Responses(Protocol):
    """What gRPC returns of a call that streams: an iterator that can be cancelled."""

    def __next__(self) -> bytes:
        """Return the next message."""
        ...

    def cancel(self) -> object:
        """End the call, whoever waits for it."""
        ...


class StreamCall(Generic[T]):
    """Messages of one call, decoded. One thread reads; any thread may `cancel`.

    Args:
        responses: the call, just started.
        decode: makes a value of a message, or raises ProtocolViolation.
        weigh: how many bytes a value brings that are new; 0 for one that brings the transfer no further.
        error_of: makes the error of this product of a failed call.
        what: who is asked for what, for the sentence of an error.
        first_seconds: the longest wait for the first message.
        progress_seconds: the longest wait for something new after it.
        least_rate: bytes per second; a peer that brings fewer is waited for no longer than `progress_seconds`
            in sum, and what it brings adds to that.
        deadline: when the call must have ended, on the clock of time.monotonic(); None for never.

    Raises:
        OriginUnavailable: there is no thread for its timer.
    """

    def __init__(
        self,
        responses: Responses,
        decode: Callable[[bytes], T],
        weigh: Callable[[T], int],
        error_of: Callable[[grpc.RpcError], StorageError],
        *,
        what: str,
        first_seconds: float,
        progress_seconds: float,
        least_rate: float,
        deadline: float | None = None,
    ) -> None:
        self._responses = responses
        self._decode = decode
        self._weigh = weigh
        self._error_of = error_of
        self._peeked: list[T] = []
        self._what = what
        self._progress_seconds = progress_seconds
        self._least_rate = least_rate
        self._allowed = self._left = first_seconds
        self._begun = False
        self._trickles = False  # what came makes up for too little, and has done so for long
        self._deadline = deadline
        self._wake = threading.Condition()
        self._due: float | None = None  # when the present wait is too long; None while nobody waits
        self._asleep_until = 0.0  # when the timer looks again, unless it is woken
        self._ended = False
        self._late = ""
        self._timer = threading.Thread(target=self._watch, name="lit-storage-stream-timer", daemon=True)
        try:
            self._timer.start()
        except BaseException as error:
            responses.cancel()
            if not isinstance(error, RuntimeError):
                raise
            raise OriginUnavailable(
                f"{what} cannot be watched over ({error}); let some of this process's threads end, or "
                "allow it more"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next value.

        Raises:
            TransferTimeout: nothing new came in time.
            ProtocolViolation: a message cannot be decoded.
            StorageError: what `error_of` makes of a failed call.
        """
        if self._peeked:
            return self._peeked.pop()
        try:
            return self._receive()
        except grpc.RpcError as error:
            raise self._error_of(error) from None

    def peek(self) -> T:
        """Wait for the first value, which `next` then returns.

        Raises:
            grpc.RpcError: the call failed; the caller may know another peer to ask.
            StopIteration: the call ended without a message.
            StorageError: as of `next`.
        """
        self._peeked.append(self._receive())
        return self._peeked[0]

    def _receive(self) -> T:
        started = time.monotonic()
        self._begin_wait(started)
        try:
            value = self._decode(next(self._responses))
        except BaseException as error:
            self.cancel()
            # A peer that sees the end of a direct way first can end its call before that is cancelled.
            if self._late and isinstance(error, grpc.RpcError | StopIteration):
                raise TransferTimeout(self._late) from None
            raise
        self._due = None
        left = self._left - (time.monotonic() - started)
        brought = self._weigh(value)
        if not self._begun:
            self._begun = True
            self._allowed = self._left = self._progress_seconds
        elif brought:
            self._allowed = self._left = min(left + brought / self._least_rate, self._progress_seconds)
            self._trickles = self._left < self._progress_seconds / 2
        else:
            self._left = left
        return value

    def cancel(self) -> None:
        """End the call. A second call does nothing."""
        with self._wake:
            if self._ended:
                return
            self._ended = True
            self._wake.notify()
        self._responses.cancel()

    def check_deadline(self) -> None:
        """See that there is time left; for whoever works long on one value.

        Raises:
            TransferTimeout: there is none.
        """
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TransferTimeout(self._sentence(self._deadline))

    def _begin_wait(self, now: float) -> None:
        due = now + self._left
        self._due = due = due if self._deadline is None else min(due, self._deadline)
        if due < self._asleep_until:
            with self._wake:
                self._wake.notify()

    def _watch(self) -> None:
        with self._wake:
            while not self._ended and not self._late:
                self._sleep()
                due = self._due
                if due is not None and due <= time.monotonic():
                    self._late = self._sentence(due)
        if self._late:
            self._responses.cancel()

    def _sleep(self) -> None:
        """Sleep until the present wait is too long; while there is none, until one begins, or the end."""
        due = self._due
        self._asleep_until = math.inf if due is None else due
        # A wait that began before the line above could not know that it must wake the timer.
        if self._due == due and not self._ended:
            self._wake.wait(None if due is None else max(0.0, due - time.monotonic()))
        self._asleep_until = 0.0

    def _sentence(self, due: float) -> str:
        if due == self._deadline:
            return f"{self._what} did not end within its timeout; give it more time, or none"
        if self._trickles:
            return (
                f"{self._what} brought fewer than {self._least_rate:g} bytes a second: its origin is too "
                "slow, or the way to it; lower Limits.least_bytes_per_second to wait for it"
            )
        seconds = round(self._allowed, 1)
        return f"{self._what} brought nothing new for {seconds:g} s: its origin is silent or out of reach"
