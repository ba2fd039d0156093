"""Which URL opens which registry."""

import pytest

from lit_storage_core.registries import open_registry
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord


@pytest.mark.parametrize("url", ["redis://host", "zookeeper://host:2181/prefix", "", "/tmp/registry.db"])
def test_an_unknown_scheme_names_the_known_ones(url):
    """A URL without a known scheme is refused with the list of those that are known."""
    with pytest.raises(InvalidURI, match="use one of sqlite://PATH, etcd://.*, static:.* and memory:"):
        open_registry(url, machine_id="m", limits=Limits())


def test_a_password_is_not_shown():
    """The error about an unknown URL does not repeat what may be a password."""
    with pytest.raises(InvalidURI) as raised:
        open_registry("redis://user:secret@host", machine_id="m", limits=Limits())
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:", "sqlite:registry.db"])
def test_sqlite_needs_a_path(url):
    """A sqlite URL without a path is refused."""
    with pytest.raises(InvalidURI, match="write sqlite:// and then its path"):
        open_registry(url, machine_id="m", limits=Limits())


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    """The url of a registry opened by a relative path can be used from any directory."""
    monkeypatch.chdir(tmp_path)
    registry = open_registry("sqlite://here/registry.db", machine_id="m", limits=Limits())
    registry.close()
    assert registry.url == f"sqlite://{tmp_path}/here/registry.db"


def test_memory_registries_of_two_names_are_two():
    """What is registered in one memory registry is not found in another."""
    one, two = (open_registry(f"memory:{name}", machine_id="m", limits=Limits()) for name in "ab")
    one.register(LiveRecord("trainer", "i", "127.0.0.1:1", "m"))
    assert two.resolve("trainer") is None
