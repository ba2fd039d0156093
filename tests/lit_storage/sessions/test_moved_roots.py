"""A root that was moved, or that the released version left, is read where it is now."""

import json
import os
import sqlite3

import pytest
from typer.testing import CliRunner

import lit_storage
from lit_storage import App, Flow, Path, SourceChanged, Work
from lit_storage.cli.main import main
from lit_storage.sessions import environment
from lit_storage_core.artifacts.urls import open_store
from lit_storage_core.registries.sqlite import SqliteRegistry
from lit_storage_core.system.machine import machine_id
from lit_storage_proto.artifact import Manifest, StoredEntry, Version, manifest_key, unit_of
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.limits import Limits
from lit_storage_proto.manifest_codec import encode_manifest
from lit_storage_server.daemon.left_source import LeftSource
from lit_storage_server.publishing.notes import noted
from tests.roots import copied, identity, leave, look_after, opened, read


class Read(Work):
    def __init__(self):
        super().__init__()
        self.seen = ""

    def run(self, path):
        self.seen = (path / "file").read_text()


class Reader(Flow):
    def __init__(self):
        super().__init__()
        self.read = Read()

    def run(self):
        self.read.run(Path("lit://@train/out"))


class TestMoved:
    """A root that was renamed."""

    def test_a_connected_process_reads_it(self, moved):
        """Though the registry and the manifest name the former path."""
        assert read(moved) == "original"

    def test_one_file_is_opened_where_it_is(self, moved):
        """A ranged read, as `cat` makes it, finds the file too."""
        done = CliRunner().invoke(
            main, ["--root", str(moved), "cat", "train:out/file"], catch_exceptions=False
        )
        assert (done.exit_code, done.stdout) == (0, "original")

    def test_the_command_line_lists_it(self, moved):
        """With the path that it has now."""
        done = CliRunner().invoke(
            main, ["--root", str(moved), "artifacts", "ls", "--json"], catch_exceptions=False
        )
        (listed,) = json.loads(done.stdout)
        assert (listed["state"], str(moved) in listed["store"]) == ("clean", True)

    @pytest.mark.slow
    def test_an_app_that_runs_again_reads_it(self, moved):
        """It hands the files of a Work of the last run to one of this run."""
        flow = Reader()
        App(flow, root=moved).run()
        assert flow.read.seen == "original"

    def test_a_changed_file_is_an_error(self, moved):
        """As in a root that stayed where it was."""
        (moved / "works" / "train" / "out" / "file").write_text("changed!")
        with pytest.raises(SourceChanged):
            read(moved)

    @pytest.mark.slow
    def test_nothing_of_it_changes(self, old, tmp_path):
        """It keeps its machine id, its token and its live records."""
        before, registry = identity(old), (old / "registry.db").stat().st_ino
        with lit_storage.join("lives", root=old):
            moved = old.rename(tmp_path / "new")
            opened = SqliteRegistry(
                str(moved / "registry.db"), machine_id=before[0].strip(), timeout_seconds=5
            )
            environment.open_root(str(moved), None, timeout_seconds=5)
            assert [record.name for record in opened.live()] == ["lives"]
            opened.close()
            moved.rename(old)
        assert (identity(old), (old / "registry.db").stat().st_ino) == (before, registry)

    def test_it_may_move_on(self, moved, tmp_path):
        """And back, and be reached through a link."""
        assert read(moved) == "original"
        newest = moved.rename(tmp_path / "newest")
        moved.symlink_to(newest)
        assert read(newest) == read(moved) == "original"
        moved.unlink()
        assert read(newest.rename(moved)) == "original"

    def test_a_machine_id_of_the_environment(self, tmp_path, monkeypatch):
        """Then the path alone tells roots of one machine apart, and a moved one is found all the same."""
        monkeypatch.setenv("LIT_STORAGE_MACHINE_ID", "node-7")
        leave(tmp_path / "old")
        (tmp_path / "old").rename(tmp_path / "new")
        assert read(tmp_path / "new") == "original"
        leave(tmp_path / "old", "another root")
        assert (read(tmp_path / "new"), read(tmp_path / "old")) == ("original", "another root")

    @pytest.mark.slow
    def test_what_a_killed_work_declared_is_published(self, old, tmp_path, live):
        """By the custodian of the moved root, from the files that are there."""
        process = live(old, text="killed")
        process.kill()
        process.wait()
        moved = old.rename(tmp_path / "new")
        look_after(moved)
        assert (read(moved), noted(str(moved)), old.exists()) == ("killed", [], False)

    def test_a_custodian_hands_it_out(self, moved):
        """To other machines, whose registry names the former path."""
        registry = opened(moved)
        source = LeftSource(str(moved), machine_id(str(moved)), registry, Limits())
        assert source.stat("@train/out/file").size == len("original")
        source.close()
        registry.close()

    def test_another_device_number(self, old, monkeypatch):
        """As after a restart of a container: the inodes are the same, and so it is no copy."""
        before, stat = identity(old), os.stat

        def elsewhere(*arguments, **options):
            fields = stat(*arguments, **options)
            return os.stat_result([*fields[:2], fields.st_dev + 1, *fields[3:]], _times(fields))

        monkeypatch.setattr(os, "stat", elsewhere)
        environment.open_root(str(old), None, timeout_seconds=5)
        assert identity(old) == before


def _times(fields):
    return {name: getattr(fields, name) for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")}


RELEASED = """
CREATE TABLE meta (schema_version INTEGER NOT NULL, machine_id TEXT NOT NULL);
CREATE TABLE live (
    name TEXT PRIMARY KEY, instance_id TEXT NOT NULL, endpoint TEXT NOT NULL, machine_id TEXT NOT NULL,
    tls_name TEXT NOT NULL, holder TEXT NOT NULL, custodian INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE work (
    name TEXT PRIMARY KEY, instance_id TEXT NOT NULL, state TEXT NOT NULL, machine_id TEXT NOT NULL,
    artifacts_url TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES (2, '0123456789abcdef0123456789abcdef');
INSERT INTO work VALUES ('train', 'i1', 'stopped', '0123456789abcdef0123456789abcdef',
    'in-place://0123456789abcdef0123456789abcdef%s/artifacts');
"""


class TestReleased:
    """A root as the released version left it at /home/former/.lit, which is elsewhere now."""

    @pytest.fixture
    def root(self, tmp_path):
        return self.make(tmp_path / "root", "/home/former/.lit")

    def make(self, root, former):
        (root / "works" / "train" / "out").mkdir(parents=True)
        (root / "works" / "train" / "out" / "file").write_bytes(b"released")
        (root / "declared").mkdir()
        (root / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        connection = sqlite3.connect(root / "registry.db")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(RELEASED % former)
        connection.close()
        version = Version(1, "i1")
        entries = [
            StoredEntry(Entry("", Kind.DIRECTORY, 0, 0o755)),
            StoredEntry(
                Entry("file", Kind.FILE, 8, 0o644, version=b"\1" * 40), digests=chunk_digest(b"released")
            ),
        ]
        manifest = Manifest(
            *("train", "out", version, 1, "0123456789abcdef0123456789abcdef", 1 << 19),
            entries=entries,
            in_place=f"{former}/works/train",
        )
        path = root / "artifacts" / "train" / manifest_key(unit_of("out"), version)
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_manifest(manifest))
        return root

    def get(self, root):
        with lit_storage.connect(root=root):
            path = Path("lit://@train/out/file")
            path.get(overwrite=True)
            return path.read_bytes()

    def test_its_artifacts_are_read(self, root):
        """Though record and manifest name where it was."""
        assert self.get(root) == b"released"

    @pytest.mark.parametrize("given", ["", "0123456789abcdef0123456789abcdef"])
    def test_its_copy_reads_its_own_files(self, tmp_path, monkeypatch, given):
        """Though it is not recognised, and the original is still at the path that the record names."""
        original = self.make(tmp_path / "original", tmp_path / "original")
        monkeypatch.setenv("LIT_STORAGE_MACHINE_ID", given)
        copy = copied(original, tmp_path / "copy")
        if given:
            (original / "machine-id").unlink()
            (copy / "machine-id").unlink()
        (original / "works" / "train" / "out" / "file").write_bytes(b"changed!")
        assert self.get(copy) == b"released"

    def test_its_copy_is_recognised_once_it_was_opened(self, root, tmp_path):
        """By the version that keeps the inode numbers."""
        self.get(root)
        copy = copied(root, tmp_path / "copy")
        assert self.get(copy) == b"released"
        assert (copy / "machine-id").read_text() != (root / "machine-id").read_text()

    def test_the_released_version_can_open_the_copy(self, root, tmp_path):
        """Its schema is as before, and it serves the machine whose id lies beside it."""
        self.get(root)
        copy = copied(root, tmp_path / "copy")
        self.get(copy)
        meta = sqlite3.connect(copy / "registry.db").execute("SELECT * FROM meta").fetchall()
        assert meta == [(2, (copy / "machine-id").read_text().strip())]

    def test_what_a_killed_work_declared(self, root, tmp_path):
        """A note of the released version is about the root in which it lies."""
        about = {
            "name": "train",
            "instance_id": "i1",
            "machine_id": "0123456789abcdef0123456789abcdef",
            "storage_root": "/home/former/.lit/works/train",
            "artifacts_url": "in-place://0123456789abcdef0123456789abcdef/home/former/.lit/artifacts",
            "has_left": False,
            "holder": "",
            "keeper": "",
            "is_held": False,
            "tried_at": 0.0,
        }
        lines = [about, {"path": "out", "seen": True}]
        (root / "declared" / "i1").write_text("".join(f"\n{json.dumps(line)}\n" for line in lines))
        (root / "works" / "train" / "out" / "file").write_bytes(b"as of the kill")
        look_after(root)
        assert (self.get(root), noted(str(root))) == (b"as of the kill", [])
        url = opened(root).work("train").artifacts_url
        (kept,) = open_store(url, "train", limits=Limits()).versions()
        assert kept.version.number == 2
