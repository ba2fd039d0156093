"""Frames of HTTP/2 (RFC 9113) by hand, for what no library of a client would send."""

import contextlib
import socket
import struct

from tests.hostile.server.attacked import TOKEN

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8
EXISTS = "/lit_storage.v1.PathStorage/Exists"
LIST_FILES = "/lit_storage.v1.PathStorage/ListFiles"
STREAM_FILES = "/lit_storage.v1.PathStorage/StreamFiles"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name, value):
    """Return a header of less than 127 bytes, neither indexed nor compressed (RFC 7541, 6.2.2)."""
    name, value = name.encode(), value.encode()
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


def request_headers(method, token=TOKEN):
    pairs = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "store", "te": "trailers"}
    pairs |= {"content-type": "application/grpc"} | ({"authorization": f"Bearer {token}"} if token else {})
    return b"".join(header(*pair) for pair in pairs.items())


def opened(method, stream, **options):
    """Return what opens a call, and sends nothing of its request."""
    return frame(HEADERS, END_HEADERS, stream, request_headers(method, **options))


def message(body):
    return struct.pack(">BI", 0, len(body)) + body


class Connection:
    """One connection that speaks HTTP/2 as it likes, and reads nothing unless it is told to."""

    def __init__(self, port, *, begin=True, host="127.0.0.1"):
        self.socket = socket.socket()
        self.socket.settimeout(10)
        self.socket.connect((host, port))
        if begin:
            self.send(PREFACE + frame(SETTINGS, 0, 0))

    def send(self, *frames):
        """Send frames; say whether the other side still took them."""
        try:
            self.socket.sendall(b"".join(frames))
        except OSError:
            return False
        return True

    def is_ended(self, seconds=10):
        """Say whether the server ends it within so many seconds; what it sends before is passed over."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
