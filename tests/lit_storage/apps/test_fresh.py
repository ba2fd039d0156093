"""Apps whose Works begin without the files of earlier runs."""

import json
import os
import subprocess
import sys

import pytest

from lit_storage import App, Flow, NameTaken, Path, Work

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.slow]

APP = """
import os, sys
from lit_storage import App, Flow, Path, Work

class Train(Work):
    def __init__(self):
        super().__init__()
        self.out = Path("lit://out")

    def run(self, text):
        print(sorted(os.listdir(Path("lit://"))), flush=True)
        self.out.mkdir(exist_ok=True)
        (self.out / text).touch()

class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.train = Train()

    def run(self):
        self.train.run(sys.argv[1])

app = App(Pipeline())
"""


class Train(Work):
    def __init__(self):
        super().__init__()
        self.found = None

    def run(self, text, fails=False):
        self.found = sorted(os.listdir(Path("lit://")))
        Path(f"lit://{text}").touch()
        if fails:
            raise OSError("as it was asked for")


class Pipeline(Flow):
    def __init__(self, steps):
        super().__init__()
        self.train = Train()
        self.steps = steps

    def run(self):
        self.steps(self.train)


def run_app(steps):
    flow = Pipeline(steps)
    App(flow, fresh=True).run()
    return flow.train


def test_each_run_begins_empty(root):
    """Both runs of one App; what the first one left is the former storage root."""
    app = App(Pipeline(lambda train: train.run("a")), fresh=True)
    app.run()
    app.flow.steps = lambda train: train.run("b")
    app.run()
    assert app.flow.train.found == []
    assert os.listdir(root / "works" / "train") == ["b"]
    assert (root / "former" / "train" / "a").exists()


def test_a_start_after_a_failure(root):
    """The Work keeps its files within one run of the App."""

    def steps(train):
        with pytest.raises(OSError, match="asked for"):
            train.run("a", fails=True)
        train.run("b")

    assert run_app(steps).found == ["a"]
    assert not (root / "former" / "train").exists()


def test_a_live_name(root, script):
    """The files of a process that lives are not taken from it, and the error says so."""
    held = script("""
        import time
        import lit_storage
        with lit_storage.join("train"):
            lit_storage.Path("lit://a").touch()
            print("ready", flush=True)
            time.sleep(60)
    """)
    assert held.stdout.readline() == "ready\n"
    with pytest.raises(NameTaken, match="stop that process"):
        run_app(lambda train: train.run("b"))
    assert os.listdir(root / "works" / "train") == ["a"]


def test_only_a_bool():
    """Text such as "no" would be taken for yes."""
    with pytest.raises(TypeError, match="fresh='no'"):
        App(Pipeline(None), fresh="no")


def test_the_command_line(root, tmp_path):
    """`run --fresh` does the same, and `works --all` says where the former files are."""

    def lit(*arguments):
        program = "from lit_storage.cli.main import main; main()"
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True)

    (tmp_path / "app.py").write_text(APP)
    lit("run", "app.py", "a")
    assert lit("run", "app.py", "b").stdout == "['out']\n"
    assert lit("run", "--fresh", "app.py", "c").stdout == "[]\n"
    (row,) = json.loads(lit("works", "--all", "--json").stdout)
    assert row["former"] == str(root / "former" / "train")
    assert "FORMER" in lit("works", "--all").stdout
