"""What every executor does: start a Work, carry commands and reports in order, and tell how it ended."""

import pickle
import queue
import time

import pytest

from lit_storage import Limits, Security, Work, app_file
from lit_storage.executors import Changed, Joined, Raised, Returned, Run, Start, Stop, Stopped
from lit_storage.executors.process import ProcessExecutor
from lit_storage.state import Changes
from lit_storage_client.security import root_token


class Doing(Work):
    def run(self, what):
        if what == "state":
            self.done = True
        if what == "raise":
            raise ValueError("boom")
        if what == "hang":
            self.done = False
            while True:
                time.sleep(0.01)
        return what


@pytest.fixture(params=["process"])
def executor(request):
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
        Security(root_token(str(tmp_path))),
        Limits(stop_grace_seconds=4.0),
        app_file.locate(Doing),
        pickle.dumps(Doing()),
    )
    reports, ends = queue.Queue(), queue.Queue()
    worker = executor.start(start, reports.put, ends.put)
    yield worker, lambda: reports.get(timeout=20), lambda: ends.get(timeout=20)
    worker.kill()
    worker.stop(4.0)


def call(what):
    return Run(pickle.dumps(((what,), {})), Changes())


def test_a_work_joins_first(started):
    """The first report says that the Work is registered."""
    assert started[1]() == Joined()


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
    worker.stop(4.0)
    assert isinstance(report(), Stopped)
    assert end() == "exited with code 0"


def test_kill_ends_it_at_once(started):
    """A killed Work makes no report, and how it ended is told."""
    worker, report, end = started
    report()
    worker.kill()
    assert end() == "was killed by SIGKILL"


def test_a_command_to_an_ended_work_is_dropped(started):
    """Sending to what has ended raises nothing; its end has been told."""
    worker, report, end = started
    report()
    worker.kill()
    end()
    worker.send(call("again"))
