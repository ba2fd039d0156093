"""Which arguments name files that are not handed over, and what is said of them."""

import pathlib

import pytest

from lit_storage import Path
from lit_storage.apps.arguments import pack
from lit_storage.apps.plain_paths import warnings_of
from lit_storage.paths import home
from lit_storage.paths.home import Home
from tests.lit_storage.apps.containers import KINDS


def warned(*args, **kwargs):
    return list(warnings_of(pack(args, kwargs, "deploy"), "Deploy"))


@pytest.fixture(autouse=True)
def flow_home():
    """This process is that of a Flow with the root /r."""
    home.expect(Home(None, "/r/flow", ""))


@pytest.mark.parametrize("wrap", [lambda path: path, str, Path, lambda path: {"k": (str(path),)}])
def test_an_existing_plain_path_is_warned_of(tmp_path, wrap):
    """A str with a separator and a path object without an origin are paths if something is there."""
    (warning,) = warned(wrap(tmp_path))
    assert repr(str(tmp_path)) in warning
    assert "as a plain path" in warning


@pytest.mark.parametrize(
    "text",
    [
        "lit://@train/out",
        "/r/flow/@train/out",
        "/r/flow/@train",
        "/r/works/deploy/@train/out",
        "/r/x/../flow/@t/a",
    ],
)
@pytest.mark.parametrize("wrap", KINDS.values(), ids=KINDS)
def test_text_that_means_a_path_is_warned_of(text, wrap):
    """Whether or not anything is there, and wherever pickle finds it."""
    (warning,) = warned(wrap(text))
    assert repr(text) in warning
    assert "pass the Path itself" in warning


@pytest.mark.parametrize("text", ["lit:/@train/out", "LIT://@train/out"])
def test_a_mistyped_uri_is_warned_of(text):
    """The warning says how to write it."""
    (warning,) = warned(text)
    assert "write 'lit://@train/out'" in warning


@pytest.mark.parametrize("make", [pathlib.Path, Path])
def test_a_path_object_without_origin_is_judged_by_its_text(make):
    """As made from an f-string."""
    (warning,) = warned(make("/r/flow/@train/out"))
    assert "pass the Path itself" in warning


@pytest.mark.parametrize(
    "value",
    ["tests", "/no/such/path", "a\0/b", "lit://out", "lit://", "see lit://@train/out", "/r/flow/out",
     "/r/works/@x/a", "/s/flow/@train/out", "me@host/@x", 1, None, Path("lit://@train/out"), Path("lit://out")],
)  # fmt: skip
def test_other_values_are_not_warned_of(value):
    """A bare word, what does not exist, and Paths that are handed over."""
    assert warned(value) == []


def test_a_long_list_makes_a_few_warnings():
    """The first texts are named, and the others counted; a text that comes twice counts once."""
    texts = [f"lit://@train/{number}" for number in range(10_000)]
    warnings = warned(texts, texts)
    assert len(warnings) == 3
    assert "'lit://@train/2' and 9997 more are passed" in warnings[-1]
