"""Short names of the processes that a launcher started within a Work."""

import os
import subprocess
import sys
import types

import pytest

import lit_storage
from lit_storage import Path, PathNotFound
from lit_storage.sessions.siblings import SiblingOrigins
from lit_storage_client.origins.origins import Origins
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location

RANK = """
import os, sys
import lit_storage
from lit_storage import Path
with lit_storage.join() as session:
    if os.environ["RANK"] == "1":
        Path("lit://x").write_text("of the sibling")
        print("up", flush=True)
        sys.stdin.readline()
    else:
        path = Path("lit://@rank-1/x")
        path.get()
        print(session.name, path.read_text(), path.exists_remote(), path.stat_remote().size)
"""


@pytest.fixture
def meant(tmp_path, monkeypatch):
    """Return under which name an origin is asked, where some names are known."""

    def ask(origin, known, work="fit"):
        registry = MemoryRegistry(f"{tmp_path}/{known}")
        for name in known:
            registry.register(LiveRecord(name, name, "127.0.0.1:4000", ""))
        remote = types.SimpleNamespace(return_seconds=0.0)
        return SiblingOrigins(work, remote, registry, "machine", Limits()).exists(Location(origin, "x"))

    monkeypatch.setattr(Origins, "exists", lambda _, location: location.origin)
    return ask


def test_a_sibling_comes_first(meant):
    """Of two processes of one rank the one of this Work is meant."""
    assert meant("rank-1", ["fit.rank-1", "rank-1"]) == "fit.rank-1"


def test_another_name_is_as_it_is_written(meant):
    """Where the Work started no such process, the name is looked up as it is."""
    assert meant("rank-1", ["rank-1", "other.rank-1"]) == "rank-1"


def test_without_a_launcher_names_are_as_they_are_written(meant):
    """A process that no launcher started within a Work has no siblings."""
    assert meant("rank-1", ["fit.rank-1"], work=None) == "rank-1"


def test_a_name_that_becomes_too_long_is_as_it_is_written(meant):
    """What could be no name of a sibling is not looked up as one."""
    assert meant("x" * 127, []) == "x" * 127


@pytest.fixture
def launched(root, monkeypatch):
    """A session that a launcher started within the Work "fit", which another Work "fit.rank-1" joined."""
    monkeypatch.setenv("LIT_STORAGE_WORK_NAME", "fit")
    monkeypatch.setenv("LIT_STORAGE_WORK_PID", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with lit_storage.connect() as session:
        session.registry.register(LiveRecord("fit.rank-1", "i", "127.0.0.1:1", ""))
        yield session


def test_an_error_names_the_sibling_that_is_not_known(launched):
    """Whoever reads it learns that the name was looked up within the Work too."""
    with pytest.raises(PathNotFound, match=r"'fit.rank-9', which was looked for first, is not known"):
        Path("lit://@rank-9/x").stat_remote()


def test_an_error_about_a_sibling_that_is_known_suggests_no_other(launched):
    """The sibling was asked, so its name is no advice."""
    with pytest.raises(PathNotFound) as raised, launched.hinting(Location("rank-1", "x")):
        raise PathNotFound("'lit://@fit.rank-1/x' is not there")
    assert str(raised.value) == "'lit://@fit.rank-1/x' is not there"


def start(rank):
    """Start one rank of two, as torchrun does."""
    variables = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
    return subprocess.Popen([sys.executable, "-c", RANK], env=variables, stdin=-1, stdout=-1, text=True)


@pytest.mark.slow
def test_ranks_within_a_work_find_each_other(root):
    """A program of two ranks within a Work joins and copies by the names of the launcher."""
    with lit_storage.join("fit"), start(1) as other:
        assert other.stdout.readline() == "up\n"
        with start(0) as first:
            assert first.communicate(timeout=60)[0] == "fit.rank-0 of the sibling True 14\n"
        other.communicate("\n", timeout=60)
