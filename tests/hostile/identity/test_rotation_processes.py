"""The same in the processes that the product starts: a Work's server, and a daemon. None is started again."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig

import pytest

import lit_storage
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import AccessDenied, OriginUnavailable
from lit_storage_proto.limits import Limits
from tests.processes import children_of, kill_all

pytestmark = pytest.mark.slow

WORK = """
import sys
import lit_storage
with lit_storage.join("trainer"):
    with open(lit_storage.Path("lit://x"), "w") as file:
        file.write("x")
    print("serving", flush=True)
    sys.stdin.read()
"""


class Program:
    """A process, until the test ends."""

    def __init__(self, command, environment, ready):
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.said = []
        self.read_until(ready)

    def read_until(self, text):
        for line in self.process.stdout:
            self.said.append(line)
            if re.search(text, line):
                return line
        raise AssertionError("".join(self.said))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "r"


@pytest.fixture
def start(root, tmp_path):
    """Start a Work or a daemon of the name "trainer", with files x and y."""
    started = []
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("x")

    def run(what, **environment):
        tool = os.path.join(sysconfig.get_path("scripts"), "lit-storage")
        serve = [tool, "serve", "--name", "trainer", "--share", f"data={tmp_path}/data"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "LIT_STORAGE_ROOT": str(root),
            **{f"LIT_STORAGE_{name}": value for name, value in environment.items()},
        }
        command = [sys.executable, "-c", WORK] if what == "work" else serve
        started.append(Program(command, environment, "serving"))
        return started[-1]

    yield run
    kill_all(started)


@pytest.fixture
def reach(root):
    """Ask once for what is there, with some security, and return what came of it."""

    def ask(what, security):
        path = {"work": "lit://@trainer/x", "daemon": "lit://@trainer/data/x"}[what]
        limits = Limits(connect_seconds=20.0, unary_seconds=30.0, resume_seconds=0.1)
        with lit_storage.connect(root=root, security=security, limits=limits):
            try:
                return lit_storage.Path(path).exists_remote()
            except (AccessDenied, OriginUnavailable) as error:
                return type(error)

    return ask


BOTH = pytest.mark.parametrize("what", ["work", "daemon"])


@BOTH
def test_a_token_changes_while_it_serves(start, reach, token_file, what):
    """The old one is refused and the new one taken, by the same process."""
    program = start(what, TOKEN_FILE=token_file("old"))
    assert [reach(what, Security(token)) for token in ("old", "new")] == [True, AccessDenied]
    token_file("new", "old")
    assert [reach(what, Security(token)) for token in ("old", "new")] == [True, True]
    token_file("new")
    assert [reach(what, Security(token)) for token in ("old", "new")] == [AccessDenied, True]
    assert program.process.poll() is None


@BOTH
def test_the_token_of_the_root_changes_while_it_serves(start, reach, root, token_file, what):
    """It is a file of tokens like any other: sessions that begin send its first line."""
    start(what)
    before = (root / "token").read_text().strip()
    token_file("new", before, path=root / "token")
    assert [reach(what, security) for security in (None, Security(before), Security("new"))] == [True] * 3
    token_file("new", path=root / "token")
    assert [reach(what, security) for security in (None, Security(before))] == [True, AccessDenied]


@BOTH
def test_a_token_that_vanishes_opens_no_door(start, reach, token_file, tmp_path, what):
    """The last one is asked for, and in place of none there is no other."""
    start(what, TOKEN_FILE=token_file("old"))
    os.unlink(tmp_path / "tokens")
    asked = [reach(what, security) for security in (Security("old"), Security("x"), Security())]
    assert asked == [True, AccessDenied, AccessDenied]


@BOTH
def test_certificate_key_and_authority_change_while_it_serves(start, reach, new_authority, tmp_path, what):
    """Who has a certificate of the new authority is served, who has one of the old is not any more."""
    old, new = new_authority("old"), new_authority("new-ca")
    files = {kind: tmp_path / kind for kind in ("certificate", "key", "ca")}

    def put(security):
        for kind, path in files.items():
            shutil.copy(getattr(security, kind), f"{path}.new")
            os.replace(f"{path}.new", path)

    put(old.issue("trainer"))
    start(
        what,
        TLS_CERT=str(files["certificate"]),
        TLS_KEY=str(files["key"]),
        TLS_CA=str(files["ca"]),
        TOKEN="t",
    )

    def reached():
        return [reach(what, with_token(each.issue("consumer"))) for each in (old, new)]

    assert reached() == [True, OriginUnavailable]
    put(new.issue("trainer"))
    assert reached() == [OriginUnavailable, True]


def with_token(security):
    return Security("t", security.certificate, security.key, security.ca)


def test_a_server_that_is_started_again_has_the_token_of_now(start, reach, token_file, wait_until):
    """A Work whose server was killed comes back with what the file says by then, on the same port."""
    program = start("work", TOKEN_FILE=token_file("old"))
    token_file("new")
    (server,) = servers_of(program.process.pid)
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: reach("work", Security("new")) is True, 90)
    assert reach("work", Security("old")) is AccessDenied


def servers_of(pid):
    found = []
    for child in children_of(pid):
        with contextlib.suppress(OSError), open(f"/proc/{child}/cmdline", "rb") as file:
            found += [child] if b"lit-storage server" in file.read() else []
    return found


def test_a_hang_up_does_not_end_a_daemon(start, reach, token_file):
    """SIGHUP, with which operators say that files have changed, is answered in the log."""
    program = start("daemon", TOKEN_FILE=token_file("old"))
    token_file("new")
    program.process.send_signal(signal.SIGHUP)
    assert "read anew when they change" in program.read_until("SIGHUP")
    assert reach("daemon", Security("new")) is True


@BOTH
@pytest.mark.parametrize("mode", [0o644, 0o606])
def test_it_does_not_begin_with_a_token_that_others_know(start, token_file, what, mode):
    """It ends, says which file, and shows no token."""
    with pytest.raises(AssertionError, match="by others") as caught:
        start(what, TOKEN_FILE=token_file("the-token", mode=mode))
    assert "the-token" not in str(caught.value)
