"""What becomes of a Work on Ray whose calls are lost on the way, as a scripted Ray loses them."""

import threading
import time
import types
from concurrent.futures import Future

import pytest

from lit_storage.executors import Start
from lit_storage.executors.ray import executor
from lit_storage.executors.ray.node_host import Ended
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits


class ActorUnavailableError(Exception):
    """Ray's for a call of which nobody knows whether it was heard."""


class Method:
    """One method of an actor; each call waits for what the test says of it."""

    def __init__(self):
        self.calls = []
        self.made = threading.Condition()

    def options(self, **_):
        return self

    def remote(self, *arguments):
        future = Future()
        with self.made:
            self.calls.append((arguments, future))
            self.made.notify_all()
        return types.SimpleNamespace(future=lambda: future)

    def call(self, number):
        """Return a call, once it is made."""
        with self.made:
            assert self.made.wait_for(lambda: len(self.calls) > number, 20)
        return self.calls[number]


class Ray:
    def __init__(self):
        self.begin, self.take, self.say = Method(), Method(), Method()
        others = {name: type(name, (Exception,), {}) for name in ("ObjectLostError", "OutOfMemoryError")}
        self.exceptions = types.SimpleNamespace(ActorUnavailableError=ActorUnavailableError, **others)

    def remote(self, **_):
        return lambda _: types.SimpleNamespace(remote=lambda _: self)

    def kill(self, _):
        pass


@pytest.fixture
def ray():
    return Ray()


@pytest.fixture
def started(ray):
    """Start a Work whose node may be out of reach for three seconds; return how it ended, once it has."""
    ends, over = [], threading.Event()

    def ended(how):
        ends.append(how)
        over.set()

    start = Start("w", "/r", "etcd://x/p", Security(None), Limits(resume_seconds=3), None, b"")
    worker = executor.RayWorker(ray, start, lambda report: None, ended)
    yield types.SimpleNamespace(worker=worker, ends=ends, over=over)
    worker.give_up()
    worker.join(20)


@pytest.mark.slow
def test_two_short_breaks_are_not_one_long_one(ray, started):
    """A call that was under way for a while had contact: what was lost before it counts no more."""
    ray.begin.call(0)[1].set_result("n1")
    ray.take.call(0)[1].set_exception(ActorUnavailableError())
    ray.take.call(1)
    time.sleep(3.2)  # all is well, and the Work says nothing
    ray.take.call(1)[1].set_exception(ActorUnavailableError())
    ray.take.call(2)
    assert started.ends == []


@pytest.mark.slow
def test_a_break_without_end_is_an_end(ray, started):
    """A node that stays out of reach is given up after the time for that."""
    ray.begin.call(0)[1].set_result("n1")
    number, began = 0, time.monotonic()
    while not started.over.wait(0.1):
        if len(ray.take.calls) > number:
            ray.take.call(number)[1].set_exception(ActorUnavailableError())
            number += 1
    took = time.monotonic() - began
    assert took > 3
    assert 2 <= number <= took + 3  # again and again, and about once a second
    assert "could not be reached for 3 s" in started.ends[0]


@pytest.mark.slow
def test_a_work_that_may_have_begun_is_stopped_there(ray, started):
    """Where the answer to its start was lost, it is not said to have never started."""
    ray.begin.call(0)[1].set_exception(ActorUnavailableError())
    begun = ray.begin.call(1)[1]
    stopping = threading.Thread(target=started.worker.stop, args=(10,))
    stopping.start()
    assert not started.over.wait(0.5)
    begun.set_result("n1")
    (_, orders), said = ray.say.call(0)
    assert len(orders) == 1
    said.set_result(None)
    ray.take.call(0)[1].set_result([executor.pickle.dumps(Ended("stopped"))])
    stopping.join(20)
    assert started.ends == ["stopped"]


def test_a_work_that_has_not_begun_is_given_up(ray, started):
    """Nobody waits for a node that Ray does not find."""
    ray.begin.call(0)
    started.worker.stop(10)
    assert started.over.wait(20)
    assert started.ends == ["was stopped before it had started"]
