"""Names in etcd: the adapter of the Registry port for many machines.

Invariants

 1. A live record and its lease are one: the key goes when the lease ends, whoever is silent.
 2. Each write is one transaction that compares the revisions of both keys with those it was decided
    on. Where an answer is lost the keys are read again: what was written is known by instance and
    lease, so that nothing is done twice, and nothing is undone that somebody else did meanwhile.
 3. "Nobody" is said only on a linearizable read. A name that is known to live may be answered from the
    cache of a watch, which is behind by what is on its way; whoever finds that out asks afresh.

A process of this machine that was killed is not waited for until its lease ends: a live record names
the process that registered it, and where that is known to be gone, the record counts as gone too.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import grpc

from lit_storage_core.registries.derived import derive_state
from lit_storage_core.registries.etcd.access import EtcdAccess
from lit_storage_core.registries.etcd.address import EtcdAddress
from lit_storage_core.registries.etcd.connection import (
    GRANT,
    KEEP_ALIVE,
    REVOKE,
    TXN,
    Connection,
    Refused,
)
from lit_storage_core.registries.etcd.pages import read_pages
from lit_storage_core.registries.etcd.pair import Pair, put, unchanged, value_of
from lit_storage_core.registries.etcd.records import (
    Keys,
    decode_live,
    decode_work,
    encode_live,
    encode_work,
    end_of,
)
from lit_storage_core.registries.etcd.watch import Watch
from lit_storage_core.system.boot_clock import boot_seconds
from lit_storage_core.system.names import shown
from lit_storage_core.system.process import ProcessIdentity, ProcessWatch
from lit_storage_proto.errors import InvalidURI, NameTaken, NotAttached, RegistryUnavailable, StorageError
from lit_storage_proto.etcd import v3_pb2 as pb
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Lease, LiveRecord, WorkRecord, WorkState

T = TypeVar("T")

_LOG = logging.getLogger("lit_storage.registry")
_REVOKE_SECONDS = 1.0
_MOST_TOLD = 1000
_LONGEST_LEASE = 10  # times what was asked for; etcd may grant more, and never as much more

_this_boot = functools.cache(lambda: ProcessIdentity.current().boot_id)
_identity_of = functools.lru_cache(256)(ProcessIdentity.from_text)


class EtcdRegistry:
    """``etcd://HOST:PORT,…/PREFIX``. Nothing is connected before the first call."""

    def __init__(self, rest: str, *, machine_id: str, access: EtcdAccess, limits: Limits) -> None:
        """Read the URL.

        Args:
            rest: what follows ``etcd:``.
            machine_id: of this machine.
            access: who this process is to etcd.
            limits: `resolve_seconds` bounds every call, `lease_seconds` is how long a silent holder
                keeps its name, `watch_seconds` how old an answer from memory may be.

        Raises:
            InvalidURI: `rest` is no such URL, or the lease is none that etcd grants.
            AccessDenied: a password would travel in clear.
        """
        self._address = EtcdAddress.from_rest(rest)
        if limits.lease_seconds < 2 or limits.lease_seconds != int(limits.lease_seconds):
            raise InvalidURI(
                f"Limits.lease_seconds is {limits.lease_seconds:g}; etcd grants leases of whole seconds, "
                "2 or more"
            )
        self._machine_id = machine_id
        self._limits = limits
        self.access = access
        self._keys = Keys(self._address.prefix)
        self._connection = Connection(self._address, access, limits.resolve_seconds)
        self._watch = Watch(
            self._connection,
            self._keys.live_prefix,
            lambda: self._all(self._keys.live_prefix, self._keys.live_prefix),
            limits.watch_seconds,
        )
        self._processes = ProcessWatch()
        self._damaged: set[bytes] = set()
        self._lock = threading.Lock()
        self._has_resolved = False
        self._end = float("inf")

    @property
    def url(self) -> str:
        """The URL that opens the same registry in another process."""
        return self._address.url

    @property
    def spans_machines(self) -> bool:
        """True unless every member is at a loopback address."""
        return not self._address.is_loopback

    @property
    def is_watching(self) -> bool:
        """Whether `resolve` answers for names that live without asking."""
        return self._watch.is_fresh

    @property
    def calls(self) -> int:
        """Requests sent so far, of all kinds."""
        return self._connection.calls

    @property
    def loads(self) -> int:
        """How often all live records were read for the cache."""
        return self._watch.loads

    def register(self, record: LiveRecord) -> Lease:
        """Make `record` the live record of its name, and its work record ``running``.

        The same instance may register anew, with another lease. What an earlier instance published
        stays recorded.

        Raises:
            NameTaken: another instance holds the name, and its process is not known to be gone.
            RegistryUnavailable: etcd cannot be reached, or refuses.
            AccessDenied: the user may not.
        """
        deadline = self._deadline()
        holder = ProcessIdentity.current().to_text()
        value = encode_live(record, holder)
        lease: Lease | None = None
        try:
            while True:
                pair = self._pair(record.name, deadline)
                if lease is not None and pair.is_held(value, lease):
                    break  # by a transaction of this call, whose answer was lost
                self._refuse_second(record, pair)
                if lease is None:
                    lease = self._grant(deadline)
                running = WorkRecord(
                    record.name,
                    record.instance_id,
                    WorkState.RUNNING,
                    record.machine_id,
                    pair.work.artifacts_url if pair.work is not None else "",
                )
                changes = (
                    put(self._keys.live(record.name), value, lease.id),
                    put(self._keys.work(record.name), encode_work(running)),
                )
                if self._commit(pair, changes, deadline):
                    break
        except BaseException:
            if lease is not None:
                self._revoke(lease.id)
            raise
        return lease

    def renew(self, lease: Lease, seconds: float) -> Lease | None:
        """Return the lease with a new end, or None if it has ended; see `Registry.renew`.

        Raises:
            RegistryUnavailable: etcd cannot be reached.
        """
        since = boot_seconds()
        try:
            answer = self._connection.call(KEEP_ALIVE, pb.LeaseKeepAliveRequest(ID=lease.id), seconds)
        except Refused as refused:
            if refused.code is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        longest = _LONGEST_LEASE * self._limits.lease_seconds
        return Lease(lease.id, min(float(answer.TTL), longest), since) if answer.TTL > 0 else None

    def unregister(self, name: str, instance_id: str) -> None:
        """Remove the live record if that instance holds it; else do nothing.

        Raises:
            RegistryUnavailable: etcd cannot be reached.
        """
        deadline = self._deadline()
        while True:
            pair = self._pair(name, deadline)
            if pair.live is None or pair.live.instance_id != instance_id:
                break
            delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=self._keys.live(name)))
            if self._commit(pair, (delete,), deadline):
                self._revoke(pair.lease_id)
                break

    def resolve(self, name: str, *, fresh: bool = False) -> LiveRecord | None:
        """Return the live record of `name`, or None if nobody lives under it.

        From the second time on a watch keeps what lives, and a name that does costs no round trip.

        Raises:
            RegistryUnavailable: etcd cannot be reached, and the watch has not heard of it lately.
            NotAttached: this process was forked from the one that opened the registry.
        """
        self._connection.check_process()
        if self._has_resolved:
            self._watch.start()
        self._has_resolved = True
        if not fresh and self._watch.is_fresh:
            value = self._watch.cache.get(name)
            if value is not None and (record := self._live_of(name, value)) is not None:
                return record
        return self._living(self._pair(name, self._deadline(), work=False))

    def update_work(self, record: WorkRecord) -> bool:
        """Replace the work record if it is of the same instance; say whether it was.

        Raises:
            RegistryUnavailable: etcd cannot be reached.
        """
        deadline, value = self._deadline(), encode_work(record)
        while True:
            pair = self._pair(record.name, deadline)
            if pair.work is None or pair.work.instance_id != record.instance_id:
                return False
            if pair.work == record or self._commit(
                pair, (put(self._keys.work(record.name), value),), deadline, live=False
            ):
                return True

    def work(self, name: str) -> WorkRecord | None:
        """Return the work record of `name`; its state is ``failed`` if it says running and nobody lives.

        Raises:
            RegistryUnavailable: etcd cannot be reached.
        """
        pair = self._pair(name, self._deadline())
        if pair.work is None:
            return None
        living = self._living(pair)
        return derive_state(pair.work, lives=living is not None and _same(living, pair.work))

    def live(self) -> Sequence[LiveRecord]:
        """Return all live records, by name.

        Raises:
            RegistryUnavailable: etcd cannot be reached.
        """
        found, _ = self._all(self._keys.live_prefix, self._keys.live_prefix)
        return self._living_in(found)

    def works(self) -> Sequence[WorkRecord]:
        """Return all work records, by name, with the same derived state as `work`.

        Raises:
            RegistryUnavailable: etcd cannot be reached.
        """
        found, _ = self._all(self._keys.live_prefix, self._keys.work_prefix)  # both at one revision
        living = {record.name: record for record in self._living_in(found)}
        records = self._readable(found, self._keys.work_prefix, decode_work)
        return [
            derive_state(record, lives=record.name in living and _same(living[record.name], record))
            for record in records
        ]

    def end_by(self, deadline: float) -> None:
        """Let no further call wait beyond `deadline`, on ``time.monotonic``: see `Registry.end_by`."""
        self._end = deadline

    def close(self) -> None:
        """End the watch and the connections; records stay, each as long as its lease is renewed."""
        with contextlib.suppress(NotAttached):  # a forked child has neither
            self._connection.check_process()
            self._watch.stop()
            self._connection.close()
            self._watch.join()
        self._processes.close()

    def _deadline(self) -> float:
        return min(time.monotonic() + self._limits.resolve_seconds, self._end)

    def _pair(self, name: str, deadline: float, *, work: bool = True) -> Pair:
        """Read the two keys of a name at one revision."""
        keys = [self._keys.live(name), self._keys.work(name)] if work else [self._keys.live(name)]
        reads = [pb.RequestOp(request_range=pb.RangeRequest(key=key)) for key in keys]
        answer = self._connection.call(TXN, pb.TxnRequest(success=reads), _left(deadline))
        found = [value_of(key, each) for key, each in zip(keys, answer.responses, strict=False)]
        if len(found) != len(keys):
            raise RegistryUnavailable(
                f"etcd at {self.url} answers a question with {len(found)} answers of {len(keys)}; is it one?"
            )
        pair = Pair(name, found[0], found[1] if work else None)
        self._watch.cache.put(
            name, pair.live_revision or answer.header.revision, found[0].value if found[0] else None
        )
        return pair

    def _commit(
        self, pair: Pair, changes: Sequence[pb.RequestOp], deadline: float, *, live: bool = True
    ) -> bool:
        """Make changes if the keys are as they were read; say whether it was so."""
        compares = [unchanged(self._keys.work(pair.name), pair.work_revision)]
        if live:
            compares.append(unchanged(self._keys.live(pair.name), pair.live_revision))
        request = pb.TxnRequest(compare=compares, success=changes)
        answer = self._connection.call(TXN, request, _left(deadline))
        if answer.succeeded and live:
            first = changes[0]
            value = first.request_put.value if first.HasField("request_put") else None
            self._watch.cache.put(pair.name, answer.header.revision, value)
        return answer.succeeded

    def _refuse_second(self, record: LiveRecord, pair: Pair) -> None:
        holder = self._living(pair)
        if holder is None or holder.instance_id == record.instance_id:
            return
        where = "this machine" if holder.machine_id == self._machine_id else f"machine {holder.machine_id}"
        raise NameTaken(
            f"the name {record.name!r} is taken by a process of {where}, which serves at {holder.endpoint}; "
            f"stop that process first, wait for {self._limits.lease_seconds:g} s if it was killed, or take "
            f"another name"
        )

    def _grant(self, deadline: float) -> Lease:
        request = pb.LeaseGrantRequest(TTL=int(self._limits.lease_seconds), ID=secrets.randbits(62) + 1)
        since = boot_seconds()
        seconds = self._limits.lease_seconds
        try:
            answer = self._connection.call(GRANT, request, _left(deadline))
            if answer.error:
                raise RegistryUnavailable(f"etcd at {self.url} grants no lease ({shown(answer.error)})")
            if answer.TTL <= 0:
                raise RegistryUnavailable(f"etcd at {self.url} grants a lease of {answer.TTL} s")
            seconds = min(float(answer.TTL), _LONGEST_LEASE * seconds)
        except Refused as refused:
            # It has the lease already: an answer was lost, and the request was made again.
            if refused.code is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
        return Lease(request.ID, seconds, since)

    def _revoke(self, lease_id: int) -> None:
        """End a lease that nothing needs any more; it would end by itself."""
        if lease_id:
            with contextlib.suppress(StorageError):
                seconds = min(_REVOKE_SECONDS, _left(self._end))
                self._connection.call(REVOKE, pb.LeaseRevokeRequest(ID=lease_id), seconds)

    def _all(self, first: bytes, last: bytes) -> tuple[list[pb.KeyValue], int]:
        """Return all from one prefix to another at one revision, in the order of keys, and that revision.

        Raises:
            RegistryUnavailable: etcd cannot be reached.
        """
        deadline = self._deadline()
        while True:
            try:
                # Those of another registry, whose prefix begins with ours, lie deeper.
                return read_pages(self._connection, first, end_of(last), deadline, self._keys.is_ours)
            except Refused as refused:  # what was read first has been compacted away meanwhile
                if refused.code is not grpc.StatusCode.OUT_OF_RANGE:
                    raise

    def _living(self, pair: Pair) -> LiveRecord | None:
        return self._live_of(pair.name, pair.live_kv.value) if pair.live_kv is not None else None

    def _living_in(self, found: Iterable[pb.KeyValue]) -> list[LiveRecord]:
        records = self._readable(found, self._keys.live_prefix, self._live_of)
        return [record for record in records if record is not None]

    def _readable(
        self, found: Iterable[pb.KeyValue], prefix: bytes, decode: Callable[[str, bytes], T]
    ) -> Iterator[T]:
        """Yield the records below a prefix; one that is none is told once, and hides no other."""
        for kv in found:
            if not kv.key.startswith(prefix):
                continue
            try:
                yield decode(kv.key[len(prefix) :].decode(errors="replace"), kv.value)
            except RegistryUnavailable as error:
                if kv.key not in self._damaged and len(self._damaged) < _MOST_TOLD:
                    self._damaged.add(kv.key)
                    _LOG.warning("%s", error)

    def _live_of(self, name: str, value: bytes) -> LiveRecord | None:
        """Return the live record of a name, or None if its process was one of this machine and is gone."""
        record, holder = decode_live(name, value)
        if record.machine_id == self._machine_id and holder and self._is_gone(holder):
            return None
        return record

    def _is_gone(self, holder: str) -> bool:
        """Say whether a process is known to be gone.

        Machines that share a root share its machine id too: only of this boot something is known.
        """
        try:
            identity = _identity_of(holder)
        except ValueError:
            return False
        return identity.boot_id == _this_boot() and self._processes.is_alive(identity) is False


def _same(live: LiveRecord, work: WorkRecord) -> bool:
    return live.instance_id == work.instance_id


def _left(deadline: float) -> float:
    return deadline - time.monotonic()
