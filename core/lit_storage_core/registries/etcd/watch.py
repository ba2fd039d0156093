"""Keeps a cache of the live records as etcd has them, by a watch that goes on for as long as it can.

Rules

 1. First all is loaded, as it is at one revision; the watch starts at that one. When it breaks it
    is resumed where it was; where etcd has compacted that away, all is loaded again.
 2. The cache is `fresh` only while etcd was heard of within `Limits.watch_seconds`. It is asked how
    far it is a few times in that span, and the time of an answer is that of the question.
 3. At first, and after a break, it is fresh when etcd says that all is sent which it had when contact
    was made, as it was then read from a majority.
 4. An etcd that was made anew, or set back to a backup, is another one: all that was known is forgotten.

How etcd answers a progress request (``WatchProgressRequest``)

 - etcd synchronizes new watches every 100 ms, up to 512 at a time. Up to 3.4.24 and 3.5.7 it answers a
   progress request for a watch that is not synchronized too early
   (https://github.com/etcd-io/etcd/issues/15220). Newer versions drop the request. So the first request
   waits for a while, and twice as long after each stream on which a request was dropped.
 - Since 3.4.38, 3.5.22 and 3.6.2 etcd drops progress requests for a watch that starts above its revision
   (https://github.com/etcd-io/etcd/pull/20229). So the watch starts at the known revision. etcd sends the
   changes of that revision again, which changes nothing in the cache.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from lit_storage_core.registries.etcd.cache import LiveCache
from lit_storage_core.registries.etcd.connection import RANGE, WATCH, Connection
from lit_storage_core.registries.etcd.records import end_of
from lit_storage_core.system.backoff import backoff
from lit_storage_core.system.boot_clock import boot_seconds
from lit_storage_proto.errors import StorageError
from lit_storage_proto.etcd import v3_pb2 as pb

_QUESTIONS = 3  # in the time within which it has to be heard of
# The first is enough for one round of synchronization, and the longest for 25,000 watches.
_SETTLE_SECONDS, _LONGEST_SETTLE_SECONDS = 0.4, 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0
_END_SECONDS = 5.0
_LOG = logging.getLogger("lit_storage.registry")

Load = Callable[[], tuple[list[pb.KeyValue], int]]


class Watch:
    """One watch of a prefix and the cache that it fills. May be used from any thread.

    Args:
        connection: to etcd.
        prefix: what the keys begin with; names follow it.
        load: returns all of them, and the revision at which it was so.
        fresh_seconds: see rule 2.
    """

    def __init__(self, connection: Connection, prefix: bytes, load: Load, fresh_seconds: float) -> None:
        self._connection = connection
        self._prefix = prefix
        self._load = load
        self._fresh_seconds = fresh_seconds
        self.cache = LiveCache()
        self.loads = 0
        """How often all was loaded."""
        self._settle_seconds = _SETTLE_SECONDS
        self._known = (0, 0)  # cluster and term of the last contact
        self._heard = float("-inf")
        self._call: Any = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the cache says what etcd says, but for changes that are on their way."""
        return boot_seconds() - self._heard < self._fresh_seconds

    def start(self) -> None:
        """Begin, if it has not begun."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._run, name="lit-storage-watch", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End it; what it does at the moment ends with its connection."""
        with self._lock:
            self._stopped.set()
            call = self._call
        if call is not None:
            call.cancel()

    def join(self) -> None:
        """Wait for its thread, once it was stopped."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_END_SECONDS)

    def _run(self) -> None:
        pauses = backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while not self._stopped.is_set():
            endpoint = self._connection.endpoint()
            try:
                floor = self._reached()
                if self.cache.revision == 0:
                    floor = self._loaded()
                endpoint = self._connection.endpoint()
                if self._follow(endpoint, floor):
                    pauses = backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
            # A closed channel is a ValueError.
            except (OSError, StorageError, grpc.RpcError, ValueError) as error:
                _LOG.debug("the watch of the registry broke: %s", error)
            self._heard = float("-inf")
            self._connection.pass_over(endpoint)
            if self._stopped.wait(next(pauses)):
                return

    def _loaded(self) -> int:
        """Load all, and return the revision at which it was so."""
        found, revision = self._load()
        self.loads += 1
        self.cache.load(((self._name(kv), kv.mod_revision, kv.value) for kv in found), revision)
        return revision

    def _reached(self) -> int:
        """Return the revision that a majority has now; forget all if it is not what was known before."""
        request = pb.RangeRequest(key=self._prefix, count_only=True)
        header = self._connection.call(RANGE, request).header
        cluster_id, raft_term = self._known
        self._known = (header.cluster_id, header.raft_term)
        if (
            header.cluster_id != cluster_id
            or header.raft_term < raft_term
            or header.revision < self.cache.revision
        ):
            self.cache.clear()
        return header.revision

    def _follow(self, endpoint: str, floor: int) -> bool:
        """Apply what is told until the stream ends; say whether anything was."""
        asked = _Questions(self._prefix, self.cache.revision, self._fresh_seconds, self._settle_seconds)
        call = self._connection.stream(endpoint, WATCH, asked.requests())
        asked.call = call
        with self._lock:
            self._call = call
            if self._stopped.is_set():
                call.cancel()
        said = False
        try:
            for response in call:
                if response.canceled:
                    self._canceled(response)
                    return said
                said = True
                if response.created:
                    asked.created()
                self._apply(response)
                is_progress = not response.events and not response.created
                asked_at = asked.answered() if is_progress else None
                if asked_at is not None and response.header.revision >= floor:
                    self._heard, self._settle_seconds = asked_at, _SETTLE_SECONDS
        finally:
            if asked.is_lost:
                self._settle_seconds = min(2 * self._settle_seconds, _LONGEST_SETTLE_SECONDS)
            asked.end()
            call.cancel()
        return said

    def _apply(self, response: pb.WatchResponse) -> None:
        changes = [(self._name(event.kv), event.kv.mod_revision, _value(event)) for event in response.events]
        self.cache.apply(changes, whole=not response.fragment)

    def _canceled(self, response: pb.WatchResponse) -> None:
        if response.compact_revision:
            self.cache.revision = 0
        else:  # as where the token has run out
            self._connection.forget_token()
            _LOG.debug("etcd ended the watch: %s", response.cancel_reason)

    def _name(self, kv: pb.KeyValue) -> str:
        return kv.key[len(self._prefix) :].decode(errors="replace")


class _Questions:
    """The requests of one stream: what to watch, and then how far it is, again and again.

    An answer does not say which question it belongs to. So the next question is asked only after the
    answer to the previous one. A stream without an answer in time is ended, because a late answer would be
    taken for the answer to the next question.
    """

    def __init__(self, prefix: bytes, start: int, fresh_seconds: float, settle_seconds: float) -> None:
        self._create = pb.WatchCreateRequest(
            key=prefix, range_end=end_of(prefix), start_revision=start, fragment=True
        )
        self._fresh_seconds = fresh_seconds
        self._settle_seconds = settle_seconds
        self._created = threading.Event()
        self._asked_at: float | None = None
        self._ended = threading.Event()
        self.is_lost = False
        """Whether a question was not answered in time."""
        self.call: Any = None

    def requests(self) -> Iterator[pb.WatchRequest]:
        """Yield them until the stream has ended; end it where no answer comes.

        It runs in a thread of gRPC's.
        """
        yield pb.WatchRequest(create_request=self._create)
        if not self._created.wait(self._fresh_seconds):
            self._cancel()
            return
        self._ended.wait(self._settle_seconds)
        while not self._ended.is_set():
            asked_at = self._asked_at
            if asked_at is None:
                self._asked_at = boot_seconds()
                yield pb.WatchRequest(progress_request=pb.WatchProgressRequest())
            elif boot_seconds() - asked_at > self._fresh_seconds:
                self.is_lost = True
                self._cancel()
                return
            self._ended.wait(self._fresh_seconds / _QUESTIONS)

    def created(self) -> None:
        """Note that etcd has created the watch: the first question may be asked."""
        self._created.set()

    def answered(self) -> float | None:
        """Return when the open question was asked, which is answered now; None if there is none."""
        asked_at, self._asked_at = self._asked_at, None
        return asked_at

    def end(self) -> None:
        """End the requests, because the stream has ended."""
        self._ended.set()
        self._created.set()

    def _cancel(self) -> None:
        if self.call is not None:
            with contextlib.suppress(Exception):
                self.call.cancel()


def _value(event: pb.Event) -> bytes | None:
    return None if event.type == pb.Event.DELETE else event.kv.value
