"""Roots in which a Work left files, and copies of them."""

import contextlib
import os
import subprocess
import uuid

import lit_storage
from lit_storage import Path
from lit_storage.sessions import environment
from lit_storage_core.artifacts.urls import in_place_url
from lit_storage_core.registries import open_registry
from lit_storage_core.registries.sqlite import SqliteRegistry
from lit_storage_core.system.machine import machine_id
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState
from lit_storage_server.daemon.custodian import Custodian
from lit_storage_server.publishing.custody import publish_all
from lit_storage_server.publishing.notes import Declaration

LARGE = 2 << 20  # large enough to be handed over as a descriptor

LIVE = """
import sys
import lit_storage
from lit_storage import Path
with lit_storage.join(sys.argv[2], root=sys.argv[1]) as session:
    out = session.declare(Path("lit://out"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "file").write_text(sys.argv[3])
    (out / "large").unlink(missing_ok=True)
    print(session.instance_id, flush=True)
    sys.stdin.read()
"""


def leave(root, text="original", name="train", registry=None):
    """Do what a Work does that declares out/file and ends, but for its server."""
    root = environment.open_root(str(root), registry, timeout_seconds=5)
    environment.token_of(root)
    own, instance_id = machine_id(root), uuid.uuid4().hex
    url = environment.artifacts_url(None) or in_place_url(root, own)
    known = open_registry(environment.registry_url(registry, root), machine_id=own, limits=Limits())
    with contextlib.closing(known):
        environment.open_root(root, registry, timeout_seconds=5)
        known.register(LiveRecord(name, instance_id, "127.0.0.1:1", own))
        storage_root = environment.make_storage_root(root, f"works/{name}")
        os.makedirs(f"{storage_root}/out", exist_ok=True)
        for file, content in (("file", text), ("large", text[0] * LARGE)):
            with open(f"{storage_root}/out/{file}", "w") as opened_file:
                opened_file.write(content)
        declared = Declaration(name, instance_id, own, storage_root, url, paths={"out": True})
        assert not publish_all(declared, limits=Limits()).failed
        known.update_work(WorkRecord(name, instance_id, WorkState.STOPPED, own, url))
        known.unregister(name, instance_id)


def read(root, name="train"):
    """Return out/file as a process that connects to the root gets it."""
    with lit_storage.connect(root=root):
        path = Path(f"lit://@{name}/out")
        path.get(overwrite=True)
        if (path / "large").exists():
            assert (path / "large").read_text() == (path / "file").read_text()[0] * LARGE
        return (path / "file").read_text()


def identity(root):
    """Return the machine id and the token of a root."""
    return (root / "machine-id").read_text(), (root / "token").read_text()


def copied(source, target, how="cp -a"):
    subprocess.run([*how.split(), f"{source}/" if how.startswith("rsync") else source, target], check=True)
    return target


def opened(root):
    """Open the registry of a root, as a process does that opens the root."""
    environment.open_root(str(root), None, timeout_seconds=5)
    return SqliteRegistry(
        str(root / "registry.db"), machine_id=machine_id(str(root)), timeout_seconds=Limits().resolve_seconds
    )


def look_after(root):
    """Do what the custodian of a root does at one look."""
    registry = opened(root)
    Custodian(str(root), machine_id(str(root)), registry, Limits()).look()
    registry.close()
