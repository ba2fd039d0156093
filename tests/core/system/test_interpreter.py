"""Which Python is started: this one, and never the program itself."""

import os
import sys
from multiprocessing import spawn

import pytest

from lit_storage_core.system.interpreter import find_interpreter


@pytest.fixture
def embedding(monkeypatch, tmp_path):
    """A program that embeds Python; a directory for an installation of Python."""
    program = tmp_path / "uwsgi"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    before = spawn.get_executable()
    spawn.set_executable(str(program))
    yield tmp_path
    spawn.set_executable(before)


def python_in(directory, name):
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.touch(mode=0o755)
    return str(path)


def test_a_python_is_its_own_interpreter():
    """There is nothing to look for."""
    assert find_interpreter() == sys.executable


def test_an_embedding_program_has_that_of_its_installation(embedding):
    """The one of the same version in the installation or virtual environment whose packages are used."""
    python_in(embedding / "bin", "python2.7")
    expected = python_in(embedding / "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    assert find_interpreter() == expected


def test_an_embedding_program_may_have_none(embedding):
    """What is there has another version."""
    python_in(embedding / "bin", "python2.7")
    with pytest.raises(OSError) as caught:
        find_interpreter()
    assert caught.value.strerror == f"{str(embedding / 'uwsgi')!r} is not Python alone"


@pytest.mark.parametrize("mark", ["frozen", "oxidized"])
def test_a_frozen_program_has_none(monkeypatch, mark):
    """Its modules are in its executable, whatever that is called and whatever is installed."""
    monkeypatch.setattr(sys, mark, True, raising=False)
    with pytest.raises(OSError, match="is a frozen program"):
        find_interpreter()


def test_a_program_that_was_compiled_has_none(monkeypatch):
    """Nuitka marks the main module."""
    monkeypatch.setattr(sys.modules["__main__"], "__compiled__", (), raising=False)
    with pytest.raises(OSError, match="is a frozen program"):
        find_interpreter()


def test_a_frozen_program_may_name_one(embedding, monkeypatch):
    """As for multiprocessing."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    named = python_in(embedding / "named", "python3")
    spawn.set_executable(os.fsencode(named))
    assert find_interpreter() == named


@pytest.mark.parametrize("name", ["app", "pythonapp", "python-app", "python3.11-app"])
def test_what_is_not_called_as_python_is_not_started(embedding, monkeypatch, name):
    """It may be the program itself, as multiprocessing had found it."""
    monkeypatch.setattr(sys, "executable", "")
    spawn.set_executable(python_in(embedding / "named", name))
    with pytest.raises(OSError, match="is not Python alone"):
        find_interpreter()


NAMES = ["python", "python3", "python3.14", "python3.14t", "python3.11-dbg", "pypy3.11"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_pythons(embedding, monkeypatch, name):
    """Builds without the GIL and builds for debugging have names of their own."""
    monkeypatch.setattr(sys, "executable", python_in(embedding / "named", name))
    assert find_interpreter() == sys.executable
