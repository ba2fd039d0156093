"""A manifest comes back as it was, or is refused: cut short, altered, or saying what cannot be."""

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_storage_proto.artifact import (
    Extent,
    Manifest,
    StoredEntry,
    StoredObject,
    Version,
    is_unit,
    key_version,
    unit_of,
)
from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import IntegrityError, ProtocolViolation
from lit_storage_proto.manifest_codec import check_places, decode_manifest, encode_manifest

names = st.one_of(st.text(max_size=30), st.binary(max_size=30).map(os.fsdecode)).filter(
    lambda name: "\0" not in name
)
DIRECTORY = Entry("", Kind.DIRECTORY, 0, 0o755, 1)
OBJECT = StoredObject("00000001-i1/outputs-abc-00000", 100)


def file_entry(size: int, path: str = "model.bin") -> Entry:
    return Entry(path, Kind.FILE, size, 0o644, 5, "", b"v1", True)


def stored(size: int = 10, **fields) -> StoredEntry:
    values = {"extents": (Extent(0, 0, size),), "digests": b"d" * 16 * -(-size // 4)}
    return StoredEntry(file_entry(size), **{**values, **fields})


def manifest(*files: StoredEntry, **fields) -> Manifest:
    whole = Manifest(
        "train", "outputs", Version(1, "i1"), 7, "machine", 4, [StoredEntry(DIRECTORY), *files], [OBJECT]
    )
    return dataclasses.replace(whole, **fields)


def decode(value: Manifest) -> Manifest:
    return decode_manifest(encode_manifest(value), where="m")


def test_every_field_comes_back():
    """decode_manifest returns what encode_manifest was given, field by field."""
    value = manifest(
        stored(10), stored(20, spans=((4, 9), (12, 20)), extents=(Extent(0, 10, 13),), digests=b"x" * 64)
    )
    value = dataclasses.replace(value, unclean=True)
    assert decode(value) == value


@pytest.mark.slow
@given(name=names, path=names, target=names)
def test_any_name_comes_back(name, path, target):
    """Names that are not UTF-8 come back too: of the path, the directory, an entry and a link."""
    link = StoredEntry(Entry(name, Kind.SYMLINK, 0, 0o777, 1, target))
    value = manifest(link, path=path, in_place="/" + path, objects=[])
    assert decode(value) == value


@pytest.mark.parametrize("place", ["hub/blobs/x", "/cache/blobs/x", os.fsdecode(b"blobs/\xff"), "a/@x", "."])
def test_where_a_followed_file_lies_comes_back(place):
    """Below the storage root or absolute, whatever its name."""
    value = manifest(stored(extents=(), place=place), in_place="/root", objects=[])
    assert decode(value) == value


@pytest.mark.parametrize(
    "place", ["../x", "a/../x", "/a/..", "a//x", "a/", "./x", "/", "//x", "a\0b", "@other/x", ".staging/x"]
)
def test_a_place_that_cannot_be_is_refused(place):
    """It leads out, or to what is kept for copies, or has another spelling than one."""
    with pytest.raises(IntegrityError):
        decode(manifest(stored(extents=(), place=place), in_place="/root", objects=[]))


def test_only_what_is_in_place_has_a_place():
    """Of what lies in objects, and of a link, nothing says that it lies elsewhere."""
    link = StoredEntry(Entry("l", Kind.SYMLINK, 0, 0o777, 1, "x"), place="x")
    for wrong in (manifest(stored(place="x")), manifest(link, in_place="/root", objects=[])):
        with pytest.raises(IntegrityError):
            decode(wrong)


def test_a_removed_path_needs_no_entries():
    """A manifest may say that there is nothing any more."""
    value = manifest(entries=[], objects=[], removed=True)
    assert decode(value).removed


@pytest.mark.parametrize("cut", [0, 1, 8, 20, -1])
def test_a_manifest_cut_short_is_refused(cut):
    """Whatever is missing at the end, it is no manifest."""
    with pytest.raises(IntegrityError, match="'?here'? is cut short or damaged"):
        decode_manifest(encode_manifest(manifest(stored()))[:cut], where="here")


def test_every_flipped_byte_is_noticed():
    """No byte of a manifest can change without its being noticed."""
    data = encode_manifest(manifest(stored()))
    for index in range(len(data)):
        changed = bytearray(data)
        changed[index] ^= 1
        with pytest.raises(IntegrityError):
            decode_manifest(bytes(changed), where="m")


def test_another_format_is_refused():
    """What is sealed but begins otherwise is of another version of this product, and no damaged one."""
    data = b"LITARTF9" + encode_manifest(manifest(stored()))[8:-16]
    with pytest.raises(ProtocolViolation, match="upgrade"):
        decode_manifest(data + chunk_digest(data), where="m")


@pytest.mark.parametrize(
    "wrong",
    [
        manifest(stored(extents=(Extent(1, 0, 10),))),
        manifest(stored(extents=(Extent(0, 95, 10),))),
        manifest(stored(extents=(Extent(0, 0, 9),))),
        manifest(stored(extents=(Extent(0, 0, 10), Extent(0, 10, 1)))),
        manifest(stored(extents=(Extent(0, 0, 6), Extent(0, 6, 4)))),  # the second chunk lies in both
        manifest(stored(extents=())),
        manifest(stored(digests=b"d" * 47)),
        manifest(stored(digests=b"d" * 64)),
        manifest(stored(spans=((0, 11),))),
        manifest(stored(spans=((5, 9), (2, 3)))),
        manifest(stored(), objects=[StoredObject("../../etc/passwd", 100)]),
        manifest(stored(), objects=[StoredObject("00000001-../x-00000", 100)]),
        manifest(stored(), chunk_bytes=0),
        manifest(stored(), chunk_bytes=1 << 30),
        manifest(stored(), version=Version(1, "../x")),
        manifest(entries=[]),
    ],
    ids=range(16),
)
def test_what_cannot_be_is_refused(wrong):
    """A sealed manifest that does not fit together is damaged all the same."""
    with pytest.raises(IntegrityError):
        decode(wrong)


def test_chunks_of_runs():
    """Chunks are counted anew in each run, and lie one after the other in the extents."""
    file = stored(
        20,
        spans=((4, 9), (12, 20)),
        extents=(Extent(0, 10, 9), Extent(1, 0, 4)),
        digests=b"".join(bytes([n]) * 16 for n in range(4)),
    )
    chunks = [(c.offset, c.size, c.object, c.position, c.digest[0]) for c in file.chunks(4)]
    assert chunks == [(4, 4, 0, 10, 0), (8, 1, 0, 14, 1), (12, 4, 0, 15, 2), (16, 4, 1, 0, 3)]


def test_a_file_that_is_one_hole_has_no_chunks():
    """Neither runs nor digests: all of it is a hole."""
    assert (list(stored(10, extents=(), digests=b"").chunks(4)), stored(10, digests=b"").data) == ([], ())


def test_the_greatest_version_is_the_newest():
    """Versions are ordered by number, and by instance where two publish at once."""
    assert max(Version(9, "b"), Version(10, "a"), Version(10, "c")) == Version(10, "c")
    assert Version.parse(str(Version(10, "a-b"))) == Version(10, "a-b")
    assert Version.parse("10-a") is None


@given(names)
def test_units_are_names_for_any_store(path):
    """Whatever a declared path is called, its unit is one part of a path."""
    unit = unit_of(path)
    assert is_unit(unit)
    assert key_version(f"00000001-i1/{unit}-00000") == Version(1, "i1")


def test_units_differ():
    """Paths that look alike are different units, and each can be recognised."""
    units = {unit_of(path) for path in ("a/b", "a_b", "/a/b", "a//b")}
    assert len(units) == 4
    assert all(unit.startswith("a_b-") for unit in units)


def test_a_manifest_that_no_reader_accepts_is_not_written():
    """Where an entry is placed is checked before the manifest replaces one that can be read."""
    entry = StoredEntry(Entry("a", Kind.FILE, 0), place="@other/f")
    manifest = Manifest("train", "out", Version(1, "i1"), 1, "m", 1, [entry], [], in_place="/r/works/train")
    with pytest.raises(IntegrityError, match="'a' is said to lie where it cannot"):
        check_places(manifest)
