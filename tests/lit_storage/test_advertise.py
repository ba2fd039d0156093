"""The address that others dial: given, or found, and never one that they cannot reach."""

import pytest

from lit_storage import AccessDenied, Limits
from lit_storage.advertise import _own_address, advertised_endpoint
from lit_storage_client.registries import open_registry


@pytest.mark.parametrize(
    ("advertise", "spans_machines", "dialed"),
    [
        (None, False, "127.0.0.1:7"),
        ("10.0.0.1", True, "10.0.0.1:7"),
        ("node-3:9", True, "node-3:9"),
        ("fd00::1", True, "[fd00::1]:7"),
        ("[fd00::1]:9", True, "[fd00::1]:9"),
    ],
)
def test_what_isadvertised_endpoint(advertise, spans_machines, dialed):
    """A host alone gets the port that is bound."""
    url = "static:a=10.0.0.1:7" if spans_machines else "static:a=127.0.0.1:7"
    registry = open_registry(url, machine_id="m", limits=Limits())
    assert advertised_endpoint("127.0.0.1:7", advertise, registry) == dialed


@pytest.mark.parametrize("advertise", [None, "127.0.0.1", "localhost:9", "127.0.0.2:7", "0.0.0.0"])
def test_an_address_that_no_other_machine_reaches_is_refused(advertise):
    """In a registry of many machines, loopback is nobody's address."""
    registry = open_registry("static:a=10.0.0.1:7", machine_id="m", limits=Limits())
    with pytest.raises(AccessDenied, match="LIT_STORAGE_ADVERTISE"):
        advertised_endpoint("127.0.0.1:7", advertise, registry)


def test_a_wildcard_bind_is_advertised_by_the_way_to_the_registry():
    """The address is that of the interface through which the registry is reached."""
    assert _own_address("etcd://127.0.0.1:2379,127.0.0.1:2380/prefix") == "127.0.0.1"
