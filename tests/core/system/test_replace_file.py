"""Replacing a small file."""

import os

import pytest

from lit_storage_core.system import replace_file as module
from lit_storage_core.system.replace_file import replace_file


def test_the_text_may_name_the_inode_of_its_file(tmp_path):
    """It is that of the file which then has the name."""
    path = tmp_path / "file"
    replace_file(str(path), str, mode=0o600)
    assert (int(path.read_text()), path.stat().st_mode & 0o777) == (path.stat().st_ino, 0o600)


def test_a_link_is_replaced_itself(tmp_path):
    """What it names stays as it is."""
    (tmp_path / "other").write_text("other")
    (tmp_path / "file").symlink_to("other")
    replace_file(str(tmp_path / "file"), lambda _inode: "new", mode=0o644)
    assert ((tmp_path / "file").read_text(), (tmp_path / "other").read_text()) == ("new", "other")


def test_a_failure_leaves_the_former_file(tmp_path, monkeypatch):
    """And no other one; the error names the file."""

    def fail(_fd):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("former")
    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(OSError, match="file"):
        replace_file(str(tmp_path / "file"), lambda _inode: "new", mode=0o644)
    assert (os.listdir(tmp_path), (tmp_path / "file").read_text()) == (["file"], "former")


@pytest.mark.root
def test_root_leaves_a_file_to_its_owner(tmp_path):
    """A command of an operator does not take a token from the user of its root."""
    (tmp_path / "file").write_text("former")
    os.chown(tmp_path / "file", 65534, 65534)
    replace_file(str(tmp_path / "file"), lambda _inode: "new", mode=0o600)
    assert ((tmp_path / "file").stat().st_uid, (tmp_path / "file").read_text()) == (65534, "new")
