"""One StreamFiles call: its frames in order, whichever way they come.

Invariant: frames come over gRPC until the origin says that it has moved, then on the direct way,
and the status of the call has the last word: a direct way that ends is no end of the stream. A
direct way is taken up only once there is enough to carry.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc

from lit_storage_client.peers.direct import Dialer, DirectWay
from lit_storage_client.peers.stream_call import Responses, StreamCall
from lit_storage_proto.errors import ProtocolViolation, StorageError
from lit_storage_proto.frame_codec import decode_detached, decode_frame
from lit_storage_proto.frames import Direct, Frame
from lit_storage_proto.limits import MAX_FRAME_BYTES, MIB
from lit_storage_proto.registry import LiveRecord

# Below this much a second connection costs more than it saves.
_WORTH_A_WAY_BYTES = 1 * MIB


class TreeCall(StreamCall[Frame]):
    """The frames of one call, as of `StreamCall`; where descriptors come from, as of `fetch.stream`."""

    def __init__(
        self,
        responses: Responses,
        record: LiveRecord,
        dialer: Dialer,
        error_of: Callable[[grpc.RpcError], StorageError],
        **times: Any,
    ) -> None:
        self._switch = _Switch(responses, record, dialer)
        super().__init__(self._switch, self._switch.decode, lambda frame: frame.weight, error_of, **times)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._switch.close()

    def take_descriptor(self) -> int:
        """Return the descriptor that came with the last frame; it belongs to the caller.

        Raises:
            ProtocolViolation: none came.
        """
        return self._switch.way().take_descriptor()

    def acknowledge(self, *, done: bool) -> None:
        """Tell the origin that its descriptor is being read, or has been.

        Raises:
            TransferTimeout: the deadline of the call is over, and there is more to read.
        """
        if not done:
            self.check_deadline()
        self._switch.way().acknowledge(done=done)


class _Switch:
    """The messages of the call, from both ways."""

    def __init__(self, responses: Responses, record: LiveRecord, dialer: Dialer) -> None:
        self._responses = responses
        self._record = record
        self._dialer = dialer
        self._offer: Direct | None = None
        self._way: DirectWay | None = None
        self._data: memoryview | None = None
        self._begun = self._moved = self._has_moved = False
        self._cancelled = False
        self._carried = 0

    def __next__(self) -> Any:
        if self._moved:
            received = self.way().receive()
            if received is not None:
                message, self._data = received
                return message
            self._moved = False
        self._data = None
        return next(self._responses)

    def cancel(self) -> None:
        self._cancelled = True
        if self._way is not None:
            self._way.cancel()
        self._responses.cancel()

    def close(self) -> None:
        if self._way is not None:
            self._way.close()

    def way(self) -> DirectWay:
        if self._way is None:
            raise ProtocolViolation("the peer moved a stream to a way that was not taken up")
        return self._way

    def decode(self, message: bytes) -> Frame:
        if self._data is not None:
            return decode_detached(message, self._data)
        if len(message) > MAX_FRAME_BYTES:  # what it holds takes many times as much once it is decoded
            raise ProtocolViolation(f"the peer sent a message of {len(message)} bytes")
        frame = decode_frame(message)
        if frame.direct is not None:
            if self._begun:  # each would cost a connection
                raise ProtocolViolation("the peer offered another way in the middle of a stream")
            self._offer = frame.direct
        self._begun = True
        if self._offer is not None:
            self._consider(frame, len(message), self._offer)
        if frame.moved:
            if self._has_moved:
                raise ProtocolViolation("the peer moved a stream twice")
            self.way()
            self._moved = self._has_moved = True
        return frame

    def _consider(self, frame: Frame, size: int, offer: Direct) -> None:
        self._carried += size + sum(entry.size for entry in frame.entries)
        if self._carried >= _WORTH_A_WAY_BYTES and not frame.summary:
            self._offer = None
            self._way = self._dialer.dial(offer, self._record)
            if self._cancelled and self._way is not None:
                self._way.cancel()  # whoever cancelled did not see it yet
