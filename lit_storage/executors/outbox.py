"""Sends messages from a thread of its own, so that nobody who has something to say waits.

The other side may be suspended or busy in C code, and a message may be large: whoever sends holds
locks, or is a signal handler that interrupted somebody who sends. `put` therefore only queues.

What changes faster than it can be sent is put as a function, which is called when its turn comes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from multiprocessing.connection import Connection


class Outbox:
    """The sending half of a connection. Messages are sent whole and in order, or not at all."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._messages: queue.SimpleQueue[object] = queue.SimpleQueue()  # its put() may interrupt itself
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, message: object) -> None:
        """Send `message` soon, or what it returns if it is a function, unless that is None.

        Silently dropped where the other side is gone.
        """
        self._messages.put(message)

    def close(self, seconds: float | None = None) -> None:
        """Send what is queued and nothing after it.

        Args:
            seconds: how long to try; None: as long as the other side lives.
        """
        self._messages.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._messages.get()) is not None:
                if callable(message):
                    message = message()
                if message is not None:
                    self._connection.send(message)
