"""Paths among arguments: found wherever they are nested, and fetched once each."""

import threading

import pytest

from lit_storage import Path
from lit_storage.apps.handover import _outermost, fetch_all, find_paths, plain_paths, replace_paths

NESTED = {"a": [Path("x"), (Path("y"), {"b": Path("z")})], "c": 1}


def test_paths_are_found_in_containers():
    """list, tuple and dict are looked into."""
    assert [str(path) for path in find_paths(NESTED)] == ["x", "y", "z"]


def test_paths_are_replaced_in_containers():
    """Each Path is passed through the function, and the shape stays."""
    replaced = replace_paths(NESTED, lambda path: path / "1")
    assert replaced == {"a": [Path("x/1"), (Path("y/1"), {"b": Path("z/1")})], "c": 1}


def test_containers_without_a_change_keep_their_identity():
    """What holds no Path is the very same object afterwards."""
    value = {"numbers": [1, 2], "paths": [Path("x")]}
    replaced = replace_paths(value, lambda path: path / "1")
    assert replaced["numbers"] is value["numbers"]
    assert replace_paths(value, lambda path: path) is value


def test_only_outermost_paths_are_fetched():
    """A tree brings what lies in it; a neighbour with a longer name is not in it."""
    paths = [Path("/r/a/b"), Path("/r/a"), Path("/r/ab"), Path("/r/a/c/d"), Path("/r/a")]
    assert [str(path) for path in _outermost(paths)] == ["/r/a", "/r/ab"]


@pytest.mark.parametrize(
    "wrap", [lambda path: path, str, lambda path: [str(path)], lambda path: {"k": (path,)}]
)
def test_existing_plain_paths_are_found(tmp_path, wrap):
    """A str with a separator and a pathlib path are paths if something is there."""
    assert list(plain_paths(wrap(tmp_path))) == [str(tmp_path)]


@pytest.mark.parametrize("value", ["tests", "/no/such/path", "a\0/b", 1, None, Path("/")])
def test_other_values_are_no_plain_paths(value):
    """A bare word, what does not exist, and our own Paths are not reported."""
    assert list(plain_paths(value)) == []


def test_transfers_run_together_within_their_bound(monkeypatch):
    """As many run at once as are allowed, and no more: each waits until that many have begun."""
    begun = threading.Barrier(3, timeout=30)
    running, most, lock = set(), [], threading.Lock()

    def get(path, **options):
        with lock:
            running.add(path)
            most.append(len(running))
        begun.wait()
        with lock:
            running.discard(path)

    monkeypatch.setattr(Path, "get", get)
    fetch_all([Path(f"/r/{number}") for number in range(6)], workers=3)
    assert (len(most), max(most)) == (6, 3)
