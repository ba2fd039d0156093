"""Tickets of the ways beside gRPC: random, of one call, good once, and given to nobody else."""

import contextlib
import os
import socket
import threading

import pytest

from lit_storage_client.peers.direct import Dialer, Ways
from lit_storage_core.security.credentials import Credentials
from lit_storage_core.security.settings import Security
from lit_storage_proto.direct import HELLO, STRIPED_HELLO, TICKET_BYTES
from lit_storage_proto.frames import Direct
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_server.rpc.direct import DirectWays

UNIX, TCP = socket.AF_UNIX, socket.AF_INET
HELLOS = pytest.mark.parametrize("hello", [HELLO, STRIPED_HELLO], ids=["plain", "striped"])
FAMILIES = pytest.mark.parametrize("family", [UNIX, TCP], ids=["unix", "tcp"])


@pytest.fixture
def ways():
    listening = DirectWays("127.0.0.1", None, Limits())
    yield listening
    listening.stop()


@pytest.fixture
def show(ways):
    """Show a ticket, and return the connection."""
    with contextlib.ExitStack() as stack:

        def connect(direct, family, hello=HELLO, ticket=None):
            connected = stack.enter_context(socket.socket(family))
            connected.settimeout(20)
            connected.connect(f"\0{direct.unix_name}" if family == UNIX else ("127.0.0.1", direct.tcp_port))
            connected.sendall(hello + (direct.ticket if ticket is None else ticket))
            return connected

        yield connect


def is_turned_away(connected):
    with contextlib.suppress(ConnectionResetError):
        return connected.recv(1) == b""
    return True


@pytest.mark.parametrize("second", [UNIX, TCP], ids=["unix", "tcp"])
@FAMILIES
def test_a_ticket_that_was_seen_is_worth_nothing(ways, show, wait_until, family, second):
    """Who replays it on either way is turned away, and the call goes on undisturbed."""
    with ways.offered() as offer:
        first = show(offer.direct, family)
        wait_until(lambda: offer.way)
        assert is_turned_away(show(offer.direct, second))
        first.settimeout(0.2)
        with pytest.raises(TimeoutError):
            first.recv(1)


@FAMILIES
@HELLOS
def test_a_ticket_ends_with_its_call(ways, show, family, hello):
    """It was never used, and opens nothing afterwards."""
    with ways.offered() as offer:
        pass
    assert is_turned_away(show(offer.direct, family, hello))


@FAMILIES
@pytest.mark.parametrize("bit", [0, 7, 100, 255])
def test_a_ticket_that_is_off_by_a_bit(ways, show, family, bit):
    """It opens neither this call nor another one."""
    with ways.offered() as offer, ways.offered() as other:
        number = int.from_bytes(offer.direct.ticket, "big") ^ (1 << bit)
        assert is_turned_away(show(offer.direct, family, ticket=number.to_bytes(TICKET_BYTES, "big")))
        assert (offer.way, other.way) == (None, None)


def test_tickets_are_random():
    """A thousand of them share no half, so that none tells of another."""
    ways = DirectWays("127.0.0.1", None, Limits())
    with contextlib.ExitStack() as stack:
        stack.callback(ways.stop)
        tickets = [stack.enter_context(ways.offered()).direct.ticket for _ in range(1000)]
    assert {len(ticket) for ticket in tickets} == {TICKET_BYTES}
    assert len({ticket[:16] for ticket in tickets} | {ticket[16:] for ticket in tickets}) == 2000


def test_a_ticket_is_shown_in_no_log():
    """Nor in a traceback: an offer does not print it."""
    assert "secret-ticket" not in repr(Direct("x", 1, b"secret-ticket", 1))


@pytest.mark.root
def test_a_socket_of_another_user_gets_no_ticket(as_nobody, tmp_path):
    """Anybody may take a name of the abstract namespace: the kernel says who listens there."""
    heard = tmp_path / "heard"
    heard.mkdir(mode=0o777)
    heard.chmod(0o777)
    os.chmod(tmp_path, 0o755)
    name = "lit-storage-" + os.urandom(16).hex()
    code = f"""
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0{name}")
listener.listen()
listener.settimeout(20)
connected, _ = listener.accept()
connected.settimeout(20)
print(connected.recv(100))
"""
    said = []
    thread = threading.Thread(target=lambda: said.append(as_nobody("import socket", code)))
    thread.start()
    dialer = Dialer(Credentials(Security()), 5.0, Ways.UNIX)
    ticket = os.urandom(TICKET_BYTES)
    while thread.is_alive():
        way = dialer.dial(Direct(name, 0, ticket, 0), LiveRecord("x", "i", "127.0.0.1:1", "m"))
        thread.join(0.1)
        way.close()
    assert said == ["b''"]


@pytest.mark.parametrize(
    "name",
    ["x", "lit-storage-", "lit-storage-" + "0" * 31, "lit-storage-" + "G" * 32, "/run/x.sock", "\0x"],
)
def test_a_peer_names_no_other_socket_of_this_machine(wait_until, name):
    """What it offers is dialed only where it has the form of one of ours."""
    with socket.socket(UNIX) as listener:

        def is_bound():
            with contextlib.suppress(OSError):  # other tests that run on this machine may have it now
                listener.bind("\0" + name)
                return True

        wait_until(is_bound)
        listener.listen()
        listener.settimeout(0.3)
        dialer = Dialer(Credentials(Security()), 5.0, Ways.UNIX)
        way = dialer.dial(Direct(name, 0, bytes(TICKET_BYTES), 0), LiveRecord("x", "i", "127.0.0.1:1", "m"))
        with pytest.raises(TimeoutError):
            listener.accept()
        way.close()
