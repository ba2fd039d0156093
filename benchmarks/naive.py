"""The naive way: a gRPC service with generated messages of 1 MiB, no digests, one file a call.

Its processes are `benchmarks.work` ones: warm, as ours are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

CHUNK_BYTES = 1 << 20
OPTIONS = [("grpc.max_receive_message_length", 4 << 20)]


def start(directory: str) -> int:
    """Serve the files of a directory, and return the port."""

    def read(request: StringValue, context: Any) -> Iterator[BytesValue]:
        with open(f"{directory}/{request.value}", "rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield BytesValue(value=data)

    handler = grpc.unary_stream_rpc_method_handler(read, StringValue.FromString, BytesValue.SerializeToString)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Naive", {"Read": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _running.append(server)
    return int(port)


class Client:
    """Copies files from one server."""

    def __init__(self, port: str) -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", OPTIONS)
        self._read = channel.unary_stream(
            "/bench.Naive/Read", StringValue.SerializeToString, BytesValue.FromString
        )

    def get(self, name: str, target: str) -> float:
        """Copy a file, and return the seconds."""
        began = time.perf_counter()
        with open(target, "wb") as file:
            for message in self._read(StringValue(value=name)):
                file.write(message.value)
        return time.perf_counter() - began


_running: list[grpc.Server] = []
