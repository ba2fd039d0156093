"""Stores that are damaged, hostile or slow: a typed error or an older whole version, and nothing else."""

import dataclasses
import errno
import os
import subprocess
import threading
import time

import pytest

from lit_storage_proto.artifact import (
    Extent,
    Manifest,
    StoredEntry,
    StoredObject,
    Version,
    manifest_key,
    unit_of,
)
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import (
    AccessDenied,
    IntegrityError,
    OriginUnavailable,
    PathNotFound,
    ProtocolViolation,
    TransferTimeout,
)
from lit_storage_proto.limits import MIB
from lit_storage_proto.manifest_codec import encode_manifest
from lit_storage_proto.uri import Location
from lit_storage_server.publishing.publish import publish
from tests.waiting import within

wait_until = within(30)


@pytest.fixture
def left(make):
    """A Work in a store on a disk, whose files a test can damage."""
    return make("file")


def stored_files(left, kind):
    top = f"{left.url.removeprefix('file://')}/train/{kind}"
    return sorted(os.path.join(d, name) for d, _, names in os.walk(top) for name in names)


def damage(path, change):
    with open(path, "rb") as file:
        data = file.read()
    os.unlink(path)
    with open(path, "wb") as file:
        file.write(change(data))


def flip(data):
    return data[:5] + bytes([data[5] ^ 1]) + data[6:]


class TestDamage:
    @pytest.mark.parametrize(
        ("change", "why"),
        [(flip, "was altered"), (lambda data: data[:-1], "shorter"), (lambda data: data[:0], "shorter")],
    )
    def test_an_object_that_was_altered(self, left, change, why):
        """No byte of it is used; the error says which object, and the copy before stays."""
        (left.root / "out" / "a").write_bytes(os.urandom(MIB))
        left.publish()
        target, _ = left.get()
        before = (target / "a").read_bytes()
        damage(stored_files(left, "data")[0], change)
        with pytest.raises(IntegrityError, match=why):
            left.get()
        assert (target / "a").read_bytes() == before
        assert os.listdir(left.copies) == ["copy"]

    def test_an_object_that_is_missing(self, left):
        """It is IntegrityError, which says what to do about it."""
        (left.root / "out" / "a").write_bytes(os.urandom(MIB))
        left.publish()
        os.unlink(stored_files(left, "data")[0])
        with pytest.raises(IntegrityError, match=r"is missing; run 'train' again"):
            left.get()
        with pytest.raises(IntegrityError):
            left.read("out/a")

    def test_a_manifest_cut_short_is_passed_over(self, left, caplog):
        """The newest whole version is read; where there is none that is said."""
        for text in ("old", "new"):
            (left.root / "out" / "a").write_text(text)
            left.publish()
        older, newer = stored_files(left, "manifests")
        damage(newer, lambda data: data[:-3])
        assert left.read("out/a") == b"old"
        assert "is cut short or damaged" in caplog.text
        damage(older, flip)
        left.origins.close()  # whoever has read a manifest knows it, for it never changes
        for ask in (left.exists, left.get):
            with pytest.raises(IntegrityError, match="cut short or damaged"):
                ask()

    def test_a_damaged_version_is_not_built_upon(self, left):
        """A new version after a damaged one is whole."""
        (left.root / "out" / "a").write_bytes(os.urandom(MIB))
        left.publish()
        damage(stored_files(left, "manifests")[0], flip)
        left.publish()
        assert left.read("out/a") == (left.root / "out" / "a").read_bytes()

    def test_a_manifest_of_a_newer_format_stops_everybody(self, left):
        """Reading an older version instead, or pruning what it names, could be wrong: upgrade."""
        (left.root / "out" / "a").write_text("1")
        left.publish()
        path = stored_files(left, "manifests")[0]
        with open(path, "rb") as file:
            data = b"LITARTF9" + file.read()[8:-16]
        damage(path, lambda _: data + chunk_digest(data))
        for ask in (left.exists, left.get, left.publish, lambda: left.store.remove([])):
            with pytest.raises(ProtocolViolation, match="upgrade"):
                ask()

    def test_pruning_keeps_what_a_damaged_version_wrote(self, left):
        """What it names cannot be known, so nothing of its own is removed with another one."""
        (left.root / "out" / "a").write_bytes(os.urandom(MIB))
        left.publish()
        (left.root / "out" / "a").write_bytes(os.urandom(MIB))
        left.publish()
        older, newer = stored_files(left, "manifests")
        damage(newer, flip)
        left.store.remove([kept for kept in left.store.versions() if kept.version.number == 1])
        assert len(stored_files(left, "data")) == 1


ROOT = Entry("", Kind.DIRECTORY, 0, 0o755, 1)
DATA = b"x" * 10


def file_at(path, **fields):
    stored = StoredEntry(
        Entry(path, Kind.FILE, len(DATA), 0o644, 1), (), (Extent(0, 0, len(DATA)),), chunk_digest(DATA)
    )
    return dataclasses.replace(stored, **fields)


def entry(path, kind=Kind.DIRECTORY, **fields):
    return StoredEntry(Entry(path, kind, 0, 0o755, 1, **fields))


class TestHostile:
    """A store that lies in manifests that are whole."""

    def put(self, left, *entries, **fields):
        key = f"00000001-i1/{unit_of('out')}-aa-00000"
        manifest = Manifest(
            "train",
            "out",
            Version(1, "i1"),
            1,
            "machine",
            512 * 1024,
            entries,
            [StoredObject(key, len(DATA))],
        )
        manifest = dataclasses.replace(manifest, **fields)
        left.store.objects.put(f"data/{key}", DATA)
        left.store.objects.put(manifest_key(unit_of("out"), Version(1, "i1")), encode_manifest(manifest))

    def test_the_script_is_sound(self, left):
        """What these tests write is read where it does not lie."""
        self.put(left, StoredEntry(ROOT), file_at("a"))
        assert left.read("out/a") == DATA

    @pytest.mark.parametrize(
        "entries",
        [
            [StoredEntry(ROOT), file_at("../evil")],
            [StoredEntry(ROOT), file_at("/etc/evil")],
            [StoredEntry(ROOT), file_at("a/../../evil")],
            [StoredEntry(ROOT), file_at("./a")],
            [StoredEntry(ROOT), file_at("a\0b")],
            [StoredEntry(ROOT), file_at("x" * 300)],
            [StoredEntry(ROOT), file_at("a"), file_at("a")],
            [StoredEntry(ROOT), file_at("a"), file_at("a/b")],
            [StoredEntry(ROOT), entry("l", Kind.SYMLINK, link_target="/etc"), file_at("l/passwd")],
            [StoredEntry(ROOT), file_at("missing/b")],
            [StoredEntry(ROOT), entry("gone", Kind.REMOVED)],
            [file_at("a")],
            [file_at(""), file_at("a")],
            [StoredEntry(ROOT), StoredEntry(ROOT)],
            [
                StoredEntry(ROOT),
                dataclasses.replace(file_at("a"), entry=Entry("a", Kind.FILE, 2**62, 0o644, 1)),
            ],
            [StoredEntry(ROOT), file_at("a", extents=(Extent(0, 2**63, 10),))],
        ],
        ids=range(16),
    )
    def test_names_and_numbers_that_cannot_be(self, left, entries):
        """They are IntegrityError at once, for whatever is asked."""
        self.put(left, *entries)
        for ask in (
            left.exists,
            left.get,
            lambda: list(left.origins.list(Location("train", "out"))),
            lambda: left.read("out/a"),
        ):
            with pytest.raises(IntegrityError):
                ask()
        assert os.listdir(left.copies) == []

    def test_digests_without_end_are_refused_at_once(self, left):
        """A file of 4 EiB in chunks of a byte is not counted chunk by chunk."""
        huge = StoredEntry(
            Entry("a", Kind.FILE, 2**62, 0o644, 1), (), (Extent(0, 0, 2**62),), chunk_digest(DATA)
        )
        began = time.monotonic()
        self.put(
            left,
            StoredEntry(ROOT),
            huge,
            chunk_bytes=1,
            objects=[StoredObject(f"00000001-i1/{unit_of('out')}-aa-00000", 2**62)],
        )
        with pytest.raises(IntegrityError):
            left.exists()
        assert time.monotonic() - began < 20

    def test_set_id_bits_are_refused(self, left):
        """As of a peer: nobody is given a program that runs as another user."""
        self.put(
            left,
            StoredEntry(ROOT),
            dataclasses.replace(file_at("a"), entry=Entry("a", Kind.FILE, 10, 0o4755, 1)),
        )
        with pytest.raises(ProtocolViolation, match="mode"):
            left.get()

    def test_links_that_leave_the_tree_are_not_made(self, left):
        """They are skipped and named, as those of a live Work."""
        self.put(left, StoredEntry(ROOT), entry("l", Kind.SYMLINK, link_target="../../etc"))
        target, transfer = left.get()
        assert (os.listdir(target), transfer.skipped) == ([], ("l",))

    def test_a_store_cannot_say_that_files_are_in_place(self, left, tmp_path):
        """A consumer never reads its own files because a manifest from elsewhere tells it to."""
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "a").write_bytes(DATA)
        self.put(
            left, StoredEntry(ROOT), file_at("a", extents=()), objects=[], in_place=str(secret), path="out"
        )
        for ask in (left.exists, left.get):
            with pytest.raises(IntegrityError, match="not kept"):
                ask()

    def test_in_place_is_only_the_storage_root_of_the_work(self, make, tmp_path):
        """Nor does one in place lead out of it."""
        placed = make("in-place")
        (tmp_path / "secret" / "out").mkdir(parents=True)
        manifest = placed.publish()
        key = manifest_key(unit_of("out"), manifest.version)
        placed.store.objects.remove([key])
        lie = dataclasses.replace(manifest, in_place=str(tmp_path / "secret"))
        placed.store.objects.put(key, encode_manifest(lie))
        placed.store._decoded.clear()
        with pytest.raises(IntegrityError, match="not kept"):
            placed.get()

    def test_the_manifest_of_another_artifact(self, left):
        """A manifest that was copied to another name is not taken for it."""
        (left.root / "out" / "a").write_text("1")
        left.publish()
        data = left.store.objects.read(left.store.versions()[0].key)
        left.store.objects.put(manifest_key(unit_of("other"), Version(1, "i1")), data)
        with pytest.raises(IntegrityError, match="of another artifact"):
            left.exists("other")

    def test_numbers_of_versions_do_not_run_out(self, left):
        """A file with a version of the greatest number keeps nobody from publishing."""
        (left.root / "out" / "a").write_text("1")
        left.publish()
        left.store.objects.put(f"manifests/{unit_of('out')}/9999999999999999999-x", b"nonsense")
        (left.root / "out" / "a").write_text("2")
        left.publish()
        assert left.read("out/a") == b"2"

    def test_removing_touches_nothing_but_the_store(self, left, tmp_path):
        """What a link in the store leads to, and files of others in it, stay."""
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "thesis").write_text("1")
        (left.root / "out" / "a").write_text("1")
        left.publish()
        top = f"{left.url.removeprefix('file://')}/train"
        os.symlink(mine, f"{top}/data/link")
        with open(f"{top}/data/README", "w") as file:
            file.write("keep me")
        left.store.remove(left.store.versions(), now=time.time() + 10**9)
        assert (mine / "thesis").exists()
        assert os.path.exists(f"{top}/data/README")
        os.unlink(f"{top}/data/README")
        os.unlink(f"{top}/data/link")
        os.rmdir(f"{top}/data")
        os.symlink(mine, f"{top}/data")
        left.store.remove([], now=time.time() + 10**9)
        assert (mine / "thesis").exists()

    def test_an_absolute_path_is_not_one_of_the_storage_root(self, left):
        """A Work that published its whole storage root has not published /out."""
        (left.root / "out" / "a").write_text("1")
        left.publish("")
        assert left.exists("out/a")
        assert not left.exists("/out/a")


@pytest.mark.slow
class TestSlow:
    def hang(self, left, monkeypatch, method, keys=""):
        over = threading.Event()
        original = getattr(type(left.store.objects), method)

        def wait(self, key, *rest, **options):
            if str(key).startswith(keys):
                over.wait(60)
            return original(self, key, *rest, **options)

        monkeypatch.setattr(type(left.store.objects), method, wait)
        return over

    def test_a_manifest_that_comes_late_finds_its_bytes(self, left, monkeypatch):
        """Where no answer to the manifest came in time, what it names stays: it may be there after all."""
        (left.root / "out" / "a").write_bytes(os.urandom(MIB))
        over = self.hang(left, monkeypatch, "put", "manifests/")
        with pytest.raises(TransferTimeout):
            left.publish(deadline=time.monotonic() + 2)
        over.set()
        wait_until(left.store.versions)
        assert left.read("out/a") == (left.root / "out" / "a").read_bytes()

    def test_an_object_that_hangs_ends_a_publication_in_time(self, left, monkeypatch):
        """The deadline holds, and a moment more in which what was written is taken back."""
        (left.root / "out" / "a").write_bytes(os.urandom(MIB))
        over = self.hang(left, monkeypatch, "put", "data/")
        began = time.monotonic()
        with pytest.raises(TransferTimeout):
            left.publish(deadline=time.monotonic() + 1)
        assert time.monotonic() - began < 20
        over.set()

    @pytest.mark.parametrize(
        ("method", "keys"), [("list", "manifests"), ("read", "manifests"), ("read", "data")]
    )
    def test_a_get_ends_in_its_time(self, left, monkeypatch, method, keys):
        """timeout= bounds all of it, whichever request hangs."""
        (left.root / "out" / "a").write_bytes(os.urandom(MIB))
        left.publish()
        left.store._decoded.clear()
        over = self.hang(left, monkeypatch, method, keys)
        began = time.monotonic()
        with pytest.raises(TransferTimeout):
            left.get(timeout=1)
        assert time.monotonic() - began < 20
        over.set()

    def test_contact_lost_in_mid_get_is_taken_up_again(self, left, monkeypatch):
        """A store that is out of reach for a moment costs time, and no byte twice of what is journaled."""
        (left.root / "out" / "a").write_bytes(os.urandom(40 * MIB))
        left.publish()
        original, failures = type(left.store.objects).read, []

        def fail_twice(self, key, start=0, size=None):
            if key.startswith("data/") and key.endswith("3") and len(failures) < 2:
                failures.append(key)
                raise OriginUnavailable("the store is out of reach")
            return original(self, key, start, size)

        monkeypatch.setattr(type(left.store.objects), "read", fail_twice)
        target, _ = left.get()
        assert (target / "a").read_bytes() == (left.root / "out" / "a").read_bytes()
        assert len(failures) == 2


class TestPublishing:
    @pytest.mark.root
    def test_a_full_disk_leaves_nothing_behind(self, make, tmp_path):
        """ENOSPC of the store is raised as it is; no version is seen, and what was written is gone."""
        mount = tmp_path / "store"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", mount], check=True)
        try:
            left = make("file")
            (left.root / "out" / "a").write_text("1")
            left.publish()
            (left.root / "out" / "b").write_bytes(os.urandom(20 * MIB))
            with pytest.raises(OSError) as caught:
                left.publish()
            assert caught.value.errno == errno.ENOSPC
            assert len(left.store.versions()) == 1
            assert len(left.store.objects.list("data")) == 1
            assert left.read("out/a") == b"1"
            os.unlink(left.root / "out" / "b")
            left.publish()
        finally:
            subprocess.run(["umount", mount], check=True)

    def test_another_attempt_at_the_same_version(self, left, monkeypatch):
        """Who publishes in place of a Work that was killed while it did is not stopped by its objects."""
        (left.root / "out" / "a").write_bytes(os.urandom(MIB))
        version = left.store.next_version("i1")

        class Killed(BaseException):
            pass

        def die(self, manifest):
            self._decided = True  # a process that is killed takes nothing back
            self._send()
            while self._under_way:
                self._wait(self._under_way.popleft())
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr("lit_storage_core.artifacts.writer.Writer.commit", die)
            with pytest.raises(Killed):
                publish(left.store, left.shares, "out", version, machine_id="machine")
        assert len(stored_files(left, "data")) == 1
        publish(left.store, left.shares, "out", version, machine_id="machine", unclean=True)
        assert left.read("out/a") == (left.root / "out" / "a").read_bytes()

    def test_a_put_that_was_made_twice_is_one(self, left, monkeypatch):
        """A client that asks again because the answer was lost finds its own object: that is no conflict."""
        original = type(left.store.objects).put

        def twice(self, key, data):
            original(self, key, data)
            original(self, key, data)

        monkeypatch.setattr(type(left.store.objects), "put", twice)
        (left.root / "out" / "a").write_text("1")
        left.publish()
        assert left.read("out/a") == b"1"

    def test_a_store_without_times_loses_nothing_under_way(self, left, monkeypatch):
        """Where the store does not say how old an object is, it does not count as old."""
        listed = type(left.store.objects).list
        monkeypatch.setattr(
            type(left.store.objects),
            "list",
            lambda self, prefix: [each._replace(modified=0.0) for each in listed(self, prefix)],
        )
        left.store.objects.put("data/00000009-ix/out-abc-00000", b"under way")
        left.store.remove([], now=time.time() + 10**9)
        assert len(left.store.objects.list("data")) == 1

    @pytest.mark.root
    def test_a_file_that_the_work_could_not_write_is_not_published(self, as_nobody, public_directory):
        """As with a live Work: nothing of the path is, and the file is named."""
        os.mkdir(f"{public_directory}/root", 0o777)
        os.chmod(f"{public_directory}/root", 0o777)
        os.mkdir(f"{public_directory}/root/out")
        os.chmod(f"{public_directory}/root/out", 0o777)
        with open(f"{public_directory}/root/out/foreign", "w") as file:
            file.write("root's")
        os.chmod(f"{public_directory}/root/out/foreign", 0o644)
        said = as_nobody(
            """
            from lit_storage_core.artifacts.urls import open_store
            from lit_storage_proto.errors import AccessDenied
            from lit_storage_proto.limits import Limits
            from lit_storage_server.publishing.publish import publish
            from lit_storage_server.sources.shares import Shares
            """,
            """
            store = open_store(f"file://{sys.argv[1]}/store", "train", limits=Limits(), create=True)
            shares = Shares(f"{sys.argv[1]}/root", name="train")
            try:
                publish(store, shares, "out", store.next_version("i1"), machine_id="m")
            except AccessDenied as error:
                print(error, len(store.versions()))
            """,
            public_directory,
        )
        assert "out/foreign" in said
        assert said.endswith(" 0")


def test_nothing_was_ever_published(make):
    """A Work without artifacts is absent, and that is said as ever."""
    left = make("file")
    left.registry.update_work(dataclasses.replace(left.registry.work("train"), artifacts_url=""))
    assert not left.exists()
    with pytest.raises(PathNotFound, match="'train' is not running"):
        left.get()


def test_a_store_that_refuses_is_no_absence(make, monkeypatch):
    """AccessDenied of the store is raised, and is no "no"."""
    left = make("file")
    left.publish()

    def refuse(self, prefix):
        raise AccessDenied("the store refuses this process")

    monkeypatch.setattr(type(left.store.objects), "list", refuse)
    with pytest.raises(AccessDenied):
        left.exists()


def test_a_version_that_is_replaced_while_it_is_read(make, monkeypatch):
    """A reader that listed what is gone by now looks again, and never says "absent"."""
    placed = make("in-place")
    (placed.root / "out" / "a").write_text("1")
    placed.publish()
    read, replaced = type(placed.store.objects).read, []

    def replace_first(self, key, *rest):
        if not replaced:
            replaced.append(key)
            placed.publish()
        return read(self, key, *rest)

    monkeypatch.setattr(type(placed.store.objects), "read", replace_first)
    assert placed.exists("out/a")
    assert replaced


@pytest.mark.slow
def test_many_threads_read_many_manifests(make):
    """A store may be used from any thread."""
    left = make("memory")
    for number in range(8):
        (left.root / f"p{number}").write_text(str(number))
        left.publish(f"p{number}")
    wrong = []

    def look(number):
        try:
            for _ in range(30):
                assert left.read(f"p{number}") == str(number).encode()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


@pytest.mark.parametrize(
    ("changed_ns", "hides"), [(10**18 + 10**7, True), (10**18 - 10**9 - 1, False), (10**18 - 10**9, True)]
)
def test_tokens_of_files_that_may_change_unseen(changed_ns, hides):
    """A change within a tick, or within a second where a file system keeps no less, brings the token back."""
    from lit_storage_core.system.version_token import _TOKEN, may_hide_a_change

    assert may_hide_a_change(_TOKEN.pack(1, 1, changed_ns, 1, 1), 10**18) is hides
