"""Defaults: the argument, then the variable, then what is found."""

import os

import pytest

import lit_storage
from lit_storage import PathNotFound
from lit_storage.sessions import environment
from lit_storage_core.security.settings import Security


@pytest.fixture
def work_tree(tmp_path, monkeypatch):
    (tmp_path / "project" / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "deep" / "er")
    return tmp_path / "project"


def test_the_root_is_looked_for_upwards(work_tree):
    """As git finds .git, the nearest .lit above the working directory is the root."""
    (work_tree / ".lit").mkdir()
    assert environment.find_root(None) == str(work_tree / ".lit")


def test_without_one_the_root_is_here(work_tree):
    """Where no .lit is found, it will be in the working directory, and is not made yet."""
    assert environment.find_root(None) == str(work_tree / "deep" / "er" / ".lit")
    assert not (work_tree / "deep" / "er" / ".lit").exists()


def test_the_variable_beats_what_is_found(work_tree, monkeypatch):
    """LIT_STORAGE_ROOT is taken as it is."""
    (work_tree / ".lit").mkdir()
    monkeypatch.setenv("LIT_STORAGE_ROOT", str(work_tree / "other"))
    assert environment.find_root(None) == str(work_tree / "other")


def test_the_argument_beats_the_variable(work_tree, monkeypatch):
    """What the caller gives is taken."""
    monkeypatch.setenv("LIT_STORAGE_ROOT", "/elsewhere")
    assert environment.find_root(work_tree / "given") == str(work_tree / "given")


def test_the_registry_of_one_machine_is_in_the_root():
    """Without a URL the registry is a file of the root."""
    assert environment.registry_url(None, "/r") == "sqlite:///r/registry.db"


def test_a_token_of_the_environment_beats_the_roots(tmp_path, monkeypatch):
    """LIT_STORAGE_TOKEN replaces the token of the root, and none is made."""
    monkeypatch.setenv("LIT_STORAGE_TOKEN", "secret")
    assert environment.security_of(None, str(tmp_path)) == Security("secret")
    assert not (tmp_path / "token").exists()


class TestAsking:
    """A process that only asks, where nobody has made a root."""

    @pytest.fixture
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_no_root_is_made(self, elsewhere):
        """`connect` says how to name the root that is meant."""
        with pytest.raises(PathNotFound, match="root= or LIT_STORAGE_ROOT"):
            lit_storage.connect()
        assert os.listdir(elsewhere) == []

    def test_an_app_that_is_only_built(self, elsewhere):
        """Its root is made when it runs."""

        class Nothing(lit_storage.Flow):
            def run(self):
                pass

        lit_storage.App(Nothing())
        assert os.listdir(elsewhere) == []

    @pytest.mark.parametrize("given", ["argument", "variable", "registry"])
    def test_what_was_named_is_made(self, elsewhere, monkeypatch, given):
        """Whoever names a root, or a registry elsewhere, may be the first one there."""
        options = {"argument": {"root": "a"}, "registry": {"registry": f"sqlite://{elsewhere}/a/r.db"}}
        if given == "variable":
            monkeypatch.setenv("LIT_STORAGE_ROOT", "a")
        if given == "registry":
            (elsewhere / "a").mkdir()
        lit_storage.connect(**options.get(given, {})).close()
        assert (elsewhere / (".lit" if given == "registry" else "a") / "connect").is_dir()
