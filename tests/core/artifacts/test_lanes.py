"""Requests are made beside whoever waits for them, who waits no longer than he wants to."""

import subprocess
import sys
import threading
import time

import pytest

from lit_storage_core.artifacts.lanes import Lanes, LateError, remaining
from tests.waiting import within

wait_until = within(20)


@pytest.fixture
def lanes():
    lanes = Lanes(2, "lanes-of-a-test")
    yield lanes
    lanes.close()


def test_a_result_comes_back(lanes):
    """call returns what the function returns."""
    assert lanes.call(lambda: 7, 30) == 7


def test_an_error_comes_back(lanes):
    """call raises what the function raises, of whatever kind."""
    with pytest.raises(KeyboardInterrupt):
        lanes.call(lambda: (_ for _ in ()).throw(KeyboardInterrupt), 30)


def test_waiting_is_bounded(lanes):
    """A function that hangs keeps its thread and nobody else."""
    over = threading.Event()
    began = time.monotonic()
    with pytest.raises(LateError):
        lanes.call(over.wait, 0.1)
    assert time.monotonic() - began < 20
    assert lanes.call(lambda: 1, 30) == 1
    over.set()


def test_no_more_than_so_many_at_once(lanes):
    """The third function waits for a thread."""
    over, running = threading.Event(), []

    def work():
        running.append(1)
        over.wait(60)

    pending = [lanes.submit(work) for _ in range(3)]
    wait_until(lambda: len(running) >= 2)
    time.sleep(0.2)
    assert len(running) == 2
    over.set()
    for each in pending:
        each.result(30)
    assert len(running) == 3


def test_what_was_dropped_is_not_called(lanes):
    """drop takes back what has not begun."""
    over, called = threading.Event(), []
    for _ in range(2):
        lanes.submit(lambda: over.wait(60))
    pending = lanes.submit(lambda: called.append(1))
    pending.drop()
    over.set()
    pending.result(30)
    assert called == []


def test_threads_end_with_close():
    """No thread is left over."""
    lanes = Lanes(4, "lanes-that-end")
    for _ in range(4):
        lanes.submit(lambda: time.sleep(0.05))
    lanes.close()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "lanes-that-end"])


def test_they_work_while_the_interpreter_ends():
    """At exit, when executors cannot be had any more, functions are called all the same."""
    code = (
        "import atexit; from lit_storage_core.artifacts.lanes import Lanes\n"
        "atexit.register(lambda: print(Lanes(1, 'x').call(lambda: 5, 30)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "5\n"


def test_a_hanging_function_does_not_hold_up_the_end():
    """The program ends although a request never does."""
    code = (
        "import threading; from lit_storage_core.artifacts.lanes import Lanes\n"
        "Lanes(1, 'x').submit(threading.Event().wait)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=20).returncode == 0


def test_remaining_time():
    """What is left until a deadline, but never less than nothing nor more than what is allowed."""
    assert remaining(None, 5) == 5
    assert remaining(time.monotonic() - 1, 5) == 0
    assert 50 < remaining(time.monotonic() + 100, 200) <= 100
