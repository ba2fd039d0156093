"""A process ends when its time is over, also where it is stopped or its interpreter is held."""

import os
import select
import signal
import subprocess
import sys

import pytest

from lit_storage_core.system.boot_clock import boot_seconds

BEGIN = """
import ctypes, os, signal, sys, time
from lit_storage_core.system.boot_clock import boot_seconds
from lit_storage_server.process.fence import Fence
fence = Fence()
assert fence.works
"""


def run(code):
    """Start Python with a fence; return its process once it has printed a line, and that line.

    On a busy machine its time may be over before it comes to that: then there is another try.
    """
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", BEGIN + code], stdout=subprocess.PIPE, text=True)
        if line := process.stdout.readline():
            return process, line
        process.communicate()
    raise AssertionError("it printed nothing")


def ended_at(process, seconds=30.0):
    """Return how the process ended, and when, by the clock of fences."""
    pidfd = os.pidfd_open(process.pid)
    try:
        assert select.select([pidfd], [], [], seconds)[0], "it goes on"
        ended = boot_seconds()
    finally:
        os.close(pidfd)
        process.kill()
        process.communicate()
    return process.returncode, ended


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(60)",
        "ctypes.PyDLL(None).sleep(60)",  # holds the interpreter
    ],
    ids=["stopped", "blocked", "held"],
)
def test_it_ends_whatever_it_is_doing(what):
    """A process that is stopped, blocks signals or holds its interpreter is killed at its time."""
    process, line = run(f"end = boot_seconds() + 0.5; fence.set(end); print(end, flush=True); {what}")
    code, ended = ended_at(process)
    assert code == -signal.SIGKILL
    assert -0.1 < ended - float(line) < 20


@pytest.mark.slow
def test_the_end_is_put_off():
    """Only the end that was set last counts."""
    process, line = run(
        "fence.set(boot_seconds() + 0.2); end = boot_seconds() + 1; fence.set(end); print(end, flush=True)\n"
        "time.sleep(60)"
    )
    code, ended = ended_at(process)
    assert code == -signal.SIGKILL
    assert -0.1 < ended - float(line) < 20


@pytest.mark.slow
def test_a_fence_that_is_lifted_ends_nothing():
    """After `lift` the process goes on."""
    process, _ = run("fence.set(boot_seconds() + 0.2); fence.lift(); print(flush=True); time.sleep(0.6)")
    assert ended_at(process)[0] == 0


def test_an_end_that_is_over_comes_at_once():
    """An end in the past is now."""
    process, _ = run("print(flush=True); fence.set(boot_seconds() - 5); time.sleep(60)")
    assert ended_at(process)[0] == -signal.SIGKILL


@pytest.mark.slow
def test_children_are_not_touched():
    """A child that was forked from a process with a fence goes on when that one ends."""
    process, line = run(
        "fence.set(boot_seconds() + 4); child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(60)"
    )
    child = os.pidfd_open(int(line))
    assert end_of_parent(process) == -signal.SIGKILL
    assert not select.select([child], [], [], 0.5)[0]
    signal.pidfd_send_signal(child, signal.SIGKILL)
    os.close(child)


def end_of_parent(process):
    code = process.wait(30)
    process.stdout.close()
    return code
