"""Addresses: taken apart, put together, and told apart."""

import pytest

from lit_storage_proto.endpoint import is_loopback, is_wildcard, join_address, split_address
from lit_storage_proto.errors import InvalidURI


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("host:0", "host", 0), ("10.0.0.1:65535", "10.0.0.1", 65535), ("[::1]:80", "::1", 80)],
)
def test_apart_and_together(address, host, port):
    """An address has a host and a port, and an IPv6 host stands in brackets."""
    assert split_address(address) == (host, port)
    assert join_address(host, port) == address


@pytest.mark.parametrize(
    "address",
    ["", "host", ":1", "host:", "host:x", "host:65536", "::1:5", "host:-1", "host:١", "host:" + "9" * 5000],
)
def test_malformed_addresses(address):
    """What is not HOST:PORT is refused."""
    with pytest.raises(InvalidURI, match="HOST:PORT"):
        split_address(address)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_loopback(host, expected):
    """Loopback addresses and "localhost" are reached from this machine alone."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("host", "expected"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("host", False)]
)
def test_wildcard(host, expected):
    """The addresses that stand for all of a machine's are no address to dial."""
    assert is_wildcard(host) is expected
