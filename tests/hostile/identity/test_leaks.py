"""Where a token must not be seen: objects, tracebacks, logs, processes, files and what commands print."""

import contextlib
import dataclasses
import io
import json
import logging
import os
import pickle
import pprint
import subprocess
import sys
import sysconfig
import traceback
import urllib.request

import pytest
from rich.console import Console
from rich.pretty import pretty_repr
from rich.traceback import Traceback

import lit_storage
from lit_storage.executors import Start
from lit_storage.executors.app_file import AppFile
from lit_storage_core.security.child_environment import without_secrets
from lit_storage_core.security.credentials import Credentials
from lit_storage_core.security.secret import Secret
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import StorageError
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
from lit_storage_server.daemon.daemon import Place
from lit_storage_server.process.server_process import ServerProcess
from lit_storage_server.rpc.auth import TokenInterceptor
from lit_storage_server.rpc.server import PeerServer

TOKENS = ["the-token-0123456789", "long-" * 40 + "token"]
HERE = Location("trainer", "small")
BOTH = pytest.mark.parametrize("token", TOKENS, ids=["short", "long"])


def parts(token):
    """Return what of a token nobody may see: any eight characters in a row would do to tell."""
    return token[:8], token[-8:]


def reached_from(thing, seen, depth=6):
    """Yield what an object of this product holds, and what that holds."""
    if id(thing) in seen or not depth:
        return
    seen[id(thing)] = thing
    yield thing
    held = list(getattr(thing, "__dict__", {}).values())
    held += [getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ())]
    if isinstance(thing, (list, tuple, dict, set)):
        held += list(thing.values()) if isinstance(thing, dict) else list(thing)
    for each in held:
        if isinstance(each, (str, bytes, list, tuple, dict)) or "lit_storage" in type(each).__module__:
            yield from reached_from(each, seen, depth - 1)


def assert_hidden(thing, token):
    """Look at an object, and at all that it holds, as logs, debuggers and tracebacks show them."""
    for each in reached_from(thing, {}):
        for text in (repr(each), pretty_repr(each, max_string=80), pprint.pformat(each)):
            assert not any(part in text for part in parts(token)), type(each)


def asked(serve, ask, security):
    """Return a client that has asked once, with all that it holds by then."""
    remote = ask(serve("trainer", security), security)
    assert remote.exists(HERE)
    return remote


LIMITS = Limits()
KINDS = {
    "security": lambda security: security,
    "metadata": lambda security: security.metadata(),
    "tokens": lambda security: security.tokens(),
    "fields": dataclasses.asdict,
    "a copy": lambda security: dataclasses.replace(security, insecure=True),
    "a pickle that came back": lambda security: pickle.loads(pickle.dumps(security)),
    "an interceptor": TokenInterceptor,
    "a server": lambda security: PeerServer("x", "i", None, security=security),
    "a server process": lambda security: ServerProcess(
        "x", "i", "/x", bind="", security=security, limits=LIMITS
    ),
    "what starts a Work": lambda security: Start(
        "x", "/", "memory:", security, LIMITS, AppFile("", "", "", ""), b""
    ),
    "a place": lambda security: Place("/", "memory:", security, lambda *_: ""),
    "credentials": Credentials,
}


@BOTH
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_no_object_shows_a_token(token, make):
    """Nor does anything that it holds, however it is printed."""
    assert_hidden(make(Security(token)), token)


@BOTH
def test_what_has_asked_shows_no_token(serve, ask, token):
    """Nor do its channels."""
    assert_hidden(asked(serve, ask, Security(token)), token)


@BOTH
def test_a_session_shows_no_token(tmp_path, token):
    """With all that it holds, while it serves; nor does a Path of it, pickled or as JSON."""
    with lit_storage.join("worker", root=tmp_path / "r", security=Security(token)) as session:
        assert_hidden(session, token)
        path = lit_storage.Path("lit://x")
        travelling = pickle.dumps(path) + json.dumps(path.to_dict()).encode() + repr(path).encode()
    assert not any(part.encode() in travelling for part in parts(token))


@BOTH
def test_an_app_shows_no_token(tmp_path, token):
    """Before it runs as after it has."""

    class Idle(lit_storage.Flow):
        def run(self):
            pass

    app = lit_storage.App(Idle(), root=tmp_path / "r", security=Security(token))
    assert_hidden(app, token)


def raised(call):
    """Return the traceback of what is raised, in each way that shows local variables."""
    try:
        call()
    except Exception as error:  # noqa: BLE001
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        out = io.StringIO()
        shown = Traceback.from_exception(
            type(error), error, error.__traceback__, show_locals=True, locals_max_string=60
        )
        Console(file=out, width=300).print(shown)
        return f"{text}{out.getvalue()}{error!r}{error}"
    raise AssertionError("nothing was raised")


FAILURES = {
    "a token that is not taken": lambda serve, ask, token: ask(
        serve("trainer", Security("another")), Security(token)
    ).exists(HERE),
    "nobody listens": lambda serve, ask, token: ask(
        LiveRecord("trainer", "i1", "127.0.0.1:9", "m"), Security(token)
    ).exists(HERE),
    "it would go in clear": lambda serve, ask, token: ask(
        LiveRecord("trainer", "i1", "10.0.0.1:9", "m"), Security(token)
    ).stat(HERE),
    "no such path": lambda serve, ask, token: ask(serve("trainer", Security(token)), Security(token)).stat(
        Location("trainer", "none")
    ),
    "a stream that is refused": lambda serve, ask, token: list(
        ask(serve("trainer", Security("another")), Security(token)).stream(HERE)
    ),
    "a bind that is refused": lambda serve, ask, token: serve("x", Security(token), bind="0.0.0.0:0"),
    "a token beside a file": lambda serve, ask, token: Security(token, token_file="/x"),
    "a token with a space": lambda serve, ask, token: Security(Secret(f"{token} ")),
    "a certificate without its key": lambda serve, ask, token: Security(token, certificate="/x"),
    "a key that is not there": lambda serve, ask, token: serve("x", Security(token, "/x", "/y")),
}


@BOTH
@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_no_error_shows_a_token(serve, ask, token, fail):
    """Neither its text nor a traceback that shows the local variables of every frame of the product."""
    hidden = Secret(token)  # the frames of a test hold it too
    text = raised(lambda: fail(serve, ask, hidden))
    assert not any(part in text for part in parts(token))


@BOTH
@pytest.mark.parametrize("spoil", ["a b\n", "\xff\n", "x\n" * 20])
def test_a_file_that_cannot_be_used_shows_no_token(tmp_path, token, spoil):
    """Though the good one in it has been read already."""
    (tmp_path / "f").write_bytes(f"{token}\n{spoil}".encode("latin-1"))
    (tmp_path / "f").chmod(0o600)
    text = raised(Security(token_file=str(tmp_path / "f")).tokens)
    assert not any(part in text for part in parts(token))


@BOTH
def test_logs_show_no_token(serve, ask, caplog, token, tmp_path, token_file):
    """At any level, of any logger, whether a call is let in or refused, and when the token changes."""
    caplog.set_level(logging.DEBUG)
    server = Security(token_file=token_file(token))
    record = serve("trainer", server)
    for asked in (token, "another", None):
        with contextlib.suppress(StorageError):
            ask(record, Security(asked)).exists(HERE)
    token_file(token, f"{token}-next")
    assert ask(record, Security(f"{token}-next")).exists(HERE)
    (tmp_path / "tokens").chmod(0o644)
    assert ask(record, Security(token)).exists(HERE)
    text = caplog.text + repr([vars(each) for each in caplog.records])
    assert "cannot be renewed" in text
    assert not any(part in text for part in parts(token))


# Processes.


def said_of(pid, what):
    with open(f"/proc/{pid}/{what}", "rb") as file:
        return file.read()


@pytest.fixture
def program(tmp_path):
    """Run a program that tells of its processes as JSON."""

    def run(code, **environment):
        (tmp_path / "app.py").write_text(code)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "app.py")],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("LIT_")},
                "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
                "LIT_STORAGE_ROOT": str(tmp_path / "root"),
                "APP": str(tmp_path),  # by which its processes are found, guard and server too
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


APP = """
import json, os
import lit_storage

def said(pid, what):
    with open(f"/proc/{pid}/{what}", "rb") as file:
        return file.read().decode("latin-1")

class Writer(lit_storage.Work):
    def __init__(self):
        super().__init__()
        self.out = "lit://out"
        self.seen = []

    def run(self):
        with open(self.out, "w") as file:
            file.write("x")
        seen = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command, environment = said(pid, "cmdline"), said(pid, "environ")
                if f"APP={os.environ['APP']}" in environment:
                    seen.append([command, environment])
            except OSError:
                pass
        self.seen = seen

class Root(lit_storage.Flow):
    def __init__(self):
        super().__init__()
        self.writer = Writer()

    def run(self):
        self.writer.run()
        print(json.dumps(self.writer.seen))

if __name__ == "__main__":
    lit_storage.App(Root()).run()
"""


@pytest.mark.slow
def test_an_app_shows_its_random_token_to_nobody(program, tmp_path):
    """In no argument and no environment of App, guard, Work and server, and in no file but its own."""
    done = program(APP)
    token = (tmp_path / "root" / "token").read_text().strip()
    seen = json.loads(done.stdout)
    assert len(seen) >= 4, [command for command, _ in seen]
    assert not any(part in done.stdout + done.stderr for part in parts(token))
    holders = [path for path in files_below(tmp_path / "root") if token.encode() in path.read_bytes()]
    assert holders == [tmp_path / "root" / "token"]


@pytest.mark.slow
@BOTH
def test_a_token_of_the_environment_goes_where_ones_own_code_runs_alone(program, tmp_path, token):
    """App and Work have the variable, as whoever set it wants; guard and server do not, nor does any file."""
    done = program(APP, LIT_STORAGE_TOKEN=token)
    seen = json.loads(done.stdout)
    with_it = [command for command, environment in seen if token in environment]
    assert not any(token in command for command, _ in seen)
    assert any("lit-storage Work" in command for command in with_it)
    assert any("lit-storage server" in command for command, _ in seen)
    assert not any("lit-storage server" in command or "guard.py" in command for command in with_it)
    assert not any(token.encode() in path.read_bytes() for path in files_below(tmp_path / "root"))


def files_below(root):
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("variable", ["LIT_STORAGE_TOKEN", "LIT_STORAGE_ETCD_PASSWORD"])
def test_helpers_inherit_no_secrets(monkeypatch, variable):
    """What is started for the product itself is told through its socket."""
    monkeypatch.setenv(variable, "secret")
    assert variable not in without_secrets()
    assert without_secrets()["PATH"] == os.environ["PATH"]


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_a_daemon_shows_no_token(tmp_path, token_file, log_format):
    """In its arguments, environment, logs, metrics and files, also while callers show wrong ones."""
    token = TOKENS[0]
    (tmp_path / "data").mkdir()
    tool = os.path.join(sysconfig.get_path("scripts"), "lit-storage")
    command = [tool, "serve", "--name", "store", "--share", f"data={tmp_path}/data", "--metrics", "0"]
    command += [
        "--token-file",
        token_file(token),
        "--root",
        str(tmp_path / "root"),
        "--log-format",
        log_format,
    ]
    environment = {**os.environ, "LIT_STORAGE_TOKEN_FILE": str(tmp_path / "tokens")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as daemon:
        try:
            said, metrics = "", ""
            while "serving" not in said.splitlines()[-1:][0] if said else True:
                said += daemon.stderr.readline()
                assert daemon.poll() is None, said
            about = said_of(daemon.pid, "cmdline") + said_of(daemon.pid, "environ")
            for security in (Security(token), Security("another-token")):
                connected = lit_storage.connect(root=tmp_path / "root", security=security)
                with connected, contextlib.suppress(StorageError):
                    lit_storage.Path("lit://@store/data/x").exists_remote()
            listed = subprocess.run(
                [tool, "--root", str(tmp_path / "root"), "works", "--json"],
                env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            address = next(part for part in said.replace('"', " ").split() if "127.0.0.1:" in part)
            port = address.rpartition(":")[2].rstrip(",}")
            with contextlib.suppress(OSError):
                metrics = (
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
                )
        finally:
            daemon.terminate()
        said += daemon.stderr.read()
    assert "lit_storage" in metrics
    everything = about.decode("latin-1") + said + metrics + listed.stdout + listed.stderr
    assert not any(part in everything for part in parts(token))
    assert not any(token.encode() in path.read_bytes() for path in files_below(tmp_path / "root"))


@pytest.mark.slow
@pytest.mark.parametrize("command", [["works"], ["works", "--all"], ["artifacts", "ls"], ["ls", "store:x"]])
def test_commands_print_no_token(tmp_path, command):
    """Neither what they print for programs nor their errors have it."""
    (tmp_path / "root").mkdir()
    tool = os.path.join(sysconfig.get_path("scripts"), "lit-storage")
    done = subprocess.run(
        [tool, "--root", str(tmp_path / "root"), *command, "--json"],
        env={**os.environ, "LIT_STORAGE_TOKEN": TOKENS[0]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    json.loads(done.stdout or done.stderr)
    assert not any(part in done.stdout + done.stderr for part in parts(TOKENS[0]))
    assert not any(TOKENS[0].encode() in path.read_bytes() for path in files_below(tmp_path / "root"))
