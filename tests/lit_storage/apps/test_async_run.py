"""An asynchronous run: awaited in the Work's process, and cancelled first when the Work stops."""

import asyncio
import contextlib
import functools
import multiprocessing
import os
import pathlib
import signal
import time

import pytest

from lit_storage import Status, Work, WorkError
from lit_storage.apps.async_run import AsyncRun
from lit_storage_proto.limits import Limits
from tests.lit_storage.apps.steps import run_steps

pytestmark = pytest.mark.usefixtures("root")


class Async(Work):
    def __init__(self, **options):
        super().__init__(**options)
        self.seen = None

    async def run(self, value=1):
        await asyncio.sleep(0)
        self.seen = os.getpid()
        return value


class AsyncObject(Work):
    class Call:
        async def __call__(self):
            return os.getpid()

    run = Call()


def plain(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


class Wrapped(Async):
    @plain
    async def run(self):
        return await super().run(os.getpid())


class Generating(Work):
    @plain
    def run(self):
        yield 1


class Failing(Work):
    async def run(self, error):
        raise error


@pytest.mark.slow
def test_the_coroutine_of_run_is_awaited():
    """Blocking or parallel, however run is defined; what it returns reaches the Flow."""

    def steps(work, parallel, by_object, wrapped):
        parallel.run(2)
        return work.run(), parallel.wait(), by_object.run(), wrapped.run(), work.seen

    first, second, *pids = run_steps(steps, Async(), Async(parallel=True), AsyncObject(), Wrapped())
    assert (first, second) == (1, 2)
    assert len({*pids, os.getpid()}) == 4


@pytest.mark.slow
def test_a_wrapped_generator_fails():
    """Where only the Work's process sees that run returned a generator, the call raises."""

    def steps(work):
        with pytest.raises(TypeError, match="returned a generator"):
            work.run()
        return work.status

    assert run_steps(steps, Generating()) is Status.FAILED


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError("wrong"), asyncio.CancelledError()], ids=repr)
def test_an_exception_is_raised_in_the_flow(error):
    """So is the CancelledError of a task that nobody stopped."""

    def steps(work):
        with pytest.raises(type(error)):
            work.run(error)
        return work.status

    assert run_steps(steps, Failing()) is Status.FAILED


class Unwinding(Work):
    """Notes in a file what ran of its cleanup."""

    def __init__(self, log):
        super().__init__(parallel=True)
        self.log = str(log)

    async def run(self, block_seconds=0.0):
        self.state = "begun"
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.note, "async with")
            try:
                self.note_now("begun")
                time.sleep(block_seconds)
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                self.note_now("cancelled")
                self.state = "cancelled"
                raise
            finally:
                self.note_now("finally")

    async def note(self, what):
        await asyncio.sleep(0.05)
        self.note_now(what)

    def note_now(self, what):
        with pathlib.Path(self.log).open("a") as file:
            file.write(what + "\n")


def lines_after_begin(log):
    while not (log.exists() and "begun" in log.read_text()):
        time.sleep(0.02)


@pytest.mark.slow
def test_stop_cancels_the_task(tmp_path):
    """`finally` and `async with` run in the loop, and state that they set reaches the Flow."""
    log = tmp_path / "log"

    def steps(work):
        work.run()
        lines_after_begin(log)
        work.stop()
        return work.status, work.state

    assert run_steps(steps, Unwinding(log)) == (Status.STOPPED, "cancelled")
    assert log.read_text().split("\n") == ["begun", "cancelled", "finally", "async with", ""]


@pytest.mark.slow
def test_the_end_of_the_app_cancels_the_task(tmp_path):
    """`on_flow_end="stop"` does what `stop` does."""
    log = tmp_path / "log"

    def steps(work):
        work.run()
        lines_after_begin(log)

    run_steps(steps, Unwinding(log), on_flow_end="stop")
    assert "async with" in log.read_text()


class Signalling(Unwinding):
    async def run(self):
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
        await super().run()


@pytest.mark.slow
def test_a_signal_cancels_the_task(tmp_path):
    """SIGTERM from outside ends the Work as `stop` does."""
    log = tmp_path / "log"

    def steps(work):
        work.run()
        with pytest.raises(WorkError, match="stopped from outside"):
            work.wait()

    run_steps(steps, Signalling(log))
    assert log.read_text().split("\n") == ["begun", "cancelled", "finally", "async with", ""]


@pytest.mark.slow
def test_a_blocked_loop_is_interrupted(tmp_path):
    """Code that blocks the loop is unwound as that of any other run, long before the Work is killed."""
    log = tmp_path / "log"

    def steps(work):
        work.run(100.0)
        lines_after_begin(log)
        began = time.monotonic()
        work.stop()
        return work.status, time.monotonic() - began

    status, seconds = run_steps(steps, Unwinding(log), limits=Limits(stop_grace_seconds=10))
    assert status is Status.STOPPED
    assert seconds < 4.5
    assert "finally" in log.read_text()


class Lingering(Work):
    async def run(self):
        self.begun = True
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(100)


@pytest.mark.slow
def test_a_cleanup_that_takes_too_long_is_interrupted(caplog):
    """It is cancelled again before the process would be killed, so that the Work leaves by itself."""

    def steps(work):
        work.run()
        while not hasattr(work, "begun"):
            time.sleep(0.02)
        work.stop()
        return work.status

    status = run_steps(steps, Lingering(parallel=True), limits=Limits(stop_grace_seconds=20))
    assert status is Status.STOPPED
    assert "is killed" not in caplog.text


class Forking(Work):
    async def run(self):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,))
        child.start()
        await asyncio.sleep(0.2)
        child.terminate()
        await asyncio.to_thread(child.join, 10)
        return child.exitcode


@pytest.mark.slow
def test_a_child_of_the_work_can_be_terminated():
    """A forked child has a copy of the loop, which it does not ask to cancel anything."""
    assert run_steps(lambda work: work.run(), Forking()) not in (None, 0)


def test_a_request_before_the_loop_begins_interrupts():
    """There is no task yet that could be cancelled."""

    async def run():
        pass

    awaitable = run()
    assert AsyncRun(awaitable, 1).cancel() is False
    awaitable.close()


def test_anything_awaitable_is_awaited():
    """A plain run may return any object with __await__. A KeyboardInterrupt is raised by `asyncio.run`."""

    class Later:
        def __await__(self):
            return asyncio.sleep(0, "value").__await__()

    async def interrupted():
        raise KeyboardInterrupt

    assert AsyncRun(Later(), 1).run() == "value"
    with pytest.raises(KeyboardInterrupt):
        AsyncRun(interrupted(), 1).run()


@pytest.mark.slow
def test_a_loop_with_a_signal_handler_leaves_that_of_the_work():
    """asyncio takes a handler of the user away for good; afterwards the Work unwinds at SIGTERM again."""

    class Handling(Work):
        async def run(self):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)
            return await asyncio.sleep(0)

    class Plain(Handling):
        async def run(self, handles):
            if handles:
                await super().run()
            return repr(signal.getsignal(signal.SIGTERM))

    work = Plain()
    before, _, after = run_steps(lambda work: [work.run(each) for each in (False, True, False)], work)
    assert before.partition(" at ")[0] == after.partition(" at ")[0] != repr(signal.SIG_DFL)
