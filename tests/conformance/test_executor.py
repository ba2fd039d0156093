"""What every executor does: start a Work, carry commands and reports in order, and tell how it ended."""

import os
import pickle
import queue
import select
import signal
import subprocess
import time

import pytest

from lit_storage import Limits, Security, Work, current
from lit_storage.executors import (
    Changed,
    Joined,
    Raised,
    Resources,
    Returned,
    Run,
    Start,
    Stop,
    Stopped,
    app_file,
)
from lit_storage.executors.process import ProcessExecutor
from lit_storage.executors.work_state import Changes
from lit_storage_core.security.settings import root_token
from tests.waiting import within

wait_until = within(60)


class Lingering:
    """Makes a directory when the interpreter clears its module, and keeps it from ending for a while."""

    def __init__(self, path):
        self.path = path

    def __del__(self, mkdir=os.mkdir, sleep=time.sleep):
        mkdir(self.path)
        sleep(1.0)


class Doing(Work):
    def run(self, what):
        if what == "linger":
            Doing.kept = Lingering(os.path.join(current().storage_root, "ending"))
        if what == "state":
            self.done = True
        if what == "raise":
            raise ValueError("boom")
        if what == "exit":
            os._exit(3)
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "count":
            for self.count in range(1000):
                pass
        if what == "refuse":
            self.child = subprocess.Popen(["sleep", "600"]).pid
            while True:
                try:
                    time.sleep(600)
                except BaseException:
                    pass
        if what == "hang":
            self.done = False
            while True:
                time.sleep(0.01)
        return what


@pytest.fixture(params=["process", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request):
    if request.param == "ray":
        yield request.getfixturevalue("ray_driver")
        return
    executor = ProcessExecutor(2.0)
    yield executor
    executor.close()


@pytest.fixture
def started(executor, tmp_path):
    """A started Work, its reports, and how it ended."""
    start = Start(
        "doing",
        str(tmp_path),
        f"sqlite://{tmp_path}/registry.db",
        Security(root_token(str(tmp_path)), insecure=True),
        Limits(stop_grace_seconds=60.0),
        app_file.locate(Doing),
        pickle.dumps(Doing()),
        resources=Resources(custom={"head": 1}),
    )
    reports, ends = queue.Queue(), queue.Queue()
    worker = executor.start(start, reports.put, ends.put)
    yield worker, lambda: reports.get(timeout=60), lambda: ends.get(timeout=60)
    worker.kill()
    worker.stop(4.0)


def call(what):
    return Run(pickle.dumps(((what,), {})), Changes())


def test_a_work_joins_first(started):
    """The first report says that the Work is registered."""
    assert isinstance(started[1](), Joined)


def test_an_assignment_is_told_with_the_return_at_the_latest(started):
    """What run assigned is known when it has returned."""
    worker, report, _ = started
    report()
    worker.send(call("state"))
    told = dict((first := report()).changes.assigned)
    returned = report() if isinstance(first, Changed) else first
    told.update(returned.changes.assigned)
    assert (pickle.loads(told["done"]), pickle.loads(returned.value)) == (True, "state")


def test_one_process_runs_many_times(started):
    """A Work that returned can be called again."""
    worker, report, _ = started
    report()
    for _ in range(2):
        worker.send(call("again"))
        assert isinstance(report(), Returned)


def test_an_exception_ends_the_work(started):
    """What run raised is reported, and the process ends by itself."""
    worker, report, end = started
    report()
    worker.send(call("raise"))
    raised = report()
    assert isinstance(raised, Raised)
    assert raised.summary == "ValueError: boom"
    assert end() == "exited with code 0"


def test_stop_unwinds_run(started):
    """A Work that runs for ever stops when it is told, and says so."""
    worker, report, end = started
    report()
    worker.send(call("hang"))
    assert isinstance(report(), Changed)
    worker.send(Stop())
    worker.stop(60.0)
    assert isinstance(report(), Stopped)
    assert end() == "exited with code 0"


@pytest.mark.slow
def test_a_signal_at_the_very_end_is_no_end_of_its_own(started, tmp_path):
    """A Work that was told to stop, and is told again while its interpreter ends, has exited."""
    worker, report, end = started
    report()
    worker.send(call("linger"))
    assert isinstance(report(), Returned)
    worker.send(Stop())
    assert isinstance(report(), Stopped)
    wait_until((tmp_path / "works" / "doing" / "ending").is_dir)
    worker.stop(60.0)
    assert end() == "exited with code 0"


def test_kill_ends_it_at_once(started):
    """A killed Work makes no report, and how it ended is told."""
    worker, report, end = started
    report()
    worker.kill()
    assert end() == "was killed by SIGKILL"


@pytest.mark.parametrize(("what", "how"), [("exit", "exited with code 3"), ("die", "was killed by SIGKILL")])
def test_a_crash_is_told_as_what_it_was(started, what, how):
    """A process that ends by itself, without a report, is told with its exit code or signal."""
    worker, report, end = started
    report()
    worker.send(call(what))
    assert end() == how


def test_reports_come_in_order(started):
    """Of an attribute that is assigned many times no older value comes after a newer one."""
    worker, report, _ = started
    report()
    worker.send(call("count"))
    told = []
    while isinstance(each := report(), Changed):
        told.append(pickle.loads(each.changes.assigned["count"]))
    assert isinstance(each, Returned)
    told += [pickle.loads(value) for value in each.changes.assigned.values()]
    assert told == sorted(set(told))
    assert told[-1] == 999


def test_commands_come_in_order(started):
    """Each call of many is answered in its turn."""
    worker, report, _ = started
    report()
    for number in range(30):
        worker.send(call(number))
    assert [pickle.loads(report().value) for _ in range(30)] == list(range(30))


def test_a_work_that_does_not_stop_is_killed(started):
    """Half of the grace passes, then it ends with all that it started."""
    worker, report, end = started
    report()
    worker.send(call("refuse"))
    child = os.pidfd_open(pickle.loads(report().changes.assigned["child"]))
    worker.stop(2.0)
    assert end() == "was killed by SIGKILL"
    assert select.select([child], [], [], 20)[0], "what it started goes on"
    os.close(child)


def test_a_command_to_an_ended_work_is_dropped(started):
    """Sending to what has ended raises nothing; its end has been told."""
    worker, report, end = started
    report()
    worker.kill()
    end()
    worker.send(call("again"))
