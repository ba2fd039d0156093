"""Variables of the environment that hold anything: a typed error that names what to change, or nothing."""

import os

import pytest

from lit_storage.sessions import environment
from lit_storage.sessions.advertise import advertised_endpoint
from lit_storage.sessions.launcher import launched_name
from lit_storage_core.registries import open_registry
from lit_storage_proto.errors import AccessDenied, InvalidURI, StorageError
from tests.hostile.neighbours.conftest import LIMITS, MACHINE

ODD = [
    "\n",
    "a\nb",
    "x" * 100_000,
    "\x1b[2J",
    "\udc80",
    "../..",
    "-rf /",
    "$(touch /tmp/x)",
    "%s%n",
    "💥",
    " ",
]


@pytest.mark.parametrize(
    "value", [*ODD, "unix:/x", "http://x", "python:os", "sqlite:", "sqlite://", "static:", "etcd://"]
)
def test_a_registry_that_is_none(monkeypatch, value):
    """LIT_STORAGE_REGISTRY that is no URL of a registry is a typed error of bounded length."""
    monkeypatch.setenv("LIT_STORAGE_REGISTRY", value)
    with pytest.raises(StorageError) as raised:
        open_registry(environment.registry_url(None, "/r"), machine_id=MACHINE, limits=LIMITS)
    assert len(str(raised.value)) < 2_000


@pytest.mark.parametrize("value", [*ODD, "simplecache::s3://x", "s3://a:b@c", "file://", "python://\n"])
def test_artifacts_that_are_no_store(monkeypatch, value):
    """LIT_STORAGE_ARTIFACTS that is no URL of a store is a typed error of bounded length."""
    monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", value)
    with pytest.raises(InvalidURI) as raised:
        environment.artifacts_url(None)
    assert len(str(raised.value)) < 2_000


@pytest.mark.parametrize(
    "value", [*ODD, "unix:/x", "xds:///a:1", "host:0x1", "[::1%eth0]:80", "a@b:80", "a/b:80"]
)
def test_an_address_that_nobody_can_dial_is_not_advertised(value):
    """LIT_STORAGE_ADVERTISE that is no host, or no host and port, is a typed error, and not registered."""
    registry = open_registry("memory:", machine_id=MACHINE, limits=LIMITS)
    with pytest.raises(StorageError):
        advertised_endpoint("127.0.0.1:4000", value, registry)


@pytest.mark.parametrize("value", [*ODD, "a/b", ".", "..", "@x", "a..b", "-a"])
def test_a_name_that_is_none(value):
    """LIT_STORAGE_NAME outside the grammar is a typed error, and is never a part of a path."""
    with pytest.raises(InvalidURI) as raised:
        launched_name({"LIT_STORAGE_NAME": value})
    assert len(str(raised.value)) < 2_000


@pytest.mark.parametrize("variable", ["LIT_STORAGE_INSECURE", "LIT_STORAGE_LOCAL_COPY"])
@pytest.mark.parametrize("value", [*ODD, "true", "yes", "2", "01"])
def test_a_switch_that_is_none(monkeypatch, tmp_path, variable, value):
    """A switch that is neither 0 nor 1 is a typed error that names the variable; nothing is guessed."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(StorageError, match=variable):
        environment.security_of(None, str(tmp_path))
        environment.direct_ways()


@pytest.mark.parametrize("value", [value for value in ODD if value not in ("\udc80", "../..")])
def test_an_odd_root_is_a_path_to_the_letter(monkeypatch, tmp_path, value):
    """LIT_STORAGE_ROOT is a path: nothing in it is expanded, run or cut; one that is too long is refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_STORAGE_ROOT", value)
    if len(value) > 4096:
        with pytest.raises(OSError, match="too long"):
            environment.make_root(environment.find_root(None))
        assert os.listdir(tmp_path) == []
        return
    assert environment.make_root(environment.find_root(None)) == os.path.join(tmp_path, value.rstrip("/"))
    assert os.listdir(tmp_path) == [value.partition("/")[0]]


@pytest.mark.parametrize("value", ["/proc/nothing", "/dev/null", "/dev/null/x"])
def test_a_root_that_cannot_be(monkeypatch, value):
    """LIT_STORAGE_ROOT where no directory can be is a typed error that names it, and the variable."""
    monkeypatch.setenv("LIT_STORAGE_ROOT", value)
    with pytest.raises(AccessDenied, match=f"{value}.*LIT_STORAGE_ROOT"):
        environment.make_root(environment.find_root(None))
