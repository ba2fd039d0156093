"""What every store of artifacts does: in place, on a disk, in memory, and two servers of S3."""

import os
import stat
import threading
import time

import pytest

from lit_storage_core.artifacts.tree import ArtifactTree
from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import PathNotFound, SourceChanged, TransferTimeout
from lit_storage_proto.limits import MIB
from lit_storage_proto.uri import Location
from lit_storage_server.publishing.publish import publish, publish_removed
from lit_storage_server.sources.tree_stream import TreeStream

S3 = [pytest.param(name, marks=pytest.mark.slow) for name in ("rclone", "moto")]
NAMED = ["file", "memory", *S3]
ALL = ["in-place", *NAMED]


@pytest.fixture(params=ALL)
def left(request, make):
    return make(request.param)


@pytest.fixture(params=NAMED)
def named(request, make):
    return make(request.param)


def fill(root):
    """Make a tree with all that an artifact keeps."""
    out = root / "out"
    (out / "a.txt").write_text("alpha")
    (out / "empty").write_bytes(b"")
    (out / "deep" / "er").mkdir(parents=True)
    (out / "deep" / "er" / "big").write_bytes(os.urandom(3 * MIB + 17))
    (out / "nothing").mkdir()
    os.symlink("deep/er/big", out / "link")
    os.symlink("/etc/passwd", out / "outside")
    os.link(out / "a.txt", out / "again")
    with open(out / os.fsdecode(b"not-utf8-\xff"), "wb") as file:
        file.write(b"raw")
    with open(out / "sparse", "wb") as file:
        file.seek(5 * MIB)
        file.write(b"end")
        file.truncate(6 * MIB)
    os.chmod(out / "a.txt", 0o640)
    os.utime(out / "a.txt", ns=(1, 1_234_567_890_123_456_789))
    return out


def snapshot(top):
    found = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            found[os.path.relpath(path, top)] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns, content)
    return found


class TestReading:
    def test_a_tree_comes_back_as_it_was(self, left):
        """Names, bytes, modes, times, links, empty directories and odd names come back."""
        out = fill(left.root)
        left.publish()
        target, transfer = left.get()
        expected = snapshot(out)
        del expected["outside"]
        assert snapshot(target) == expected
        assert (transfer.skipped, transfer.hard_linked) == (("outside",), 2)

    def test_holes_stay_holes(self, left):
        """A sparse file takes as little room as it did."""
        fill(left.root)
        left.publish()
        target, _ = left.get()
        assert os.stat(target / "sparse").st_blocks * 512 < MIB

    def test_a_single_file_is_a_unit(self, left):
        """A declared path may be a file."""
        (left.root / "best.txt").write_text("0.97")
        left.publish("best.txt")
        target, _ = left.get("best.txt")
        assert target.read_text() == "0.97"

    def test_what_lies_below_is_found(self, left):
        """A directory or file below a declared path can be got by itself."""
        fill(left.root)
        left.publish()
        assert sorted(os.listdir(left.get("out/deep")[0])) == ["er"]
        assert left.get("out/deep/er/big", "one")[0].stat().st_size == 3 * MIB + 17

    def test_links_are_followed_on_the_way(self, left):
        """A path through a link within the artifact means what it means at the origin."""
        fill(left.root)
        left.publish()
        assert left.get("out/link", "one")[0].read_bytes() == (left.root / "out/deep/er/big").read_bytes()

    def test_following_links_copies_what_they_mean(self, left):
        """symlinks="follow" copies the files of links, and leaves out those that leave the artifact."""
        out = fill(left.root)
        os.symlink("deep", out / "directory-link")
        os.symlink("..", out / "deep" / "loop")
        left.publish()
        target, transfer = left.get(symlinks="follow")
        assert (target / "link").read_bytes() == (target / "deep/er/big").read_bytes()
        assert not (target / "link").is_symlink()
        assert (target / "directory-link/er/big").is_file()
        assert {"outside", "deep/loop"} <= set(transfer.skipped)

    def test_exists_and_stat(self, left):
        """exists and stat answer for a declared path, what is below it, and what is not there."""
        fill(left.root)
        left.publish()
        there = ["out", "out/a.txt", "out/nothing"]
        assert [path for path in [*there, "out/none", "other", ""] if left.exists(path)] == there
        entry = left.origins.stat(Location("train", "out/a.txt"))
        assert (entry.path, entry.kind, entry.size, entry.mode) == ("", Kind.FILE, 5, 0o640)
        with pytest.raises(PathNotFound, match="does not hold it"):
            left.origins.stat(Location("train", "out/none"))

    def test_listing(self, left):
        """A list names the path itself and what is below it, all of it or its children."""
        fill(left.root)
        left.publish()
        location = Location("train", "out/deep")
        assert [e.path for e in left.origins.list(location)] == ["", "er", "er/big"]
        assert [e.path for e in left.origins.list(location, recursive=False)] == ["", "er"]

    def test_parts_of_a_file(self, left):
        """Any range of a file can be read, with holes, and what lies behind its end is passed over."""
        out = fill(left.root)
        left.publish()
        for name, offset, length in [
            ("deep/er/big", 0, 10),
            ("deep/er/big", 524_280, 20),
            ("deep/er/big", 3 * MIB, None),
            ("deep/er/big", 3 * MIB + 10, 100),
            ("deep/er/big", 1 << 40, 5),
            ("deep/er/big", 7, 0),
            ("sparse", 5 * MIB - 10, 30),
            ("sparse", MIB, 1000),
        ]:
            whole = (out / name).read_bytes()
            end = None if length is None else offset + length
            assert left.read(f"out/{name}", offset=offset, length=length) == whole[offset:end], (name, offset)
        assert left.read("out/sparse") == (out / "sparse").read_bytes()
        with pytest.raises(IsADirectoryError):
            left.read("out", offset=1)

    def test_progress_tells_the_total(self, left):
        """Progress is told as from a live Work: it ends with all bytes of all."""
        fill(left.root)
        left.publish()
        told = []
        left.get(progress=lambda done, total: told.append((done, total)))
        assert told[-1][0] == told[-1][1] > 9 * MIB

    def test_a_failed_get_leaves_the_copy_before(self, left):
        """Where nothing can be got, the target stays as it was."""
        fill(left.root)
        left.publish()
        target, _ = left.get()
        before = snapshot(target)
        with pytest.raises(PathNotFound):
            left.get("out/none")
        assert snapshot(target) == before


class TestVersions:
    def test_the_newest_is_read(self, left):
        """What was published last is what is read, and a file that was deleted does not come back."""
        out = left.root / "out"
        (out / "gone").write_text("1")
        (out / "kept").write_text("1")
        left.publish()
        (out / "gone").unlink()
        (out / "kept").write_text("22")
        left.publish()
        target, _ = left.get()
        assert os.listdir(target) == ["kept"]
        assert (target / "kept").read_text() == "22"
        assert not left.exists("out/gone")

    def test_a_removed_path_is_absent(self, left):
        """A path that its Work had removed is not there, whatever was published before."""
        (left.root / "out" / "a").write_text("1")
        left.publish()
        publish_removed(left.store, "out", left.store.next_version("i1"), machine_id="machine")
        assert not left.exists()
        with pytest.raises(PathNotFound):
            left.get()

    def test_of_two_declared_paths_the_newer_counts(self, left):
        """Where one declared path holds another one, what was published later is read."""
        (left.root / "out" / "deep").mkdir()
        (left.root / "out" / "deep" / "a").write_text("old")
        left.publish("out/deep")
        (left.root / "out" / "deep" / "a").write_text("new")
        left.publish("out")
        assert left.read("out/deep/a") == b"new"

    def test_a_path_without_files_is_refused(self, left):
        """Nothing is published of what is not there, and what was before stays."""
        (left.root / "out" / "a").write_text("1")
        left.publish()
        os.rename(left.root / "out", left.root / "elsewhere")
        with pytest.raises(PathNotFound):
            left.publish()
        assert len(left.store.versions()) == 1

    def test_no_time_left(self, left):
        """Past its deadline a publication fails, and nobody sees anything of it."""
        fill(left.root)
        with pytest.raises(TransferTimeout):
            left.publish(deadline=time.monotonic() - 1)
        assert left.store.versions() == []
        assert left.store.objects.list("data") == []

    def test_what_never_rests_is_not_published(self, left, monkeypatch):
        """A file that goes on changing, other than by growing, is never published half one way."""

        class Restless(TreeStream):
            def _look_at_tree(self, opened, *, send):
                (left.root / "out" / "x").write_bytes(os.urandom(8))
                yield from super()._look_at_tree(opened, send=send)

        monkeypatch.setattr("lit_storage_server.publishing.publish.TreeStream", Restless)
        with pytest.raises(SourceChanged, match="'out/x' went on changing"):
            left.publish()
        assert left.store.versions() == []

    def test_what_changes_once_is_published_as_it_is_then(self, left, monkeypatch):
        """What changes while it is read is read anew: a file, a mode, a new directory, one that is gone."""
        out = fill(left.root)
        changes = iter([None, True])

        class Changing(TreeStream):
            def _look_at_tree(self, opened, *, send):
                if next(changes, None):
                    (out / "a.txt").write_text("changed")
                    (out / "deep" / "er" / "big").write_bytes(os.urandom(MIB))
                    (out / "nothing").chmod(0o700)
                    (out / "new").mkdir()
                    (out / "new" / "file").write_text("new")
                    (out / "link").unlink()
                    os.rename(out / "sparse", out / "moved")
                yield from super()._look_at_tree(opened, send=send)

        monkeypatch.setattr("lit_storage_server.publishing.publish.TreeStream", Changing)
        left.publish()
        assert (out / "moved").exists()
        expected = snapshot(out)
        del expected["outside"]
        assert snapshot(left.get()[0]) == expected

    def test_a_change_within_a_tick_of_the_clock_is_seen(self, left, monkeypatch):
        """A file that changes while it is published, and again at once, is never taken for unchanged."""

        class Changing(TreeStream):
            def _look_at_file(self, opened, *, send):
                if not self._seen:
                    (left.root / "best").write_text("00")
                yield from super()._look_at_file(opened, send=send)

        (left.root / "best").write_text("--")
        with monkeypatch.context() as patched:
            patched.setattr("lit_storage_server.publishing.publish.TreeStream", Changing)
            manifest = left.publish("best")
        assert manifest.entries[0].entry.version == b""
        (left.root / "best").write_text("11")
        left.publish("best")
        assert left.read("best") == b"11"
        assert left.publish("best").entries[0].entry.version != b""

    def test_a_file_without_a_token_is_still_read(self, left, monkeypatch):
        """Large or small, whole or resumed: its bytes are checked instead."""
        (left.root / "out" / "big").write_bytes(os.urandom(20 * MIB))
        monkeypatch.setattr("lit_storage_server.publishing.publish.may_hide_a_change", lambda *_: True)
        left.publish()

        def stop(done, total):
            if 5 * MIB < done < 20 * MIB:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            left.get(progress=stop)
        target, transfer = left.get()
        assert (target / "big").read_bytes() == (left.root / "out" / "big").read_bytes()
        assert transfer.how == "stream"

    def test_a_tree_of_many_files(self, left):
        """A thousand small files come back, out of few objects."""
        for number in range(1000):
            (left.root / "out" / f"{number:04}").write_bytes(b"%04d" % number * 100)
        left.publish()
        target, transfer = left.get()
        assert (transfer.files, transfer.bytes) == (1000, 400_000)
        assert (target / "0777").read_bytes() == b"0777" * 100
        assert len(left.store.objects.list("data")) <= 1


class TestNamed:
    def test_older_versions_are_kept(self, named):
        """Each publication is a version of its own; the manifests of both can be read."""
        (named.root / "out" / "a").write_text("1")
        first = named.publish()
        (named.root / "out" / "a").write_text("2")
        named.publish()
        newer, older = named.store.versions()
        assert named.store.manifest(older) == first
        assert newer.version.number == older.version.number + 1

    def test_a_get_that_was_cut_short_goes_on(self, named, monkeypatch):
        """What was verified of large files is not read again."""
        (named.root / "out" / "big").write_bytes(os.urandom(40 * MIB))
        named.publish()

        def stop(done, total):
            if 20 * MIB < done < 40 * MIB:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            named.get(progress=stop)
        sizes, kind = [], type(named.store.objects)
        read = kind.read

        def count(self, key, *span):
            sizes.append(span[1] if span else 0)
            return read(self, key, *span)

        monkeypatch.setattr(kind, "read", count)
        target, _ = named.get()
        assert target.joinpath("big").read_bytes() == (named.root / "out" / "big").read_bytes()
        assert 0 < sum(sizes) < 30 * MIB

    def test_a_source_that_is_gone_does_no_harm(self, named):
        """A named store has copies: it needs nothing of the Work any more."""
        out = fill(named.root)
        named.publish()
        expected = snapshot(out)
        del expected["outside"]
        os.rename(named.root, named.root.parent / "gone")
        assert snapshot(named.get()[0]) == expected

    def test_what_is_unchanged_is_not_stored_again(self, named):
        """A version that adds a file stores that file; the others stay where they are."""
        (named.root / "out" / "big").write_bytes(os.urandom(9 * MIB))
        (named.root / "out" / "small").write_text("1")
        named.publish()
        before = sum(found.size for found in named.store.objects.list("data"))
        (named.root / "out" / "more").write_bytes(os.urandom(1000))
        named.publish()
        after = sum(found.size for found in named.store.objects.list("data"))
        assert after - before == 1000
        assert snapshot(named.get()[0]) == snapshot(named.root / "out")

    def test_of_a_file_that_changed_in_places_only_that_is_stored(self, named):
        """Files are compared chunk by chunk, also where a new instance wrote them anew."""
        data = bytearray(os.urandom(9 * MIB))
        (named.root / "out" / "big").write_bytes(data)
        named.publish()
        before = sum(found.size for found in named.store.objects.list("data"))
        data[5 * MIB] ^= 1
        (named.root / "out" / "big").unlink()
        (named.root / "out" / "big").write_bytes(data + b"more")
        named.publish()
        after = sum(found.size for found in named.store.objects.list("data"))
        # The end of the file was a chunk that ended at 9 MiB, so what was added is one of its own.
        assert after - before == 512 * 1024 + 4
        assert (named.get()[0] / "big").read_bytes() == data + b"more"

    def test_two_instances_at_once(self, named):
        """Two that publish at the same time both succeed, and one of them is read, whole."""
        (named.root / "out" / "a").write_bytes(os.urandom(MIB))
        version = named.store.next_version("i1")
        barrier, failed = threading.Barrier(2), []

        def run(instance):
            barrier.wait(10)
            try:
                publish(
                    named.store, named.shares, "out", type(version)(version.number, instance), machine_id="m"
                )
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=run, args=(f"i{number}",)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []
        assert [kept.version.instance_id for kept in named.store.versions()] == ["i2", "i1"]
        assert snapshot(named.get()[0]) == snapshot(named.root / "out")

    def test_pruning_keeps_what_newer_versions_need(self, named):
        """When an old version goes, only bytes that no other one names go with it."""
        (named.root / "out" / "shared").write_bytes(os.urandom(9 * MIB))
        (named.root / "out" / "old").write_bytes(os.urandom(9 * MIB))
        named.publish()
        (named.root / "out" / "old").unlink()
        named.publish()
        expected = snapshot(named.root / "out")
        _, older = named.store.versions()
        freed = named.store.remove([older])
        assert 0 < freed <= 9 * MIB
        assert snapshot(named.get()[0]) == expected
        assert named.store.remove(named.store.versions()) > 0
        assert named.store.objects.list("data") == []

    def test_a_version_whose_former_is_removed_meanwhile_is_written_whole(self, named):
        """Pruning while a new version is built upon the pruned one loses nothing."""
        (named.root / "out" / "a").write_bytes(os.urandom(MIB))
        named.publish()
        begin, removed = named.store.begin, []

        def begin_then_prune(*args, **options):
            writer = begin(*args, **options)
            if not removed:
                removed.extend(named.store.versions())
                named.store.remove(removed)
            return writer

        named.store.begin = begin_then_prune
        named.publish()
        assert len(named.store.versions()) == 1
        assert snapshot(named.get()[0]) == snapshot(named.root / "out")

    def test_an_unfinished_publication_is_swept_when_it_is_old(self, named):
        """What nobody committed stays a day, for it may be under way, and then goes."""
        (named.root / "out" / "a").write_text("1")
        named.publish()
        named.store.objects.put("data/00000009-ix/out-abc-00000", b"lost")
        named.store.remove([])
        assert len(named.store.objects.list("data")) == 2
        named.store.remove([], now=time.time() + 25 * 3600)
        assert len(named.store.objects.list("data")) == 1
        assert named.exists("out/a")


class TestInPlace:
    @pytest.fixture
    def placed(self, make):
        return make("in-place")

    def test_no_second_copy(self, placed):
        """Nothing but a manifest is written, and of each path there is one."""
        fill(placed.root)
        placed.publish()
        placed.publish()
        assert placed.store.objects.list("data") == []
        assert len(placed.store.versions()) == 1

    def test_a_changed_file_is_never_taken_for_what_was_left(self, placed):
        """A file that was written to since is SourceChanged, of the same size too."""
        (placed.root / "out" / "a").write_text("1234")
        placed.publish()
        (placed.root / "out" / "a").write_text("1235")
        with pytest.raises(SourceChanged, match=r"'out/a' of 'train' was changed after"):
            placed.get()

    def test_a_large_changed_file_too(self, placed):
        """So is a large one, which would be handed over by descriptor."""
        (placed.root / "out" / "a").write_bytes(b"x" * 3 * MIB)
        placed.publish()
        with open(placed.root / "out" / "a", "r+b") as file:
            file.seek(2 * MIB)
            file.write(b"y")
        with pytest.raises(SourceChanged):
            placed.get()

    def test_a_file_with_other_times_and_the_same_bytes_is_the_same(self, placed):
        """A root that was copied elsewhere and back is still read: bytes count, not inodes."""
        (placed.root / "out" / "a").write_bytes(os.urandom(2 * MIB))
        placed.publish()
        content = (placed.root / "out" / "a").read_bytes()
        (placed.root / "out" / "a").unlink()
        (placed.root / "out" / "a").write_bytes(content)
        assert (placed.get()[0] / "a").read_bytes() == content

    def test_a_removed_path_is_not_there(self, placed):
        """What was removed since does not exist, and a tree that lacks a file is SourceChanged."""
        (placed.root / "out" / "a").write_text("1")
        (placed.root / "out" / "b").write_text("1")
        placed.publish()
        (placed.root / "out" / "a").unlink()
        assert not placed.exists("out/a")
        with pytest.raises(SourceChanged):
            placed.get()

    def test_large_files_are_copied_by_the_kernel(self, placed):
        """On the same machine no byte passes through Python."""
        (placed.root / "out" / "a").write_bytes(os.urandom(20 * MIB))
        placed.publish()
        assert placed.get()[1].how in ("copy", "reflink")

    def test_an_absolute_path_is_read_where_it_is(self, placed, tmp_path):
        """A declared path elsewhere is in place there."""
        data = tmp_path / "data"
        data.mkdir()
        (data / "x").write_text("1")
        placed.shares.declare(str(data))
        placed.publish(str(data))
        assert placed.read(f"{data}/x") == b"1"

    def test_a_link_put_on_the_way_leads_nowhere_else(self, placed, tmp_path):
        """A directory that was replaced by a link out of the storage root is not followed."""
        (placed.root / "out" / "d").mkdir()
        (placed.root / "out" / "d" / "passwd").write_text("mine")
        placed.publish()
        os.rename(placed.root / "out" / "d", placed.root / "moved")
        os.symlink("/etc", placed.root / "out" / "d")
        assert not placed.exists("out/d/passwd")
        with pytest.raises(SourceChanged):
            placed.get()


def test_the_tree_of_a_manifest_resolves_links_like_a_file_system(make):
    """Relative links, "..", chains and loops in an artifact mean what they mean on a disk."""
    left = make("memory")
    out = left.root / "out"
    (out / "a" / "b").mkdir(parents=True)
    (out / "a" / "b" / "file").write_text("1")
    os.symlink("b/../b/file", out / "a" / "one")
    os.symlink("a/one", out / "two")
    os.symlink("three", out / "three")
    os.symlink("../../out/a", out / "a" / "up")
    tree = ArtifactTree(left.publish())
    assert tree.find("two").entry.path == "a/b/file"
    assert tree.find("a/one").entry.path == "a/b/file"
    assert tree.find("three") is None
    assert tree.find("two/x") is None
