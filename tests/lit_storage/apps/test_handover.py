"""Paths of other Works, fetched before run."""

import threading

from lit_storage import Path
from lit_storage.apps.handover import _outermost, fetch_all


def test_only_outermost_paths_are_fetched():
    """A tree brings what lies in it; a neighbour with a longer name is not in it."""
    paths = [Path("/r/a/b"), Path("/r/a"), Path("/r/ab"), Path("/r/a/c/d"), Path("/r/a")]
    assert [str(path) for path in _outermost(paths)] == ["/r/a", "/r/ab"]


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
