"""Which process holds something, and whether that very process still runs."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from lit_storage_core.system import process as process_module
from lit_storage_core.system.process import ProcessIdentity, ProcessWatch

SHOW = """
from lit_storage_core.system.process import ProcessIdentity
print(ProcessIdentity.current().to_text(), flush=True)
"""


@pytest.fixture
def child():
    """A process that printed its identity and waits, and that identity."""
    process = subprocess.Popen([sys.executable, "-c", f"{SHOW}\ninput()"], stdin=-1, stdout=-1, text=True)
    yield process, ProcessIdentity.from_text(process.stdout.readline())
    process.kill()
    process.communicate(timeout=10)


def test_this_process_is_alive():
    """The calling process is alive, and has one identity."""
    assert ProcessIdentity.current().is_alive() is True
    assert ProcessIdentity.current() == ProcessIdentity.current()


def test_another_process_is_alive(child):
    """A process that runs is alive, seen from another one."""
    process, identity = child
    assert (identity.pid, identity.is_alive()) == (process.pid, True)


def test_a_stopped_process_is_alive(child):
    """A process under SIGSTOP is alive."""
    process, identity = child
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert identity.is_alive() is True


def test_a_zombie_is_dead(child):
    """A killed process that nobody has waited for is dead."""
    process, identity = child
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert os.path.exists(f"/proc/{process.pid}")
    assert identity.is_alive() is False


def test_a_process_that_is_gone_is_dead(child):
    """A process that ended and was waited for is dead."""
    process, identity = child
    process.kill()
    process.wait(10)
    assert identity.is_alive() is False


def test_another_start_time_is_another_process():
    """The same pid with another start time was another process, which is dead."""
    current = ProcessIdentity.current()
    assert dataclasses.replace(current, start_time=current.start_time - 1).is_alive() is False


def test_another_boot_is_dead():
    """A process of another boot of this machine is dead, whatever its pid."""
    assert dataclasses.replace(ProcessIdentity.current(), boot_id="other").is_alive() is False


def test_another_boot_is_unknown_where_machines_share():
    """On what several machines share, another boot id may be that of another machine: unknown."""
    other = dataclasses.replace(ProcessIdentity.current(), boot_id="other")
    assert other.is_alive(same_machine=False) is None


def test_another_namespace_is_unknown():
    """A process of another pid namespace cannot be looked up."""
    other = dataclasses.replace(ProcessIdentity.current(), pid_namespace="pid:[1]")
    assert other.is_alive() is None


@pytest.mark.root
def test_proc_of_another_namespace_does_not_kill():
    """In a pid namespace whose /proc is still the outer one, a process does not take itself for dead."""
    script = "from lit_storage_core.system.process import ProcessIdentity as P; print(P.current().is_alive())"
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if "unshare failed" in result.stderr:
        pytest.skip("no new pid namespace may be made here")
    assert result.stdout == "None\n"


def test_any_command_name_is_read():
    """A command name with spaces and parentheses does not shift the fields of the stat file."""
    script = "open('/proc/self/comm', 'w').write('a) Z 1 (b')" + SHOW.replace(".to_text()", ".is_alive()")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert result.stdout == "True\n"


def test_text_and_back():
    """to_text is one line of ASCII, and from_text gives the same identity."""
    text = ProcessIdentity.current().to_text()
    assert text.isascii()
    assert "\n" not in text
    assert ProcessIdentity.from_text(text) == ProcessIdentity.current()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"pid":0,"start_time":1,"boot_id":"","pid_namespace":""}']
)
def test_what_names_no_process_is_refused(text):
    """A torn or foreign text is a ValueError."""
    with pytest.raises(ValueError):
        ProcessIdentity.from_text(text)


@pytest.fixture
def watch():
    """A watch that was not asked anything yet."""
    watch = ProcessWatch()
    yield watch
    watch.close()


def descriptors() -> list[str]:
    """What the open descriptors of this process that are pidfds refer to."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [text for link in links if os.path.lexists(link) and "pidfd" in (text := os.readlink(link))]


def test_a_watched_process_is_alive_until_it_is_killed(child, watch):
    """A process seen alive is dead at once when it is killed, also as a zombie, and stays so."""
    process, identity = child
    assert [watch.is_alive(identity) for _ in range(3)] == [True, True, True]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert watch.is_alive(identity) is False
    process.wait(10)
    assert watch.is_alive(identity) is False


def test_a_watched_process_that_is_stopped_is_alive(child, watch):
    """SIGSTOP does not end what is watched."""
    process, identity = child
    assert watch.is_alive(identity) is True
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert watch.is_alive(identity) is True


def test_a_watched_pid_says_nothing_of_its_former_owner(child, watch):
    """A process of the same pid that started before the watched one is dead."""
    _, identity = child
    former = dataclasses.replace(identity, start_time=identity.start_time - 1)
    assert [watch.is_alive(each) for each in (identity, former, identity)] == [True, False, True]


def test_what_cannot_be_looked_up_is_not_watched(child, watch):
    """A process of another namespace stays unknown, though its pid runs here."""
    _, identity = child
    other = dataclasses.replace(identity, pid_namespace="pid:[1]")
    assert (watch.is_alive(other), watch.is_alive(other), descriptors()) == (None, None, [])


def test_a_watch_holds_few_descriptors(child, watch, monkeypatch):
    """One for each process that lives, no more than its number of them, and none once it is closed."""
    monkeypatch.setattr(process_module, "_MOST_WATCHED", 1)
    process, identity = child
    for each in (identity, ProcessIdentity.current(), identity):
        assert (watch.is_alive(each), len(descriptors())) == (True, 1)
    process.kill()
    process.wait(10)
    assert (watch.is_alive(identity), descriptors()) == (False, [])
    assert watch.is_alive(ProcessIdentity.current()) is True
    watch.close()
    assert descriptors() == []


def test_a_forked_child_watches_anew():
    """A child that closes all descriptors, and uses their numbers for others, still sees who is dead."""
    script = """
import os, signal, subprocess, time
from lit_storage_core.system.process import ProcessWatch, ProcessIdentity
shown = subprocess.Popen(["cat"], stdin=-1)
with open(f"/proc/{shown.pid}/stat") as file:
    start_time = int(file.read().rsplit(")", 1)[1].split()[19])
current = ProcessIdentity.current()
identity = ProcessIdentity(shown.pid, start_time, current.boot_id, current.pid_namespace)
watch = ProcessWatch()
assert watch.is_alive(identity) is True
forked = os.fork()
if forked == 0:
    os.closerange(3, 64)
    silent = [os.pipe() for _ in range(20)]
    os.kill(shown.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while identity.is_alive() and time.monotonic() < end:
        time.sleep(0.001)
    print(watch.is_alive(identity), flush=True)
    os._exit(0)
os.waitpid(forked, 0)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (result.stdout, result.stderr) == ("False\n", "")
