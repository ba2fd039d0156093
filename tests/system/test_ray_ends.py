"""However a Work on Ray ends, its App, its actor or its node, the Flow hears of it and nothing is left."""

import json
import os
import signal
import subprocess

import pytest

from tests.ray_cluster import HEAD, OTHER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BUSY = """
import os, subprocess, sys, time
from lit_storage import App, Flow, Limits, Work, WorkError

class Busy(Work):
    def __init__(self):
        super().__init__(resources={NODE: 1})
        self.out = "lit://out"
    def run(self, how):
        self.out.write_text(how)
        subprocess.Popen(["sleep", "600"])
        print("running", os.getpid(), flush=True)
        if how == "raise":
            raise ValueError("boom")
        if how == "end":
            return
        if how == "count":
            for self.count in range(40):
                print("counted", self.count, flush=True)
                time.sleep(0.1)
            return self.count
        if how == "die":
            os.kill(os.getpid(), 9)
        if how == "c":
            import ctypes
            ctypes.PyDLL(None).sleep(600)  # holds the interpreter
        while True:
            time.sleep(0.01)

class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.busy = Busy()
    def run(self):
        if HOW == "fork" and os.fork() == 0:
            os.closerange(0, 3)
            time.sleep(60)
            os._exit(0)
        value = self.busy.run(HOW)
        if HOW == "count":
            print("the last of 40 is", value, self.busy.count)

if __name__ == "__main__":
    App(Pipeline(), limits=Limits(stop_grace_seconds=4.0)).run()
"""


@pytest.fixture
def busy(app):
    """Start an App with a Work that runs, on a node."""

    def start(how, node="head", **environment):
        started = app(BUSY.replace("HOW", repr(how)).replace("NODE", repr(node)), **environment)
        started.work = int(started.read_until("running "))
        return started

    return start


def test_an_exception_is_raised_in_the_flow(busy, left, eventually):
    """With the traceback of the Work, and nothing is left."""
    code, _, err = busy("raise").end()
    assert code == 1
    assert 'raise ValueError("boom")' in err
    eventually(lambda: not left())


@pytest.mark.parametrize(("signum", "codes"), [(signal.SIGINT, (130, -2)), (signal.SIGTERM, (143,))])
def test_a_signal_to_the_app_ends_its_works(busy, left, eventually, signum, codes):
    """Ctrl-C and SIGTERM let them unwind; the exit code is the customary one."""
    started = busy("python")
    started.process.send_signal(signum)
    assert started.end()[0] in codes
    eventually(lambda: not left())


@pytest.mark.parametrize("how", ["python", "c"])
def test_a_killed_app_leaves_nothing(busy, left, eventually, how):
    """Ray ends the actor, and with it the Work that it holds, also one that holds the interpreter."""
    started = busy(how)
    assert started.work in left()
    started.process.kill()
    eventually(lambda: not left())


def test_a_killed_app_whose_flow_forked_leaves_no_work(busy, left, eventually):
    """A child of the Flow, which inherited Ray's connection, does not keep the Works alive."""
    started = busy("fork")
    started.process.kill()
    eventually(lambda: not left())


def test_a_work_whose_app_was_killed_publishes(busy, left, eventually, tmp_path):
    """It unwinds before it ends, as it would beside its App."""
    started = busy("python", LIT_STORAGE_ARTIFACTS=f"file://{tmp_path}/store")
    started.process.kill()
    eventually(lambda: not left())
    assert started.command("cat", "busy:out") == "python"
    assert json.loads(started.command("works", "--json"))[0]["state"] == "stopped"


def test_what_a_killed_work_left_is_published_on_its_node(busy, tmp_path):
    """The App is on another machine than the files, so their node does it."""
    started = busy("die", "other", LIT_STORAGE_ARTIFACTS=f"file://{tmp_path}/store")
    code, _, err = started.end()
    assert code == 1
    assert "the process of 'busy' was killed by SIGKILL before run() had ended" in err
    assert started.command("cat", "busy:out") == "die"


def test_a_call_after_a_crash_starts_a_new_instance(app):
    """At once: the name of one that was killed is not held until its lease runs out."""
    started = app(
        BUSY.replace("NODE", "'other'")
        .replace(
            "value = self.busy.run(HOW)",
            """
        try:
            self.busy.run("die")
        except WorkError:
            self.busy.run("end")
            print("done")""",
        )
        .replace("HOW", "None")
    )
    code, out, err = started.end()
    assert code == 0, err
    assert "done" in out


def test_a_broken_connection_loses_nothing(busy, left, ray_cluster):
    """What an actor says, and what it is told, arrives once and in order over a connection that was cut."""
    started = busy("count", "other")
    (actor,) = [pid for pid, line in left().items() if "WorkActor" in line]

    def sockets(*arguments):
        command = [*ray_cluster.command, "ss", "-tnHp", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    (listening,) = [line for line in sockets("-l") if f"pid={actor}," in line]
    port = listening.split()[3].rpartition(":")[2]
    started.read_until("counted")
    if not sockets("--kill", "state", "established", "sport", "=", f":{port}"):
        pytest.skip("this kernel cuts no connections (CONFIG_INET_DIAG_DESTROY)")
    code, out, err = started.end()
    assert code == 0, err
    assert "the last of 40 is 39 39\n" in out, out + err


def test_a_killed_actor_ends_its_work(busy, left, eventually):
    """The Flow hears where and why the Work was lost, and nothing of it is left."""
    started = busy("python")
    (actor,) = [pid for pid, line in left().items() if "WorkActor" in line]
    os.kill(actor, signal.SIGKILL)
    code, _, err = started.end()
    assert code == 1
    assert f"WorkError: the process of 'busy' was lost on {HEAD}: its worker process has died" in err
    eventually(lambda: not left())


def test_a_lost_node_is_told(ray_cluster, busy, left, eventually):
    """The Flow hears of it within Ray's own time, and what ran there ends."""
    started = busy("python", "other")
    ray_cluster.kill_other()
    try:
        code, _, err = started.end()
        assert code == 1
        assert f"WorkError: the process of 'busy' was lost on {OTHER}: its " in err  # why is for Ray to say
        eventually(lambda: not left())
    finally:
        ray_cluster.add_other()
