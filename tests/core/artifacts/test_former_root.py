"""Which instances published from a former storage root."""

import os
import uuid

import pytest

from lit_storage_core.artifacts import former_root
from lit_storage_core.artifacts.former_root import MARKER, FormerInstances, instances_of, mark


def test_the_marker_is_read_once(tmp_path, monkeypatch):
    """As long as nobody replaces it."""
    instance = uuid.uuid4().hex
    mark(str(tmp_path), [instance])
    instances = FormerInstances(str(tmp_path))
    assert instances.get() == {instance}
    monkeypatch.setattr(former_root, "instances_of", None)
    assert instances.get() == {instance}


def test_another_storage_root_in_its_place(tmp_path):
    """Its marker is read, also where it has the same size."""
    instances = FormerInstances(str(tmp_path / "train"))
    for instance in (uuid.uuid4().hex, uuid.uuid4().hex):
        (tmp_path / "new").mkdir()
        mark(str(tmp_path / "new"), [instance])
        if (tmp_path / "train").exists():
            (tmp_path / "train").rename(tmp_path / "older")
        (tmp_path / "new").rename(tmp_path / "train")
        assert instances.get() == {instance}
    (tmp_path / "train").rename(tmp_path / "gone")
    assert instances.get() == frozenset()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file(tmp_path, make):
    """It names nobody, and no descriptor stays open."""
    make(tmp_path / MARKER)
    begun = len(os.listdir("/proc/self/fd"))
    assert instances_of(str(tmp_path)) == frozenset()
    assert len(os.listdir("/proc/self/fd")) == begun
