"""A Work that does not run, and what it left, in any store."""

import pytest

from lit_storage_client.fetch import fetch
from lit_storage_client.fetch.contents import contents
from lit_storage_client.origins.origins import Origins
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.remote import Remote
from lit_storage_core.artifacts.urls import in_place_url, open_store
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState
from lit_storage_proto.uri import Location
from lit_storage_server.publishing.publish import publish
from lit_storage_server.sources.shares import Shares


class Stopped:
    """A Work that does not run, and what it left: `root` is its storage root."""

    def __init__(self, url, root, copies):
        self.url = url
        self.root = root
        self.copies = copies
        self.limits = Limits(store_seconds=20, progress_seconds=20)
        self.store = open_store(url, "train", limits=self.limits, create=True)
        self.shares = Shares(str(root), name="train")
        self.registry = MemoryRegistry(str(root))
        self.registry.register(LiveRecord("train", "i1", "127.0.0.1:1", "machine"))
        self.registry.unregister("train", "i1")
        self.registry.update_work(WorkRecord("train", "i1", WorkState.STOPPED, "machine", url))
        remote = Remote(self.registry, Channels(Security(token="x"), self.limits), self.limits)
        self.origins = Origins(remote, self.registry, "machine", self.limits)

    def publish(self, path="out", **options):
        version = self.store.next_version("i1")
        return publish(self.store, self.shares, path, version, machine_id="machine", **options)

    def get(self, path="out", name="copy", **options):
        target = self.copies / name
        transfer = fetch(
            self.origins, Location("train", path), root=None, target=str(target), overwrite=True, **options
        )
        return target, transfer

    def exists(self, path="out"):
        return self.origins.exists(Location("train", path))

    def read(self, path, **options):
        return b"".join(bytes(run) for run in contents(self.origins, Location("train", path), **options))


def url_of(kind, tmp_path, s3):
    if kind == "in-place":
        return in_place_url(str(tmp_path / "root"), "machine")
    if kind == "file":
        return f"file://{tmp_path}/store"
    return f"memory://{tmp_path}/store" if kind == "memory" else s3(kind)[1]


@pytest.fixture
def make(tmp_path, s3):
    def work(kind):
        root = tmp_path / "root" / "works" / "train"
        (root / "out").mkdir(parents=True)
        (tmp_path / "copies").mkdir()
        return Stopped(url_of(kind, tmp_path, s3), root, tmp_path / "copies")

    return work
