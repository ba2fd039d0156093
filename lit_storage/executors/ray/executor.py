"""The executor ``ray``: each Work is an actor of Ray, on whatever node has what the Work asks for.

The actor carries messages between the App and a `node_host` beside it, under which the Work runs as it does
on the App's own machine. All that happens to one Work here is an event in the queue of one thread, which
alone speaks with Ray: a call to an actor is an event when it ends, and nobody waits for a call in particular.

Ray ends the actors of an App that ended, however it did. What an actor's end does to its Work is known to
`lit_storage.executors.ray.node_host`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import os
import pickle
import queue
import re
import signal
import socket
import stat
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from lit_storage.executors import Command, Publishing, Report, Resources, Start
from lit_storage.executors.ray.actor import Program, WorkActor
from lit_storage.executors.ray.node_host import Ended, Kill, Order, StopWithin
from lit_storage_proto.endpoint import is_loopback, split_address
from lit_storage_proto.errors import ExecutorUnavailable, InvalidApp, InvalidURI

_DIAL_SECONDS = 5.0
_AGAIN_SECONDS = 1.0  # from a call that was lost on the way until it is made again
_KILL_SECONDS = 5.0  # from asking a node to kill until its actor is given up
_LEAVE_SECONDS = 5.0  # for what a Work does beside what it has a grace for
_GROUPS = {"say": 1, "take": 1}
_LOG = logging.getLogger("lit_storage.app")

Event = Callable[[], str | None]
"""What a worker's thread does next; it returns how the Work ended, if that is known by then."""


class RayExecutor:
    """Starts Works as actors of the Ray cluster that this process belongs to, or joins.

    Raises:
        InvalidApp: Ray is not installed, or knows a node by an address that no other one reaches.
        ExecutorUnavailable: there is no cluster.
    """

    def __init__(self) -> None:
        self._ray = _import_ray()
        self._joined = _join_cluster(self._ray)
        self._workers: list[RayWorker] = []
        self._closed = False
        try:
            nodes = self._ray.nodes()
            _refuse_loopback_nodes(nodes)
        except BaseException:
            self.close()
            raise
        self._raylets = {str(node["RayletSocketName"]) for node in nodes}
        _executors.add(self)

    def start(
        self, start: Start, receive: Callable[[Report], None], ended: Callable[[str], None]
    ) -> RayWorker:
        """See `Executor.start`."""
        if self._closed:
            raise RuntimeError(f"the App has ended, so {start.name!r} cannot run; run the App again")
        worker = RayWorker(self._ray, start, receive, ended)
        self._workers = [*(each for each in self._workers if each.is_live), worker]
        return worker

    def close(self) -> None:
        """See `Executor.close`."""
        self._closed = True
        for worker in self._workers:
            worker.give_up()
        until = time.monotonic() + _LEAVE_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        if self._joined:
            self._ray.shutdown()

    def abandon(self) -> None:
        """Let go, in a forked child, of the connection by whose end Ray knows that the App has ended."""
        for fd in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(fd).st_mode) and _peer(fd) in self._raylets:
                    os.close(fd)


_executors: weakref.WeakSet[RayExecutor] = weakref.WeakSet()


def _abandon_all() -> None:
    for executor in _executors:
        executor.abandon()


os.register_at_fork(after_in_child=_abandon_all)


class RayWorker:
    """An actor of Ray and the Work beside it, seen from the App."""

    def __init__(
        self, ray: Any, start: Start, receive: Callable[[Report], None], ended: Callable[[str], None]
    ) -> None:
        self._ray = ray
        self._start = start
        self._name = start.name
        self._receive = receive
        self._ended = ended
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._actor: Any = None
        self._node = ""  # once the Work's host is started
        self._may_have_begun = False  # also where the answer to that was lost
        self._orders: list[bytes] = []  # those that the actor may not have
        self._saying = 0  # of these, in a call that goes on
        self._said = 0  # before these
        self._taken = 0
        self._unreachable_since: float | None = None
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._attend, name=f"lit-work-{start.name}", daemon=True)
        self._thread.start()

    @property
    def is_live(self) -> bool:
        """Whether the Work has not ended yet."""
        return not self._gone.is_set()

    @property
    def advice(self) -> str:
        """See `Worker.advice`."""
        if self._node:
            return ""
        return (
            f"Ray has found no node for it yet, which takes {_told(self._start.resources)}: stop() Works "
            "that hold this, add nodes, or raise Limits.start_seconds (`ray status` shows what is free)"
        )

    def send(self, command: Command) -> None:
        """See `Worker.send`."""
        self._order(command)

    def stop(self, grace_seconds: float) -> None:
        """See `Worker.stop`."""
        if not self._may_have_begun:
            self._give_up("was stopped before it had started")
        else:
            self._order(StopWithin(grace_seconds))
        # The host kills it in time; all of this passes only if nothing is heard from there.
        seconds = grace_seconds + 2 * (self._start.limits.publish_seconds + _LEAVE_SECONDS)
        if not self._gone.wait(seconds):
            _LOG.warning("%r did not stop within %g s and is given up", self._name, seconds)
            self._give_up(f"did not answer on {self._node}")
            self._gone.wait(_KILL_SECONDS)

    def kill(self) -> None:
        """See `Worker.kill`."""
        if not self._may_have_begun:
            self._give_up("was killed before it had started")
            return
        self._order(Kill())
        seconds = _KILL_SECONDS + self._start.limits.publish_seconds  # what it left is published first
        self._later(seconds, lambda: f"was killed, and its node {self._node} did not answer")

    def give_up(self) -> None:
        """Attend to it no more; the Work has ended."""
        self._give_up("was given up")

    def join(self, seconds: float) -> None:
        """Wait until nobody attends to it any more."""
        self._thread.join(seconds)

    def _order(self, order: Order) -> None:
        pickled = pickle.dumps(order)
        self._events.put(lambda: self._say(pickled))

    def _give_up(self, how: str) -> None:
        self._events.put(lambda: how)

    def _later(self, seconds: float, event: Event) -> None:
        timer = threading.Timer(seconds, self._events.put, (event,))
        timer.daemon = True
        timer.start()

    def _attend(self) -> None:
        """Deal with one event after the other until the Work has ended, then see to the actor's end."""
        how, actor = "ended", None
        try:
            actor = self._new_actor()
            self._begin(actor)
            self._actor = actor
            while (known := self._events.get()()) is None:
                pass
            how = known
        except Exception as error:  # noqa: BLE001  whatever it is, the Work's callers must hear of an end
            _LOG.exception("%r cannot be attended to any more, so it is ended", self._name)
            how = f"was given up ({error})"
        finally:
            if actor is not None:
                with contextlib.suppress(Exception):  # Ray has ended, or the actor has
                    self._ray.kill(actor)
            self._gone.set()
            self._ended(how)

    def _new_actor(self) -> Any:
        asked = self._start.resources
        options = {"num_cpus": asked.num_cpus, "num_gpus": asked.num_gpus, "resources": dict(asked.custom)}
        options = {name: amount for name, amount in options.items() if amount is not None}
        remote = self._ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups=_GROUPS, **options)(
            WorkActor
        )
        return remote.remote(self._name)

    # Calls to the actor. Each may be made again when nobody knows whether it was heard.

    def _begin(self, actor: Any) -> None:
        security = self._start.security
        # The file of tokens is this machine's; nodes get the one that it says to send now.
        token = next(iter(security.tokens()), None)
        start = dataclasses.replace(
            self._start, security=dataclasses.replace(security, token=None, token_file=None)
        )
        begun = actor.begin.remote(token, start, Program.of_this_process())
        self._when_done(begun, self._begun, partial(self._begin_again, actor))

    def _begin_again(self, actor: Any) -> str | None:
        self._may_have_begun = True
        self._begin(actor)
        return None

    def _begun(self, node: str) -> str | None:
        self._node, self._may_have_begun = node, True
        self._say_more()
        return self._take()

    def _say(self, order: bytes) -> str | None:
        self._orders.append(order)
        if self._node and not self._saying:
            self._say_more()
        return None

    def _say_more(self) -> str | None:
        """Send all orders that wait; at most one call is under way, so that they keep their order."""
        self._saying = len(self._orders)
        if self._orders:
            call = self._actor.say.options(concurrency_group="say")
            self._when_done(call.remote(self._said, list(self._orders)), self._were_said, self._say_more)
        return None

    def _were_said(self, _answer: None) -> str | None:
        del self._orders[: self._saying]
        self._said += self._saying
        return self._say_more()

    def _take(self) -> str | None:
        call = self._actor.take.options(concurrency_group="take")
        self._when_done(call.remote(self._taken), self._were_taken, self._take)
        return None

    def _were_taken(self, messages: list[bytes]) -> str | None:
        for pickled in messages:
            message = pickle.loads(pickled)  # noqa: S301  from the actor that this App started
            self._taken += 1
            if isinstance(message, Ended):
                return message.how
            if not isinstance(message, Publishing):
                self._receive(message)
        return self._take()

    def _when_done(self, call: Any, done: Callable[[Any], str | None], again: Event) -> None:
        made = time.monotonic()
        call.future().add_done_callback(
            lambda future: self._events.put(lambda: self._dealt(future, made, done, again))
        )

    def _dealt(
        self, call: Future[Any], made: float, done: Callable[[Any], str | None], again: Event
    ) -> str | None:
        errors = self._ray.exceptions
        error = call.exception()
        if error is None:
            self._unreachable_since = None
            return done(call.result())
        if isinstance(error, (errors.ActorUnavailableError, errors.ObjectLostError)):
            return self._unreachable(made, again)
        if isinstance(error, errors.OutOfMemoryError):
            return self._lost("the node ran out of memory, so Ray killed it")
        return self._lost(_reason(error))

    def _lost(self, why: str) -> str:
        return f"was lost on {self._node}: {why}" if self._node else f"was lost: {why}"

    def _unreachable(self, made: float, again: Event) -> str | None:
        """Try again until Ray knows whether the actor has died."""
        now = time.monotonic()
        if self._unreachable_since is None or now - made > 2 * _AGAIN_SECONDS:
            self._unreachable_since = now  # a call that went on for a while had contact until now
        seconds = self._start.limits.resume_seconds
        if now - self._unreachable_since > seconds:
            return self._lost(f"the node could not be reached for {seconds:g} s")
        self._later(_AGAIN_SECONDS, again)
        return None


def _peer(fd: int) -> Any:
    """Return the address of whom a socket is connected to."""
    with socket.socket(fileno=os.dup(fd)) as connection:
        return connection.getpeername()


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InvalidApp(
            "executor='ray' needs Ray, which is not installed: pip install 'lit-storage[ray]'"
        ) from None


def _join_cluster(ray: Any) -> bool:
    """Connect this process to a cluster that runs; say whether it was not connected before."""
    if ray.is_initialized():
        return False
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _dial(os.environ.get("RAY_ADDRESS", ""))
        ray.init(address="auto")
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise ExecutorUnavailable(
            "executor='ray' finds no Ray cluster to run on; start one (`ray start --head`), name one in "
            f"RAY_ADDRESS, or call ray.init() before the App runs ({_line(str(error))})"
        ) from None
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray sets one of its own; the App has its own way
    return True


def _dial(address: str) -> None:
    """Raise OSError where nobody listens, which Ray tries for more than a minute."""
    with contextlib.suppress(InvalidURI):  # it is no address, as "auto"
        socket.create_connection(split_address(address.rpartition("/")[2]), _DIAL_SECONDS).close()


def _refuse_loopback_nodes(nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        address = str(node["NodeManagerAddress"])
        if node["Alive"] and is_loopback(address):
            raise InvalidApp(
                f"Ray knows a node as {address}, which no other machine reaches; start Ray there with "
                "--node-ip-address=ADDRESS"
            )


def _reason(error: BaseException) -> str:
    """Return in one line what Ray says of an actor that has died, or of a call that failed."""
    text = str(error)
    if found := re.search(r"The actor (?:is dead|died) because (.*?)(?:\.\s|\.?$)", text, re.DOTALL):
        return _line(found[1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any("No module named 'lit_storage" in line for line in lines):
        return "lit-storage cannot be imported there; install it on every node"
    return _line(lines[-1]) if lines else type(error).__name__


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _told(resources: Resources) -> str:
    asked = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus, **resources.custom}
    told = [f"{name}={amount:g}" for name, amount in asked.items() if amount is not None]
    return ", ".join(told) or "num_cpus=1"
