"""Which name of a Work is suggested, and what that costs."""

import re
import subprocess
import sys
import time

import pytest

import lit_storage
from lit_storage import Path, PathNotFound
from lit_storage.sessions.fresh_root import begin_empty
from lit_storage.sessions.known_names import hint_for_own, hint_for_remote, unknown_name
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState
from lit_storage_proto.uri import Location


@pytest.fixture
def registry():
    return MemoryRegistry()


def register(registry, *names):
    for name in names:
        registry.register(LiveRecord(name, "i", "127.0.0.1:1", "m"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("trainr", "no Work 'trainr' is known; did you mean 'trainer'?"),
        ("unlike", "no Work 'unlike' is known"),
        ("lit", "no Work 'lit' is known; a URI of files starts with lit://@NAME/"),
    ],
)
def test_the_nearest_name_is_suggested(registry, name, sentence):
    """Only a name that is near."""
    register(registry, "trainer", "workers.0")
    assert unknown_name(registry, name) == sentence


@pytest.mark.parametrize("path", ["trainer", "trainer/x"])
def test_an_own_path_that_begins_with_a_name(registry, path):
    """The URI of that Work is suggested."""
    register(registry, "trainer")
    assert str(Location("trainer", path.partition("/")[2])) in hint_for_own(
        registry, Location("deploy", path)
    )


@pytest.mark.parametrize("path", ["\udcff/x", "", "a b/x", "/data/x", "x" * 300])
def test_an_own_path_that_begins_with_no_name(registry, path):
    """What no Work can be called suggests nothing."""
    assert hint_for_own(registry, Location("deploy", path)) == ""


def test_a_suggestion_is_cheap(registry):
    """Many long names that are alike cost a fraction of a second, whoever registered them."""
    register(registry, *(f"{number:05}" * 25 for number in range(3000)))
    began = time.monotonic()
    unknown_name(registry, "01234" * 25)
    assert time.monotonic() - began < 2


class TestUndeclared:
    """What a process that joined had, and did not declare before it ended."""

    @pytest.fixture
    def ended(self, tmp_path):
        with lit_storage.join("trainer", root=tmp_path):
            Path("lit://out").write_text("1")
        return tmp_path

    def test_the_way_out_is_named(self, ended):
        """By whoever gets it."""
        with (
            lit_storage.connect(root=ended),
            pytest.raises(PathNotFound, match="did not declare this path; .*session.declare"),
        ):
            Path("lit://@trainer/out").get()

    def test_what_it_never_had(self, ended):
        """It would not be there either, had it been declared."""
        with lit_storage.connect(root=ended), pytest.raises(PathNotFound) as error:
            Path("lit://@trainer/none").get()
        assert "declare" not in str(error.value)

    @pytest.mark.parametrize(("url", "is_likely"), [("", True), ("file:///store", False)])
    def test_another_machine(self, registry, tmp_path, url, is_likely):
        """Nobody can look there; a Work that published nothing probably declared nothing."""
        register(registry, "trainer")
        registry.unregister("trainer", "i")
        registry.update_work(WorkRecord("trainer", "i", WorkState.STOPPED, "there", url))
        hint = hint_for_remote(registry, Location("trainer", "x"), root=str(tmp_path), machine_id="here")
        assert ("session.declare" in hint) is is_likely


KILLED = """
import os, sys
import lit_storage
session = lit_storage.join("trainer", root=sys.argv[1])
os.makedirs(f"{session.storage_root}/a/b")
session.declare("lit://a/b")
os._exit(9)
"""


class TestUnpublished:
    """What a process declared that was killed."""

    @pytest.fixture
    def killed(self, tmp_path):
        subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False, timeout=60)
        return tmp_path

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("path", "is_declared"), [("", True), ("a", True), ("a/b", True), ("a/b/c", True), ("a/bc", False)]
    )
    def test_whoever_publishes_it_is_named(self, killed, path, is_declared):
        """Nobody says that a declared path, or one above or below it, was not declared."""
        with lit_storage.connect(root=killed), pytest.raises(PathNotFound) as error:
            Path(f"lit://@trainer/{path}").get()
        assert ("'lit-storage serve' on its root" in str(error.value)) is is_declared
        assert "did not declare" not in str(error.value)


def test_a_file_in_the_former_storage_root(tmp_path):
    """The directory is named from which it can be copied."""
    with lit_storage.join("trainer", root=tmp_path):
        Path("lit://out").write_text("1")
    begin_empty(str(tmp_path), f"sqlite://{tmp_path}/registry.db", "trainer", "run", Limits())
    former = re.escape(str(tmp_path / "former" / "trainer"))
    with lit_storage.connect(root=tmp_path), pytest.raises(PathNotFound, match=f"not declare.*'{former}'"):
        Path("lit://@trainer/out").get()


@pytest.mark.parametrize("ask", [Path.get, Path.stat_remote])
def test_a_directory_of_which_parts_are_kept(tmp_path, ask):
    """The command that lists them is named, and nobody says that it was not declared."""
    with lit_storage.join("trainer", root=tmp_path) as session:
        Path("lit://out/a").mkdir(parents=True)
        session.declare("lit://out/a")
    with (
        lit_storage.connect(root=tmp_path),
        pytest.raises(PathNotFound, match="parts of .* 'lit-storage ls trainer:out'") as error,
    ):
        ask(Path("lit://@trainer/out"))
    assert "did not declare" not in str(error.value)


def test_a_root_without_the_work(tmp_path):
    """A process that joined elsewhere is told which root it has, and how to name another one."""
    with lit_storage.join("deploy", root=tmp_path), pytest.raises(PathNotFound) as error:
        Path("lit://@trainer/x").get()
    assert all(text in str(error.value) for text in (str(tmp_path), "root=", "LIT_STORAGE_ROOT"))
