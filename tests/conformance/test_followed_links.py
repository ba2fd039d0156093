"""What is published of a Work that follows links, in every store: files, found again where they lie."""

import os

import pytest

from lit_storage_core.artifacts.stream import ArtifactStream
from lit_storage_core.artifacts.tree import Item
from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import PathNotFound, SourceChanged
from lit_storage_proto.limits import MIB
from lit_storage_proto.tree_options import TreeOptions

S3 = [pytest.param(name, marks=pytest.mark.slow) for name in ("rclone", "moto")]
BIG = os.urandom(2 * MIB + 5)


def fill(work, tmp_path):
    """Make a published tree of links: within the storage root, and into a cache that is only shared."""
    out, cache = work.root / "out", tmp_path / "cache"
    for directory in (work.root / "blobs/deep", cache / "deep/er", out / "sub"):
        directory.mkdir(parents=True)
    (work.root / "blobs/config").write_text("{}")
    (work.root / "blobs/deep/f").write_text("deep")
    (cache / "weights").write_bytes(BIG)
    (cache / "deep/g").write_text("far")
    (cache / "deep/er/h").write_text("farther")
    (out / "plain").write_text("plain")
    (out / "config").symlink_to("../blobs/config")
    (out / "sub/tree").symlink_to(work.root / "blobs/deep")
    (out / "weights").symlink_to(cache / "weights")
    (out / "far").symlink_to(os.path.relpath(cache / "deep", out))
    (out / "leaves").symlink_to("/etc/hostname")
    work.shares.declare(str(cache))
    work.shares.follow_links = True


EXPECTED = {
    "plain": b"plain",
    "config": b"{}",
    "sub/tree/f": b"deep",
    "weights": BIG,
    "far/g": b"far",
    "far/er/h": b"farther",
}


def content_of(tree):
    paths = [path for path in tree.rglob("*") if not path.is_dir()]
    assert not any(path.is_symlink() for path in tree.rglob("*"))
    return {str(path.relative_to(tree)): path.read_bytes() for path in paths}


@pytest.fixture(params=["in-place", "file", "memory", *S3])
def left(request, make, tmp_path):
    work = make(request.param)
    fill(work, tmp_path)
    return work


@pytest.fixture
def in_place(make, tmp_path):
    work = make("in-place")
    fill(work, tmp_path)
    work.publish()
    return work


@pytest.mark.parametrize("symlinks", [None, "keep", "follow"])
def test_what_links_mean_comes_back(left, symlinks):
    """Files of the storage root and of other shares are there without a link, and the rest is named."""
    manifest = left.publish()
    assert not any(stored.entry.kind is Kind.SYMLINK for stored in manifest.entries)
    target, transfer = left.get(symlinks=symlinks)
    assert (content_of(target), transfer.skipped) == (EXPECTED, ("leaves",))


def test_one_file_and_a_part_of_it(left):
    """A followed file, and one below a followed directory, can be read by themselves."""
    left.publish()
    assert left.read("out/weights", offset=MIB, length=9) == BIG[MIB : MIB + 9]
    assert left.read("out/far/g") == b"far"
    assert left.get("out/sub/tree", "one")[0].joinpath("f").read_text() == "deep"
    assert content_of(left.get("out/far/er", "two")[0]) == {"h": b"farther"}
    assert not left.exists("out/far/er/none")


def test_a_second_version(left):
    """What is published again has what changed behind a link, and reads the rest as before."""
    left.publish()
    (left.root / "blobs/config").write_text("{1}")
    (left.root / "out/late").symlink_to("../blobs/config")
    left.publish()
    assert content_of(left.get()[0]) == {**EXPECTED, "config": b"{1}", "late": b"{1}"}


def test_a_declared_path_that_is_a_link(left, tmp_path):
    """It means the same file when the Work has stopped, wherever among its shares that lies."""
    (left.root / "best").symlink_to(tmp_path / "cache/weights")
    (left.root / "all").symlink_to(tmp_path / "cache/deep")
    for follows in (True, False):
        left.shares.follow_links = follows
        left.publish("best")
        left.publish("all")
        assert left.read("best") == BIG
        assert content_of(left.get("all")[0]) == {"g": b"far", "er/h": b"farther"}


def test_a_link_to_the_storage_root(left, tmp_path):
    """From another share the whole root comes without reserved names, and can be read by itself."""
    (tmp_path / "cache/all").symlink_to(left.root)
    (left.root / "@other").mkdir()
    left.publish(str(tmp_path / "cache"))
    assert left.read(f"{tmp_path}/cache/all/blobs/config") == b"{}"
    names = {path.name for path in left.get(f"{tmp_path}/cache/all")[0].iterdir()}
    assert names == {"out", "blobs"}


def test_places_are_noted_only_where_they_differ(in_place, tmp_path):
    """Below the storage root a place is relative, so that the root may move."""
    manifest = in_place.publish()
    places = {stored.entry.path: stored.place for stored in manifest.entries if stored.place}
    assert places == {
        "config": "blobs/config",
        "sub/tree": "blobs/deep",
        "sub/tree/f": "blobs/deep/f",
        "weights": f"{tmp_path}/cache/weights",
        "far": f"{tmp_path}/cache/deep",
        "far/g": f"{tmp_path}/cache/deep/g",
        "far/er": f"{tmp_path}/cache/deep/er",
        "far/er/h": f"{tmp_path}/cache/deep/er/h",
    }


def swap(path, target):
    """Put a link in the place of a file or directory."""
    path.rename(path.with_name("moved"))
    path.symlink_to(target)


@pytest.mark.parametrize(
    "attack",
    [
        lambda cache, secret: swap(cache / "weights", secret / "weights"),
        lambda cache, secret: swap(cache, secret),
        lambda cache, secret: (cache / "weights").write_bytes(BIG[::-1]),
        lambda cache, secret: (cache / "weights").unlink(),
        lambda cache, secret: ((cache / "weights").unlink(), os.mkfifo(cache / "weights")),
    ],
)
def test_nothing_else_is_read_at_a_place(in_place, tmp_path, attack):
    """Who changes what lies there, or puts a link on the way, gets no byte of another file sent."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/weights").write_bytes(BIG)
    attack(tmp_path / "cache", tmp_path / "secret")
    with pytest.raises((SourceChanged, PathNotFound)):
        in_place.read("out/weights")
    with pytest.raises(SourceChanged):
        in_place.get()


def test_a_link_that_changes_later_changes_nothing(in_place, tmp_path):
    """The place counts that was published, and not where the link leads by now."""
    (in_place.root / "out/config").unlink()
    (in_place.root / "out/config").symlink_to("/etc/hostname")
    assert in_place.read("out/config") == b"{}"


def test_a_reader_that_knows_no_places(in_place):
    """It finds a link where the file should be, and says that the file changed; it reads nothing else."""
    manifest = in_place.store.manifest(in_place.store.versions()[0])
    for stored in manifest.entries:
        stored.place = ""
    items = [Item(stored.entry, stored) for stored in manifest.entries]
    with (
        ArtifactStream(in_place.store, manifest, items, TreeOptions()) as stream,
        pytest.raises(SourceChanged),
    ):
        list(stream)
