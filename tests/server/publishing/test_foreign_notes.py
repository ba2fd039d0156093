"""Notes in a root that somebody else made name no other file of this user."""

import dataclasses
import json

import pytest

from lit_storage_server.publishing.notes import Declaration, Note, end_all, noted, remove_all

DECLARATION = Declaration(
    "train",
    "i1",
    "m",
    "/r/works/train",
    "in-place://m/r/artifacts",
    paths={"out": True, "/home/v/.ssh": True},
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "declared").mkdir(parents=True)
    return tmp_path / "root"


def put(root, name, **changes):
    """Write a note as a file of any name."""
    about = dataclasses.asdict(dataclasses.replace(DECLARATION, **changes))
    lines = [{"path": path, "seen": seen} for path, seen in about.pop("paths").items()]
    text = "\n".join(map(json.dumps, [about, *lines]))
    (root / "declared" / name).write_text(text)
    (root / "declared" / name).chmod(0o600)


@pytest.mark.parametrize("instance_id", ["../../thesis", "/{}/thesis", "i2"])
def test_a_note_that_names_another_file_is_none(root, tmp_path, instance_id):
    """Its text does not say which file is removed."""
    (tmp_path / "thesis").write_text("years of work")
    put(root, "i1", instance_id=instance_id.format(str(tmp_path).strip("/")))
    assert noted(str(root)) == []
    assert remove_all(str(root)) == []
    assert (tmp_path / "thesis").exists()


def test_absolute_paths_stay_the_originals(root):
    """They were not copied with the root, so nobody publishes them from the copy."""
    put(root, "i1", shared=("/home/v",))
    end_all(str(root), "m2")
    (left,) = noted(str(root))
    assert (left.paths, left.shared, left.holder, left.machine_id) == ({"out": True}, (), "", "m2")


def test_a_store_that_was_not_copied_stays_the_originals(root):
    """The original publishes there."""
    put(root, "i1", artifacts_url="s3://bucket/prefix")
    end_all(str(root), "m2")
    assert Note(str(root), "i1").read() is None
