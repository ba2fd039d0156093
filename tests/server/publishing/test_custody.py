"""Notes of what a Work declared, and what is published by somebody else because of them."""

import dataclasses
import json
import os

import pytest

from lit_storage_core.artifacts.urls import in_place_url, open_store
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_proto.entry import Kind
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord, WorkState
from lit_storage_server.publishing.custody import publish_all, publish_left, sentences
from lit_storage_server.publishing.notes import Declaration, Note

LIMITS = Limits()
BEFORE = {
    *("name", "instance_id", "machine_id", "storage_root", "artifacts_url", "has_left", "holder", "keeper"),
    *("is_held", "tried_at"),
}
"""The fields of a note before there was a choice about links."""


@pytest.fixture
def declaration(tmp_path):
    """What a Work declared whose storage root has out/a and out/deep/b."""
    root = tmp_path / "works" / "train"
    (root / "out" / "deep").mkdir(parents=True)
    (root / "out" / "a").write_text("1")
    (root / "out" / "deep" / "b").write_text("1")
    paths = {"out": True}
    return Declaration(
        "train", "i1", "machine", str(root), in_place_url(str(tmp_path), "machine"), paths=paths
    )


@pytest.fixture
def registry(tmp_path):
    """One in which that Work was killed."""
    registry = MemoryRegistry(str(tmp_path))
    registry.register(LiveRecord("train", "i1", "127.0.0.1:1", "machine"))
    registry.unregister("train", "i1")
    return registry


def noted(tmp_path, declaration):
    note = Note(str(tmp_path), declaration.instance_id)
    note.begin(declaration)
    return note


def kept(declaration):
    return open_store(declaration.artifacts_url, "train", limits=LIMITS, create=True).versions()


class TestNote:
    def test_what_is_noted_comes_back(self, tmp_path, declaration):
        """Field by field, with paths that came later, and odd names."""
        note = noted(tmp_path, declaration)
        note.add("late", seen=False)
        note.add("late", seen=True)
        note.add(os.fsdecode(b"\xff\n"), seen=False)
        expected = {"out": True, "late": True, os.fsdecode(b"\xff\n"): False}
        assert note.read() == dataclasses.replace(declaration, paths=expected)

    def test_what_is_set_for_links_comes_back(self, tmp_path, declaration):
        """Whether they are followed, and the paths into which they may lead."""
        declaration = dataclasses.replace(declaration, symlinks="follow", shared=("/cache",))
        note = noted(tmp_path, declaration)
        note.share("/late")
        assert note.read() == dataclasses.replace(declaration, shared=("/cache", "/late"))

    def test_a_note_of_before(self, tmp_path, declaration):
        """Where nothing is set for links, a note is as it was, and older readers publish no shared path."""
        note = noted(tmp_path, declaration)
        about, line = (tmp_path / "declared" / "i1").read_text().split("\n\n")
        assert set(json.loads(about)) == BEFORE
        assert json.loads(line) == {"path": "out", "seen": True}
        note.share("/cache")
        *_, line = (tmp_path / "declared" / "i1").read_text().split("\n\n")
        assert json.loads(line).items() >= {"path": "/cache", "done": True}.items()  # as they read it

    def test_an_unknown_setting_is_no_note(self, tmp_path, declaration):
        """What a later version may set is not published as something else."""
        assert noted(tmp_path, dataclasses.replace(declaration, symlinks="never")).read() is None

    def test_a_line_cut_short_costs_that_line(self, tmp_path, declaration):
        """A kill, or a full disk, in the middle of a line loses neither those before nor those after it."""
        note = noted(tmp_path, declaration)
        with open(tmp_path / "declared" / "i1", "a") as file:
            file.write('\n{"path": "cut sh')
        note.add("after", seen=True)
        assert set(note.read().paths) == {"out", "after"}

    @pytest.mark.parametrize(
        "text", ["", "\n", "nonsense\n", "[]\n", '{"name": "train"}\n', '{"path": "x"}\n']
    )
    def test_what_is_no_note_is_none(self, tmp_path, declaration, text):
        """It is passed over, also when another Work begins its own."""
        noted(tmp_path, declaration)
        (tmp_path / "declared" / "other").write_text(text)
        assert Note(str(tmp_path), "other").read() is None
        noted(tmp_path, dataclasses.replace(declaration, instance_id="i2"))

    def test_a_note_that_is_held_leaves_no_descriptor(self, tmp_path, declaration):
        """Begun again, also where somebody removed it meanwhile, and removed."""
        before = len(os.listdir("/proc/self/fd"))
        note = Note(str(tmp_path), "i1")
        note.begin(declaration, hold=True)
        note.begin(declaration, hold=True)
        os.unlink(tmp_path / "declared" / "i1")
        note.begin(declaration, hold=True)
        assert note.read().is_held
        assert len(os.listdir("/proc/self/fd")) == before + 1
        note.remove()
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_new_instance_removes_the_notes_of_former_ones(self, tmp_path, declaration):
        """Of its own name, and of no other Work."""
        old = noted(tmp_path, declaration)
        other = noted(tmp_path, dataclasses.replace(declaration, name="deploy", instance_id="i7"))
        noted(tmp_path, dataclasses.replace(declaration, instance_id="i2"))
        assert (old.read(), other.read().name) == (None, "deploy")


class TestPublishLeft:
    def test_a_killed_work(self, tmp_path, declaration, registry):
        """Its paths are published as unclean, the registry says where, and the note is gone."""
        note = noted(tmp_path, declaration)
        assert publish_left(str(tmp_path), registry, "train", limits=LIMITS) == []
        (version,) = kept(declaration)
        store = open_store(declaration.artifacts_url, "train", limits=LIMITS)
        assert store.manifest(version).unclean
        work = registry.work("train")
        assert (work.artifacts_url, work.state) == (declaration.artifacts_url, WorkState.FAILED)
        assert note.read() is None

    def test_links_are_followed_for_it(self, tmp_path, declaration, registry):
        """As the Work had set it, also into what it only shared."""
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache/blob").write_text("weights")
        os.symlink(tmp_path / "cache/blob", tmp_path / "works/train/out/model")
        shared = (str(tmp_path / "cache"),)
        noted(tmp_path, dataclasses.replace(declaration, symlinks="follow", shared=shared))
        assert publish_left(str(tmp_path), registry, "train", limits=LIMITS) == []
        store = open_store(declaration.artifacts_url, "train", limits=LIMITS)
        (version,) = kept(declaration)
        stored = store.manifest(version).by_path["model"]
        assert (stored.entry.kind, stored.entry.size) == (Kind.FILE, 7)
        assert stored.place == f"{tmp_path}/cache/blob"

    def test_a_work_that_had_left(self, tmp_path, declaration, registry):
        """One that ended well but for files that did not rest stays so, and they are clean by now."""
        record = dataclasses.replace(registry.work("train"), state=WorkState.SUCCEEDED)
        registry.update_work(record)
        noted(tmp_path, dataclasses.replace(declaration, has_left=True))
        publish_left(str(tmp_path), registry, "train", limits=LIMITS)
        assert registry.work("train").state is WorkState.SUCCEEDED
        store = open_store(declaration.artifacts_url, "train", limits=LIMITS)
        assert not store.manifest(store.versions()[0]).unclean

    def test_nothing_to_do(self, tmp_path, declaration, registry):
        """Without a note, for a Work that lives, and for one that is not known, nothing is published."""
        assert publish_left(str(tmp_path), registry, "train", limits=LIMITS) == []
        noted(tmp_path, declaration)
        registry.register(LiveRecord("train", "i2", "127.0.0.1:1", "machine"))
        assert publish_left(str(tmp_path), registry, "train", limits=LIMITS) == []
        assert publish_left(str(tmp_path), registry, "nobody", limits=LIMITS) == []
        assert kept(declaration) == []

    def test_a_path_that_is_gone_is_not_published_as_removed(self, tmp_path, declaration, registry):
        """A killed Work may have been about to write it anew: what was published before stays."""
        publish_all(declaration, limits=LIMITS)
        os.rename(f"{declaration.storage_root}/out", tmp_path / "elsewhere")
        noted(tmp_path, declaration)
        (told,) = publish_left(str(tmp_path), registry, "train", limits=LIMITS)
        assert "'out' of 'train' does not exist" in told
        store = open_store(declaration.artifacts_url, "train", limits=LIMITS)
        assert not store.manifest(store.versions()[0]).removed


class TestPublishAll:
    def test_a_path_within_one_that_fails(self, declaration):
        """Where the outer path cannot be published, those within it are."""
        os.mkfifo(f"{declaration.storage_root}/out/deep/pipe")
        outer = f"{declaration.storage_root}/out/a"
        os.unlink(outer)
        os.symlink("a", outer)
        paths = {"out": True, "out/deep": True}
        outcome = publish_all(dataclasses.replace(declaration, paths=paths), limits=LIMITS)
        assert [manifest.path for manifest in outcome.published] == ["out"]
        (declared,) = outcome.published
        assert {stored.entry.path for stored in declared.entries} == {"", "a", "deep", "deep/b", "deep/pipe"}

    def test_an_outer_path_that_fails_leaves_the_inner_ones(self, declaration, monkeypatch):
        """One file that cannot be read costs its own path, and no path beside it."""
        from lit_storage_proto.errors import AccessDenied
        from lit_storage_server.publishing import custody

        publish = custody.publish

        def refuse(store, shares, path, *rest, **options):
            if path == "out":
                raise AccessDenied("'out/a' may not be read")
            return publish(store, shares, path, *rest, **options)

        monkeypatch.setattr(custody, "publish", refuse)
        paths = {"out": True, "out/deep": True, "out/deep/b": True}
        whole = dataclasses.replace(declaration, paths=paths)
        outcome = publish_all(whole, limits=LIMITS)
        assert [manifest.path for manifest in outcome.published] == ["out/deep"]
        (told,) = sentences(whole, outcome)
        assert "'out' of 'train' was not published" in told
        assert "may not be read" in told

    def test_it_never_raises(self, declaration):
        """Whatever is wrong with the store is told of each path."""
        wrong = dataclasses.replace(declaration, artifacts_url="nothing://x", paths={"out": True, "b": False})
        outcome = publish_all(wrong, limits=LIMITS)
        assert set(outcome.failed) == {"out", "b"}
        assert len(sentences(wrong, outcome)) == 2

    def test_the_storage_root_itself(self, declaration):
        """A Work may declare all of it; copies of others' files and what is staged are left out."""
        os.makedirs(f"{declaration.storage_root}/@other/x")
        os.makedirs(f"{declaration.storage_root}/.staging/x")
        outcome = publish_all(dataclasses.replace(declaration, paths={"": True, "out": True}), limits=LIMITS)
        (manifest,) = outcome.published
        assert {stored.entry.path.split("/")[0] for stored in manifest.entries} == {"", "out"}
