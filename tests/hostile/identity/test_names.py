"""A certificate serves under its own name alone, whatever a registry says: over gRPC and beside it."""

import dataclasses
import socket
import ssl
import threading

import pytest

from lit_storage_client.peers.direct import Dialer, Ways
from lit_storage_core.security.credentials import Credentials
from lit_storage_proto.direct import TICKET_BYTES
from lit_storage_proto.errors import OriginUnavailable
from lit_storage_proto.frames import Direct
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
from tests.hostile.identity.conftest import is_direct

HERE = Location("trainer", "large")
NAMES = ["trainer", "workers.0", "a_b", "_", "0", "-".join("ab"), "T.r-a_1.0", "x" * 63, "y" * 100, "1.2.3"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_a_work_can_be_certified(authority, serve, ask, wait_until, name):
    """A Work proves any name that the grammar allows, and a copy goes over the direct way with TLS."""
    remote = ask(serve(name, authority.issue(name)), authority.issue("consumer"))
    assert wait_until(lambda: is_direct(remote, Location(name, "large")))


IMPOSTORS = {
    "a certificate of its own name": {},
    "and says so": {"tls_name": "mallory"},
    "and says nothing": {"tls_name": ""},
    "and names no instance": {"instance_id": "", "tls_name": "mallory"},
    "and is at an address that its certificate shows": {"instance_id": "", "tls_name": ""},
    "and says its address": {"tls_name": "127.0.0.1"},
}


@pytest.mark.parametrize("said", IMPOSTORS.values(), ids=IMPOSTORS)
def test_nobody_serves_under_the_name_of_another(authority, serve, ask, said):
    """Who has a certificate of the authority and writes the registry still is not "trainer"."""
    mallory = authority.issue("mallory", hosts=["127.0.0.1", "localhost"])
    record = dataclasses.replace(serve("trainer", mallory), **said)
    with pytest.raises(OriginUnavailable, match="trainer"):
        ask(record, authority.issue("consumer")).exists(HERE)


@pytest.mark.parametrize("of", ["another authority", "no authority"])
def test_the_right_name_of_a_wrong_authority(authority, stranger, serve, ask, tmp_path, of):
    """A certificate for "trainer" counts only if an authority signed it that the consumer trusts."""
    forged = stranger.forge(tmp_path / "f", "trainer", by_itself=of == "no authority")
    with pytest.raises(OriginUnavailable, match="trainer"):
        ask(serve("trainer", forged), authority.issue("consumer")).exists(HERE)


@pytest.mark.parametrize("name", ["trainer.0", "trainer0", "train", "xtrainer", "*", "*.0", "tr*"])
def test_a_name_that_resembles_it_is_another(authority, serve, ask, tmp_path, name):
    """Neither a part of a name nor a wildcard proves it."""
    similar = authority.forge(tmp_path / "similar", name)
    with pytest.raises(OriginUnavailable):
        ask(serve("trainer", similar), authority.issue("consumer")).exists(HERE)


def test_the_way_out_is_said(authority, stranger, serve, ask):
    """Whoever set up certificates reads what is wrong with which, and not what OpenSSL calls it."""
    own = authority.issue("consumer")
    servers = {
        "is not for .trainer.: .*certs issue trainer": authority.issue("mallory"),
        "of no authority in LIT_STORAGE_TLS_CA": stranger.issue("trainer"),
        "does not speak TLS": None,
    }
    for said, security in servers.items():
        with pytest.raises(OriginUnavailable, match=said):
            ask(serve("trainer", security), own).exists(HERE)


@pytest.mark.parametrize("shown", [None, "another authority"])
def test_the_way_out_is_said_to_who_is_not_let_in(authority, stranger, serve, ask, shown):
    """Also to a consumer without TLS, and to one with a certificate that the server does not take."""
    security = shown and dataclasses.replace(stranger.issue("consumer"), ca=authority.ca)
    with pytest.raises(OriginUnavailable, match="LIT_STORAGE_TLS_CERT"):
        ask(serve("trainer", authority.issue("trainer")), security).exists(HERE)


def test_a_list_of_ones_own_may_name_an_address(authority, serve, ask):
    """With static:, which the operator wrote, a certificate of the address that stands there will do."""
    at_home = authority.issue("elsewhere", hosts=["127.0.0.1"])
    record = dataclasses.replace(serve("trainer", at_home), instance_id="", tls_name="")
    assert ask(record, authority.issue("consumer"), url="static:trainer=127.0.0.1:1").exists(HERE)


@pytest.fixture
def eavesdrop(authority):
    """Listen with TLS and a certificate; return the port and what came out of it."""
    opened = []

    def listen(security):
        context = security.client_context() and ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(security.certificate, security.key)
        listener = socket.create_server(("127.0.0.1", 0))
        opened.append(listener)
        heard = []

        def run():
            while True:
                try:
                    accepted, _ = listener.accept()
                except OSError:
                    return
                try:
                    accepted.settimeout(10)
                    with context.wrap_socket(accepted, server_side=True) as connected:
                        heard.append(connected.recv(1024))
                except OSError as error:
                    heard.append(error)

        threading.Thread(target=run, daemon=True).start()
        return listener.getsockname()[1], heard

    yield listen
    for listener in opened:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("stripes", [1, 4])
@pytest.mark.parametrize("who", ["mallory", "trainer"])
def test_the_ticket_goes_to_the_origin_alone(authority, eavesdrop, monkeypatch, wait_until, who, stripes):
    """On the port beside gRPC, and on each stripe, nobody but the Work itself gets to see a ticket."""
    monkeypatch.setattr("lit_storage_client.peers.direct.worthwhile_stripes", lambda *_: stripes)
    port, heard = eavesdrop(authority.issue(who))
    dialer = Dialer(Credentials(authority.issue("consumer")), 20.0, Ways.TCP)
    ticket = bytes(range(TICKET_BYTES))
    record = LiveRecord("trainer", "i1", "127.0.0.1:1", "m", tls_name=who)
    way = dialer.dial(Direct("", port, ticket, stripes), record)
    wait_until(lambda: heard)
    way.close()
    shown = [each for each in heard if isinstance(each, bytes) and ticket in each]
    assert bool(shown) == (who == "trainer"), heard


def test_a_stripe_taken_by_another_gives_no_bytes(authority, serve, ask, monkeypatch, tmp_path):
    """Where the ports beside gRPC are another's, the copy arrives over gRPC, and is right."""
    impostor = serve("trainer", authority.issue("mallory"))
    remote = ask(serve("trainer", authority.issue("trainer")), authority.issue("consumer"))
    (_, host_port) = impostor.endpoint.rpartition(":")[::2]
    dial = Dialer.dial
    monkeypatch.setattr(
        Dialer, "dial",
        lambda self, offer, record: dial(self, dataclasses.replace(offer, tcp_port=int(host_port)), record),
    )  # fmt: skip
    assert not is_direct(remote, HERE)


def test_a_client_without_a_name_of_the_authority_is_not_served(authority, stranger, serve, ask):
    """A server takes certificates of its own authority alone, whatever name they show."""
    record = serve("trainer", authority.issue("trainer"))
    consumer = dataclasses.replace(stranger.issue("trainer"), ca=authority.ca)
    with pytest.raises(OriginUnavailable):
        ask(record, consumer).exists(HERE)


def test_any_name_of_the_authority_may_ask(authority, serve, ask):
    """Authority and token decide who may read: the name in the certificate of a consumer plays no part."""
    record = serve("trainer", authority.issue("trainer"))
    assert ask(record, authority.issue("anybody")).exists(HERE)
