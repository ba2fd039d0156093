"""How a root is recognised as a copy."""

import shutil

import pytest

from lit_storage_core.system import root_identity
from lit_storage_core.system.root_identity import Likeness, compare, is_copy, keep_identity, read_identity
from lit_storage_proto.errors import TransferTimeout


@pytest.fixture
def root(tmp_path):
    """A root with a registry file."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "registry.db").touch()
    assert not opened(root)
    return root


def opened(root):
    return is_copy(str(root), str(root / "registry.db"))


def test_a_copy_stays_one_until_its_identity_is_kept(root, tmp_path):
    """Whoever is interrupted before that leaves it a copy."""
    copy = shutil.copytree(root, tmp_path / "copy")
    assert [opened(copy), opened(copy)] == [True, True]
    keep_identity(str(copy), str(copy / "registry.db"), read_identity(str(copy)))
    assert not opened(copy)


def test_one_inode_that_differs_is_not_enough(root, tmp_path):
    """A new registry in the root, or the root's files in a new directory, are known from then on."""
    (root / "registry.db").rename(tmp_path / "former")  # so that its inode is not used again
    (root / "registry.db").touch()
    assert not opened(root)
    (tmp_path / "new").mkdir()
    for path in root.iterdir():
        path.rename(tmp_path / "new" / path.name)
    assert not opened(tmp_path / "new")
    assert read_identity(str(tmp_path / "new")).paths == (str(root), str(tmp_path / "new"))


def test_a_copy_without_the_registry_file(root, tmp_path):
    """It is one all the same: the file of its original is not in it."""
    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "registry.db").unlink()
    assert opened(copy)


def test_a_file_system_whose_inodes_differ_by_machine(root, tmp_path, monkeypatch):
    """No root on such a file system counts as a copy."""
    copy = shutil.copytree(root, tmp_path / "copy")
    monkeypatch.setattr(root_identity, "file_system_of", lambda _directory: "fuse.sshfs")
    assert compare(str(copy), str(copy / "registry.db"))[0] is Likeness.SAME


def test_a_disk_that_is_full(tmp_path, monkeypatch, caplog):
    """What cannot be kept is told, and keeps nobody from reading what is there."""

    def fail(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(root_identity, "replace_file", fail)
    assert not opened(tmp_path)
    assert "No space left on device" in caplog.text


def test_a_lock_that_is_not_let_go(root, monkeypatch):
    """The wait has an end, and the sentence says what to do."""
    monkeypatch.setattr(root_identity, "_LOCK_SECONDS", 0.05)
    with (
        root_identity.root_lock(str(root)),
        pytest.raises(TransferTimeout, match="end that process"),
        root_identity.root_lock(str(root)),
    ):
        raise AssertionError("two hold it")
