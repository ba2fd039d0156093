"""A process ends when its time is over, also where it is stopped or its interpreter is held."""

import os
import select
import signal
import subprocess
import sys
import time

import pytest

BEGIN = """
import ctypes, os, signal, sys, time
from lit_storage_client.boot_clock import boot_seconds
from lit_storage_server.fence import Fence
fence = Fence()
assert fence.works
"""


def run(code):
    """Start Python with a fence; return its process once it has printed a line, and that line."""
    process = subprocess.Popen([sys.executable, "-c", BEGIN + code], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline()


def ended_after(process, seconds=10.0):
    """Return how the process ended, and after how long."""
    began, pidfd = time.monotonic(), os.pidfd_open(process.pid)
    try:
        assert select.select([pidfd], [], [], seconds)[0], "it goes on"
    finally:
        os.close(pidfd)
        process.kill()
        process.communicate()
    return process.returncode, time.monotonic() - began


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
    process, _ = run(f"fence.set(boot_seconds() + 0.5); print(flush=True); {what}")
    code, seconds = ended_after(process)
    assert code == -signal.SIGKILL
    assert 0.2 < seconds < 2


def test_the_end_is_put_off():
    """Only the end that was set last counts."""
    process, _ = run(
        "fence.set(boot_seconds() + 0.2); fence.set(boot_seconds() + 1); print(flush=True); time.sleep(60)"
    )
    code, seconds = ended_after(process)
    assert code == -signal.SIGKILL
    assert 0.7 < seconds < 3


def test_a_fence_that_is_lifted_ends_nothing():
    """After `lift` the process goes on."""
    process, _ = run("fence.set(boot_seconds() + 0.2); fence.lift(); print(flush=True); time.sleep(0.6)")
    assert ended_after(process)[0] == 0


def test_an_end_that_is_over_comes_at_once():
    """An end in the past is now."""
    process, _ = run("print(flush=True); fence.set(boot_seconds() - 5); time.sleep(60)")
    assert ended_after(process)[0] == -signal.SIGKILL


def test_children_are_not_touched():
    """A child that was forked from a process with a fence goes on when that one ends."""
    process, line = run(
        "fence.set(boot_seconds() + 0.5); child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "time.sleep(60)"
    )
    child = os.pidfd_open(int(line))
    assert ended_after_pid(process) == -signal.SIGKILL
    assert not select.select([child], [], [], 0.5)[0]
    signal.pidfd_send_signal(child, signal.SIGKILL)
    os.close(child)


def ended_after_pid(process):
    code = process.wait(10)
    process.stdout.close()
    return code
