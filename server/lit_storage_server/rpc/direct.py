"""The direct ways of a server: plain sockets on which a stream goes faster than over gRPC.

Invariant: a connection becomes the way of a call only by the ticket of that call, which was given in
the call's own authenticated answer, is random, and is good once, or for the stripes of one way.
Nothing else is read from a connection but acknowledgements, and nobody waits for one without a limit.
What is sent is described at ``Direct`` in ``v1/path_storage.proto``.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from lit_storage_core.security.tls_socket import StreamSocket, TlsSocket
from lit_storage_core.system.unix_socket import is_own_or_root
from lit_storage_proto.direct import COPIED, COPYING, HEADER, HELLO, MAX_STRIPES, STRIPED_HELLO, TICKET_BYTES
from lit_storage_proto.errors import OriginUnavailable, StorageError
from lit_storage_proto.frame_codec import encode_detached
from lit_storage_proto.frames import Direct, Frame
from lit_storage_proto.limits import KIB, MIB, Limits
from lit_storage_server.rpc.auth import ServerTls
from lit_storage_server.rpc.stripes import StripedSender

_HELLO_SECONDS = 5.0
_MOST_HANDSHAKES = 128  # those of some consumers, each with all its stripes
_SLOWEST_BYTES_A_SECOND = 256 * KIB  # a consumer that says that it copies holds a place; slower is no copy
_SEND_BUFFER_BYTES = 4 * MIB  # as much of it as the kernel allows


class Way:
    """One connection that has shown its ticket."""

    def __init__(self, connected: StreamSocket | StripedSender, seconds: float) -> None:
        self._socket = connected
        self._seconds = seconds
        self.passes_descriptors = _is_own(connected)
        """Whether files are passed as descriptors.

        Whoever holds one can open the file anew, for whatever its mode lets him do, though he may not enter
        its directory, and can go on reading when nothing is shared with him any more. So another user is
        sent the bytes.
        """
        if not isinstance(connected, StripedSender):
            connected.settimeout(seconds)

    def send(self, frame: Frame, descriptor: int) -> Iterator[None]:
        """Send a frame, and wait until what was passed as a descriptor is copied; yield as it goes on.

        Args:
            frame: of any number of chunks and packs.
            descriptor: that of a chunk which has `descriptor_bytes`.

        Raises:
            OriginUnavailable: the other side is gone, or does not go on.
        """
        try:
            for part in _parts(frame):
                passed = any(chunk.descriptor_bytes for chunk in part.chunks)
                self._send(part, descriptor if passed else -1)
                yield
                if passed:
                    yield from self._wait_until_copied(sum(chunk.descriptor_bytes for chunk in part.chunks))
            if frame.summary is not None and isinstance(self._socket, StripedSender):
                self._socket.finish()
        except TimeoutError:
            raise OriginUnavailable(
                f"the consumer took nothing on its direct connection for {self._seconds:g} s"
            ) from None
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise OriginUnavailable(f"the direct connection was lost: {error.strerror or error}") from None

    def shut_down(self) -> None:
        """End it, whoever waits for it; `close` is still to be called."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, after what was sent."""
        self._socket.close()

    def _send(self, frame: Frame, descriptor: int) -> None:
        message, data = encode_detached(frame)
        head = HEADER.pack(len(message), len(data)) + message
        if isinstance(self._socket, StripedSender):
            self._socket.sendall(head, data)
            return
        if isinstance(self._socket, TlsSocket):
            self._socket.sendall(head)
            self._socket.sendall(data)
            return
        ancillary = []
        if descriptor >= 0:
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])))
        sent = self._socket.sendmsg([head, data], ancillary)
        if sent < len(head):
            self._socket.sendall(head[sent:])
            sent = len(head)
        if sent < len(head) + len(data):
            self._socket.sendall(memoryview(data)[sent - len(head) :])

    def _wait_until_copied(self, size: int) -> Iterator[None]:
        deadline = time.monotonic() + self._seconds + size / _SLOWEST_BYTES_A_SECOND
        while True:
            if time.monotonic() > deadline:
                raise TimeoutError
            assert isinstance(self._socket, socket.socket)  # only a Unix socket passes descriptors
            said = self._socket.recv(1024)
            if not said:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            if said.endswith(COPIED):
                return
            if said.strip(COPYING):
                raise OriginUnavailable("the consumer said what no consumer says on a direct connection")
            yield


@dataclass(slots=True)
class Offer:
    """What one call offers, and the connection that took it up."""

    direct: Direct
    way: Way | None = None
    claimed: int = 0
    peer: str | None = None
    """The host that showed the ticket first."""
    ended: bool = False
    stripes: StripedSender | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def claim(self, peer: str, *, striped: bool, seconds: float) -> bool:
        """Say whether the ticket is good for another connection, and count it.

        Args:
            peer: the host that shows it.
            striped: whether it is to be one of several.
            seconds: how long none of those may take anything.
        """
        with self.lock:
            if striped and not self.claimed:
                self.stripes = StripedSender(seconds)
            if self.peer is None:
                self.peer = peer
            most = self.direct.stripes if striped and self.stripes is not None else 1
            self.claimed += 1
            return self.claimed <= most and peer == self.peer

    def attach(self, connected: StreamSocket, seconds: float) -> None:
        """Take a connection that showed the ticket."""
        with self.lock:
            if self.ended:
                connected.close()
            elif self.stripes is None:
                self.way = Way(connected, seconds)
            else:
                self.stripes.add(connected)
                self.way = self.way or Way(self.stripes, seconds)

    def shut_down(self) -> None:
        """End whatever the connection waits for."""
        with self.lock:
            if self.way is not None:
                self.way.shut_down()

    def end(self) -> None:
        """Take no connection any more, and close the one there is."""
        with self.lock:
            self.ended = True
            if self.way is not None:
                self.way.close()


class DirectWays:
    """Listens for the consumers of one server, on a port beside its own and on a Unix socket.

    Args:
        host: where to listen.
        tls: makes connections from other machines ones with TLS; None leaves them plain.
        limits: how long a connection may stand still.
    """

    def __init__(self, host: str, tls: ServerTls | None, limits: Limits) -> None:
        self._tls = tls
        self._seconds = limits.progress_seconds
        self._offers: dict[bytes, Offer] = {}
        self._handshakes = threading.Semaphore(_MOST_HANDSHAKES)
        self._unix_name = f"lit-storage-{secrets.token_hex(16)}"
        self._listeners: list[socket.socket] = []
        self._tcp_port = 0
        self._stopped = False
        self._listen(host)

    @contextlib.contextmanager
    def offered(self) -> Iterator[Offer]:
        """Offer the ways to one call for the length of a ``with`` block."""
        ticket = secrets.token_bytes(TICKET_BYTES)
        offer = Offer(Direct(self._unix_name, self._tcp_port, ticket, MAX_STRIPES if self._tcp_port else 0))
        self._offers[ticket] = offer
        try:
            yield offer
        finally:
            self._offers.pop(ticket, None)
            offer.end()

    def stop(self) -> None:
        """Listen no more, and end what was taken up. A second call does nothing."""
        self.close_listeners()
        for offer in list(self._offers.values()):
            offer.shut_down()

    def close_listeners(self) -> None:
        """Listen no more; what was taken up goes on. A second call does nothing."""
        self._stopped = True
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _listen(self, host: str) -> None:
        unix = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):  # a sandbox may have no such sockets
            unix.bind(f"\0{self._unix_name}")
            unix.listen()
            self._accept_on(unix, None)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with contextlib.suppress(OSError):
            tcp = socket.create_server((host, 0), family=family)
            self._tcp_port = tcp.getsockname()[1]
            self._accept_on(tcp, self._tls)

    def _accept_on(self, listener: socket.socket, tls: ServerTls | None) -> None:
        self._listeners.append(listener)
        threading.Thread(
            target=self._accept, args=(listener, tls), name="lit-storage-direct", daemon=True
        ).start()

    def _accept(self, listener: socket.socket, tls: ServerTls | None) -> None:
        while not self._stopped:
            try:
                connected, _ = listener.accept()
            except OSError:
                if self._stopped:
                    return
                time.sleep(0.1)  # descriptors are short
                continue
            if not self._handshakes.acquire(blocking=False):
                connected.close()
                continue
            try:
                threading.Thread(
                    target=self._welcome, args=(connected, tls), name="lit-storage-hello", daemon=True
                ).start()
            except RuntimeError:
                connected.close()
                self._handshakes.release()

    def _welcome(self, accepted: socket.socket, tls: ServerTls | None) -> None:
        connected: StreamSocket = accepted
        offer = None
        try:
            host = _host_of(accepted)
            accepted.settimeout(_HELLO_SECONDS)
            if accepted.family == socket.AF_UNIX:
                # Its buffers do not grow by themselves, and one of the size that is given by default
                # holds less than half a message.
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            else:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                connected = TlsSocket(accepted, tls.context(), _HELLO_SECONDS)
            offer = self._offer_of(connected, host)
        except OSError:
            pass  # whoever it was does not speak as a consumer does
        finally:
            self._handshakes.release()
        if offer is None:
            connected.close()
        else:
            offer.attach(connected, self._seconds)

    def _offer_of(self, connected: StreamSocket, host: str) -> Offer | None:
        """Return the offer whose ticket a connection shows, if any."""
        deadline = time.monotonic() + _HELLO_SECONDS
        hello = b""
        while len(hello) < len(HELLO) + TICKET_BYTES:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            connected.settimeout(left)
            data = connected.recv(len(HELLO) + TICKET_BYTES - len(hello))
            if not data:
                return None
            hello += data
        offer = self._offers.get(hello[len(HELLO) :])
        striped = hello.startswith(STRIPED_HELLO) and connected.family != socket.AF_UNIX
        if offer is None or not (striped or hello.startswith(HELLO)):
            return None
        return offer if offer.claim(host, striped=striped, seconds=self._seconds) else None


def _is_own(connected: StreamSocket | StripedSender) -> bool:
    """Say whether it is a Unix socket, and this user or root is at its other end."""
    if not isinstance(connected, socket.socket) or connected.family != socket.AF_UNIX:
        return False
    return is_own_or_root(connected)


def _host_of(accepted: socket.socket) -> str:
    """Return the address of the host at the other end; "" on a Unix socket."""
    if accepted.family == socket.AF_UNIX:
        return ""
    name = accepted.getpeername()
    return str(name[0]) if isinstance(name, tuple) else ""


def frames_on(
    frames: Iterator[Frame],
    offer: Offer | None,
    descriptor: Callable[[], int],
    pass_descriptors: Callable[[], None],
) -> Iterator[Frame | None]:
    """Yield the frames to send over gRPC until the offer is taken up; send the rest on its way.

    Args:
        frames: all of one call.
        offer: what may be taken up; None keeps all on gRPC.
        descriptor: returns the descriptor that goes with the frame just taken.
        pass_descriptors: called where files can be passed as descriptors from now on.

    Yields:
        A frame for gRPC, or None where something was sent on the direct way.

    Raises:
        OriginUnavailable: as of `Way.send`; and whatever `frames` raises.
    """
    way: Way | None = None
    for frame in frames:
        if way is None and offer is not None and offer.way is not None:
            way = offer.way
            yield Frame(moved=True)
            if way.passes_descriptors:
                pass_descriptors()
        if way is None:
            yield frame
        else:
            yield from way.send(frame, descriptor())


def _parts(frame: Frame) -> Iterator[Frame]:
    """Yield a frame as several, of which each has at most one chunk or pack."""
    if len(frame.chunks) + len(frame.packs) <= 1:
        yield frame
        return
    yield replace(frame, chunks=(), packs=(), summary=None)
    for chunk in frame.chunks:
        yield Frame(chunks=[chunk], round=frame.round)
    for pack in frame.packs:
        yield Frame(packs=[pack], round=frame.round)
    if frame.summary is not None:
        yield Frame(summary=frame.summary, round=frame.round)
