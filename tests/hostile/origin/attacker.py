"""What a peer can ask of an origin, by name, and what it then holds of it."""

import ctypes
import os
import threading

import grpc

from lit_storage_proto.v1 import path_storage_pb2 as pb

CANARY = b"canary-3b1f0c5e-of-what-is-not-shared"

# What an origin may say of what it does not hand out. All else is a fault of its own.
REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
)

SECONDS = 60


def _named(message, path):
    if isinstance(path, bytes):
        message.path_bytes = path
    else:
        message.path = path
    return message


def _stream(**options):
    def ask(stub, path):
        return stub.StreamFiles(_named(pb.StreamFilesRequest(**options), path), timeout=SECONDS)

    return ask


def _held(stub, path):
    held = pb.Held(path="", version=b"v" * 24, starts=[0], ends=[1])
    return _stream(held=[held], packs=True)(stub, path)


def _range(stub, path):
    return _stream(ranges=[pb.Range(offset=0)])(stub, path)


def _range_below(stub, path):
    """The whole path in the range, which is to lie below the empty one."""
    request = pb.StreamFilesRequest(ranges=[_named(pb.Range(offset=0), path)])
    return stub.StreamFiles(request, timeout=SECONDS)


ASK = {
    "exists": lambda stub, path: [stub.Exists(_named(pb.ExistsRequest(), path), timeout=SECONDS)],
    "stat": lambda stub, path: [stub.Stat(_named(pb.StatRequest(), path), timeout=SECONDS)],
    "list": lambda stub, path: stub.ListFiles(_named(pb.ListFilesRequest(), path), timeout=SECONDS),
    "list-all": lambda stub, path: stub.ListFiles(
        _named(pb.ListFilesRequest(recursive=True), path), timeout=SECONDS
    ),
    "stream": _stream(),
    "stream-packs": _stream(packs=True, holes=True),
    "stream-settle": _stream(packs=True, settle=True, accept_changes=True),
    "stream-follow": _stream(packs=True, settle=True, follow_links=True),
    "stream-held": _held,
    "range": _range,
    "range-below": _range_below,
}


def ask(stub, rpc, path):
    """Return what came, as the bytes of all answers, and the code with which it ended."""
    came = []
    try:
        for answer in ASK[rpc](stub, path):
            came.append(answer.SerializeToString())
            if rpc == "exists" and not answer.exists:
                return b"".join(came), grpc.StatusCode.NOT_FOUND
    except grpc.RpcError as error:
        return b"".join(came), error.code()
    return b"".join(came), grpc.StatusCode.OK


_libc = ctypes.CDLL(None, use_errno=True)
RENAME_EXCHANGE = 2


def exchange(one, other):
    """Let two names change places in one step."""
    names = os.fsencode(str(one)), os.fsencode(str(other))
    if _libc.renameat2(-100, names[0], -100, names[1], ctypes.c_uint(RENAME_EXCHANGE)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Swapper:
    """A thread that lets two names change places as fast as it can; a context manager."""

    def __init__(self, one, other):
        self._names = (one, other)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.swaps = 0

    def _run(self):
        while not self._stopped.is_set():
            exchange(*self._names)
            self.swaps += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()
        if self.swaps % 2:
            exchange(*self._names)
