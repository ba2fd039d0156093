"""Text that was probably meant as a URI is warned of, with what to write."""

import os
import warnings

import pytest

from lit_storage.paths.path import Path


def warnings_of(use):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use()
    return caught


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("lit:/@t/x", "'lit://@t/x'"),
        ("lit:@t/x", "'lit://@t/x'"),
        ("LIT://x", "'lit://x'"),
        ("Lit://@t/x", "'lit://@t/x'"),
        ("/work/lit:/@t/x", "'lit://@t/x'"),
        ("out/lit://x", "'lit://x'"),
    ],
)
def test_mistyped_text(text, right):
    """The warning names the text and what to write, and blames the line that wrote it."""
    (warning,) = warnings_of(lambda: Path(text))
    assert repr(text) in str(warning.message)
    assert right in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(
    "join",
    [
        lambda: Path("out") / "lit://x",
        lambda: Path("out").joinpath("a", "lit:/x"),
        lambda: Path("out", "lit://@t/x"),
    ],
)
def test_a_uri_is_joined(join):
    """A URI behind another path is a plain name there, which is warned of."""
    (warning,) = warnings_of(join)
    assert "this text alone" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(
    "text", ["lit://a", "lit://@t/x", "./lit:/x", "split:train/x", "a/split:/x", "lit:x", "C:/x", "lit", "a:"]
)
def test_other_text(text):
    """URIs and other names with a colon are not warned of, nor is "./lit:", which means a plain path."""
    assert warnings_of(lambda: Path(text)) == []


def test_deriving_from_a_uri():
    """What is derived from a path that has no place yet is not warned of."""
    path = Path("lit://@t/a/b.c")
    assert (
        warnings_of(
            lambda: [path.parent, *path.parents, path / "x", path.with_name("y"), path.with_suffix(".z")]
        )
        == []
    )


def test_what_is_found_in_a_directory(tmp_path, monkeypatch):
    """A directory of that name that is there can be listed and walked."""
    os.makedirs(tmp_path / "lit:" / "x")
    monkeypatch.chdir(tmp_path)
    assert (
        warnings_of(lambda: [*Path(".").rglob("*"), *Path(tmp_path).iterdir(), *Path("./lit:").iterdir()])
        == []
    )
