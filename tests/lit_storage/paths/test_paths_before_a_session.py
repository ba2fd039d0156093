"""A Path that was made before the session: it keeps its value, and has its place in the session."""

import os
import pathlib
import pickle
import sys

import pytest

from lit_storage.paths import home as homes
from lit_storage.paths.home import Home
from lit_storage.paths.path import Path
from lit_storage_proto.errors import NotAttached


class Nobody:
    def refuse(self, action):
        pass


class Session:
    """Begins and ends the session of the Work "train"."""

    def __init__(self, root):
        self.root = os.path.realpath(root)

    def __enter__(self):
        homes.enter(Home("train", self.root, "m"), Nobody())
        return self.root

    def __exit__(self, *_):
        homes.leave()


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path)


OWN, FOREIGN = Path("lit://a/b"), Path("lit://@other/a")


@pytest.mark.parametrize("path", [OWN, FOREIGN])
def test_value_hash_and_text_do_not_change(session, path):
    """A Path in a set or as a key is found before, in and after a session."""
    before = hash(path), str(path), repr(path), path.parts, path.name
    with session:
        assert (hash(path), str(path), repr(path), path.parts, path.name) == before
        assert path in {path}
        assert path == type(path)(path) == path.parent / path.name
    assert (hash(path), str(path), repr(path), path.parts, path.name) == before


@pytest.mark.parametrize(
    ("text", "below_root"),
    [
        ("lit://a/b", "/a/b"),
        ("lit://", ""),
        ("lit://@train/a", "/a"),
        ("lit://@other/a", "/@other/a"),
        ("lit://@other//data/x", "/@other/@/data/x"),
    ],
)
def test_it_means_its_place_in_a_session(session, text, below_root):
    """The file system, pathlib and a Path that is made in the session agree on where it is."""
    path = Path(text)
    with session as root:
        place = root + below_root
        assert os.fspath(path) == os.path.join(path) == place
        assert pathlib.Path(path) == pathlib.Path(place)
        assert os.fspath(path.absolute()) == os.fspath(Path(text)) == place
        assert (path.uri, path.origin_name) == (Path(text).uri, Path(text).origin_name)


def test_without_a_session_it_has_no_place(session):
    """Before and after the session it yields no string for the file system."""
    with session:
        os.fspath(OWN)
    with pytest.raises(NotAttached, match="no place on this machine"):
        os.fspath(OWN)
    assert OWN.origin_name is None


def test_files_are_read_and_written(session):
    """Every way to a file works that works of a Path from the session."""
    with session as root:
        OWN.mkdir(parents=True)
        (OWN / "x").write_text("1")
        with open(OWN / "x") as file, (OWN / "x").open() as same:
            assert file.read() == same.read() == "1"
        assert [(OWN / "x").exists(), (OWN / "x").is_file(), OWN.is_dir()] == [True] * 3
        assert (OWN / "x").stat().st_size == 1
        assert (OWN / "x").resolve() == Path("lit://a/b/x")
        assert (OWN / "x").as_uri() == f"file://{root}/a/b/x"
        assert (OWN / "x").rename(OWN / "y") == OWN / "y"
        assert (OWN / "y").exists_local()
        (OWN / "y").unlink()


def test_what_is_found_lies_below_it(session):
    """Listing and matching yield Paths that are derived from it."""
    with session:
        (OWN / "in").mkdir(parents=True)
        (OWN / "in" / "x:y").touch()
        assert list(OWN.iterdir()) == list(OWN.glob("*")) == [OWN / "in"]
        assert list(OWN.rglob("x*")) == [OWN / "in" / "x:y"]
        if sys.version_info >= (3, 12):
            assert list(OWN.walk()) == [(OWN, ["in"], []), (OWN / "in", [], ["x:y"])]
        assert next(OWN.iterdir()).origin_name == "train"


def test_own_files_are_not_transferred(session):
    """get() and stat_remote() take it for this Work's own."""
    with session:
        OWN.parent.mkdir()
        OWN.write_text("1")
        assert (OWN.get().how, OWN.stat_remote().size, OWN.exists_remote()) == ("own", 1, True)


def test_pickled_in_its_session_it_comes_back_equal(session):
    """In this process, and in a child that has the same home."""
    with session:
        same = pickle.loads(pickle.dumps(OWN))
        assert (same, hash(same)) == (OWN, hash(OWN))
        assert os.fspath(same) == os.fspath(OWN)


def test_pickled_it_means_the_same_file_in_another_session(session, tmp_path):
    """What is sent from the Work "train" is the file of "train"."""
    with session:
        pickled = pickle.dumps(OWN)
    homes.enter(Home("deploy", "/r", "m"), Nobody())
    try:
        assert os.fspath(pickle.loads(pickled)) == "/r/@train/a/b"
    finally:
        homes.leave()


def test_what_arrives_in_a_session_has_its_place_there(session):
    """A Path of another Work that was made elsewhere before any session is one of this session by now."""
    pickled, data = pickle.dumps(FOREIGN), FOREIGN.to_dict()
    with session as root:
        for arrived in (pickle.loads(pickled), Path.from_dict(data)):
            assert arrived == Path("lit://@other/a")
            assert str(arrived) == f"{root}/@other/a"


def test_a_process_without_a_name_has_no_files_of_its_own(session):
    """Where it only connected, others' Paths have a place and lit://a has none."""
    homes.enter(Home(None, session.root, "m"), Nobody())
    try:
        assert os.fspath(FOREIGN) == f"{session.root}/@other/a"
        with pytest.raises(NotAttached):
            os.fspath(OWN)
    finally:
        homes.leave()
