"""What the programs that a session's process starts find in their environment."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import lit_storage
from lit_storage import App, Flow, Path, Security
from lit_storage.sessions.inheritance import Inheritance, variable, variables_of
from lit_storage_core.registries.memory import MemoryRegistry
from tests.processes import forked

CHILD = """
import lit_storage, sys, tempfile
from lit_storage import Path
with lit_storage.join("own") if sys.argv[1] == "join" else lit_storage.connect():
    print(Path("lit://@producer/out").get(to=tempfile.mkdtemp() + "/out").files)
"""
APP = f"""
import os, subprocess, sys
from lit_storage import App, Flow, Work

class Producer(Work):
    def __init__(self):
        super().__init__()
        self.out = "lit://out"
    def run(self):
        self.out.write_text("x")

class Starter(Work):
    def run(self, how):
        command = [sys.executable, "-c", {CHILD!r}, how]
        print(how, subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.strip())

class Both(Flow):
    def __init__(self):
        super().__init__()
        self.producer, self.starter = Producer(), Starter()
    def run(self):
        self.producer.run()
        for how in ("join", "connect"):
            self.starter.run(how)
        print("in the App:", os.environ.get("LIT_STORAGE_ROOT"))

if __name__ == "__main__":
    App(Both(), root=sys.argv[1]).run()
"""


class Nothing(Flow):
    def run(self):
        pass


def session_with(security=None, url="sqlite:///r/registry.db"):
    registry = SimpleNamespace(url=url)
    return SimpleNamespace(root="/r", registry=registry, security=security or Security())


@pytest.mark.parametrize("open_session", [lambda root: lit_storage.join("a", root=root), lit_storage.connect])
def test_root_and_registry_of_a_session(tmp_path, monkeypatch, open_session):
    """While a session is open, a child finds its root and registry; afterwards all is as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_STORAGE_REGISTRY", url := f"sqlite://{tmp_path}/other.db")
    monkeypatch.setenv("LIT_STORAGE_ROOT", str(tmp_path / "default"))
    before = dict(os.environ)
    with open_session(root=tmp_path / "given"):
        assert os.environ["LIT_STORAGE_ROOT"] == str(tmp_path / "given")
        assert os.environ["LIT_STORAGE_REGISTRY"] == url
    assert dict(os.environ) == before


def test_no_secret_is_handed_on(root):
    """A token that was given in code is in no variable."""
    with lit_storage.join("a", security=Security("very secret token")):
        assert not any("very secret" in value for value in os.environ.values())


def test_the_files_of_secrets_are_handed_on(tmp_path, monkeypatch):
    """A child reads the same files, by names that mean them in any directory."""
    monkeypatch.chdir(tmp_path)
    security = Security(certificate="c", key="k", ca="a", token_file="t", insecure=True)
    variables = variables_of(session_with(security))
    names = ("TLS_CERT", "TLS_KEY", "TLS_CA", "TOKEN_FILE", "INSECURE", "TOKEN")
    files = [f"{tmp_path}/{name}" for name in "ckat"]
    assert [variables[f"LIT_STORAGE_{name}"] for name in names] == [*files, "1", None]


@pytest.mark.parametrize(
    ("named", "is_kept"), [({"TOKEN": "other"}, 0), ({"TOKEN": "t"}, 1), ({"TOKEN_FILE": "t"}, 1)]
)
def test_another_token_than_that_in_code_is_not_handed_on(tmp_path, monkeypatch, named, is_kept):
    """A child sends the token of its root, and no token that its parent would not send."""
    monkeypatch.chdir(tmp_path)
    os.close(os.open("t", os.O_CREAT, 0o600))
    Path("t").write_text("t\n")
    for name, value in named.items():
        monkeypatch.setenv(f"LIT_STORAGE_{name}", value)
    with lit_storage.connect(root=tmp_path / "root", security=Security("t")):
        assert len({"LIT_STORAGE_TOKEN", "LIT_STORAGE_TOKEN_FILE"} & set(os.environ)) == is_kept
    assert {f"LIT_STORAGE_{name}" for name in named} <= set(os.environ)


def test_the_token_of_the_root_is_found_there():
    """A child with another root in code is not sent the token of this one."""
    assert variables_of(session_with(Security(token_file="/r/token")))["LIT_STORAGE_TOKEN_FILE"] is None


@pytest.mark.parametrize(
    ("bind", "variable"), [("0.0.0.0:0", "0.0.0.0:0"), ("0.0.0.0:4000", None), ("", None)]
)
def test_an_address_is_handed_on_without_a_port(bind, variable):
    """Where a parent listens on a port of its own, a child could not listen there too."""
    assert variables_of(session_with(), bind=bind).get("LIT_STORAGE_BIND") == variable


def test_a_store_is_handed_on():
    """What a child declares goes where the declarations of its parent go."""
    variables = variables_of(session_with(), artifacts_url="file:///kept")
    assert variables["LIT_STORAGE_ARTIFACTS"] == "file:///kept"


@pytest.mark.parametrize(
    ("url", "handed_on"),
    [("sqlite:///r/registry.db", None), ("sqlite:///r/other.db", "sqlite:///r/other.db")],
)
def test_the_registry_of_the_root_follows_the_root(monkeypatch, url, handed_on):
    """Only a registry elsewhere is named, whatever the environment said."""
    monkeypatch.setenv("LIT_STORAGE_REGISTRY", "sqlite:///unrelated.db")
    assert variables_of(session_with(url=url))["LIT_STORAGE_REGISTRY"] == handed_on


def test_a_registry_that_the_user_names_stays(monkeypatch):
    """A variable that says what the session uses is the user's own, and stays for any root."""
    monkeypatch.setenv("LIT_STORAGE_REGISTRY", "sqlite:///r/registry.db")
    assert "LIT_STORAGE_REGISTRY" not in variables_of(session_with())


@pytest.mark.slow
def test_a_child_that_names_another_root_has_its_registry(tmp_path):
    """A program that a session's process starts joins another root as if there were no session."""
    child = "import lit_storage, sys; print(lit_storage.join('b', root=sys.argv[1]).registry.url)"
    other = tmp_path / "other"
    with lit_storage.join("a", root=tmp_path / "root"):
        command = [sys.executable, "-c", child, str(other)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"sqlite://{other}/registry.db", done.stderr


def test_a_registry_of_one_process_is_not_handed_on():
    """Another process could not open it."""
    registry = MemoryRegistry("x")
    assert "LIT_STORAGE_REGISTRY" not in variables_of(session_with(url=registry.url))


def test_what_the_program_changes_meanwhile_stays(monkeypatch):
    """A variable that was set again while the session was open is the program's own."""
    monkeypatch.setenv("LIT_STORAGE_ROOT", "/before")
    monkeypatch.setenv("LIT_STORAGE_REGISTRY", "sqlite:///before")
    inheritance = Inheritance({"LIT_STORAGE_ROOT": "/r", "LIT_STORAGE_REGISTRY": "sqlite:///r"})
    os.environ["LIT_STORAGE_ROOT"] = "/mine"
    inheritance.take_back()
    assert os.environ["LIT_STORAGE_ROOT"] == "/mine"
    assert os.environ["LIT_STORAGE_REGISTRY"] == "sqlite:///before"


def test_a_session_does_not_hand_on_to_its_own_process(monkeypatch):
    """Here a variable is what it was before the session, or what the program has made of it since."""
    monkeypatch.setenv("LIT_STORAGE_ROOT", "/before")
    inheritance = Inheritance({"LIT_STORAGE_ROOT": "/r"})
    assert (variable("LIT_STORAGE_ROOT"), os.environ["LIT_STORAGE_ROOT"]) == ("/before", "/r")
    os.environ["LIT_STORAGE_ROOT"] = "/mine"
    assert variable("LIT_STORAGE_ROOT") == "/mine"
    inheritance.take_back()
    assert variable("LIT_STORAGE_ROOT") == "/mine"


def test_a_session_hands_on_to_forked_children(monkeypatch):
    """A forked child reads what the session of its parent has put into the environment."""
    inheritance = Inheritance({"LIT_STORAGE_ROOT": "/r"})
    assert forked(lambda: variable("LIT_STORAGE_ROOT")) == "/r"
    inheritance.take_back()


def test_an_app_that_is_built_within_a_session(tmp_path, monkeypatch):
    """It has the root that it would have without the session, and keeps it."""
    (tmp_path / ".lit").mkdir()
    monkeypatch.chdir(tmp_path)
    with lit_storage.connect(root=tmp_path / "other"):
        app = App(Nothing())
    assert app._root == str(tmp_path / ".lit")


@pytest.mark.slow
def test_a_program_that_run_starts_means_the_root_of_its_app(script, monkeypatch, tmp_path):
    """It joins and connects to the Works of the App, and makes no root of its own."""
    monkeypatch.delenv("LIT_STORAGE_ROOT")
    output, errors = script(APP, tmp_path / "given").communicate(timeout=60)
    assert output.splitlines() == ["join 1", "connect 1", "in the App: None"], errors
    assert not Path(tmp_path / ".lit").exists()
