"""What runs in a Work's process from its first line: wires a `WorkHost` to the App's socket.

The main thread runs the Work; another one reads commands, a third one sends reports. SIGTERM, a
Stop of the App and the end of the App are one thing: `WorkStopped` is raised in ``run``, or its task is
cancelled where it is asynchronous, and the Work leaves. SIGINT is passed over, for the App decides.
Children of the Work do not keep the socket.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from types import FrameType

from lit_storage.apps.work_host import WorkHost
from lit_storage.executors import Start, Stop, app_file, by_value
from lit_storage.executors.outbox import Outbox
from lit_storage_core.system.process import ProcessIdentity


def main(connection: Connection) -> None:
    """Serve the Work that the first command describes, then exit."""
    os.set_inheritable(connection.fileno(), False)
    os.register_at_fork(after_in_child=connection.close)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a Work prints appears when it prints it
    by_value.send_known_classes_only()
    app = ProcessIdentity.of(os.getppid())
    start = connection.recv()
    assert isinstance(start, Start)
    outbox = Outbox(connection, "lit-reports")
    host = WorkHost(start, outbox.put, lambda: app_file.load(start.file), app)

    def stop(_signum: int, _frame: FrameType | None) -> None:
        host.command(Stop())
        host.interrupt()

    signal.signal(signal.SIGTERM, stop)
    # An interpreter that ends gives signals their default action back, and the next one would kill a Work
    # that has left. Registered first, this runs last: no code of the user starts a child that inherits it.
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda _signum, _frame: None)  # not SIG_IGN, which children would inherit
    threading.Thread(target=_listen, args=(connection, host, start), name="lit-commands", daemon=True).start()
    host.serve()
    outbox.close()  # a suspended App gets it later, and `_listen` ends this process if there is none
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _listen(connection: Connection, host: WorkHost, start: Start) -> None:
    """Pass commands on; when there will be no more, stop, and within the grace exit for certain."""
    try:
        while not isinstance(command := connection.recv(), Stop):
            host.command(command)
        app_is_gone = False
    except (EOFError, OSError):
        app_is_gone = True
    host.command(Stop())
    os.kill(os.getpid(), signal.SIGTERM)
    if app_is_gone:
        threading.Event().wait(start.limits.stop_grace_seconds / 2)
        if host.is_publishing:
            threading.Event().wait(start.limits.publish_seconds)
        os._exit(1)
