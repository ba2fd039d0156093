"""The threads of a server: how many, what they run, and how they end."""

import subprocess
import sys
import threading

import pytest

from lit_storage_server.pool import DaemonThreadPool


@pytest.fixture
def pool():
    pool = DaemonThreadPool(3, "test")
    yield pool
    pool.shutdown(wait=False)
    pool.join(5)


def test_result_and_exception(pool):
    """A future has what the call returned or raised."""
    assert pool.submit(divmod, 7, 2).result(5) == (3, 1)
    assert isinstance(pool.submit(divmod, 7, 0).exception(5), ZeroDivisionError)


def test_threads_are_reused(pool):
    """Calls one after the other run on one thread."""
    names = set()
    for _ in range(20):
        names.add(pool.submit(lambda: threading.current_thread().name).result(5))
    assert len(names) <= 2


def test_as_many_at_once_as_there_are_threads(pool):
    """All threads run at once, and one call more waits for the first that is free."""
    together = threading.Barrier(4)
    calls = [pool.submit(together.wait, 5) for _ in range(3)]
    late = pool.submit(str, "late")
    assert not late.done()
    together.wait(5)
    assert (late.result(5), all(call.exception(5) is None for call in calls)) == ("late", True)


def test_shutdown_ends_the_threads(pool):
    """After shutdown the queued call has run, no thread is left, and nothing more is taken."""
    done = pool.submit(str, 1)
    pool.shutdown()
    assert (done.result(0), [t for t in threading.enumerate() if t.name.startswith("test-")]) == ("1", [])
    with pytest.raises(RuntimeError):
        pool.submit(str)


def test_busy_thread_does_not_keep_the_process():
    """A process exits though a call still runs."""
    code = (
        "import threading; from lit_storage_server.pool import DaemonThreadPool; "
        "DaemonThreadPool(1, 'x').submit(threading.Event().wait)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], timeout=10
        ).returncode
        == 0
    )
