"""What differs between two looks at a directory."""

import os
import stat

import pytest

from lit_storage_server.sources.look import Difference, Seen


def status(mode=stat.S_IFREG | 0o644, inode=1, size=0, mtime=0, ctime=None):
    """A status with nanoseconds, which can be given apart from seconds only by their names."""
    times = {"st_mtime_ns": mtime, "st_ctime_ns": mtime if ctime is None else ctime}
    return os.stat_result((mode, inode, 0, 1, 0, 0, size, 0, 0, 0), times)


DIRECTORY = status(stat.S_IFDIR | 0o755, mtime=1)


def seen(files=(), subdirectories=(), directory=DIRECTORY):
    """What was seen of a directory, with files given as name and status."""
    seen = Seen(directory, 7)
    for name, of_file in dict(files).items():
        seen.add(name, of_file)
    seen.subdirectories = list(subdirectories)
    return seen


def difference(before, after, accept_growth=False):
    found = before.difference(after, accept_growth=accept_growth)
    return sorted(found.removed), sorted(found.changed), found.metadata


def test_nothing_differs():
    """Two looks at the same are no difference, which is false, in whatever order the names came."""
    files = {"a": status(inode=1), "b": status(inode=2)}
    again = seen(dict(reversed(files.items())), ["y", "x"])
    for later in (seen(files, ["x", "y"]), again):
        found = seen(files, ["x", "y"]).difference(later, accept_growth=False)
        assert (bool(found), found.names) == (False, [])


@pytest.mark.parametrize(
    "change", [{"size": 11}, {"mtime": 11, "ctime": 10}, {"ctime": 11}, {"inode": 11}, {"size": 9}]
)
def test_a_changed_file(change):
    """Size, time, time of the status and inode each make it another file."""
    fields = {"size": 10, "mtime": 10, "inode": 10}
    before, after = status(**fields), status(**{**fields, **change})
    same = status(inode=3)
    assert difference(seen({"a": before, "b": same}), seen({"a": after, "b": same})) == ([], ["a"], False)


def test_a_time_that_was_set_back():
    """A file whose time was set to what it was before is still another one by the time of its status."""
    assert difference(
        seen({"a": status(size=1, mtime=5, ctime=5)}), seen({"a": status(size=1, mtime=5, ctime=9)})
    ) == ([], ["a"], False)


def test_the_directory_itself():
    """Mode and time of the directory are told apart from its names."""
    for other in (status(stat.S_IFDIR | 0o700, mtime=1), status(stat.S_IFDIR | 0o755, mtime=2)):
        found = seen(directory=DIRECTORY).difference(seen(directory=other), accept_growth=False)
        assert (found.metadata, found.names, bool(found)) == (True, [], True)


@pytest.mark.parametrize(
    ("before", "after", "removed", "changed"),
    [
        (([], []), (["a"], []), [], ["a"]),
        ((["a"], []), ([], []), ["a"], []),
        (([], []), ([], ["d"]), [], []),
        (([], ["d"]), ([], []), ["d"], []),
        ((["a"], []), ([], ["a"]), ["a"], []),
        (([], ["a"]), (["a"], []), ["a"], ["a"]),
        ((["a", "b"], ["c"]), (["c", "d"], ["a"]), ["a", "b", "c"], ["c", "d"]),
    ],
)
def test_names_that_come_and_go(before, after, removed, changed):
    """What is gone or of the other kind is removed; what is new is changed; a new subdirectory neither."""
    looks = [seen({name: status() for name in files}, below) for files, below in (before, after)]
    assert difference(*looks) == (removed, changed, False)


def test_names_of_a_difference():
    """A name that is both removed and changed is named once."""
    assert Difference(["a", "b"], ["b", "c"]).names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"size": 11, "mtime": 20}, []),
        ({"size": 10, "mtime": 20}, ["a"]),  # other bytes in the same place
        ({"size": 10, "ctime": 20}, ["a"]),  # its mode
        ({"size": 9, "mtime": 20}, ["a"]),
        ({"size": 11, "mtime": 20, "inode": 2}, ["a"]),
        ({}, []),
    ],
)
def test_growth_that_is_accepted(change, changed):
    """Only a file that is the same one and longer counts as unchanged, and only where that was asked for."""
    fields = {"size": 10, "mtime": 10, "inode": 1}
    before, after = seen({"a": status(**fields)}), seen({"a": status(**{**fields, **change})})
    assert difference(before, after, accept_growth=True) == ([], changed, False)
    assert difference(before, after) == ([], ["a"] if change else [], False)


def test_new_and_removed_where_growth_is_accepted():
    """Growth is of what was there: a new name is changed, a missing one removed."""
    before, after = seen({"a": status()}), seen({"b": status()})
    assert difference(before, after, accept_growth=True) == (["a"], ["b"], False)


def test_keep():
    """What is kept is as if it had been added, without the names left out."""
    files = {name: status(inode=number, size=number) for number, name in enumerate("abcd")}
    kept = seen({"z": status(inode=9)})
    kept.keep(seen(files), without={"b", "d"})
    assert difference(kept, seen({"z": status(inode=9), "a": files["a"], "c": files["c"]})) == ([], [], False)
    assert kept.names == ["z", "a", "c"]


def test_large_numbers():
    """Inodes of 64 bits, as some network file systems have, and large sizes and times fit."""
    large = status(inode=2**64 - 1, size=2**62, mtime=2**62)
    other = status(inode=2**64 - 2, size=2**62, mtime=2**62)
    assert difference(seen({"a": large}), seen({"a": large})) == ([], [], False)
    assert difference(seen({"a": large}), seen({"a": other})) == ([], ["a"], False)


def test_the_number_of_the_entry():
    """What was seen knows under which number the directory was announced."""
    assert (seen().number, Seen(DIRECTORY).number) == (7, 0)
