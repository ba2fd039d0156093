"""The direct listener: who gets a way, who does not, and that both end."""

import contextlib
import socket

import pytest
import trustme

from lit_storage_core.security.settings import Security
from lit_storage_core.security.tls_socket import TlsSocket
from lit_storage_proto.direct import HEADER, HELLO
from lit_storage_proto.frames import Frame

UNIX, TCP = socket.AF_UNIX, socket.AF_INET
FAMILIES = pytest.mark.parametrize("family", [UNIX, TCP], ids=["unix", "tcp"])


def is_closed(connected):
    """Wait until the other side closes a connection; an alert of TLS may come before."""
    try:
        while connected.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


@FAMILIES
def test_the_ticket_opens_the_way(listen, connect, family, wait_until):
    """A connection that shows the ticket is the way of the call; only a Unix socket passes descriptors."""
    with listen().offered() as offer:
        connect(offer.direct, family)
        wait_until(lambda: offer.way)
        assert offer.way.passes_descriptors is (family == UNIX)


@FAMILIES
@pytest.mark.parametrize(
    "say",
    [
        lambda ticket: b"LITDIRC2" + ticket,
        lambda ticket: bytes(8) + ticket,
        lambda ticket: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n     ",
        lambda ticket: HELLO + bytes(32),
        lambda ticket: HELLO + ticket[:-1] + bytes([ticket[-1] ^ 1]),
        lambda ticket: ticket + HELLO,
    ],
    ids=["other magic", "zeros", "http", "no ticket", "one bit", "backwards"],
)
def test_whoever_says_something_else_is_closed(listen, connect, family, say, wait_until):
    """Another magic, or another ticket, gets nothing; who has the ticket still gets the way."""
    with listen().offered() as offer:
        assert is_closed(connect(offer.direct, family, say(offer.direct.ticket)))
        assert offer.way is None
        connect(offer.direct, family)
        wait_until(lambda: offer.way)


@FAMILIES
def test_who_hangs_up_in_the_middle(listen, connect, family):
    """A hello that ends before the ticket does is none."""
    with listen().offered() as offer:
        connected = connect(offer.direct, family, HELLO + offer.direct.ticket[:-1])
        connected.shutdown(socket.SHUT_WR)
        assert (is_closed(connected), offer.way) == (True, None)


@FAMILIES
def test_a_ticket_is_good_once(listen, connect, family, wait_until):
    """The second connection with one ticket is closed, and the first one stays the way."""
    with listen().offered() as offer:
        first = connect(offer.direct, family)
        wait_until(lambda: offer.way)
        way = offer.way
        assert is_closed(connect(offer.direct, family))
        assert offer.way is way
        assert list(way.send(Frame(moved=True), -1)) == [None]
        assert HEADER.unpack(first.recv(HEADER.size)) == (2, 0)


def test_tickets_are_of_their_own_call(listen, connect, wait_until):
    """Each call has another ticket, and a connection is the way of the call whose ticket it shows."""
    ways = listen()
    with ways.offered() as one, ways.offered() as two:
        assert one.direct.ticket != two.direct.ticket
        connect(two.direct)
        wait_until(lambda: two.way)
        assert one.way is None


@FAMILIES
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_who_says_nothing(listen, connect, monkeypatch, identity, family, secured):
    """A connection without a hello is closed after a while."""
    monkeypatch.setattr("lit_storage_server.rpc.direct._HELLO_SECONDS", 0.1)
    with listen(identity() if secured else None).offered() as offer:
        assert is_closed(connect(offer.direct, family, b""))


def test_who_says_it_slowly(listen, connect, monkeypatch):
    """The limit is one of the whole hello: a byte now and then does not keep a connection open."""
    monkeypatch.setattr("lit_storage_server.rpc.direct._HELLO_SECONDS", 0.2)
    with listen().offered() as offer:
        hello = HELLO + offer.direct.ticket
        connected = connect(offer.direct, TCP, hello[:1])
        connected.settimeout(0.1)
        for number in range(1, len(hello)):
            with contextlib.suppress(TimeoutError):
                assert is_closed(connected)
                break
            with contextlib.suppress(ConnectionError):
                connected.send(hello[number : number + 1])
        else:
            pytest.fail("it took a hello of 4 s")
        assert offer.way is None


def test_a_flood_of_connections(listen, connect, monkeypatch, wait_until):
    """No more than so many say hello at once; the next is closed, and one that ends makes room."""
    monkeypatch.setattr("lit_storage_server.rpc.direct._MOST_HANDSHAKES", 3)
    with listen().offered() as offer:
        silent = [connect(offer.direct, TCP, b"") for _ in range(3)]
        assert is_closed(connect(offer.direct, TCP, b""))
        assert is_closed(connect(offer.direct, TCP))
        assert offer.way is None
        silent.pop().close()

        def taken_up():
            connect(offer.direct)
            return offer.way

        wait_until(taken_up)


def test_ways_hold_no_place_of_a_hello(listen, connect, monkeypatch, wait_until):
    """There may be more connections that have shown their ticket than may say hello at once."""
    monkeypatch.setattr("lit_storage_server.rpc.direct._MOST_HANDSHAKES", 1)
    ways = listen()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            offer = stack.enter_context(ways.offered())
            wait_until(lambda offer=offer: offer.way or (connect(offer.direct), offer.way)[1])


@pytest.fixture
def identity(tmp_path):
    """Write what a server needs for TLS, with or without an authority that its clients must be of."""
    authority = trustme.CA()

    def write(*, mutual=False):
        pair = authority.issue_cert("127.0.0.1")
        files = {name: str(tmp_path / name) for name in ("certificate", "key", "ca")}
        pair.cert_chain_pems[0].write_to_path(files["certificate"])
        pair.private_key_pem.write_to_path(files["key"])
        authority.cert_pem.write_to_path(files["ca"])
        return Security(**{**files, "ca": files["ca"] if mutual else None})

    write.ca = lambda: Security(ca=str(tmp_path / "ca"))
    write.mutual = lambda: write(mutual=True)
    return write


def test_a_plain_connection_where_tls_is_spoken(listen, connect, identity, wait_until):
    """A ticket in clear opens nothing beyond this machine; the Unix socket is always plain."""
    with listen(identity()).offered() as offer:
        assert is_closed(connect(offer.direct, TCP))
        assert offer.way is None
        connect(offer.direct, UNIX)
        wait_until(lambda: offer.way)


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(listen, connect, identity, mutual, wait_until):
    """With TLS, and the certificate that the server asks for, the ticket opens the way."""
    security = identity(mutual=mutual)
    with listen(security).offered() as offer:
        context = (security if mutual else identity.ca()).client_context()
        plain = connect(offer.direct, TCP, b"")
        connected = TlsSocket(plain, context, 20, server_hostname="127.0.0.1")
        connected.sendall(HELLO + offer.direct.ticket)
        wait_until(lambda: offer.way)
        assert not offer.way.passes_descriptors
        for _ in offer.way.send(Frame(moved=True), -1):
            assert HEADER.unpack(connected.recv(HEADER.size)) == (2, 0)


def test_tls_without_the_certificate_asked_for(listen, connect, identity):
    """Who shows no certificate where one is asked for does not get so far as to show a ticket."""
    with listen(identity.mutual()).offered() as offer:
        plain = connect(offer.direct, TCP, b"")
        with contextlib.suppress(OSError):  # the refusal comes during the handshake, or after it
            connected = TlsSocket(plain, identity.ca().client_context(), 20, server_hostname="127.0.0.1")
            connected.sendall(HELLO + offer.direct.ticket)
        assert (is_closed(plain), offer.way) == (True, None)


def test_an_offer_ends_with_its_call(listen, connect, wait_until):
    """After the call its connection is closed, and its ticket opens nothing any more."""
    ways = listen()
    with ways.offered() as taken, ways.offered() as left:
        connected = connect(taken.direct)
        wait_until(lambda: taken.way)
    assert is_closed(connected)
    assert is_closed(connect(taken.direct))
    assert is_closed(connect(left.direct))
    assert left.way is None


def test_stop_ends_what_was_taken_up(listen, connect, wait_until):
    """Whoever waits for a connection when all is stopped waits no more."""
    ways = listen()
    with ways.offered() as offer:
        connected = connect(offer.direct)
        wait_until(lambda: offer.way)
        ways.stop()
        assert is_closed(connected)


@FAMILIES
def test_after_stop_nobody_listens(listen, connect, family):
    """Neither socket takes a connection any more; a second stop does nothing."""
    ways = listen()
    with ways.offered() as offer:
        ways.stop()
        ways.stop()
        with pytest.raises(ConnectionRefusedError):
            connect(offer.direct, family)
