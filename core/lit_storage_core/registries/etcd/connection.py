"""Calls of etcd: of whichever member answers, each within a deadline.

Rules

 1. A call that fails is made again, at the next member, until its time is over. What is asked is
    therefore always such that doing it twice is as good as once: reads, transactions that compare
    what they were made for, grants of a lease whose id is ours.
 2. A member that has no leader, being cut off from the others, refuses (the metadata "hasleader"),
    and so do its streams: https://etcd.io/docs/v3.4/learning/api_guarantees/.
 3. No connection is used in a process that was forked from the one that made it: gRPC would hang.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from lit_storage_core.registries.etcd.access import EtcdAccess
from lit_storage_core.registries.etcd.address import EtcdAddress
from lit_storage_core.security.client_tls import ClientTls
from lit_storage_core.security.credentials import Credentials
from lit_storage_core.system.backoff import backoff
from lit_storage_core.system.names import printable
from lit_storage_proto.endpoint import grpc_target
from lit_storage_proto.errors import AccessDenied, NotAttached, RegistryUnavailable
from lit_storage_proto.etcd import v3_pb2 as pb
from lit_storage_proto.limits import MIB

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

_LEADER_ONLY = (("hasleader", "true"),)
_MAX_ANSWER_BYTES = 32 * MIB
_SHORTEST_ATTEMPT_SECONDS = 0.5
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 0.5
_FIRST_BACKOFF_MS, _LONGEST_BACKOFF_MS = 100, 1000
_MAX_DETAILS = 200  # characters

# What etcd means by them is the same at every member, so that no other one is asked.
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, A]):
    """One method of etcd's API."""

    path: str
    request: type[Q]
    answer: type[A]
    streams: bool = False
    """Whether requests and answers are streams; `call` then sends one and takes one."""


RANGE = Method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", pb.WatchRequest, pb.WatchResponse, streams=True)
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
KEEP_ALIVE = Method(
    "/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse, streams=True
)
_AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse)


class Refused(RegistryUnavailable):
    """etcd refused a request, with a code that its callers look at."""

    # A traceback names it, and a pickle restores it, as the public error that users catch.
    __module__ = RegistryUnavailable.__module__
    __qualname__ = RegistryUnavailable.__qualname__

    def __init__(self, text: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        super().__init__(text)
        self.code = code

    def __reduce__(self) -> tuple[type[RegistryUnavailable], tuple[object, ...]]:
        return RegistryUnavailable, self.args


class _EndedError(Exception):
    """A stream ended well, and without an answer."""


class Connection:
    """The members of one cluster. May be used from any thread of the process that made it.

    Args:
        address: where they are.
        access: who we are to them.
        seconds: what one call may take, with all that is tried again within it.
    """

    def __init__(self, address: EtcdAddress, access: EtcdAccess, seconds: float) -> None:
        access.check_endpoints(address.endpoints)
        self._address = address
        self._access = access
        self._seconds = seconds
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._credentials = Credentials(access.transport)
        self._tls: ClientTls | None = None
        self._channels: dict[str, grpc.Channel] = {}
        self._former: list[grpc.Channel] = []
        """Made with the TLS files before the present ones; calls on them may still run."""
        self._multicallables: dict[tuple[str, str], Any] = {}
        self._current = 0
        self._token: str | None = None
        self.closed = threading.Event()
        self.calls = 0
        """Requests sent so far."""

    @property
    def attempt_seconds(self) -> float:
        """What one member may take, so that another one can be asked within a call's time."""
        return max(_SHORTEST_ATTEMPT_SECONDS, self._seconds / (len(self._address.endpoints) + 1))

    def call(self, method: Method[Q, A], request: Q, seconds: float | None = None) -> A:
        """Return the answer to one request.

        Raises:
            Refused: etcd does not do this.
            AccessDenied: this user may not, or is not known.
            RegistryUnavailable: no member answered in time.
            NotAttached: this process was forked from the one that connected.
        """
        self.check_process()
        end = time.monotonic() + (self._seconds if seconds is None else seconds)
        pauses = backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        authenticated_anew = False
        failed: dict[str, str] = {}
        while (left := end - time.monotonic()) > 0 and not self.closed.is_set():
            endpoint = self.endpoint()
            try:
                return self._once(endpoint, method, request, min(left, self.attempt_seconds))
            except grpc.RpcError as failure:
                if not authenticated_anew and self._is_token_stale(failure):
                    authenticated_anew = True
                    self.forget_token()
                    continue
                if failure.code() in _REFUSALS or _is_too_large(failure):
                    raise self._refusal(failure) from None
                failed[endpoint] = _reason(failure)
            except _EndedError:
                failed[endpoint] = "it ended a stream without an answer"
            except ValueError:  # gRPC's for a channel that is closed, as by another thread
                break
            self.pass_over(endpoint)
            if len(failed) == len(self._address.endpoints):
                self.closed.wait(min(next(pauses), max(0.0, end - time.monotonic())))
        raise self._unavailable(failed)

    def stream(self, endpoint: str, method: Method[Q, A], requests: Iterator[Q]) -> Any:
        """Return a call in both directions at one member; it ends when it is cancelled.

        Raises:
            NotAttached: this process was forked from the one that connected.
            grpc.RpcError, StorageError: who we are could not be told.
        """
        self.check_process()
        metadata = self._metadata(endpoint, self.attempt_seconds)
        self.calls += 1
        return self._multicallable(endpoint, method)(requests, metadata=metadata)

    def endpoint(self) -> str:
        """Return the member that is asked first."""
        return self._address.endpoints[self._current % len(self._address.endpoints)]

    def pass_over(self, endpoint: str) -> None:
        """Ask the next member first from now on, if this one was."""
        with self._lock:
            if endpoint == self.endpoint():
                self._current += 1

    def forget_token(self) -> None:
        """Authenticate anew before the next call."""
        self._token = None

    def close(self) -> None:
        """End all calls. A second call does nothing."""
        if os.getpid() != self._process:
            return  # the connections are the parent's, and closing them here would hang
        self.closed.set()
        with self._lock:
            channels = [*self._channels.values(), *self._former]
            self._channels.clear()
            self._multicallables.clear()
        for channel in channels:
            channel.close()

    def check_process(self) -> None:
        """Raise NotAttached in a process that was forked from the one that connected."""
        if os.getpid() != self._process:
            raise NotAttached(
                f"process {os.getpid()} was forked from process {self._process}, whose connection to etcd it "
                "cannot use; start children with the method 'spawn'"
            )

    def _once(self, endpoint: str, method: Method[Q, A], request: Q, seconds: float) -> A:
        end = time.monotonic() + seconds
        metadata = self._metadata(endpoint, seconds)
        return self._send(endpoint, method, request, max(0.0, end - time.monotonic()), metadata)

    def _send(
        self, endpoint: str, method: Method[Q, A], request: Q, seconds: float, metadata: tuple[Any, ...]
    ) -> A:
        self.calls += 1
        multicallable = self._multicallable(endpoint, method)
        if not method.streams:
            answer: A = multicallable(request, timeout=seconds, metadata=metadata)
            return answer
        call = multicallable(iter((request,)), timeout=seconds, metadata=metadata)
        try:
            for answer in call:
                return answer
        finally:
            call.cancel()
        raise _EndedError

    def _multicallable(self, endpoint: str, method: Method[Q, A]) -> Any:
        with self._lock:
            tls = self._credentials.tls()  # not before: another thread may renew meanwhile
            if tls is not self._tls:
                self._renew(tls)
            known = self._multicallables.get((endpoint, method.path))
            if known is not None:
                return known
            if self.closed.is_set():
                raise RegistryUnavailable(f"the registry {self._address.url} is closed in this process")
            if endpoint not in self._channels:
                self._channels[endpoint] = self._dial(endpoint)
            channel = self._channels[endpoint]
            make = channel.stream_stream if method.streams else channel.unary_unary
            made = make(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.answer.FromString,
            )
            self._multicallables[endpoint, method.path] = made
            return made

    def _renew(self, tls: ClientTls | None) -> None:
        """Dial anew, since TLS files have changed; a watch that is two states behind is resumed."""
        outdated, self._former = self._former, list(self._channels.values())
        self._tls = tls
        self._channels.clear()
        self._multicallables.clear()
        for channel in outdated:
            channel.close()

    def _dial(self, endpoint: str) -> grpc.Channel:
        options = [
            ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
            ("grpc.min_reconnect_backoff_ms", int(self.attempt_seconds * 1000)),
            ("grpc.initial_reconnect_backoff_ms", _FIRST_BACKOFF_MS),
            ("grpc.max_reconnect_backoff_ms", _LONGEST_BACKOFF_MS),
            ("grpc.dns_ares_query_timeout", int(self.attempt_seconds * 1000)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
        ]
        if self._tls is None:
            return grpc.insecure_channel(grpc_target(endpoint), options)
        return grpc.secure_channel(grpc_target(endpoint), self._tls.channel, options)

    def _metadata(self, endpoint: str, seconds: float) -> tuple[tuple[str, str], ...]:
        if self._access.user is None:
            return _LEADER_ONLY
        token = self._token
        if token is None:
            request = pb.AuthenticateRequest(name=self._access.user, password=self._access.password or "")
            token = self._send(endpoint, _AUTHENTICATE, request, seconds, _LEADER_ONLY).token
            self._token = token
        return (*_LEADER_ONLY, ("token", token))

    def _is_token_stale(self, failure: grpc.RpcError) -> bool:
        """Say whether a new token may help: the old one ran out, or users were changed since."""
        if self._access.user is None:
            return False
        details = failure.details() or ""
        is_older = "revision" in details and "is old" in details  # each version has a sentence of its own
        return failure.code() is grpc.StatusCode.UNAUTHENTICATED or is_older

    def _refusal(self, failure: grpc.RpcError) -> AccessDenied | Refused:
        code, details = failure.code(), _details(failure)
        who = f"the user {self._access.user!r}" if self._access.user else "a client without a user"
        if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED) or (
            "authentication failed" in details or "user name is empty" in details
        ):
            return AccessDenied(
                f"etcd at {self._address.url} does not let {who} in ({details}); check "
                f"LIT_STORAGE_ETCD_USER, its password, and that its role may use {self._address.prefix!r}"
            )
        return Refused(f"etcd at {self._address.url} refuses this ({details or code.name})", code)

    def _unavailable(self, failed: dict[str, str]) -> RegistryUnavailable:
        url = self._address.url
        if self.closed.is_set():
            return RegistryUnavailable(f"the registry {url} is closed in this process")
        reasons = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in failed.items())
        return RegistryUnavailable(
            f"the registry {url} does not answer ({reasons or 'no time was left'}); check that etcd runs "
            "there, and the URL"
        )


def _is_too_large(failure: grpc.RpcError) -> bool:
    """Say whether an answer was larger than a message may be, which it is at every member."""
    return failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in _details(failure)


def _reason(failure: grpc.RpcError) -> str:
    if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    details = _details(failure).rpartition("last error: ")[2]
    return details.removeprefix("UNKNOWN: ") or str(failure.code().name)


def _details(failure: grpc.RpcError) -> str:
    details = ""
    with contextlib.suppress(AttributeError):
        details = failure.details() or ""
    return printable(" ".join(details[: 8 * _MAX_DETAILS].split())[:_MAX_DETAILS])
