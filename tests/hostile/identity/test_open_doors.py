"""Where a server may listen, and to whom a token is sent: nothing beyond this machine by default."""

import dataclasses
import socket

import pytest

from lit_storage.sessions.advertise import advertised_endpoint
from lit_storage_client.peers.peer_identity import target_of
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_core.security.settings import Security
from lit_storage_proto.endpoint import is_loopback, is_wildcard
from lit_storage_proto.errors import AccessDenied, InvalidURI, OriginUnavailable, StorageError
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
from lit_storage_server.daemon.config import make_config
from lit_storage_server.rpc.auth import check_bind

TOKEN = "the-token-0123456789"
HERE = Location("trainer", "small")
OPEN = [
    "0.0.0.0", "::", "[::]", "0", "00", "000.000", "0x0", "::ffff:0.0.0.0", "::ffff:0:0", "0::0", "::0.0.0.0",
    "::ffff:10.0.0.1", "10.0.0.1", "169.254.1.1", "fe80::1", "fe80::1%lo", "::2", "2001:db8::1", "128.0.0.1",
    "126.255.255.255", "1.0.0.127", "127.1", "127.0.1", "0177.0.0.1", "2130706433", "0x7f.1", "127.0.0.1.",
    "localhost.", "localhost.evil.example", "localhost.localdomain", "xlocalhost", "ip6-localhost", "unix",
    "trainer.example", "*", " 127.0.0.1", "127.0.0.1 ", "127.0.0.1\n", "::ffff:7f00:1:1", "64:ff9b::7f00:1",
]  # fmt: skip


def address(host):
    return f"[{host}]:0" if ":" in host and not host.startswith("[") else f"{host}:0"


@pytest.mark.parametrize("security", [Security(TOKEN), Security(insecure=True)], ids=["token", "nothing"])
@pytest.mark.parametrize("host", OPEN)
def test_what_may_be_reached_from_elsewhere_needs_protection(serve, host, security):
    """Whatever is not plainly loopback is refused, in any way of writing it, before anything listens."""
    with pytest.raises((AccessDenied, InvalidURI)):
        serve("trainer", security, bind=address(host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1", "LocalHost"])
def test_loopback_needs_none(host):
    """In any way of writing it that is plainly loopback."""
    assert check_bind(address(host), Security())[0] == host


@pytest.mark.parametrize("found", [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["::1", "::"], ["0.0.0.0"]])
def test_a_localhost_that_is_elsewhere(monkeypatch, found):
    """A name service that says that localhost is another address does not open a door."""
    monkeypatch.setattr(
        socket, "getaddrinfo",
        lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in found],
    )  # fmt: skip
    with pytest.raises(AccessDenied):
        check_bind("localhost:0", Security(TOKEN))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "00", "::ffff:0.0.0.0", "0:0:0:0:0:0:0:0"])
def test_a_wildcard_is_not_advertised(host):
    """Nobody can dial it; on one machine loopback is told."""
    assert is_wildcard(host)
    assert not is_loopback(host)
    endpoint = address(host).removesuffix("0") + "7440"
    assert advertised_endpoint(endpoint, None, MemoryRegistry()) == "127.0.0.1:7440"


@pytest.mark.parametrize("given", [None, "9464", "0"])
def test_metrics_are_for_this_machine_unless_a_host_is_named(given):
    """A port alone is one of loopback, and without any there are none."""
    found = make_config({}, {"name": "x", "metrics": given}).metrics_address
    assert found is None if given is None else found == ("127.0.0.1", int(given))


@pytest.mark.parametrize("given", [":9464", "", " ", "9464 ", "-1", "65536", "1:2:3", "٣"])
def test_metrics_at_what_is_no_address(given):
    """It is refused, and not taken for all addresses."""
    with pytest.raises(StorageError, match="metrics"):
        make_config({}, {"name": "x", "metrics": given})


# The token in clear.


@pytest.fixture
def nobody_is_dialed(monkeypatch):
    """Notice whoever dials in clear."""
    dialed = []
    monkeypatch.setattr("grpc.insecure_channel", lambda target, *_: dialed.append(target) or 1 / 0)
    return dialed


@pytest.mark.parametrize("ask_for", ["exists", "stat", "list", "stream"])
@pytest.mark.parametrize("host", ["10.0.0.1", "evil.example", "localhost.example", "0.0.0.0", "127.1", "::2"])
def test_the_token_does_not_go_to_whoever_a_registry_names(ask, nobody_is_dialed, host, ask_for):
    """Beyond this machine no connection in clear is made at all, for any call; the way out is said."""
    record = LiveRecord("trainer", "i1", address(host)[:-1] + "7", "m")
    with pytest.raises(AccessDenied, match=r"in clear.*LIT_STORAGE_TLS_CA.*LIT_STORAGE_INSECURE") as caught:
        getattr(ask(record, Security(TOKEN)), ask_for)(HERE)
    assert nobody_is_dialed == []
    assert TOKEN not in str(caught.value)


def test_nor_one_of_a_file(ask, nobody_is_dialed, token_file):
    """A file of tokens holds tokens too."""
    with pytest.raises(AccessDenied, match="in clear"):
        ask(LiveRecord("trainer", "i1", "10.0.0.1:7", "m"), Security(token_file=token_file("x"))).exists(HERE)
    assert nobody_is_dialed == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "unix:/tmp/x", "unix-abstract:x", "unix:80", "xds:///x:1", "ipv4:10.0.0.1:1", "dns://evil.example:53/x:1",
        "passthrough:///x:1", "vsock:1:2", "fd:3", "", ":", "x", "a:b", "127.0.0.1:99999", "[::1",
        "127.0.0.1:1\n", "http://127.0.0.1:1", "user@127.0.0.1:1", "127.0.0.1:1,10.0.0.1:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1", "127.0.0.1:1/x",
    ],
)  # fmt: skip
def test_a_registry_names_a_host_and_a_port_and_nothing_else(ask, serve, endpoint):
    """No other scheme that gRPC knows is dialed; the error is typed."""
    record = dataclasses.replace(serve("trainer"), endpoint=endpoint)
    with pytest.raises((OriginUnavailable, AccessDenied)) as caught:
        ask(record, Security(TOKEN), connect_seconds=1.0).exists(HERE)
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["unix:1", "dns:1", "[::1]:1", "a%2fb:1", "a?b:1", "a#b:1", "a/b:1"])
def test_what_grpc_dials_is_always_a_name(endpoint):
    """The host is quoted, whatever it holds."""
    target = target_of(LiveRecord("trainer", "i1", endpoint, "m"))
    assert target.startswith("dns:///")
    assert not set(target[len("dns:///") :]) & set("/?#[]@")


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_loopback_is_dialed_in_clear(serve, ask, bind):
    """On this machine the token is enough."""
    try:
        record = serve("trainer", Security(TOKEN), bind=bind)
    except OSError:
        pytest.skip("this machine has no such address")
    assert ask(record, Security(TOKEN)).exists(HERE)


def test_who_has_tls_never_goes_on_in_clear(serve, ask, authority):
    """Not even to a peer of loopback, and not because a registry says that it has none."""
    record = dataclasses.replace(serve("trainer", Security(TOKEN)), tls_name="")
    with pytest.raises(OriginUnavailable):
        ask(record, dataclasses.replace(authority.issue("consumer"), token=TOKEN)).exists(HERE)


def test_a_server_that_is_not_believed_sees_no_token(authority, stranger, ask):
    """The handshake comes first: to a wrong certificate not a byte of a call is sent."""
    import ssl
    import threading

    security = stranger.issue("trainer")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(security.certificate, security.key)
    heard = []

    def listen():
        accepted, _ = listener.accept()
        accepted.settimeout(10)
        try:
            with context.wrap_socket(accepted, server_side=True) as connected:
                heard.append(connected.recv(4096))
        except OSError:
            heard.append(b"")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen)
        thread.start()
        record = LiveRecord("trainer", "i1", f"127.0.0.1:{listener.getsockname()[1]}", "m")
        with pytest.raises(OriginUnavailable):
            ask(record, Security(TOKEN, ca=authority.ca)).exists(HERE)
        thread.join(20)
    assert heard == [b""]
