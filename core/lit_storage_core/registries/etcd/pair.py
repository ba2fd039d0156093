"""The two keys of a name as they were read together, and how a write depends on that. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lit_storage_core.registries.etcd.records import decode_live, decode_work
from lit_storage_proto.etcd import v3_pb2 as pb
from lit_storage_proto.registry import Lease, LiveRecord, WorkRecord


@dataclass(frozen=True, slots=True)
class Pair:
    """The two keys of a name, as they were at one revision."""

    name: str
    live_kv: pb.KeyValue | None
    work_kv: pb.KeyValue | None
    """None: there is none, or it was not asked for."""

    @property
    def live(self) -> LiveRecord | None:
        """The live record, whether or not its process is known to be gone."""
        return decode_live(self.name, self.live_kv.value)[0] if self.live_kv is not None else None

    @property
    def work(self) -> WorkRecord | None:
        """The work record, as it was written."""
        return decode_work(self.name, self.work_kv.value) if self.work_kv is not None else None

    @property
    def live_revision(self) -> int:
        """When the live record was changed last; 0: there is none."""
        return self.live_kv.mod_revision if self.live_kv is not None else 0

    @property
    def work_revision(self) -> int:
        """When the work record was changed last; 0: there is none."""
        return self.work_kv.mod_revision if self.work_kv is not None else 0

    @property
    def lease_id(self) -> int:
        """The lease that the live record goes with; 0: there is none."""
        return self.live_kv.lease if self.live_kv is not None else 0

    def is_held(self, value: bytes, lease: Lease) -> bool:
        """Say whether the live record is this one, under this lease."""
        return self.live_kv is not None and (self.live_kv.value, self.lease_id) == (value, lease.id)


def put(key: bytes, value: bytes, lease_id: int = 0) -> pb.RequestOp:
    """Return the part of a transaction that writes a value, under a lease if one is given."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease_id))


def unchanged(key: bytes, revision: int) -> pb.Compare:
    """Return the comparison that holds while a key is as it was found; at 0 it was not there."""
    return pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.MOD, key=key, mod_revision=revision)


def value_of(key: bytes, answer: pb.ResponseOp) -> pb.KeyValue | None:
    """Return the pair that was asked for, None where there is none or it is another's."""
    return next((kv for kv in answer.response_range.kvs if kv.key == key), None)
