"""The address that others dial: given, or found, and never one that they cannot reach."""

import subprocess
import sys

import pytest

from lit_storage import AccessDenied, Limits
from lit_storage.sessions.advertise import advertised_endpoint
from lit_storage_core.registries import open_registry


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


def test_where_only_this_machine_uses_a_registry_a_wildcard_is_loopback():
    """An etcd on loopback serves this machine alone, so that loopback is advertised, and may be."""
    registry = open_registry("etcd://127.0.0.1:2379,[::1]:2380/prefix", machine_id="m", limits=Limits())
    assert advertised_endpoint("0.0.0.0:7", None, registry) == "127.0.0.1:7"
    assert advertised_endpoint("127.0.0.1:7", None, registry) == "127.0.0.1:7"


IN_A_NETWORK = """
ip link set lo up
ip link add one type veth peer name two
ip address add 10.77.0.5/24 dev one
ip link set one up && ip link set two up
exec "$@"
"""
ADVERTISED = """
import sys
from lit_storage.sessions.advertise import advertised_endpoint
from lit_storage_core.registries import open_registry
from lit_storage_proto.limits import Limits
registry = open_registry(sys.argv[1], machine_id="m", limits=Limits())
try:
    print(advertised_endpoint(sys.argv[2], None, registry))
except PermissionError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize(
    ("url", "bound", "told"),
    [
        ("etcd://10.77.0.1:2379/prefix", "0.0.0.0:7", "10.77.0.5:7"),
        ("etcd://10.77.0.1:2379/prefix", "[::]:7", "10.77.0.5:7"),
        ("etcd://10.77.0.1:2379/prefix", "127.0.0.1:7", "LIT_STORAGE_ADVERTISE"),
        ("etcd://127.0.0.1:2379,no-such-host.invalid,10.77.0.1/prefix", "0.0.0.0:7", "10.77.0.5:7"),
        ("etcd://10.99.0.1:2379/prefix", "0.0.0.0:7", "LIT_STORAGE_ADVERTISE"),  # there is no way to it
    ],
)
def test_a_wildcard_is_advertised_by_the_way_to_the_registry(url, bound, told):
    """The address is that of the interface through which the registry is reached, never loopback."""
    command = [
        "unshare",
        "--net",
        "sh",
        "-ec",
        IN_A_NETWORK,
        "sh",
        sys.executable,
        "-c",
        ADVERTISED,
        url,
        bound,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert told in done.stdout, done.stderr
