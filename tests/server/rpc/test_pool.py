"""The threads of a server: how many, what they run, and how they end."""

import subprocess
import sys
import threading
import time

import pytest

from lit_storage_server.rpc import pool as pool_module
from lit_storage_server.rpc.pool import DaemonThreadPool


def _no_thread():
    raise RuntimeError("can't start new thread")


def _switches(task):
    with open(f"/proc/self/task/{task}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))


@pytest.fixture
def pool():
    pool = DaemonThreadPool(3, "test")
    yield pool
    pool.shutdown(wait=False)
    pool.join(30)


def test_result_and_exception(pool):
    """A future has what the call returned or raised."""
    assert pool.submit(divmod, 7, 2).result(30) == (3, 1)
    assert isinstance(pool.submit(divmod, 7, 0).exception(30), ZeroDivisionError)


def test_threads_are_reused(pool):
    """Calls one after the other run on one thread."""
    names = set()
    for _ in range(20):
        names.add(pool.submit(lambda: threading.current_thread().name).result(30))
    assert len(names) <= 2


def test_as_many_at_once_as_there_are_threads(pool):
    """All threads run at once, and one call more waits for the first that is free."""
    together = threading.Barrier(4)
    calls = [pool.submit(together.wait, 30) for _ in range(3)]
    late = pool.submit(str, "late")
    assert not late.done()
    together.wait(30)
    assert (late.result(30), all(call.exception(30) is None for call in calls)) == ("late", True)


def test_shutdown_ends_the_threads(pool):
    """After shutdown the queued call has run, no thread is left, and nothing more is taken."""
    done = pool.submit(str, 1)
    pool.shutdown()
    assert (done.result(0), [t for t in threading.enumerate() if t.name.startswith("test-")]) == ("1", [])
    with pytest.raises(RuntimeError):
        pool.submit(str)


def test_a_call_waits_for_a_thread_that_the_system_has_again(monkeypatch):
    """What was submitted when no thread could be started runs once one can."""
    pool = DaemonThreadPool(3, "test")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", lambda self: _no_thread())
        call = pool.submit(str, 1)
        assert pool.is_short()
    assert not call.done()
    pool.is_short()
    assert call.result(30) == "1"
    assert not pool.is_short()
    pool.shutdown()


@pytest.mark.slow
def test_idle_threads_that_are_kept_do_not_wake(pool):
    """An idle server costs nothing: no thread of it looks now and then whether there is something to do."""
    together = threading.Barrier(4)
    calls = [pool.submit(together.wait, 30) for _ in range(3)]
    together.wait(30)
    for call in calls:
        call.result(30)
    tasks = [t.native_id for t in threading.enumerate() if t.name.startswith("test-")]
    before = -1
    while before != (before := sum(map(_switches, tasks))):  # until all have come to rest
        time.sleep(0.5)
    time.sleep(2 * pool_module._IDLE_SECONDS + 0.5)
    assert sum(map(_switches, tasks)) - before <= 1


def test_busy_thread_does_not_keep_the_process():
    """A process exits though a call still runs."""
    code = (
        "import threading; from lit_storage_server.rpc.pool import DaemonThreadPool; "
        "DaemonThreadPool(1, 'x').submit(threading.Event().wait)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], timeout=60
        ).returncode
        == 0
    )
