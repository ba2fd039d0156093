"""What holds for any names: URIs and values translate into each other, and nothing leaves its base."""

import os
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_storage.paths import home as homes
from lit_storage.paths import unattached
from lit_storage.paths.home import Home
from lit_storage.paths.path import Origin, Path, attach
from lit_storage_proto.uri import Location, is_reserved, normalise

NAMES = st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,3}(\.[a-z0-9_]{1,2})?", fullmatch=True)
PARTS = (
    st.binary(min_size=1, max_size=6)
    .map(os.fsdecode)
    .filter(lambda part: not set("/\0") & set(part) and part not in (".", ".."))
)
RELATIVE = st.lists(PARTS, max_size=4).map("/".join).filter(lambda path: not is_reserved(path))
PATHS = RELATIVE | RELATIVE.map(lambda path: "/" + path)
HOMES = st.builds(Home, NAMES | st.none(), st.just("/r/works/x"), st.just("m"))
WILD = st.lists(PARTS | st.sampled_from(["..", "@x", "@", ".staging", "."]), max_size=7).map("/".join)


@pytest.mark.slow
@given(NAMES, PATHS)
def test_unattached_spellings(name, path):
    """Text and value of an unattached path translate into each other, and mean the location."""
    location = Location(name, path)
    value = unattached.value_of_text(str(location))
    assert unattached.text_of_value(value) == str(location)
    assert unattached.location_of_value(value, name) == location
    assert str(Path(str(location))) == str(location)


@pytest.mark.slow
@given(HOMES, NAMES, PATHS)
def test_values(home, name, path):
    """A location of another Work and its value determine each other in every home."""
    if name == home.name:
        name += "x"
    location = Location(name, path)
    value = homes.value_of(home, location)
    assert homes.location_of(home, name, value) == location
    assert value == os.fspath(attach(Path(str(location)), Origin("train"), home))


@pytest.mark.slow
@given(HOMES, NAMES, WILD)
def test_no_way_out(home, name, path):
    """Whatever is joined, a location that comes out is one that the URI grammar allows, in its base."""
    if name == home.name:
        name += "x"
    location = homes.location_of(home, name, homes.base_of(home, name) + "/" + path)
    if location is not None:
        target = homes.value_of(home, location)
        assert normalise(location.path) == location.path
        assert not is_reserved(location.path)
        assert (target + "/").startswith(homes.base_of(home, name) + "/")


@pytest.mark.slow
@given(WILD)
def test_unattached_agrees_with_attached(path):
    """What an unattached path means is what it means once attached."""
    home = Home("train", "/r/works/train", "m")
    loose = Path("lit://@other") / path
    if os.path.isabs(path):
        return
    attached = attach(loose, Origin("train"), home)
    assert loose._location() == homes.location_of(home, "other", os.fspath(attached))


@settings(max_examples=50)
@given(NAMES, PATHS)
def test_pickle(name, path):
    """Any path comes back from pickle as it was."""
    loose = Path(str(Location(name, path)))
    again = pickle.loads(pickle.dumps(loose))
    assert (str(again), again.origin_name) == (str(loose), name)
