"""A store whose manifests are sealed and lie: nobody holds, writes or removes more than there is."""

import contextlib
import dataclasses
import os

import pytest

from lit_storage_core.artifacts import tree
from lit_storage_core.artifacts.artifact import Artifact
from lit_storage_core.artifacts.urls import in_place_url, open_store
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
from lit_storage_proto.errors import IntegrityError
from lit_storage_proto.manifest_codec import encode_manifest
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_proto.uri import Location
from tests.hostile.neighbours.conftest import LIMITS

UNIT, VERSION, DATA = unit_of("out"), Version(1, "i1"), b"x" * 10
KEY = f"00000001-i1/{UNIT}-aa-00000"
ROOT = StoredEntry(Entry("", Kind.DIRECTORY, 0, 0o755, 1))
FILE = StoredEntry(Entry("a", Kind.FILE, 10, 0o644, 1), (), (Extent(0, 0, 10),), chunk_digest(DATA))


@pytest.fixture
def store(tmp_path):
    opened = open_store(f"file://{tmp_path}/store", "train", limits=LIMITS, create=True)
    yield opened
    opened.close()


def put(store, *entries, version=VERSION, **fields):
    manifest = Manifest("train", "out", version, 1, "m", 512 * 1024, entries, [StoredObject(KEY, 10)])
    manifest = dataclasses.replace(manifest, **fields)
    store.objects.put(manifest_key(UNIT, version), encode_manifest(manifest))


OBJECTS = [
    "../../../../etc/passwd",
    "/etc/passwd",
    "00000001-i1/../../x",
    f"00000001-i1/{UNIT}-aa-00000/../x",
    "http://127.0.0.1/x",
    "file:///etc/passwd",
    f"00000001-i1\n/{UNIT}-aa-00000",
    f"00000001-i1/{UNIT}-aa-00000\0",
    f"1-i1/{UNIT}-aa-00000",
    f"00000001-{'i' * 65}/{UNIT}-aa-00000",
    "",
    ".",
    "..",
    "manifests/x/00000001-i1",
]


@pytest.mark.parametrize("key", OBJECTS, ids=ascii)
def test_an_object_of_another_name_is_not_read(store, key):
    """A manifest that names an object outside of the store's grammar is damaged, for whoever reads it."""
    put(store, ROOT, FILE, objects=[StoredObject(key, 10)])
    with pytest.raises(IntegrityError):
        store.covering("out")


@pytest.mark.parametrize(
    "key",
    [
        "{base}/victim",
        "../../../victim",
        "../victim",
        "00000001-i1/../../victim",
        f"00000001-i1/{UNIT}-aa-00000/../../victim",
        "victim",
    ],
)
def test_removing_a_version_removes_no_other_file(store, tmp_path, key):
    """Nor does removing such a version remove what it names, which is there."""
    key = key.format(base=tmp_path)
    victim = os.path.normpath(os.path.join(tmp_path, "store", "train", "data", key))
    assert victim.startswith(str(tmp_path))
    os.makedirs(os.path.dirname(victim), exist_ok=True)
    with open(victim, "w") as file:
        file.write("kept")
    put(store, ROOT, FILE, objects=[StoredObject(key, 10)])
    store.remove(store.versions(), now=10**11)
    assert store.versions() == []
    assert os.path.exists(victim)


EXTENTS = [(0, 0, 11), (0, 1, 10), (1, 0, 10), (0, 2**63, 10), (0, 0, 0), (0, 5, 4), (2**63, 0, 10)]


@pytest.mark.parametrize("extent", EXTENTS, ids=str)
def test_bytes_outside_of_an_object_are_damage(store, extent):
    """An extent that is not all within an object, or does not fit its chunks, is damage."""
    put(store, ROOT, dataclasses.replace(FILE, extents=(Extent(*extent),)))
    with pytest.raises(IntegrityError):
        store.covering("out")


@pytest.mark.slow
def test_an_object_of_a_million_names_is_held_once(store):
    """One run of bytes that many files name is asked for once, and is no more in memory than once."""
    store.objects.put(f"data/{KEY}", DATA)
    files = [
        dataclasses.replace(FILE, entry=dataclasses.replace(FILE.entry, path=f"f{n}")) for n in range(5000)
    ]
    put(store, ROOT, *files)
    reads = []
    read = store.objects.read
    store.objects.read = lambda key, *rest: reads.append(key) or read(key, *rest)
    with Artifact.find(store, Location("train", "out")).stream(TreeOptions(), None) as stream:
        assert sum(len(chunk.data) for frame in stream for chunk in frame.chunks) == 50_000
    assert reads.count(f"data/{KEY}") == 1


def test_a_petabyte_that_is_a_hole_is_one_frame(store):
    """A file that is said to have a petabyte, and has no byte, is one hole."""
    put(store, ROOT, StoredEntry(Entry("a", Kind.FILE, 10**15, 0o644, 1)))
    with Artifact.find(store, Location("train", "out")).stream(TreeOptions(holes=True), None) as stream:
        assert [chunk.hole for frame in stream for chunk in frame.chunks] == [10**15]


def test_links_that_multiply_end(store, monkeypatch):
    """Links to one directory multiply what is in it only up to a number, and then it is an error."""
    monkeypatch.setattr(tree, "MOST_FOLLOWED", 1000)
    entries = [Entry("d", Kind.DIRECTORY, 0, 0o755, 1)]
    entries += [Entry(f"d/{n}", Kind.DIRECTORY, 0, 0o755, 1) for n in range(100)]
    entries += [Entry(f"l{n}", Kind.SYMLINK, 0, 0o777, 1, "d") for n in range(100)]
    put(store, ROOT, *map(StoredEntry, entries))
    artifact = Artifact.find(store, Location("train", "out"))
    with pytest.raises(IntegrityError, match='symlinks="keep"'):
        artifact.stream(TreeOptions(follow_links=True), None)


@pytest.mark.parametrize(
    "text", ["", "." * 60_000, "../" * 20_000 + "x", "d\0x", "/etc", "l0", "d/" * 30_000]
)
def test_the_text_of_a_link_leads_nowhere_else(store, text):
    """A link, whatever its text, is followed within the artifact or not at all."""
    put(store, ROOT, StoredEntry(Entry("l0", Kind.SYMLINK, 0, 0o777, 1, text)))
    artifact = Artifact.find(store, Location("train", "out"))
    with artifact.stream(TreeOptions(follow_links=True), None) as stream:
        entries = [entry for frame in stream for entry in frame.entries]
    assert [(entry.path, entry.kind) for entry in entries] == [("", Kind.DIRECTORY), ("l0", Kind.SKIPPED)]


def test_the_greatest_number_hides_no_later_version(store):
    """After a version of the greatest number none is written that nobody would find; the error says so."""
    store.objects.put(manifest_key(UNIT, Version(10**18 - 1, "x")), b"nonsense")
    with pytest.raises(IntegrityError, match="artifacts rm train --version 999999999999999999"):
        store.next_version("i2")


NAMES = [
    "00000001-i1/x",
    "x",
    "-1-i1",
    "٠٠٠٠٠٠٠١-i1",
    "00000001-i1\n",
    "00000001-",
    "1-i1",
    "9" * 19 + "-i",
    ".tmp-x",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_version_is_none(store, name):
    """What lies among manifests, and is not named as one, is neither listed nor read nor removed."""
    store.objects.put(f"manifests/{UNIT}/{name}", b"x")
    assert store.versions() == []
    assert store.covering("out") is None


@pytest.mark.parametrize("place", ["../../../secret", "@deploy/secret", "{base}/secret/../secret"])
def test_a_place_leads_to_no_file_that_the_work_could_not_have_followed(tmp_path, place):
    """A manifest in place that names a file out of the storage root by "..", or a copy, is damaged."""
    url = in_place_url(str(tmp_path), "m")
    (tmp_path / "works/train/@deploy").mkdir(parents=True)
    for path in ("secret", "works/train/@deploy/secret"):
        (tmp_path / path).write_bytes(DATA)
    file = dataclasses.replace(FILE, extents=(), place=place.format(base=tmp_path))
    with contextlib.closing(open_store(url, "train", limits=LIMITS, create=True)) as store:
        put(store, ROOT, file, objects=[], in_place=str(tmp_path / "works/train"))
        with pytest.raises(IntegrityError):
            store.covering("out")


def test_a_store_of_copies_names_no_file_of_this_machine(store, tmp_path):
    """Where a manifest should name objects, a place is damage, and no file is opened."""
    (tmp_path / "secret").write_bytes(DATA)
    for fields in ({}, {"in_place": str(tmp_path)}):
        version = Version(len(fields) + 1, "i1")
        put(store, ROOT, dataclasses.replace(FILE, extents=(), place="secret"), version=version, **fields)
    with pytest.raises(IntegrityError):
        store.covering("out")
