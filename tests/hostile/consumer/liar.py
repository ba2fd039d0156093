"""A peer that lies: a real gRPC server on loopback that sends what a test gives it, to the byte."""

import collections
import contextlib
import os
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc

from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.direct import HEADER, HELLO, TICKET_BYTES
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.frame_codec import encode_detached, encode_frame
from lit_storage_proto.frames import Chunk, Direct, Frame, Pack, Summary
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.v1 import path_storage_pb2 as pb

SERVICE = "lit_storage.v1.PathStorage"
ORIGIN = ("trainer", "i1")
ROOT = Entry("", Kind.DIRECTORY, mode=0o755, mtime_ns=10**18)
NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 22)]


class Liar:
    """What it says, by call: values or their bytes, or a function of the call's context that returns them.

    `frames`, of type Frame or bytes, answer StreamFiles; `pages` ListFiles; `exists` and `stat` the calls
    of these names.
    """

    def __init__(self, **options):
        self.frames, self.pages = [], []
        self.exists = pb.ExistsResponse(origin=pb.Origin(name=ORIGIN[0], instance_id=ORIGIN[1]), exists=True)
        self.stat = pb.StatResponse(origin=self.exists.origin, entry=pb.Entry(kind=2))
        self.calls = collections.Counter()
        self.pool = ThreadPoolExecutor(8)
        self.server = grpc.server(self.pool, options=NO_LIMIT, **options)
        one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers = {name: one(self._one(name.lower())) for name in ("Exists", "Stat")}
        handlers |= {"ListFiles": many(self._many("pages")), "StreamFiles": many(self._many("frames"))}
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.record = LiveRecord(*ORIGIN, f"127.0.0.1:{self.port}", "m")
        self.server.start()

    def close(self):
        self.server.stop(0).wait(5)
        self.pool.shutdown(wait=False)

    def _one(self, what):
        def answer(request, context):
            self.calls[what] += 1
            said = getattr(self, what)
            return encoded(said(context) if callable(said) else said)

        return answer

    def _many(self, what):
        def answer(request, context):
            self.calls[what] += 1
            said = getattr(self, what)
            yield from map(encoded, said(context) if callable(said) else said)

        return answer


def encoded(value):
    if isinstance(value, Frame):
        return encode_frame(value)
    return value if isinstance(value, bytes) else value.SerializeToString()


def a_file(path, content=b"", **fields):
    return Entry(path, Kind.FILE, **{"size": len(content), "mode": 0o644, "mtime_ns": 10**18, **fields})


def a_directory(path, **fields):
    return Entry(path, Kind.DIRECTORY, **{"mode": 0o755, "mtime_ns": 10**18, **fields})


def a_link(path, text):
    return Entry(path, Kind.SYMLINK, 0, 0o777, 10**18, text)


def gone(path):
    return Entry(path, Kind.REMOVED)


def a_chunk(number, data, offset=0):
    return Chunk(number, offset, chunk_digest(data), data)


def a_pack(files, contents=None, directory=0, **fields):
    """Return a pack of files: by name, their contents."""
    names = [name if isinstance(name, bytes) else os.fsencode(name) for name in files]
    contents = contents or [b"x"] * len(names)
    data, count = b"".join(contents), len(names)
    honest = {
        "directory": directory,
        "names": b"/".join(names),
        "sizes": [len(content) for content in contents],
        "modes": [0o644] * count,
        "mtimes_ns": [10**18] * count,
        "digest": chunk_digest(data),
        "data": data,
    }
    return Pack(**{**honest, **fields})


def told(*parts, origin=ORIGIN, summary=None):
    """Return frames of `parts`, with the summary that is true of them unless another one is given.

    A part is an entry, chunk, pack or frame, or a list of them for one frame.
    """
    frames = [Frame(origin)]
    for part in parts:
        items = part if isinstance(part, list) else [part]
        if isinstance(part, Frame):
            frames.append(part)
            continue
        frames.append(
            Frame(
                entries=[item for item in items if isinstance(item, Entry)],
                chunks=[item for item in items if isinstance(item, Chunk)],
                packs=[item for item in items if isinstance(item, Pack)],
            )
        )
    return [*frames, Frame(summary=summary or summary_of(frames))]


def summary_of(frames):
    """Return what an honest peer would say of frames."""
    entries = [entry for frame in frames for entry in frame.entries]
    chunks = [chunk for frame in frames for chunk in frame.chunks]
    packs = [pack for frame in frames for pack in frame.packs]
    return Summary(
        len(entries),
        len(chunks),
        sum(chunk.size for chunk in chunks) + sum(len(pack.data) for pack in packs),
        sum(entry.kind is Kind.SKIPPED for entry in entries),
        len(packs),
        sum(len(pack.sizes) for pack in packs),
    )


class DirectLiar:
    """The other end of a direct way, over TCP or a Unix socket; it takes connections only when told to."""

    def __init__(self, family=socket.AF_INET, **offer):
        self.ticket = secrets.token_bytes(TICKET_BYTES)
        name = f"lit-storage-{secrets.token_hex(16)}"
        self.listener = socket.socket(family)
        self.listener.settimeout(10)
        if family == socket.AF_INET:
            self.listener.bind(("127.0.0.1", 0))
            where = {"tcp_port": self.listener.getsockname()[1]}
        else:
            self.listener.bind(f"\0{name}")
            where = {"unix_name": name}
        self.listener.listen(64)
        self.offer = Direct(**{**where, "ticket": self.ticket, **offer})
        self.open = []

    def accept(self):
        connected, _ = self.listener.accept()
        connected.settimeout(10)
        self.open.append(connected)
        hello = b""
        while len(hello) < len(HELLO) + TICKET_BYTES:
            hello += connected.recv(len(HELLO) + TICKET_BYTES - len(hello))
        return connected, hello

    def close(self):
        for each in [self.listener, *self.open]:
            with contextlib.suppress(OSError):
                each.close()


def send(connected, frame, *descriptors):
    """Send a frame as a direct way carries it, with descriptors beside its first byte."""
    message, data = encode_detached(frame)
    header = HEADER.pack(len(message), len(data))
    if descriptors:
        socket.send_fds(connected, [header], descriptors)
    else:
        connected.sendall(header)
    connected.sendall(message + bytes(data))


def read(path):
    """Return the text of a file."""
    with open(path) as file:
        return file.read()
