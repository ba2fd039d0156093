"""Roots that were moved or copied, where the registry was not: records of either root are in it."""

import dataclasses
import shutil

import pytest

import lit_storage
from lit_storage import OriginUnavailable, Path
from lit_storage.sessions import environment
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_core.system.machine import machine_id
from lit_storage_proto.entry import Kind
from lit_storage_proto.limits import Limits
from lit_storage_server.daemon.left_source import LeftSource
from lit_storage_server.publishing.notes import noted
from tests.roots import copied, leave


class TestSharedRegistry:
    """A registry that is not copied with the root, as that of many machines is; here one of this process."""

    @pytest.fixture(autouse=True)
    def registry(self, tmp_path):
        self.registry = MemoryRegistry(str(tmp_path))
        self.url = self.registry.url

    def leave(self, root, text="original"):
        leave(root, text, registry=self.url)

    def read(self, root):
        with lit_storage.connect(root=root, registry=self.url):
            path = Path("lit://@train/out/file")
            path.get(overwrite=True)
            return path.read_text()

    @pytest.fixture
    def old(self, tmp_path):
        self.leave(tmp_path / "old")
        return tmp_path / "old"

    def test_a_moved_root(self, old, tmp_path):
        """The record names the former path, where nothing is any more."""
        assert self.read(old.rename(tmp_path / "new")) == "original"

    def test_another_root_at_the_former_path(self, old, tmp_path):
        """It has another machine id, so the record means the root that was moved."""
        moved = old.rename(tmp_path / "new")
        url = self.registry.work("train").artifacts_url
        self.leave(old, "another root")
        self.registry.update_work(dataclasses.replace(self.registry.work("train"), artifacts_url=url))
        assert self.read(moved) == "original"

    def test_another_root_of_the_same_machine(self, tmp_path, monkeypatch):
        """A record that names it is read there, as ever."""
        monkeypatch.setenv("LIT_STORAGE_MACHINE_ID", "node-7")
        self.leave(tmp_path / "one", "of one")
        self.leave(tmp_path / "two", "of two")
        assert (self.read(tmp_path / "one"), self.read(tmp_path / "two")) == ("of two", "of two")

    def test_the_original_of_a_copy(self, old, tmp_path):
        """It is another machine to the copy: only its custodian hands out what the record means."""
        copy = copied(old, tmp_path / "copy")
        with pytest.raises(OriginUnavailable, match="no custodian"):
            self.read(copy)
        assert self.read(old) == "original"

    def test_an_original_that_is_gone(self, old, tmp_path):
        """As after `mv` to another file system: the copy has what was published."""
        copy = copied(old, tmp_path / "copy")
        shutil.rmtree(old)
        assert self.read(copy) == "original"
        assert self.read(copy.rename(tmp_path / "new")) == "original"

    def test_an_original_that_published_since(self, old, tmp_path):
        """What the copy holds is not what the record means, and is not taken for it."""
        copy = copied(old, tmp_path / "copy")
        self.leave(old, "newer")
        shutil.rmtree(old)
        with pytest.raises(OriginUnavailable, match="published last"):
            self.read(copy)

    def test_a_registry_file_that_is_not_in_use(self, old, tmp_path, caplog):
        """It keeps nobody from using the copy where it is damaged, and the log says what it holds."""
        (old / "registry.db").write_bytes(b"torn" * 4096)
        copy = copied(old, tmp_path / "copy")
        environment.open_root(str(copy), self.url, timeout_seconds=5)
        assert machine_id(str(copy)) != machine_id(str(old))
        assert "registry.db', which is not in use" in caplog.text

    def test_the_custodian_of_a_copy(self, old, tmp_path):
        """It hands out nothing of the original."""
        copy = copied(old, tmp_path / "copy")
        environment.open_root(str(copy), self.url, timeout_seconds=5)
        source = LeftSource(str(copy), machine_id(str(copy)), self.registry, Limits())
        with pytest.raises(OriginUnavailable):
            source.stat("@train/out")
        source.close()

    def test_the_custodian_of_a_moved_root(self, old, tmp_path):
        """It hands out what the record of the former path means."""
        moved = old.rename(tmp_path / "new")
        source = LeftSource(str(moved), machine_id(str(moved)), self.registry, Limits())
        assert source.stat("@train/out").kind is Kind.DIRECTORY
        source.close()

    @pytest.mark.slow
    def test_what_a_live_work_of_the_original_declared(self, tmp_path, caplog):
        """The copy does not publish it, for the record of its name is the original's; a warning says so."""
        with lit_storage.join("train", root=tmp_path / "old", registry=self.url) as session:
            session.declare(Path("lit://out")).mkdir()
            copy = copied(tmp_path / "old", tmp_path / "copy")
            environment.open_root(str(copy), self.url, timeout_seconds=5)
            assert (noted(str(copy)), len(noted(str(tmp_path / "old")))) == ([], 1)
        assert "train" in caplog.text
