"""A Work that begins with an empty storage root leaves the former one aside, whole and readable."""

import errno
import os
import shutil
import uuid

import pytest

import lit_storage
from lit_storage import Path
from lit_storage.sessions import fresh_root
from lit_storage.sessions.fresh_root import begin_empty, discard_older, joining_in_run, restore_former
from lit_storage.sessions.start_lock import registering
from lit_storage_core.artifacts.artifact import Artifact
from lit_storage_core.artifacts.former_root import MARKER, mark
from lit_storage_core.artifacts.urls import in_place_url, open_store
from lit_storage_core.system.machine import machine_id
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_proto.errors import AccessDenied, NameTaken, PathNotFound, StorageError, TransferTimeout
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_proto.uri import Location
from lit_storage_server.daemon.left_source import LeftSource
from lit_storage_server.publishing.notes import Declaration, Note, noted
from tests.roots import LARGE, copied, leave, opened, read

LIMITS = Limits(start_seconds=0.4)


def begin(root, run_id="run", name="train"):
    begin_empty(str(root), f"sqlite://{root}/registry.db", name, run_id, LIMITS)
    discard_older(str(root), name)


def names(directory):
    return sorted(os.listdir(directory))


def wait_for_registration(root):
    """Raise TransferTimeout if no Work can register now."""
    directory = root / "works" / "train"
    with registering(str(root), str(directory), directory.stat(), LIMITS):
        pass


def exists(root, path="out"):
    with lit_storage.connect(root=root):
        return Path(f"lit://@train/{path}").exists_remote()


def killed(root, paths=("out",), url=None, **fields):
    """Leave a storage root with out/file, and the note of a Work that declared paths and was killed."""
    instance_id, own = uuid.uuid4().hex, machine_id(str(root))
    registry = opened(root)
    registry.register(LiveRecord("train", instance_id, "127.0.0.1:1", own))
    registry.unregister("train", instance_id)
    registry.close()
    storage_root = root / "works" / "train"
    (storage_root / "out").mkdir(parents=True, exist_ok=True)
    (storage_root / "out" / "file").write_text("killed")
    (storage_root / "out" / "large").unlink(missing_ok=True)
    note = Note(str(root), instance_id)
    url = url or in_place_url(str(root), own)
    note.begin(
        Declaration(
            "train", instance_id, own, str(storage_root), url, paths=dict.fromkeys(paths, True), **fields
        )
    )
    return note


class TestMoved:
    """What a Work left before it began anew."""

    def test_the_storage_root_is_empty(self, old):
        """All that it held lies in the former one, and what is kept beside that is no Work."""
        begin(old)
        assert names(old / "works" / "train") == []
        assert names(old / "former") == ["@train:run", "train"]
        assert (old / "former" / "train" / "out" / "file").read_text() == "original"

    def test_its_mode_stays(self, old):
        """A storage root that a group shares is shared as before."""
        (old / "works" / "train").chmod(0o2770)
        begin(old)
        assert (old / "works" / "train").stat().st_mode & 0o7777 == 0o2770

    def test_what_was_published_stays_readable(self, old):
        """Until the Work publishes that path again."""
        begin(old)
        assert read(old) == "original"
        leave(old, "newer")
        assert read(old) == "newer"

    def test_what_is_not_published_again_stays_readable(self, old):
        """Another path that the Work publishes then does not hide it, and is not looked for in it."""
        begin(old)
        (old / "works" / "train" / "out").mkdir()
        (old / "works" / "train" / "out" / "file").write_text("not published")
        assert read(old) == "original"

    def test_a_reader_that_began_before(self, old):
        """A stream whose storage root is moved while it is read goes on to its end."""
        store = open_store(in_place_url(str(old), machine_id(str(old))), "train", limits=LIMITS)
        with Artifact.find(store, Location("train", "out")).stream(TreeOptions(), None) as stream:
            frames = iter(stream)
            received = sum(chunk.size for chunk in next(frames).chunks)
            begin(old)
            received += sum(chunk.size for frame in frames for chunk in frame.chunks)
        assert received == LARGE + len("original")

    def test_a_store_that_is_open_already(self, old):
        """It does not look for the files where they were."""
        with lit_storage.connect(root=old):
            path = Path("lit://@train/out/file")
            assert path.exists_remote()
            begin(old)
            path.get()
            assert path.read_text() == "original"

    def test_a_store_reads_the_marker_once(self, old, monkeypatch):
        """However many manifests are looked at."""
        begin(old)
        store = open_store(in_place_url(str(old), machine_id(str(old))), "train", limits=LIMITS)
        (kept,) = store.versions()
        found = store.manifest(kept)
        monkeypatch.setattr("lit_storage_core.artifacts.former_root.instances_of", None)
        assert store.manifest(kept).in_place == found.in_place == str(old / "former" / "train")

    def test_a_custodian_hands_it_out(self, old):
        """Consumers of other machines read it too."""
        registry = opened(old)
        source = LeftSource(str(old), machine_id(str(old)), registry, LIMITS)
        before = source.stat("@train/out/file")
        begin(old)
        assert source.stat("@train/out/file") == before
        registry.close()

    def test_a_copied_root(self, old, tmp_path):
        """It reads the former storage root that was copied with it."""
        begin(old)
        copy = copied(old, tmp_path / "copy")
        shutil.rmtree(old)
        assert read(copy) == "original"

    def test_a_former_root_that_somebody_removed(self, old):
        """What lay in it is absent."""
        begin(old)
        shutil.rmtree(old / "former" / "train")
        assert not exists(old)

    def test_a_marker_that_is_a_fifo(self, old):
        """Nobody waits for a writer."""
        begin(old)
        (old / "former" / "train" / MARKER).unlink()
        os.mkfifo(old / "former" / "train" / MARKER)
        assert not exists(old)


class TestRuns:
    """When a storage root is moved, and when it stays."""

    def test_a_second_start_in_a_run(self, old):
        """A Work that is started again after a failure keeps its files."""
        begin(old)
        (old / "works" / "train" / "new").write_text("1")
        begin(old)
        assert names(old / "works" / "train") == ["new"]

    def test_one_generation_is_kept(self, old):
        """The storage root before the former one is removed, and what was published from it is absent."""
        begin(old, "run 1")
        (old / "works" / "train" / "new").write_text("1")
        begin(old, "run 2")
        assert names(old / "former") == ["@train:run", "train"]
        assert names(old / "former" / "train") == [MARKER, "new"]
        assert not exists(old)

    def test_an_empty_storage_root(self, old):
        """It does not take the place of the former one."""
        begin(old, "run 1")
        (old / "works" / "train" / ".staging").mkdir()
        begin(old, "run 2")
        assert read(old) == "original"

    @pytest.mark.parametrize("name", ["former/@train:run", f"works/train/{MARKER}"])
    def test_a_directory_in_the_place_of_a_file(self, old, name):
        """The error names it, and no descriptor stays open."""
        (old / name).mkdir(parents=True)
        begun = len(os.listdir("/proc/self/fd"))
        with pytest.raises(IsADirectoryError, match=name):
            begin(old)
        assert len(os.listdir("/proc/self/fd")) == begun

    def test_a_damaged_version(self, old):
        """It keeps no Work from starting, and goes with its files."""
        begin(old, "run 1")
        (manifest,) = (old / "artifacts" / "train" / "manifests").glob("*/*")
        manifest.chmod(0o644)
        manifest.write_text("damaged")
        (old / "works" / "train" / "new").write_text("1")
        begin(old, "run 2")
        assert not manifest.exists()

    def test_absolute_paths_stay(self, root, tmp_path):
        """A declared path outside of the storage root is not moved, and its versions are kept."""
        data = tmp_path / "data"
        data.mkdir()
        (data / "file").write_text("1")
        with lit_storage.join("train") as session:
            session.declare(data)
            Path("lit://x").write_text("1")
        begin(root, "run 1")
        (root / "works" / "train" / "new").write_text("1")
        begin(root, "run 2")
        assert exists(root, f"{data}/file")

    def test_other_works_keep_theirs(self, old):
        """Also one whose name begins with the same part."""
        leave(old, name="train.a")
        begin(old, "run 1")
        begin(old, "run 1", "train.a")
        (old / "works" / "train" / "new").write_text("1")
        begin(old, "run 2")
        assert read(old, "train.a") == "original"

    def test_a_kill_before_the_former_one_is_replaced(self, old, monkeypatch):
        """The next start gives the former storage root its place back, whether or not it is with fresh."""
        begin(old, "run 1")
        (old / "works" / "train" / "new").touch()
        rename = os.rename

        def kill(source, target, **fds):
            if str(target).endswith("former/train"):
                raise KeyboardInterrupt
            rename(source, target, **fds)

        monkeypatch.setattr(os, "rename", kill)
        with pytest.raises(KeyboardInterrupt):
            begin(old, "run 2")
        monkeypatch.undo()
        discard_older(str(old), "train")
        assert not exists(old)
        restore_former(str(old), "train", LIMITS)
        assert (read(old), names(old / "works" / "train")) == ("original", [MARKER, "new"])

    def test_an_older_one_that_was_replaced(self, root, monkeypatch):
        """It does not come back where the former one is removed during its own removal."""
        for directory in ("train", "@train:old-0"):
            (root / "former" / directory / "inner").mkdir(parents=True)
        monkeypatch.setattr(os, "rmdir", lambda *args, **fds: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            discard_older(str(root), "train")
        monkeypatch.undo()
        shutil.rmtree(root / "former" / "train")
        restore_former(str(root), "train", LIMITS)
        assert names(root / "former") == ["@train:gone-0"]

    def test_a_removal_that_is_cut_short(self, root, monkeypatch):
        """Nothing of an older storage root is left after the next one."""
        older = root / "former" / "@train:gone-0"
        (older / "a" / "b").mkdir(parents=True)
        (older / "a" / "b" / "file").touch()
        rename, left = os.rename, iter(range(1))

        def stop_after(*args, **fds):
            rename(*args, **fds)
            if next(left, None) is None:
                raise KeyboardInterrupt

        (older / "c" / "d").mkdir(parents=True)
        monkeypatch.setattr(os, "rename", stop_after)
        with pytest.raises(KeyboardInterrupt):
            discard_older(str(root), "train")
        monkeypatch.undo()
        assert names(root / "former") == ["@train:gone-0"]
        discard_older(str(root), "train")
        assert names(root / "former") == []

    @pytest.mark.parametrize(
        "make", [lambda path, to: path.write_text(""), lambda path, to: path.symlink_to(to)]
    )
    def test_what_is_no_directory_in_the_place_of_an_older_one(self, root, tmp_path, make):
        """A file or a link is removed, and what the link leads to stays."""
        (root / "former").mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "file").touch()
        make(root / "former" / "@train:gone-0", tmp_path / "elsewhere")
        discard_older(str(root), "train")
        assert (names(root / "former"), names(tmp_path / "elsewhere")) == ([], ["file"])

    @pytest.mark.parametrize("step", range(20))
    def test_a_crash_at_any_step(self, old, monkeypatch, step):
        """The next start repeats what was done, and nothing is lost."""
        begin(old, "run 1")
        leave(old, "newer")
        left = iter(range(step))

        def stop_at(function):
            def call(*args, **kwargs):
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return function(*args, **kwargs)

            return call

        for module, name in ((os, "rename"), (os, "mkdir"), (os, "chmod"), (os, "rmdir"), (os, "unlink")):
            monkeypatch.setattr(module, name, stop_at(getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            begin(old, "run 2")
        monkeypatch.undo()
        begin(old, "run 3")
        assert names(old / "works" / "train") == []
        assert names(old / "former") == ["@train:run", "train"]
        assert read(old) == "newer"


class TestRefused:
    """Where a storage root must stay where it is."""

    def test_a_live_name(self, old):
        """A process that has the name has the files too."""
        registry = opened(old)
        registry.register(LiveRecord("train", "i", "127.0.0.1:1", machine_id(str(old))))
        with pytest.raises(NameTaken, match="stop that process"):
            begin(old)
        registry.unregister("train", "i")
        registry.close()
        assert read(old) == "original"

    def test_a_live_name_without_files(self, root):
        """Its run stays noted, so the Work keeps what it writes later when it is started again."""
        begin(root, "run 1")
        with lit_storage.join("train"):
            with pytest.raises(NameTaken, match="stop that process"):
                begin(root, "run 2")
            Path("lit://x").write_text("1")
        begin(root, "run 1")
        assert names(root / "works" / "train") == ["x"]

    def test_two_apps_at_once(self, root):
        """The one whose note was replaced does not register, and the other one does."""
        for run_id in ("run 1", "run 2"):
            begin(root, run_id)
        with joining_in_run(str(root), "train", "run 1"), pytest.raises(NameTaken, match="another App"):
            lit_storage.join("train")
        with joining_in_run(str(root), "train", "run 2"), lit_storage.join("train") as session:
            assert session.name == "train"

    def test_the_marker_is_written_before_the_lock_is_held(self, old, monkeypatch):
        """Other Works of the root, which wait for the lock, do not wait for that."""
        monkeypatch.setattr(fresh_root, "mark", lambda *args: wait_for_registration(old) or mark(*args))
        begin(old)
        assert read(old) == "original"

    def test_nobody_registers_before_the_run_is_noted(self, old, monkeypatch):
        """The run is noted under the lock under which the storage root is moved."""
        replace = fresh_root.replace_file

        def note(path, *args, **kwargs):
            if path.endswith(":run"):
                with pytest.raises(TransferTimeout):
                    wait_for_registration(old)
            replace(path, *args, **kwargs)

        monkeypatch.setattr(fresh_root, "replace_file", note)
        begin(old)
        assert (old / "former" / "@train:run").read_text() == "run\n"

    def test_a_live_process_without_the_name(self, old):
        """One that declared files there, and joined by another registry or lost its name."""
        killed(old, holder=ProcessIdentity.current().to_text())
        with pytest.raises(NameTaken, match="or its files"):
            begin(old)
        assert (old / "works" / "train" / "out" / "file").exists()

    def test_a_link(self, old, tmp_path):
        """A storage root on another disk is not replaced by one beside the root."""
        (old / "works" / "train").rename(tmp_path / "disk")
        (old / "works" / "train").symlink_to(tmp_path / "disk")
        with pytest.raises(AccessDenied, match="it is a link"):
            begin(old)
        assert read(old) == "original"

    @pytest.mark.root
    def test_a_link_of_another_user(self, old, tmp_path):
        """Whoever may write into the root does not say where files are moved to."""
        (tmp_path / "elsewhere").mkdir()
        (old / "former").symlink_to(tmp_path / "elsewhere")
        os.lchown(old / "former", 65534, 65534)
        with pytest.raises(AccessDenied, match="link of user 65534"):
            begin(old)
        assert os.listdir(tmp_path / "elsewhere") == []

    def test_a_mount_point(self, old, monkeypatch):
        """What the kernel refuses to move stays, and so does the former one."""
        begin(old, "run 1")
        leave(old, "newer", name="train")
        rename = os.rename

        def refuse(source, target, **fds):
            if str(source).endswith("works/train"):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            rename(source, target, **fds)

        monkeypatch.setattr(os, "rename", refuse)
        with pytest.raises(AccessDenied, match="cannot be moved aside"):
            begin(old, "run 2")
        assert (read(old), names(old / "former")) == ("newer", ["@train:run", "train"])

    def test_a_mount_point_within(self, old, monkeypatch):
        """What somebody mounted below the storage root is not moved along, and the error names it."""
        point = str(old / "works" / "train" / "data")
        monkeypatch.setattr(fresh_root, "mount_points_below", lambda directory: [f"{directory}/data"])
        with pytest.raises(AccessDenied, match=f"mounted at '{point}'"):
            begin(old)
        assert names(old / "works" / "train") == ["out"]

    def test_a_work_that_starts_meanwhile(self, root, monkeypatch):
        """A process that has opened the storage root does not register once it was moved."""
        leave(root)
        find = lit_storage.sessions.session.advertised_endpoint

        def move_first(*args):
            begin(root)
            return find(*args)

        monkeypatch.setattr(lit_storage.sessions.session, "advertised_endpoint", move_first)
        with pytest.raises(NameTaken, match="was moved aside"):
            lit_storage.join("train")
        assert read(root) == "original"

    def test_a_work_that_is_registering(self, old):
        """Nothing is moved until it has the name."""
        directory = old / "works" / "train"
        with (
            registering(str(old), str(directory), directory.stat(), LIMITS),
            pytest.raises(TransferTimeout),
        ):
            begin(old)
        assert names(directory) == ["out"]


class TestUnpublished:
    """What a Work declared that was killed."""

    def test_it_is_published_first(self, old):
        """It is readable from the former storage root, and its note is gone."""
        killed(old)
        begin(old)
        assert noted(str(old)) == []
        assert (read(old), names(old / "works" / "train")) == ("killed", [])

    def test_a_store_out_of_reach(self, old, tmp_path):
        """Nothing is moved, and what was declared stays noted."""
        (tmp_path / "file").write_text("")
        note = killed(old, url=f"file://{tmp_path}/file/store")
        with pytest.raises(StorageError, match="not published yet"):
            begin(old)
        assert names(old / "works" / "train") == ["out"]
        assert note.read() is not None


def test_no_get_replaces_it(old, tmp_path):
    """It is protected as the rest of the root is."""
    begin(old)
    with lit_storage.connect(root=old), pytest.raises(ValueError, match="root of an App"):
        Path("lit://@train/out").get(overwrite=True, to=old / "former" / "train")
    with lit_storage.connect(root=old), pytest.raises(PathNotFound):
        Path("lit://@train/none").get()


def test_a_work_that_published_nothing(old, recwarn):
    """The removal of its older storage roots warns of no store, which there never was."""
    for run in range(3):
        (old / "works" / "quiet").mkdir(exist_ok=True)
        (old / "works" / "quiet" / str(run)).touch()
        begin(old, f"run {run}", "quiet")
    assert names(old / "former" / "quiet") == ["2", MARKER]
    assert not [str(each.message) for each in recwarn]
