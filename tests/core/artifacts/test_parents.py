"""Directories above what a Work left, as they are listed."""

import shutil

import pytest

import lit_storage
from lit_storage import Path
from lit_storage_core.artifacts.parents import entries_at
from lit_storage_core.artifacts.urls import in_place_url, open_store
from lit_storage_core.system.machine import machine_id
from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import PathNotFound
from lit_storage_proto.limits import Limits
from lit_storage_proto.uri import Location


@pytest.fixture
def store(tmp_path):
    """Of a Work that left a/b/c, a file, and a/d, a directory with a file."""
    with lit_storage.join("train", root=tmp_path) as session:
        for path in ("a/b/c", "a/d/x"):
            Path(f"lit://{path}").parent.mkdir(parents=True)
            Path(f"lit://{path}").write_text("1")
        session.declare(Path("lit://a/b/c"))
        session.declare(Path("lit://a/d"))
    return open_store(in_place_url(str(tmp_path), machine_id(str(tmp_path))), "train", limits=Limits())


def listed(store, path, *, recursive=True):
    entries = entries_at(store, Location("train", path), recursive=recursive)
    return {entry.path: entry.kind for entry in entries}


def test_all_of_it(store):
    """Directories that nobody declared come before what they hold."""
    found = listed(store, "")
    assert list(found) == ["", "a", "a/b", "a/b/c", "a/d", "a/d/x"]
    assert [path for path, kind in found.items() if kind is Kind.FILE] == ["a/b/c", "a/d/x"]


def test_direct_children(store):
    """Each once, whether it was declared or holds what was."""
    assert list(listed(store, "", recursive=False)) == ["", "a"]
    assert list(listed(store, "a", recursive=False)) == ["", "b", "d"]


def test_what_was_declared_itself(store):
    """It is listed as ever."""
    assert list(listed(store, "a/d")) == ["", "x"]
    assert listed(store, "a/b/c") == {"": Kind.FILE}


def test_what_is_gone(store, tmp_path):
    """A path in place that was removed since is not listed, and a directory of nothing is absent."""
    shutil.rmtree(tmp_path / "works" / "train" / "a" / "d")
    assert list(listed(store, "a")) == ["", "b", "b/c"]
    shutil.rmtree(tmp_path / "works" / "train" / "a")
    with pytest.raises(PathNotFound):
        listed(store, "a")


def test_a_name_that_begins_alike(store):
    """It is no directory of what was left."""
    with pytest.raises(PathNotFound):
        listed(store, "a/dd")
