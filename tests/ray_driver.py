"""The executor ``ray`` in a program of its own, inside the network namespace of a cluster.

`RayDriver` is that executor for a test, which is outside. Run as a program, this is the other side.
"""

import importlib
import itertools
import os
import socket
import sys
import threading
from multiprocessing.connection import Connection

from lit_storage.executors.ray.executor import RayExecutor


class RayDriver:
    """Passes on what is asked of an executor, and what it tells."""

    def __init__(self, cluster):
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = cluster.start(
                sys.executable, __file__, str(theirs.fileno()), env={}, pass_fds=[theirs.fileno()]
            )
        self._connection = Connection(ours.detach())
        self._connection.send(sys.path)
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._told = {}
        self._answers = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, start, receive, ended):
        number = next(self._numbers)
        self._told[number] = {"report": receive, "ended": ended}
        self._say("start", number, start)
        return RayDriverWorker(self, number)

    def close(self):
        self.ask("close", 0)
        self._process.wait(60)

    def ask(self, what, number, *arguments):
        """Wait until it is done."""
        self._answers[number] = answer = threading.Event()
        self._say(what, number, *arguments)
        assert answer.wait(100), f"{what} did not end"

    def _say(self, *message):
        with self._sending:
            self._connection.send(message)

    def _listen(self):
        try:
            while True:
                what, number, value = self._connection.recv()
                if what == "done":
                    self._answers[number].set()
                else:
                    self._told[number][what](value)
        except (EOFError, OSError):
            pass


class RayDriverWorker:
    advice = ""

    def __init__(self, driver, number):
        self._driver = driver
        self._number = number

    def send(self, command):
        self._driver.ask("send", self._number, command)

    def stop(self, grace_seconds):
        self._driver.ask("stop", self._number, grace_seconds)

    def kill(self):
        self._driver.ask("kill", self._number)


def _main(connection):
    executor, workers, sending = RayExecutor(), {}, threading.Lock()

    def tell(*message):
        with sending:
            connection.send(message)

    def do(what, number, *arguments):
        if what == "start":
            workers[number] = executor.start(
                arguments[0],
                lambda report: tell("report", number, report),
                lambda how: tell("ended", number, how),
            )
            return
        target = executor if what == "close" else workers[number]
        getattr(target, what)(*arguments)
        tell("done", number, None)

    while True:
        message = connection.recv()
        if message[0] == "stop":
            threading.Thread(target=do, args=message, daemon=True).start()
        else:
            do(*message)
        if message[0] == "close":
            return


if __name__ == "__main__":
    os.environ.pop("LIT_STORAGE_ROOT", None)
    their_connection = Connection(int(sys.argv[1]))
    sys.path[:] = their_connection.recv()
    importlib.invalidate_caches()
    _main(their_connection)
