"""Apps whose Works run on two nodes of a Ray cluster: where, with what, and what is told that cannot run."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.ray_apps import TOKEN, Started, apps
from tests.ray_cluster import HEAD, OTHER

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_cluster.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


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
        return [current().endpoint, hashlib.sha256(current().security.tokens()[0].encode()).hexdigest()]

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
def facts(ray_cluster, ray_etcd, tmp_path_factory):
    """What one App found out, with all that lies about of it while it runs."""
    with apps(ray_cluster, ray_etcd, tmp_path_factory.mktemp("facts")) as start:
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
        for directory, _, names in os.walk(ray_cluster.directory):  # which passes over what goes meanwhile
            for file in (Path(directory, name) for name in names):
                with contextlib.suppress(OSError):
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
    started = app(QUIET, sys.executable, "-c", "from lit_storage.cli.main import main; main()", "run")
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


def test_a_program_without_a_file(app):
    """Its classes reach the nodes by value, and its flags hold there."""
    source = QUIET.replace("MAIN", "pass").replace("return __file__", "return __debug__, __name__")
    started = app(source, "sh", "-c", 'exec "$0" -O - < "$1"', sys.executable)
    assert "ran in (False, '__main__')" in (ended := started.end())[1], ended


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


def test_the_example_runs_on_the_cluster(ray_cluster, ray_etcd, tmp_path):
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
            "LIT_STORAGE_REGISTRY": ray_etcd.new_url(),
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


FRESH = """
import os
from lit_storage import App, Flow, Path, Work

class Train(Work):
    def __init__(self):
        super().__init__(resources={"other": 1})
    def run(self, fails):
        found = sorted(os.listdir(Path("lit://")))
        Path(f"lit://{len(found)}").touch()
        if fails:
            raise OSError("as it was asked for")
        return found

class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.train = Train()
    def run(self):
        try:
            self.train.run(True)
        except OSError:
            print("found", self.train.run(False), flush=True)

if __name__ == "__main__":
    App(Pipeline(), fresh=True).run()
"""


def test_each_run_begins_empty(ray_cluster, ray_etcd, tmp_path):
    """On the node of the Work; one that is started again after a failure keeps its files there."""
    with apps(ray_cluster, ray_etcd, tmp_path) as start:
        for _ in range(2):
            started = start(FRESH)
            assert started.read_until("found ") == "['0']"
            assert started.end()[0] == 0
    assert sorted(os.listdir(tmp_path / "root" / "works" / "train")) == ["0", "1"]
    assert sorted(os.listdir(tmp_path / "root" / "former" / "train")) == ["0", "1", "@.former"]
