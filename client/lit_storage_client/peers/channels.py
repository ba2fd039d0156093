"""One gRPC channel for each Work that is spoken to, kept warm for the life of a session.

Invariants. A channel serves one instance of one name: a restarted Work gets a fresh channel, so
neither an old connection nor the back-off of a dead one is taken for the new process. So it does when
TLS files have changed; calls that run then go on. A channel is used only by the process that opened it,
since gRPC hangs in a forked child. What the registry says decides where is dialed, and not who must be
there: see `peer_identity`.

Calls fail fast (they do not wait for a peer to come up): a dead port is an answer. What bounds
the dialing of a host that swallows packets is ``grpc.min_reconnect_backoff_ms``, which gRPC takes
as the deadline of one attempt to connect, up to the first HTTP/2 settings of the peer
(https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md).
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass

import grpc

from lit_storage_client.peers.peer_identity import certified_name, check_clear, target_of
from lit_storage_core.security.client_tls import ClientTls
from lit_storage_core.security.credentials import Credentials
from lit_storage_core.security.settings import Metadata, Security
from lit_storage_proto.errors import NotAttached
from lit_storage_proto.limits import MAX_MESSAGE_BYTES, Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_proto.v1.path_storage_pb2_grpc import PathStorageStub

LIST_FILES = "/lit_storage.v1.PathStorage/ListFiles"
STREAM_FILES = "/lit_storage.v1.PathStorage/StreamFiles"

_FIRST_BACKOFF_MS = 100
_LONGEST_BACKOFF_MS = 1000  # a Work that comes up again on its port is reached within a second
_NO_PINGS_MS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PeerCalls:
    """The calls of one peer, over one channel. Messages of streams stay undecoded bytes."""

    exists: grpc.UnaryUnaryMultiCallable[pb.ExistsRequest, pb.ExistsResponse]
    stat: grpc.UnaryUnaryMultiCallable[pb.StatRequest, pb.StatResponse]
    list_files: grpc.UnaryStreamMultiCallable[pb.ListFilesRequest, bytes]
    stream_files: grpc.UnaryStreamMultiCallable[pb.StreamFilesRequest, bytes]


@dataclass(frozen=True, slots=True)
class _Open:
    """A channel, and what it was opened for."""

    record: LiveRecord
    tls: ClientTls | None
    channel: grpc.Channel
    calls: PeerCalls


class Channels:
    """Channels by the name of a Work. May be used from any thread of the process that made it."""

    def __init__(self, security: Security, limits: Limits) -> None:
        self.credentials = Credentials(security)
        self._limits = limits
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._closed = False

    @property
    def metadata(self) -> Metadata:
        """The metadata that a call carries now.

        Raises:
            AccessDenied: the file of tokens cannot be used.
        """
        return self.credentials.metadata()

    def renewed_metadata(self) -> Metadata:
        """Return `metadata` as it is now for certain, also where another thread reads a renewed file."""
        return self.credentials.metadata(wait=True)

    def calls(self, record: LiveRecord) -> PeerCalls:
        """Return the calls of the instance in `record`; nothing is dialed yet.

        Raises:
            NotAttached: the session is closed, or this process was forked from the one that opened it.
            AccessDenied: a TLS file cannot be read, or the token would travel in clear to another machine.
            OriginUnavailable: what the registry holds is no address.
        """
        self._check_process()
        tls = self.credentials.tls()
        with self._lock:
            if self._closed:
                raise NotAttached(
                    "the session is closed, so no Work can be reached any more; open another one"
                )
            known = self._open.get(record.name)
            if known is not None and known.record == record and known.tls is tls:
                return known.calls
            channel = self._dial(record, tls)
            opened = _Open(record, tls, channel, _calls_of(channel))
            self._open[record.name] = opened
        if known is not None and known.record != record:
            known.channel.close()  # else only its TLS files are older: it ends with its last call
        return opened.calls

    def forget(self, record: LiveRecord) -> None:
        """Use the present channel of a Work no more, for no thread could be started for it.

        gRPC then believes that it has one: who makes calls on that channel, closes it, or lets it be
        collected as garbage, waits for ever. So it stays as it is until the process ends.
        """
        with self._lock:
            known = self._open.pop(record.name, None)
        if known is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(known.channel))

    def close(self) -> None:
        """Close every channel; calls that still run are cancelled. A second call does nothing.

        Those that began before TLS files changed go on until they end.
        """
        if os.getpid() != self._process:
            return  # the connections are the parent's, and closing them here would hang
        with self._lock:
            self._closed = True
            channels = [opened.channel for opened in self._open.values()]
            self._open.clear()
        for channel in channels:
            channel.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise NotAttached(
                f"process {os.getpid()} was forked from process {self._process}, whose connections it cannot "
                "use; get files before starting children, or start them with the method 'spawn'"
            )

    def _dial(self, record: LiveRecord, tls: ClientTls | None) -> grpc.Channel:
        check_clear(self.credentials.security, record)
        target, options = target_of(record), self._options()
        if tls is None:
            return grpc.insecure_channel(target, options)
        options.append(("grpc.ssl_target_name_override", certified_name(record)))
        return grpc.secure_channel(target, tls.channel, options)

    def _options(self) -> list[tuple[str, int | str]]:
        connect_ms = max(1, int(self._limits.connect_seconds * 1000))
        return [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.min_reconnect_backoff_ms", connect_ms),
            ("grpc.initial_reconnect_backoff_ms", _FIRST_BACKOFF_MS),
            ("grpc.max_reconnect_backoff_ms", _LONGEST_BACKOFF_MS),
            ("grpc.dns_ares_query_timeout", connect_ms),
            # Without it, channels to one address share a connection and its back-off.
            ("grpc.use_local_subchannel_pool", 1),
            # What is retried is decided in one place, `remote`, which resolves the name anew first.
            ("grpc.enable_retries", 0),
            # A peer is dialed where it registered itself, whatever http_proxy says.
            ("grpc.enable_http_proxy", 0),
            # No pings: each call has a deadline of its own, and servers drop clients that ping often.
            ("grpc.keepalive_time_ms", _NO_PINGS_MS),
        ]


def _calls_of(channel: grpc.Channel) -> PeerCalls:
    stub = PathStorageStub(channel)
    list_files: grpc.UnaryStreamMultiCallable[pb.ListFilesRequest, bytes] = channel.unary_stream(
        LIST_FILES, request_serializer=pb.ListFilesRequest.SerializeToString, response_deserializer=None
    )
    stream_files: grpc.UnaryStreamMultiCallable[pb.StreamFilesRequest, bytes] = channel.unary_stream(
        STREAM_FILES, request_serializer=pb.StreamFilesRequest.SerializeToString, response_deserializer=None
    )
    return PeerCalls(stub.Exists, stub.Stat, list_files, stream_files)
