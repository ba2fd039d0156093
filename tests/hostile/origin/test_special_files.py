"""What is neither file nor directory in a share holds nobody up, and what is mounted in it is its own."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys

import grpc
import pytest

from tests.hostile.origin.attacker import ASK, CANARY, REFUSALS, ask

OK = grpc.StatusCode.OK


def fifo(path):
    os.mkfifo(path)


def unix_socket(path):
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made, contextlib.chdir(path.parent):
        made.bind(path.name)  # the whole path may be longer than a name of a socket can be


def device(kind, major, minor):
    def make(path):
        os.mknod(path, kind | 0o666, os.makedev(major, minor))

    return make


ROOT = pytest.mark.root
KINDS = [
    pytest.param(fifo, id="fifo"),
    pytest.param(unix_socket, id="socket"),
    pytest.param(device(0o020000, 1, 5), id="zero", marks=ROOT),
    pytest.param(device(0o020000, 5, 0), id="tty", marks=ROOT),
    pytest.param(device(0o020000, 4, 64), id="serial-line", marks=ROOT),
    pytest.param(device(0o060000, 7, 200), id="block-device", marks=ROOT),
]


@pytest.fixture(scope="module")
def special(origin, request):
    """Make one of a kind in a directory of the share, beside a file and a link to it."""
    directory = origin.root / "t"
    directory.mkdir()
    request.param(directory / "special")
    (directory / "file").write_bytes(b"innocent")
    (directory / "link").symlink_to("special")
    yield origin.stub
    shutil.rmtree(directory)


@pytest.mark.parametrize("special", KINDS, indirect=True)
@pytest.mark.parametrize("rpc", ASK)
def test_nobody_waits_for_it(special, rpc):
    """It is named and skipped, or refused, at once; a FIFO without a writer would keep others waiting."""
    for path in ("t/special", "t/link", "t"):
        came, code = ask(special, rpc, path)
        assert code in (*REFUSALS, OK), path
        assert len(came) < 4096, path


@pytest.mark.parametrize("rpc", ["stream", "stream-packs", "stream-settle", "stream-follow", "range"])
def test_a_fifo_with_a_writer_gives_nothing(own_origin, rpc):
    """What somebody writes into a FIFO of the share is not read out of it."""
    path = own_origin.root / "fifo"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)
    try:
        os.write(fd, CANARY)
        assert CANARY not in ask(own_origin.stub, rpc, "fifo")[0]
        assert CANARY not in ask(own_origin.stub, rpc, "")[0]
        assert os.read(fd, 4096) == CANARY
    finally:
        os.close(fd)


_HOLD_A_LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def leased(own_origin):
    """A file on which another process holds a lease: whoever opens it waits for up to 45 s."""
    path = own_origin.root / "leased"
    path.write_bytes(b"leased")
    command = [sys.executable, "-c", _HOLD_A_LEASE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield own_origin
        holder.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("rpc", "path"),
    [
        ("stream", "leased"),
        ("stream", ""),
        ("stream-packs", "leased"),
        ("stream-packs", ""),
        ("range", "leased"),
    ],
)
def test_a_file_with_a_lease_is_refused_at_once(leased, rpc, path):
    """By a status that says that a later try may succeed, and names the file; the server waits for nobody."""
    with pytest.raises(grpc.RpcError) as caught:
        list(ASK[rpc](leased.stub, path))
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert "leased" in caught.value.details()


def test_a_file_with_a_lease_is_named_as_unsettled(leased):
    """Where changes are accepted all else comes, and the summary says which file does not."""
    *_, last = ASK["stream-settle"](leased.stub, "")
    assert (last.summary.unsettled, last.summary.unsettled_count) == (b"leased", 1)


def test_a_locked_file_is_read(own_origin):
    """flock(2) and lockf(3) of others keep no reader out."""
    with open(own_origin.root / "a" / "file", "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert ask(own_origin.stub, "stream", "a/file")[1] is OK


@pytest.fixture
def mounted(own_origin):
    """Mount in the share; all is unmounted after the test."""
    with contextlib.ExitStack() as stack:

        def mount(*arguments, at):
            at.mkdir(exist_ok=True)
            subprocess.run(["mount", *map(str, arguments), str(at)], check=True)
            stack.callback(subprocess.run, ["umount", "-l", str(at)], check=True)

        yield mount


@pytest.mark.root
@pytest.mark.parametrize("rpc", [rpc for rpc in ASK if rpc not in ("exists", "stat", "range", "range-below")])
def test_what_is_mounted_in_a_share_belongs_to_it(own_origin, mounted, rpc):
    """Only who may mount can do that: a mount is followed, as it has no other meaning."""
    mounted("--bind", own_origin.outside, at=own_origin.root / "mnt")
    came, code = ask(own_origin.stub, rpc, "mnt")
    assert code is OK
    assert (CANARY in came) is rpc.startswith("stream")


@pytest.mark.root
@pytest.mark.parametrize(
    "link", ["self/root", "self/cwd", "1/root", "self/exe", "thread-self/root", "mounts"]
)
@pytest.mark.parametrize("rpc", ASK)
def test_a_proc_that_is_mounted_in_a_share_opens_nothing_else(own_origin, mounted, rpc, link):
    """Its links, which the kernel would follow to what they hold open, count for their text alone."""
    mounted("-t", "proc", "proc", at=own_origin.root / "proc")
    below = f"/{own_origin.outside}/canary" if link.endswith(("root", "cwd")) else ""
    came, code = ask(own_origin.stub, rpc, f"proc/{link}{below}".replace("//", "/"))
    assert code in REFUSALS or link == "mounts"
    assert CANARY not in came


@pytest.mark.root
@pytest.mark.parametrize("rpc", ["list-all", "stream-packs", "stream-follow"])
def test_a_loop_of_mounts_ends(own_origin, mounted, rpc):
    """A share that is mounted within itself is walked once, as find(1) does."""
    mounted("--bind", own_origin.root, at=own_origin.root / "a" / "again")
    assert ask(own_origin.stub, rpc, "a")[1] is OK


@pytest.mark.root
@pytest.mark.parametrize("rpc", ASK)
@pytest.mark.parametrize("name", [".STAGING", "STAGIN~1", ".staging.", ".\u017ftaging"])
def test_the_staging_by_another_name_is_not_shared(own_origin, mounted, rpc, name):
    """Some file systems know a directory by several names: here it is mounted at one, to the same effect."""
    mounted("--bind", own_origin.root / ".staging", at=own_origin.root / name)
    came, code = ask(own_origin.stub, rpc, f"{name}/x/f")
    assert code in REFUSALS
    assert CANARY not in came
