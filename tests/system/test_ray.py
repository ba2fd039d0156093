"""Apps whose Works run on two nodes of a Ray cluster, started as a user does, and what becomes of them."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trustme

from tests.etcd_server import EtcdServers
from tests.ray_cluster import HEAD, OTHER

TOKEN = "a-token-that-is-nowhere-else"
EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_cluster.py"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def etcd(ray_cluster, tmp_path_factory):
    """A registry that both nodes reach."""
    addresses, prefixes = [(f"{HEAD}:23790", f"{HEAD}:23800")], [ray_cluster.command]
    with EtcdServers(tmp_path_factory.mktemp("etcd"), addresses=addresses, prefixes=prefixes) as servers:
        yield servers


class Started:
    """An App that runs; what it prints is read line by line."""

    def __init__(self, cluster, command, environment, cwd):
        self.process = cluster.start(
            *command,
            env=environment,
            cwd=cwd,
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        )
        self.log = []
        self._start = lambda *command: cluster.start(*command, env=environment, stdout=subprocess.PIPE)

    def command(self, *arguments):
        """Return what the command line prints, told the same as the App."""
        process = self._start(sys.executable, "-c", "from lit_storage.cli import main; main()", *arguments)
        return process.communicate(timeout=60)[0]

    def read_until(self, mark):
        """Return what follows `mark` in the next line that has it; Ray prints the Work's name before it."""
        for line in self.process.stdout:
            self.log.append(line)
            if mark in line:
                return line.partition(mark)[2].strip()
        raise AssertionError(f"ended without {mark!r}: {self.log} {self.process.communicate()[1]}")

    def end(self):
        """Wait for the end; return exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=90)
        return self.process.returncode, "".join(self.log) + out, err


@contextlib.contextmanager
def apps(cluster, etcd, directory):
    """Yield what starts App files in the namespace; what is left of them at the end is killed."""
    started = []

    def start(source, *command, **environment):
        file = directory / f"app{len(started)}.py"
        file.write_text(textwrap.dedent(source))
        environment = {
            "LIT_STORAGE_ROOT": str(directory / "root"),
            "LIT_STORAGE_REGISTRY": etcd.new_url(),
            "LIT_STORAGE_EXECUTOR": "ray",
            "LIT_STORAGE_INSECURE": "1",
            "LIT_STORAGE_TOKEN": TOKEN,
            **environment,
        }
        started.append(Started(cluster, [*(command or [sys.executable]), str(file)], environment, directory))
        return started[-1]

    yield start
    for app in started:
        if app.process.poll() is None:
            app.process.kill()
        app.process.communicate()


@pytest.fixture
def app(ray_cluster, etcd, tmp_path):
    with apps(ray_cluster, etcd, tmp_path) as start:
        yield start


@pytest.fixture
def left(ray_cluster):
    """Return the command lines in the namespace that are there for a Work."""
    marks = (
        "lit-storage Work",
        "lit-storage host",
        "lit-storage server",
        "WorkActor",
        "guard.py",
        "sleep\0600",
    )

    def find():
        pids = subprocess.run(
            ["ip", "netns", "pids", ray_cluster.namespace], capture_output=True, text=True, check=True
        ).stdout.split()
        lines = {}
        for pid in pids:
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_text()
                if any(mark in line for mark in marks):
                    lines[int(pid)] = line
        return lines

    return find


FACTS = """
import hashlib, json, os, ray
from lit_storage import App, Flow, Work, current

class Train(Work):
    def __init__(self):
        super().__init__(resources={"head": 1})
        self.out = "lit://out"
    def run(self):
        self.out.mkdir()
        (self.out / "weights").write_bytes(bytes(range(256)) * 4096)
        print("trained")
        return [current().endpoint, hashlib.sha256(current().security.token.encode()).hexdigest()]

class Read(Work):
    def __init__(self):
        super().__init__(num_gpus=1)
    def run(self, out, large):
        data = (out / "weights").read_bytes()
        same = data == bytes(range(256)) * 4096
        return [current().endpoint, same, os.environ.get("CUDA_VISIBLE_DEVICES"), large]

class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.train, self.read = Train(), Read()
    def run(self):
        large = "x" * 1_000_000
        facts = {"train": self.train.run(), "read": self.read.run(self.train.out, large)}
        facts["large"] = facts["read"].pop() == large
        facts["actors"] = repr(ray._private.state.actors()) + repr(ray._private.state.jobs())
        facts["runtime_env"] = repr(ray.get_runtime_context().runtime_env)
        print("facts", json.dumps(facts), flush=True)
        input()

if __name__ == "__main__":
    App(Pipeline()).run()
"""


@pytest.fixture(scope="module")
def facts(ray_cluster, etcd, tmp_path_factory):
    """What one App found out, with all that lies about of it while it runs."""
    with apps(ray_cluster, etcd, tmp_path_factory.mktemp("facts")) as start:
        started = start(FACTS)
        facts = json.loads(started.read_until("facts "))
        if not any("trained" in line for line in started.log):
            started.read_until("trained")  # Ray passes on what is printed a moment later
        facts["log"] = "".join(started.log)
        pids = subprocess.run(
            ["ip", "netns", "pids", ray_cluster.namespace], capture_output=True, text=True, check=True
        ).stdout.split()
        facts["argv"], facts["environ"] = "", ""
        for pid in pids:
            with contextlib.suppress(OSError):
                facts["argv"] += Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
                if int(pid) != started.process.pid:
                    facts["environ"] += Path(f"/proc/{pid}/environ").read_text(errors="replace")
        facts["files"] = ""
        for file in Path(ray_cluster.directory).rglob("*"):
            if file.is_file():
                facts["files"] += file.read_text(errors="replace")
    return facts


def test_a_work_runs_where_its_resources_are(facts):
    """Each one landed on the node that has what it asks for, and listens on that node's address."""
    assert facts["train"][0].startswith(f"{HEAD}:")
    assert facts["read"][0].startswith(f"{OTHER}:")


def test_a_path_is_handed_from_node_to_node(facts):
    """A Work on one node finds the files of a Work on another one when its run starts."""
    assert facts["read"][1] is True


def test_a_work_sees_the_gpu_that_ray_gave_it(facts):
    """One of the node's two, by the variable that CUDA looks at."""
    assert facts["read"][2] in ("0", "1")


def test_large_arguments_and_results_travel(facts):
    """Ray does not carry them in its messages, but in its store of objects."""
    assert facts["large"] is True


def test_what_a_work_prints_is_shown_by_the_app(facts):
    """The name of the Work stands before it."""
    assert "(train " in facts["log"]
    assert "trained" in facts["log"]


@pytest.mark.parametrize("where", ["actors", "runtime_env", "argv", "environ", "files", "log"])
def test_the_token_is_nowhere_to_be_read(facts, where):
    """It is in use, and in no list of Ray's, no command line, environment of a node, log or file."""
    assert facts["train"][1] == hashlib.sha256(TOKEN.encode()).hexdigest()
    assert TOKEN not in facts[where]


def test_where_the_token_is_looked_for_there_is_something(facts):
    """Those places hold what they are to hold, so that it would be seen there."""
    assert "WorkActor" in facts["actors"]
    assert "lit-storage Work train" in facts["argv"].replace("\0", " ")
    assert "LIT_STORAGE_LOCAL_COPY" in facts["environ"]
    assert "trained" in facts["files"]


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
            "self.busy.run(HOW)",
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
        assert f"WorkError: the process of 'busy' was lost on {OTHER}: its node has died" in err
        eventually(lambda: not left())
    finally:
        ray_cluster.add_other()


def test_resources_that_no_node_has(app):
    """The call fails within the time for a start, and says what was asked for."""
    started = app(
        """
        from lit_storage import App, Flow, Limits, Work
        class Large(Work):
            def __init__(self):
                super().__init__(num_gpus=3, resources={"tape": 2})
            def run(self):
                pass
        class Pipeline(Flow):
            def __init__(self):
                super().__init__()
                self.large = Large()
            def run(self):
                self.large.run()
        if __name__ == "__main__":
            App(Pipeline(), limits=Limits(start_seconds=2.0)).run()
        """
    )
    code, _, err = started.end()
    assert code == 1
    assert "TransferTimeout: the process of 'large' did not start within 2 s" in err
    assert "num_gpus=3, tape=2" in err


QUIET = """
import os, ray
from lit_storage import App, Flow, Work
class Quiet(Work):
    def run(self):
        return __file__
class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.quiet = Quiet()
    def run(self):
        print("ran in", self.quiet.run())
app = App(Pipeline())
if __name__ == "__main__":
    MAIN
    app.run()
"""


def test_the_command_runs_an_app_on_ray(app):
    """`lit-storage run` does what running the file does."""
    started = app(QUIET, sys.executable, "-c", "from lit_storage.cli import main; main()", "run")
    assert "ran in" in (ended := started.end())[1], ended


@pytest.fixture
def alone(app, tmp_path):
    """Start an App whose file is in a directory that no other process sees."""
    (tmp_path / "own").mkdir()
    command = 'mount -t tmpfs none own && cp "$1" own/app.py && cd own && exec "$0" app.py'

    def start(main):
        return app(QUIET.replace("MAIN", main), "unshare", "-m", "sh", "-c", command, sys.executable)

    return start


def test_an_app_file_that_a_node_does_not_have(alone, tmp_path):
    """The file is named, and what to do about it."""
    code, _, err = alone("pass").end()
    assert code == 1
    assert f"InvalidApp: '{tmp_path}/own/app.py' is not on " in err
    assert 'ray.init(runtime_env={"working_dir": "."})' in err


def test_an_app_file_in_rays_working_dir(alone):
    """A node that has the App's directory by Ray alone finds the file there."""
    code, out, err = alone('ray.init(runtime_env={"working_dir": "."})').end()
    assert code == 0, err
    assert "working_dir_files" in out.partition("ran in")[2]


def test_without_a_cluster(app):
    """The App does not start one of its own, and says how to."""
    code, _, err = app(QUIET.replace("MAIN", "pass"), RAY_ADDRESS=f"{HEAD}:1").end()
    assert code == 1
    assert "ExecutorUnavailable: executor='ray' finds no Ray cluster to run on; start one" in err


def test_the_example_runs_on_the_cluster(ray_cluster, etcd, tmp_path):
    """As its first lines say, with a certificate of both Works' names."""
    authority = trustme.CA()
    certificate = authority.issue_cert("train", "evaluate")
    files = {kind: str(tmp_path / kind) for kind in ("CERT", "KEY", "CA")}
    certificate.cert_chain_pems[0].write_to_path(files["CERT"])
    certificate.private_key_pem.write_to_path(files["KEY"])
    authority.cert_pem.write_to_path(files["CA"])
    started = Started(
        ray_cluster,
        [sys.executable, str(EXAMPLE)],
        {
            "LIT_STORAGE_ROOT": str(tmp_path / "root"),
            "LIT_STORAGE_REGISTRY": etcd.new_url(),
            "LIT_STORAGE_EXECUTOR": "ray",
            **{f"LIT_STORAGE_TLS_{kind}": file for kind, file in files.items()},
        },
        tmp_path,
    )
    code, out, err = started.end()
    assert code == 0, err
    assert "epoch-1: loss 1.00\nepoch-2: loss 0.50\nepoch-3: loss 0.33\n" in out


def test_a_tls_file_that_a_node_does_not_have(app):
    """It is named in the error that the first call raises."""
    files = {f"LIT_STORAGE_TLS_{kind}": f"/nowhere/{kind}" for kind in ("CERT", "KEY", "CA")}
    code, _, err = app(QUIET.replace("MAIN", "pass"), **files).end()
    assert code == 1
    assert "AccessDenied" in err
    assert "/nowhere/" in err
