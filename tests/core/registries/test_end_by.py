"""What is asked of a registry at the end of a program: no call waits beyond the given moment."""

import socket
import sqlite3
import time

import pytest

from lit_storage_core.registries import open_registry
from lit_storage_proto.errors import RegistryUnavailable
from lit_storage_proto.limits import Limits


@pytest.fixture(params=["sqlite", "etcd"])
def silent(request, tmp_path):
    """A registry that can be opened, and answers no write."""
    if request.param == "etcd":
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"etcd://127.0.0.1:{server.getsockname()[1]}/x"
            yield open_registry(url, machine_id="machine", limits=Limits())
        return
    registry = open_registry(f"sqlite://{tmp_path}/r.db", machine_id="machine", limits=Limits())
    writer = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    yield registry
    writer.close()


def test_all_calls_together_end_by_the_deadline(silent):
    """Several calls of a registry that does not answer take no longer than one."""
    began = time.monotonic()
    silent.end_by(began + 0.2)
    for _ in range(3):
        with pytest.raises(RegistryUnavailable):
            silent.unregister("trainer", "one")
    silent.close()
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("url", ["sqlite://{}/r.db", "memory:{}", "static:a=127.0.0.1:4000"])
def test_calls_that_are_answered_in_time_stay_as_they_are(url, tmp_path):
    """A deadline that is not reached changes no answer."""
    registry = open_registry(url.format(tmp_path), machine_id="machine", limits=Limits())
    registry.end_by(time.monotonic() + 60)
    assert registry.resolve("nobody") is None
    registry.close()
