"""Peers that are no gRPC servers, or gRPC servers that break HTTP/2: written byte by byte."""

import contextlib
import itertools
import socket
import struct
import threading

import pytest

from lit_storage_proto.errors import StorageError
from lit_storage_proto.frame_codec import encode_frame
from lit_storage_proto.frames import Frame
from lit_storage_proto.registry import LiveRecord
from tests.hostile.consumer.conftest import sentence
from tests.hostile.consumer.liar import ORIGIN, ROOT, told

DATA, HEADERS, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4
FIRST = (":status", "200"), ("content-type", "application/grpc")


def h2(kind, flags, stream, payload=b""):
    """Return a frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def fields(*pairs):
    """Return header fields as HPACK writes them without a table: RFC 7541, section 6.2.2."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)


def _text(text):
    raw, size = text.encode("latin-1"), len(text)
    if size < 127:
        return bytes([size]) + raw
    size, head = size - 127, b"\x7f"
    while size > 127:
        head, size = head + bytes([size & 127 | 128]), size >> 7
    return head + bytes([size]) + raw


def headers(*pairs, end=False):
    return h2(HEADERS, END_HEADERS | (END_STREAM if end else 0), 1, fields(*pairs))


def message(body, size=None, compressed=0):
    return h2(DATA, 0, 1, struct.pack(">BI", compressed, len(body) if size is None else size) + body)


BODY = b"".join(message(encode_frame(frame)) for frame in told(ROOT))
HALF = message(encode_frame(Frame(ORIGIN, [ROOT])))


def answer(*parts):
    return headers(*FIRST) + b"".join(parts)


def status(code, text=""):
    return headers(("grpc-status", code), ("grpc-message", text), end=True)


ANSWERS = {
    "code 17": answer(HALF, status("17")),
    "code 99": answer(HALF, status("99", "no such code")),
    "code -1": answer(HALF, status("-1")),
    "code of 2^64": answer(HALF, status(str(2**64))),
    "code that is text": answer(HALF, status("OK")),
    "no code": answer(HALF, headers(("x", "y"), end=True)),
    "no trailers": answer(HALF, h2(DATA, END_STREAM, 1)),
    "only trailers": headers(*FIRST, ("grpc-status", "99"), ("grpc-message", "%1B[2J"), end=True),
    "a sentence that steers": answer(HALF, status("7", "%1B[2J%1B]0;owned%07%0D%0A%E2%80%AE")),
    "a sentence that is not UTF-8": answer(HALF, status("7", "%FF%FE%00")),
    "a sentence with raw bytes": answer(HALF, status("7", "\x1b\xff\x9b31m")),
    "ok with half a tree": answer(HALF, status("0")),
    "not found behind half a tree": answer(HALF, status("5")),
    "HTTP 404": headers((":status", "404"), end=True),
    "HTTP 999": headers((":status", "999"), ("content-type", "text/html"), end=True),
    "a web page": headers((":status", "200"), ("content-type", "text/html"))
    + h2(DATA, 1, 1, b"<html>\x1b[2J"),
    "a redirect": headers((":status", "302"), ("location", "http://169.254.169.254/"), end=True),
    "a length without end": answer(message(b"x", 2**32 - 1), status("0")),
    "a length that is too large": answer(message(b"", 5 << 20), status("0")),
    "a length that is cut": answer(message(b"xy", 100), status("0")),
    "compressed by nothing": answer(message(b"xy", compressed=1), status("0")),
    "compressed by what is unknown": headers(*FIRST, ("grpc-encoding", "bomb"))
    + message(b"xy", compressed=1),
    "a flag that is none": answer(message(b"xy", compressed=255), status("0")),
    "headers of a megabyte": headers(*FIRST, *[(f"x{n}", "y" * 8000) for n in range(60)], end=True),
    "reset": h2(3, 0, 1, struct.pack(">I", 2)),
    "go away": h2(GOAWAY, 0, 0, struct.pack(">II", 0, 11) + b"\x1b[2Jtoo many pings"),
    "another stream": h2(HEADERS, END_HEADERS, 7, fields(*FIRST)) + h2(DATA, 1, 7, b"x"),
    "a frame that is too long": h2(DATA, 0, 1, bytes(1 << 18)),
    "a frame of no kind": h2(77, 255, 1, b"x") + h2(GOAWAY, 0, 0, bytes(8)),
    "broken fields": h2(HEADERS, END_HEADERS, 1, b"\xff" * 50),
    "nothing, and the end": b"",
    "no HTTP/2": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "noise": bytes(range(256)) * 40,
}
FLOODS = {
    "continuations": (
        headers(*FIRST)[:4] + b"\0" + headers(*FIRST)[5:],
        h2(CONTINUATION, 0, 1, fields(("a", "b" * 900))),
    ),
    "settings": (b"", h2(SETTINGS, 0, 0) * 10),
    "pings": (b"", h2(PING, 0, 0, bytes(8)) * 10),
    "empty data": (answer(HALF), h2(DATA, 0, 1) * 100),
    "noise": (b"", b"\xff" * 4096),
    "one byte now and then": (answer(HALF), None),
}


class Raw:
    """A peer that answers each connection with bytes, once it has been asked something."""

    def __init__(self, first, more=(), pause=0.0, hold=False):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.record = LiveRecord(*ORIGIN, f"127.0.0.1:{self.listener.getsockname()[1]}", "m")
        self.first, self.more, self.pause, self.hold = first, more, pause, hold
        self.over = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self.listener.accept()
                threading.Thread(target=self.speak, args=(connected,), daemon=True).start()

    def speak(self, connected):
        with contextlib.suppress(OSError), connected:
            connected.settimeout(20)
            if self.hold:
                self.over.wait(20)
                return
            connected.sendall(h2(SETTINGS, 0, 0))
            heard = b""
            while b"PathStorage" not in heard and b"\x00\x01\x04\x00\x00\x00\x01" not in heard:
                more = connected.recv(1 << 16)
                if not more:
                    return
                heard += more
            connected.sendall(self.first)
            for part in self.more:
                connected.sendall(part)
                if self.over.wait(self.pause):
                    return

    def close(self):
        self.over.set()
        self.listener.close()


@pytest.fixture
def raw():
    with contextlib.ExitStack() as stack:
        yield lambda *of, **options: stack.enter_context(contextlib.closing(Raw(*of, **options)))


@pytest.fixture
def refused_by(consumer_of, liar):
    """Get from a peer, which must fail; what `untouched` asks before is answered by another one."""

    def refuse(peer, *, also_unary=False):
        times = {"connect_seconds": 1.0, "progress_seconds": 0.7, "unary_seconds": 3.0}
        consumer = consumer_of(liar.record, **times)
        with consumer.untouched():
            consumer.ask(peer.record, call=also_unary)
            with pytest.raises(StorageError) as caught:
                consumer.get()
            peer.close()
            consumer.ask(liar.record)
        return sentence(caught.value)

    return refuse


@pytest.mark.parametrize("said", ANSWERS.values(), ids=ANSWERS)
def test_answer(raw, refused_by, said):
    """Whatever breaks HTTP/2 or gRPC, and whatever code a call ends with, is a typed error in time."""
    refused_by(raw(said), also_unary=True)


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_flood(raw, refused_by, flood):
    """What comes without end and brings nothing is given up in time."""
    first, unit = flood
    pause = 0.005 if unit else 0.05
    parts = (
        itertools.repeat(unit)
        if unit
        else (message(b"")[i : i + 1] for _ in itertools.count() for i in range(14))
    )
    refused_by(raw(first, parts, pause))


@pytest.mark.slow
def test_peer_that_says_nothing(raw, refused_by):
    """A port that takes connections and says nothing is given up in time."""
    refused_by(raw(b"", hold=True))
