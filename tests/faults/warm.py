"""Forks processes that have imported everything, and started nothing: a Work or a consumer in milliseconds.

Each request comes with the socket of its child; the answer is the child's pidfd. A child tells what
befalls it as lines of JSON, reads lines of JSON, and says nothing of its end if it is killed.
"""

import dataclasses
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace

import lit_storage
import lit_storage_client.peers.channels  # noqa: F401  # loads gRPC, which nobody here starts before the fork
from lit_storage import Limits, Path
from lit_storage_client.peers.direct import Ways
from lit_storage_core.registries import sqlite  # noqa: F401
from lit_storage_proto.entry import Kind
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_server.process import server_process

LIMITS = Limits(connect_seconds=10.0, unary_seconds=10.0, progress_seconds=20.0, resume_seconds=20.0)
FETCH = os.path.dirname(sys.modules["lit_storage_client.fetch"].__file__)
BELOW_FETCH = tuple(
    sys.modules[f"lit_storage_core.{name}"].__file__
    for name in ("staging.journal", "staging.names", "system.copy_span", "system.file_lock", "system.libc")
)
"""What puts a copy together beside what lies in FETCH."""
FAULTS = ("die_at_line", "die_in", "die_at_bytes", "pause_at_bytes", "watch")


def origin(line, root, name="origin", declares=(), **limits):
    """Be a Work until the other side is gone."""
    server_process._MOST_STARTS = 10**6  # the process that serves is killed all the time
    with lit_storage.join(name, root=root, limits=dataclasses.replace(LIMITS, **limits)) as session:
        for path in declares:
            session.declare(Path(path), persist=False)
        line.tell(serves=os.path.realpath(lit_storage.current().storage_root))
        line.hear()


def get(
    line,
    root,
    uri,
    times=1,
    local_copy=True,
    grpc_only=False,
    wait=False,
    to=None,
    limits=(),
    failing=False,
    **how,
):
    """Get a path to one place or several in turn, once or again; tell of each how it went, and go on."""
    os.environ["LIT_STORAGE_LOCAL_COPY"] = "1" if local_copy else "0"
    if grpc_only:
        lit_storage.sessions.environment.direct_ways = lambda: Ways.NONE
    faults = {name: how.pop(name) for name in FAULTS if name in how}
    limits = dataclasses.replace(LIMITS, **dict(limits))
    if failing:  # as soon as it connects, or later

        def connect_and_get():
            with lit_storage.connect(root=root, limits=limits):
                return {"how": Path(uri).get(to=to, overwrite=True).how}

        line.tell(**_timed(connect_and_get))
        return
    with lit_storage.connect(root=root, limits=limits):
        path = Path(uri)
        line.tell(ready=True)
        if wait:
            line.hear()
        seen = SimpleNamespace(lines=0)
        for place in times * (to if isinstance(to, list) else [to]):
            line.tell(**_get_once(line, path, seen, {"to": place, **how}, **faults))
    line.tell(left=True)


def get_when_told(line, root, uri, to, limits=()):
    """Get once, and once more after each word."""
    with lit_storage.connect(root=root, limits=dataclasses.replace(LIMITS, **dict(limits))):
        while True:
            options = {"to": to, "overwrite": True, "durable": False}
            line.tell(**_get_once(line, Path(uri), SimpleNamespace(lines=0), options))
            if line.hear() is None:
                return


def publish(line, root, store, first, name="publisher", times=1000):
    """Publish one version after the other of a tree whose files all say which one; tell of each."""
    with lit_storage.join(name, root=root, artifacts=store, limits=LIMITS) as session:
        session.declare(Path("lit://tree"))
        for version in range(first, first + times):
            for part in range(8):
                place = f"{session.storage_root}/tree/{part % 2}"
                os.makedirs(place, exist_ok=True)
                with open(f"{place}/{part}", "w") as file:
                    file.write(f"{version} " * (1 << 14))
            session.publish()
            line.tell(published=version)
    line.tell(left=True)


def join_once(line, root, name, limits=()):
    """Join and leave, and tell how that went."""

    def join():
        lit_storage.join(name, root=root, limits=dataclasses.replace(LIMITS, **dict(limits))).close()
        return {}

    line.tell(**_timed(join))


def short(line, root, uri, to, what, amounts, user=None, local_copy=False):
    """Get with little of something, and then without that limit, once for each amount; tell of each."""
    os.environ["LIT_STORAGE_LOCAL_COPY"] = "1" if local_copy else "0"
    with lit_storage.connect(root=root, limits=LIMITS):
        path, seen = Path(uri), SimpleNamespace(lines=0)
        options = {"to": to, "overwrite": True, "durable": False}
        line.tell(ready=True, **_get_once(line, path, seen, {**options, "to": f"{to}-before"}))
        if user is not None:  # by now all is imported, which that user may not read
            os.chown(f"{root}/token", user, user)
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        for amount in amounts:
            line.hear()
            kind = getattr(resource, f"RLIMIT_{what}")
            before = resource.getrlimit(kind)
            resource.setrlimit(kind, (_in_use(what) + amount, before[1]))
            try:
                how = _get_once(line, path, seen, options)
            finally:
                resource.setrlimit(kind, before)
            line.tell(**how)
            line.hear()
            line.tell(**_get_once(line, path, seen, options))
    line.tell(left=True)


def _in_use(what):
    """Return how much of a limited thing this process, or user, has."""
    if what == "NOFILE":
        return max(map(int, os.listdir("/proc/self/fd")))
    with open("/proc/self/status") as status:
        found = dict(line.split(":", 1) for line in status)
    if what == "AS":
        return int(found["VmSize"].split()[0]) * 1024
    return int(found["Threads"])  # NPROC: of a user who runs nothing else


def stream(line, root, uri):
    """Take the first frame of a tree, wait for a word, and tell how many files came in which frames."""
    with lit_storage.connect(root=root, limits=LIMITS) as session:
        options = TreeOptions(packs=True, settle=True)
        with session.remote.stream(Path(uri)._location(), options) as frames:
            counts = [_names(next(frames))]
            line.tell(ready=True)
            line.hear()
            counts += [_names(frame) for frame in frames if not frame.round]
    marked = sum(name.startswith("marker") for names in counts for name in names)
    line.tell(files=[len(names) for names in counts], marked=marked)


def get_in_threads(line, root, gets, times):
    """Let several threads of one session get, each again and again what it is told to."""
    with lit_storage.connect(root=root, limits=LIMITS):

        def run(uri, options):
            for _ in range(times):
                line.tell(uri=uri, **_get_once(line, Path(uri), SimpleNamespace(lines=0), options))

        threads = [threading.Thread(target=run, args=each, daemon=True) for each in gets]
        line.tell(ready=True)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    line.tell(left=True)


def _names(frame):
    names = [entry.path.rpartition("/")[2] for entry in frame.entries if entry.kind is Kind.FILE]
    for pack in frame.packs:
        names += os.fsdecode(pack.names).split("/")
    return names


def _get_once(
    line, path, seen, options, die_at_line=0, die_in="", die_at_bytes=0, pause_at_bytes=None, watch=False
):
    seen.done = seen.jump = 0
    seen.paused = pause_at_bytes is None

    def progress(done, _total):
        seen.done, seen.jump = done, max(seen.jump, done - seen.done)
        if die_at_bytes and done >= die_at_bytes:
            os.kill(os.getpid(), signal.SIGKILL)
        if not seen.paused and done >= pause_at_bytes:
            seen.paused = True
            line.tell(paused=done)
            line.hear()

    def trace(frame, event, _argument):
        file = frame.f_code.co_filename
        if not file.startswith(f"{FETCH}/{die_in}") and (die_in or file not in BELOW_FETCH):
            return None
        if event == "line":
            seen.lines += 1
            if seen.lines == die_at_line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    watched = die_at_bytes or pause_at_bytes is not None or watch
    if die_at_line:
        sys.settrace(trace)

    def transfer():
        done = path.get(progress=progress if watched else None, **options)
        return {"how": done.how, "bytes": done.bytes}

    try:
        how = _timed(transfer)
    finally:
        sys.settrace(None)
    return {**how, "jump": seen.jump, "lines": seen.lines}


def _timed(do):
    started = time.monotonic()
    try:
        how = do()
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        of_system = {"errno": getattr(error, "errno", None), "filename": getattr(error, "filename", None)}
        how = {"error": kinds, "text": str(error), **of_system}
    return {**how, "seconds": time.monotonic() - started}


class Line:
    """The child's end of the connection with the test."""

    def __init__(self, connection):
        self._lock = threading.Lock()
        self._connection = connection
        self._incoming = connection.makefile("r")

    def tell(self, **message):
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self):
        text = self._incoming.readline()
        return json.loads(text) if text else None


def _be(request, connection):
    os.setsid()
    line = Line(connection)
    try:
        globals()[request.pop("role")](line, **request)
    except BaseException as error:
        line.tell(broken=f"{type(error).__name__}: {error}")
        raise


def _reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main():
    requests = socket.socket(fileno=int(sys.argv[1]))
    while True:
        text, descriptors, _, _ = socket.recv_fds(requests, 1 << 16, 1)
        _reap()
        if not text:
            return
        pid = os.fork()
        if pid == 0:
            requests.close()
            code = 1
            try:
                _be(json.loads(text), socket.socket(fileno=descriptors[0]))
                code = 0
            finally:
                sys.stdout.flush()
                os._exit(code)
        os.close(descriptors[0])
        pidfd = os.pidfd_open(pid)  # the child is not reaped yet, so it is the child's
        socket.send_fds(requests, [str(pid).encode()], [pidfd])
        os.close(pidfd)


if __name__ == "__main__":
    main()
