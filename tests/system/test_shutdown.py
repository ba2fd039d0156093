"""However an App ends, it leaves no process, no live record and no port, and its exit code tells."""

import os
import signal
import socket

import pytest

from lit_storage_core.registries import open_registry
from lit_storage_proto.limits import Limits

APP = """
import os, subprocess, time
from lit_storage import App, Flow, Limits, Work, current

class Busy(Work):
    def run(self, how):
        subprocess.Popen(["sleep", "600"])
        print("endpoint", current().endpoint)
        print("running", os.getpid())
        if how == "python":
            while True:
                time.sleep(0.01)
        if how == "stubborn":
            while True:
                try:
                    time.sleep(600)
                except BaseException:
                    pass
        if how == "c":
            import ctypes
            ctypes.PyDLL(None).sleep(600)  # holds the interpreter
        if how == "raise":
            raise ValueError("boom")

class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.busy = Busy()
    def run(self):
        self.busy.run(HOW)

App(Pipeline(), limits=Limits(stop_grace_seconds=2.0)).run()
"""


@pytest.fixture
def app(program):
    def start(how):
        started = program(APP.replace("HOW", repr(how)))
        started.endpoint = started.read_until("endpoint ")
        started.read_until("running ")
        return started

    return start


@pytest.fixture
def nothing_left(root, processes_of, eventually):
    def check(endpoint):
        eventually(lambda: not processes_of())
        eventually(lambda: not listens(endpoint))
        with open(root / "machine-id") as file:
            machine = file.read().strip()
        registry = open_registry(f"sqlite://{root}/registry.db", machine_id=machine, limits=Limits())
        assert list(registry.live()) == []
        registry.close()

    return check


def listens(endpoint):
    """Say whether anybody takes connections there.

    A killed process keeps its sockets until its last thread has ended. Its environment in /proc disappears
    earlier, when its first thread has ended.
    """
    host, port = endpoint.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=20).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_failing_work_ends_the_app(app, nothing_left):
    """The exit code is 1, and the Work's traceback is shown."""
    started = app("raise")
    code, _, err = started.end()
    assert code == 1
    assert 'raise ValueError("boom")' in err
    nothing_left(started.endpoint)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["python", "stubborn", "c"])
def test_ctrl_c_ends_everything(app, nothing_left, how):
    """Ctrl-C ends Works that unwind, that refuse to, and that hold the interpreter in C code."""
    started = app(how)
    os.kill(started.process.pid, signal.SIGINT)
    code, _, err = started.end()
    assert code in (130, -signal.SIGINT)
    assert "KeyboardInterrupt" in err
    nothing_left(started.endpoint)


@pytest.mark.slow
def test_sigterm_ends_everything(app, nothing_left):
    """SIGTERM to the App stops its Works first; the exit code is the customary one."""
    started = app("python")
    started.process.terminate()
    assert started.end()[0] == 128 + signal.SIGTERM
    nothing_left(started.endpoint)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["python", "stubborn", "c"])
def test_a_killed_app_leaves_nothing(app, nothing_left, how):
    """After SIGKILL of the App its Works end by themselves, or are ended by its guard."""
    started = app(how)
    started.process.kill()
    started.process.wait()
    nothing_left(started.endpoint)


@pytest.mark.slow
def test_a_killed_app_whose_flow_forked_leaves_no_work(program, root, processes_of, eventually):
    """A child of the Flow, which holds what it inherited, does not keep the Works alive."""
    started = program(
        APP.replace("HOW", "'python'").replace(
            "    def run(self):\n        self.busy",
            "    def run(self):\n        if os.fork() == 0:\n            os.environ.clear()\n"
            "            time.sleep(600)\n        self.busy",
        )
    )
    started.endpoint = started.read_until("endpoint ")
    work = int(started.read_until("running "))
    started.process.kill()
    started.process.wait()
    eventually(lambda: not os.path.exists(f"/proc/{work}"))
    for pid in processes_of():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_an_unguarded_app_file_runs_once(program):
    """A bare app.run() at the top level of the file starts one app, not one in each process."""
    started = program(
        """
        from lit_storage import App, Flow, Work
        class Quiet(Work):
            def run(self):
                print("ran")
        class Pipeline(Flow):
            def __init__(self):
                super().__init__()
                self.quiet = Quiet()
            def run(self):
                self.quiet.run()
        App(Pipeline()).run()
        """
    )
    code, out, err = started.end()
    assert (code, out.count("ran")) == (0, 1), err
