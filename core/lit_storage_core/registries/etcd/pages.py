"""Reads all keys of a range in pages: as many as an answer can hold, and no more than memory should.

Invariant: it ends by the deadline, with at most `MOST_BYTES` held, whatever etcd says is still to come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import grpc

from lit_storage_core.registries.checked import MOST_RECORDS
from lit_storage_core.registries.etcd.connection import RANGE, Connection, Refused
from lit_storage_core.registries.etcd.records import MOST_BYTES as MOST_RECORD_BYTES
from lit_storage_proto.errors import RegistryUnavailable
from lit_storage_proto.etcd import v3_pb2 as pb
from lit_storage_proto.limits import MIB

MOST_BYTES: Final = 128 * MIB
"""Of all that is listed at once. A record takes a few hundred bytes."""
_PAGE = 1000  # keys in one answer
_FEWER = 16  # times fewer, where an answer is larger than a message may be
_MOST_KEYS = 2 * MOST_RECORDS


def read_pages(
    connection: Connection, first: bytes, end: bytes, deadline: float, keep: Callable[[bytes], bool]
) -> tuple[list[pb.KeyValue], int]:
    """Return the keys from `first` up to `end` as they are at one revision, and that revision.

    Args:
        connection: to etcd.
        first: where to begin.
        end: the first key behind them.
        deadline: on the clock of time.monotonic().
        keep: whether a key is one of those that are wanted.

    Raises:
        Refused: with OUT_OF_RANGE where what was read first has been compacted away meanwhile.
        RegistryUnavailable: etcd cannot be reached, breaks its own rules, or lists without end.
    """
    found: list[pb.KeyValue] = []
    held = 0
    request = pb.RangeRequest(key=first, range_end=end, limit=_PAGE)
    while True:
        try:
            answer = connection.call(RANGE, request, deadline - time.monotonic())
        except Refused as refused:
            if refused.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or request.limit == 1:
                raise
            request.limit = max(1, request.limit // _FEWER)  # other programs keep large values there
            continue
        for kv in answer.kvs:
            if keep(kv.key):
                if len(kv.value) > MOST_RECORD_BYTES:
                    kv.ClearField("value")  # it is no record, and neither is what is left
                found.append(kv)
                held += kv.ByteSize()
        if held > MOST_BYTES or len(found) > _MOST_KEYS:
            raise RegistryUnavailable(
                f"etcd lists more than any registry holds ({len(found)} keys, {held} bytes); remove "
                "what other programs wrote below its prefix"
            )
        request.revision = request.revision or answer.header.revision
        if not answer.more:
            return found, request.revision
        last = answer.kvs[-1].key if answer.kvs else b""
        if last < request.key:
            raise RegistryUnavailable("etcd lists keys in no order, so that its list has no end")
        request.key = last + b"\0"
