"""A directory that a URI made, which was given to a function of the system, is explained."""

import os
import warnings

import pytest

import lit_storage


@pytest.fixture
def told(root):
    """Run code within a session; return what was warned of at its end."""

    def told(use):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with lit_storage.connect():
                use()
        return [str(warning.message) for warning in caught]

    return told


def test_a_new_one_is_explained(told, tmp_path):
    """The warning names the directory and what to write."""
    (sentence,) = told(lambda: os.makedirs("lit://out/ckpt"))
    assert repr(str(tmp_path)) in sentence
    assert "lit_storage.Path(" in sentence


def test_one_in_a_later_working_directory_is_explained(told, tmp_path, monkeypatch):
    """The working directory may have been changed meanwhile."""
    (tmp_path / "later").mkdir()
    (sentence,) = told(lambda: [monkeypatch.chdir(tmp_path / "later"), os.makedirs("lit://out")])
    assert repr(str(tmp_path / "later")) in sentence


def test_one_that_was_there_is_not_explained(told):
    """A directory from before the session is somebody else's."""
    os.makedirs("lit://before")
    assert told(lambda: os.makedirs("lit://out")) == []


def test_a_file_of_that_name_is_not_explained(told):
    """No URI makes a file of this name."""
    assert told(lambda: open("lit:", "w").close()) == []


APP = """
import os, sys
from lit_storage import App, Flow, Work
class A(Work):
    def __init__(self): super().__init__(); self.out = "lit:/@b/x"
    def run(self): os.makedirs("lit://out", exist_ok=True)
class Main(Flow):
    def __init__(self): super().__init__(); self.a, self.b = A(), A()
    def run(self): self.a.run(); self.b.run()
if __name__ == "__main__":
    App(Main()).run()
"""


@pytest.mark.slow
def test_an_app_explains_it_once(script):
    """What its Works made is explained by the App, at the end of its run; an attribute is warned of too."""
    errors = script(APP).communicate(timeout=60)[1]
    assert errors.count("a directory named 'lit:'") == 1
    assert "write 'lit://@b/x'" in errors
