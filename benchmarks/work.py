"""What the processes that a benchmark drives do, by their roles.

python -m benchmarks.work origin|consumer|client ...
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.processes import serve


def origin(root: str, name: str) -> None:
    """Own files, and compute in Python when asked to."""
    import lit_storage

    busy = threading.Event()

    def compute() -> None:
        count = 0
        while True:
            if busy.is_set():
                count += 1
            else:
                busy.wait()

    def answer(request: dict[str, Any]) -> Any:
        if request["do"] == "busy":
            busy.set() if request["on"] else busy.clear()
        return None

    threading.Thread(target=compute, daemon=True).start()
    with lit_storage.join(name, root=root) as session:
        serve(answer, session.endpoint)


def consumer(root: str) -> None:
    """Get files, and say how long it took."""
    import lit_storage
    from lit_storage import Path

    def answer(request: dict[str, Any]) -> Any:
        path = Path(request["uri"])
        if request["do"] == "exists":
            seconds = []
            for _ in range(request["calls"]):
                began = time.perf_counter()
                assert path.exists_remote()
                seconds.append(time.perf_counter() - began)
            return seconds
        pause = request.get("pause", 0.0)
        transfer = path.get(
            True,
            to=request["to"],
            durable=request.get("durable", False),
            progress=(lambda done, total: time.sleep(pause)) if pause else None,
        )
        return [transfer.seconds, transfer.files, transfer.bytes, transfer.how]

    with lit_storage.connect(root=root):
        serve(answer)


def artifacts(root: str) -> None:
    """Publish to S3 and read from it, with lit-storage and with bare s3fs; say how long it took."""
    import s3fs

    import lit_storage
    from lit_storage import Path

    files = s3fs.S3FileSystem()

    def timed(call: Callable[[], Any]) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    def answer(request: dict[str, Any]) -> Any:
        name, tree, to = request["name"], request["tree"], request["to"]
        if request["do"] == "put":
            return timed(lambda: files.put(tree, f"bucket/put/{name}", recursive=True))
        if request["do"] == "s3fs get":
            return timed(lambda: files.get(f"bucket/put/{name}", to, recursive=True))
        if request["do"] == "forget":
            for place in (f"bucket/put/{name}", f"bucket/artifacts/{name}"):
                if files.exists(place):
                    files.rm(place, recursive=True)
            files.invalidate_cache()
            return None
        if request["do"] == "publish":
            with lit_storage.join(name, root=root, artifacts="s3://bucket/artifacts") as session:
                session.declare(tree)
                return timed(session.publish)
        with lit_storage.connect(root=root):
            path = Path(f"lit://@{name}/{tree}")
            return timed(lambda: path.get(to=to, durable=False))

    serve(answer)


def registry(url: str) -> None:
    """Fill, change or watch a registry."""
    from benchmarks.registry import process

    process(url)


def unary_server() -> None:
    """Answer empty calls, as the plainest gRPC server does."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Empty", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    serve(lambda request: None, port)


def unary_client(port: str) -> None:
    """Make empty calls, and say how long each took."""
    import grpc
    from google.protobuf.empty_pb2 import Empty

    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    call = channel.unary_unary("/bench.Empty/Call", Empty.SerializeToString, Empty.FromString)

    def answer(request: dict[str, Any]) -> list[float]:
        seconds = []
        for _ in range(request["calls"]):
            began = time.perf_counter()
            call(Empty(), timeout=10)
            seconds.append(time.perf_counter() - began)
        return seconds

    serve(answer)


def naive_server(directory: str) -> None:
    """Serve files as generated stubs do."""
    from benchmarks import naive

    serve(lambda request: None, naive.start(directory))


def naive_client(port: str) -> None:
    """Get files through generated stubs, and say how long it took."""
    from benchmarks import naive

    client = naive.Client(port)
    serve(lambda request: client.get(request["name"], request["to"]))


if __name__ == "__main__":
    roles: dict[str, Callable[..., None]] = {
        "origin": origin,
        "consumer": consumer,
        "artifacts": artifacts,
        "registry": registry,
        "unary-server": unary_server,
        "unary-client": unary_client,
        "naive-server": naive_server,
        "naive-client": naive_client,
    }
    roles[sys.argv[1]](*sys.argv[2:])
