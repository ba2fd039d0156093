"""The naive way: a gRPC service with generated messages of 1 MiB, no digests, one file a call.

python -m benchmarks.naive serve DIRECTORY | get PORT NAME TARGET
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

CHUNK_BYTES = 1 << 20
OPTIONS = [("grpc.max_receive_message_length", 4 << 20)]


def serve(directory: str) -> None:
    def read(request: StringValue, context: Any) -> Iterator[BytesValue]:
        with open(f"{directory}/{request.value}", "rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield BytesValue(value=data)

    handler = grpc.unary_stream_rpc_method_handler(read, StringValue.FromString, BytesValue.SerializeToString)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Naive", {"Read": handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()


def get(port: str, name: str, target: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}", OPTIONS) as channel, open(target, "wb") as file:
        call = channel.unary_stream("/bench.Naive/Read", StringValue.SerializeToString, BytesValue.FromString)
        for message in call(StringValue(value=name)):
            file.write(message.value)


if __name__ == "__main__":
    {"serve": serve, "get": get}[sys.argv[1]](*sys.argv[2:])
