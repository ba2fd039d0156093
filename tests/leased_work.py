"""A Work whose name is held by a lease, in a process group of its own, that does as it is told."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import grpc

from lit_storage_core.security.settings import Security
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_proto.v1.path_storage_pb2_grpc import PathStorageStub
from tests.waiting import within

wait_until = within(40)

# A Work that does what each line of its input says, and prints what comes of it on one line.
WORK = """
import ctypes, os, sys, time
import lit_storage
from lit_storage import Path
from lit_storage_proto.limits import Limits
root, url, name, lease_seconds = sys.argv[1:5]
limits = Limits(lease_seconds=float(lease_seconds), resolve_seconds=1.5, publish_seconds=5)
session = lit_storage.join(name, root=root, registry=url, limits=limits)
with session:
    out = session.declare(Path("lit://out"))
    os.makedirs(out, exist_ok=True)
    (out / "file").write_text("content")
    print(session.instance_id, session.endpoint, flush=True)
    for line in sys.stdin:
        try:
            print(eval(line), flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
"""


class Process:
    """One Work in a process group of its own."""

    def __init__(self, root, url, name="trainer", program=WORK, lease_seconds=2):
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(root), url, name, str(lease_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._root, self._name = root, name
        self.instance_id, self.endpoint = self.answer().split()

    def answer(self):
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return line.strip()

    def do(self, code):
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()
        return self.answer()

    def signal(self, number):
        """Signal the whole group, with the server's process in it."""
        os.killpg(self.process.pid, number)

    def serves(self, instance_id=None, seconds=2):
        """Say whether somebody answers at its endpoint as an instance, the first one it was, in so long."""
        target = pb.Origin(name=self._name, instance_id=instance_id or self.instance_id)
        metadata = Security((self._root / "token").read_text()).metadata()
        with grpc.insecure_channel(self.endpoint, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                request = pb.ExistsRequest(target=target)
                PathStorageStub(channel).Exists(request, timeout=seconds, metadata=metadata)
            except grpc.RpcError:
                return False
            return True

    def served_until(self):
        """Wait until it serves no more; return when it was last asked and still answered."""
        last = time.monotonic()

        def has_ended():
            nonlocal last
            asked = time.monotonic()
            if not self.serves():
                return True
            last = asked
            return False

        wait_until(has_ended)
        return last

    def leave(self):
        """End it as it should; return its standard error."""
        _, told = self.process.communicate(timeout=100)
        assert self.process.returncode == 0, told
        return told

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.communicate()
