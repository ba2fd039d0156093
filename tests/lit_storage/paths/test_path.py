"""A Path as a value: its origin, its URI, how it attaches and travels, what it asks of its session."""

import copy
import json
import os
import pathlib
import pickle
import subprocess
import sys

import pytest

from lit_storage.paths import home as homes
from lit_storage.paths.home import Home
from lit_storage.paths.path import Origin, Path, attach, with_consumer, with_origin
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import InvalidURI, NotAttached, PathExists, PathNotFound
from lit_storage_proto.uri import Location


class Recording:
    """A transport that notes what it is asked, and has everything."""

    def __init__(self):
        self.calls = []
        self.refusing = False

    def refuse(self, action):
        if self.refusing:
            raise NotAttached(f"{action} is not for this place")

    def exists(self, location):
        self.calls.append(("exists", location))
        return True

    def stat(self, location):
        self.calls.append(("stat", location))
        return Entry("", Kind.FILE, 3)

    def get(self, location, target, **options):
        self.calls.append(("get", location, target, options))


class Named(Path):
    """A subclass of somebody."""


@pytest.fixture
def transport():
    return Recording()


@pytest.fixture
def work(tmp_path, transport):
    """This process is the Work "train"."""
    home = Home("train", str(tmp_path.resolve()), "m")
    homes.enter(home, transport)
    yield home
    homes.leave()


@pytest.fixture
def notebook(tmp_path, transport):
    """This process only resolves and copies."""
    home = Home(None, str(tmp_path.resolve()), "m")
    homes.enter(home, transport)
    yield home
    homes.leave()


# --- plain ---


def test_plain_has_no_origin():
    """A plain Path has neither origin nor consumer nor URI."""
    path = Path("a", "b")
    assert (path.origin_name, path.consumer_name, path.uri) == (None, None, None)


def test_plain_stays_local(transport, work):
    """exists of a plain Path asks nobody."""
    assert not Path("/no/such").exists()
    assert transport.calls == []


def test_plain_exists_remote_and_get_differ():
    """A Path without origin says so for exists_remote and for get, each in its own sentence."""
    said = set()
    for path in (Path("a"), Path("lit://a")):
        for action in (path.exists_remote, path.get):
            with pytest.raises(RuntimeError) as caught:
                action()
            said.add(str(caught.value))
    assert len(said) == 4


@pytest.mark.parametrize("text", ["lit:/a", "LIT://a", " lit://a", "x/lit://a", "lit:a"])
def test_only_the_exact_scheme_is_special(text):
    """All but a str that starts with lit:// is a plain path."""
    assert Path(text) == pathlib.Path(text)
    assert Path(text).origin_name is None


@pytest.mark.parametrize("segments", [("a", "lit://b"), (pathlib.PurePosixPath("lit://b"),)])
def test_only_a_first_str_is_special(work, segments):
    """lit:// in a later segment, or in a pathlib path, means nothing."""
    assert Path(*segments) == pathlib.Path(*segments)
    assert Path(*segments).origin_name is None


# --- unattached ---


@pytest.mark.parametrize(
    "text", ["lit://", "lit://a/b", "lit:///data/x", "lit:///", "lit://@t", "lit://@t/a", "lit://@t//data/x"]
)
def test_unattached_shows_its_uri(text):
    """Without a storage root, str, repr and uri show the URI."""
    path = Path(text)
    assert str(path) == path.uri == text
    assert repr(path) == f"Path({text!r})"


def test_unattached_has_parts():
    """An unattached Path can be joined, split and compared."""
    path = Path("lit://a/b.txt")
    assert path == Path("lit://") / "a" / "b.txt" == Path("lit://", "a", "b.txt")
    assert hash(path) == hash(Path("lit://a") / "b.txt")
    assert (path.name, path.suffix, path.parent) == ("b.txt", ".txt", Path("lit://a"))
    assert str(path.with_name("c") / "d") == "lit://a/c/d"
    assert str(path.relative_to(Path("lit://a"))) == "b.txt"


def test_unattached_ends_at_its_root():
    """The parents of an unattached Path end at lit://, not at the working directory."""
    path = Path("lit://a/b")
    assert [str(each) for each in path.parents] == ["lit://a", "lit://"]
    assert path.parent.parent.parent == Path("lit://")


def test_unattached_stands_for_an_absolute_path():
    """What is joined before an unattached Path falls away, as before an absolute one."""
    assert str("x" / Path("lit://a")) == str(pathlib.Path("x") / Path("lit://a")) == "lit://a"


@pytest.mark.parametrize(
    "leak",
    [
        os.fspath,
        bytes,
        os.listdir,
        open,
        pathlib.Path,
        pathlib.PurePosixPath,
        lambda path: os.path.join("x", path),
        lambda path: pathlib.PurePosixPath("x").joinpath(path),
        lambda path: path.stat(),
        lambda path: path.exists(),
        lambda path: path.exists_local(),
        lambda path: path.is_dir(),
        lambda path: path.is_mount(),
        lambda path: list(path.iterdir()),
        lambda path: list(path.glob("*")),
        lambda path: list(path.rglob("*")),
        lambda path: list(path.walk()) if hasattr(path, "walk") else path.stat(),
        lambda path: path.absolute(),
        lambda path: path.resolve(),
        lambda path: path.mkdir(),
        lambda path: path.touch(),
        lambda path: path.write_text("x"),
        lambda path: path.samefile("/"),
        lambda path: path.rename("/x"),
        lambda path: Path("/no").rename(path),
        lambda path: path.symlink_to("/x"),
    ],
)
def test_unattached_does_not_leak(leak):
    """No way leads from an unattached Path to a string for the file system."""
    with pytest.raises(NotAttached):
        leak(Path("lit://a"))


def test_unattached_has_no_file_uri():
    """An unattached Path is no file: URI, as no relative path is."""
    with pytest.raises(ValueError):
        Path("lit://a").as_uri()


def test_unattached_joined_with_an_absolute_path():
    """An absolute segment replaces an unattached Path, and is a place."""
    assert os.fspath(Path("lit://a") / "/etc") == "/etc"


@pytest.mark.parametrize(
    "segments",
    [
        ("lit://../x",),
        ("lit://a/../b",),
        ("lit://a", ".."),
        ("lit://", "a/../b"),
        ("lit://a", pathlib.Path("../b")),
    ],
)
def test_dots_are_refused(segments):
    """.. in any segment of a lit:// Path is refused."""
    with pytest.raises(InvalidURI):
        Path(*segments)


@pytest.mark.parametrize("segments", [("lit://.staging",), ("lit://", "@t/a"), ("lit://", "./.staging")])
def test_reserved_names_are_refused(segments):
    """Names that hold copies cannot be written as one's own."""
    with pytest.raises(InvalidURI):
        Path(*segments)


# --- attached ---


@pytest.mark.parametrize(
    ("text", "below_root", "origin"),
    [
        ("lit://", "", "train"),
        ("lit://a/b", "a/b", "train"),
        ("lit://@other/a", "@other/a", "other"),
        ("lit://@other//data/x", "@other/@/data/x", "other"),
        ("lit://@other", "@other", "other"),
    ],
)
def test_attached(work, text, below_root, origin):
    """In a Work a lit:// Path has its value and its origin at once, and its URI leads back."""
    path = Path(text)
    assert os.fspath(path) == os.path.join(work.storage_root, below_root).rstrip("/")
    assert (path.origin_name, path.uri) == (origin, text)


def test_own_absolute(work):
    """lit:///data/x is /data/x of this Work."""
    assert (str(Path("lit:///data/x")), Path("lit:///data/x").uri) == ("/data/x", "lit:///data/x")


def test_own_by_name(work):
    """A Work that names itself means its own files."""
    assert Path("lit://@train/a") == Path("lit://a")
    assert Path("lit://@train/a").uri == "lit://a"


def test_spellings_agree(work):
    """One string, segments and / make the same Path."""
    assert Path("lit://a/b") == Path("lit://", "a", "b") == Path("lit://a") / "b"


def test_nameless_session(notebook):
    """Without a name others' Paths have a value, and lit://a is unattached."""
    assert os.fspath(Path("lit://@t/a")) == notebook.storage_root + "/@t/a"
    assert str(Path("lit://a")) == "lit://a"
    with pytest.raises(NotAttached):
        os.fspath(Path("lit://a"))


@pytest.mark.parametrize(
    "leave",
    [lambda p: p.parents[-1], lambda p: p / "/etc", lambda p: p / "../../@x/a", lambda p: p.parent.parent],
)
def test_outside_of_its_base(work, transport, leave):
    """A derived value outside of its base keeps its origin, and nothing is asked or written for it."""
    path = leave(Path("lit://@other/a"))
    assert (path.origin_name, path.uri, path.exists_remote()) == ("other", None, False)
    for action in (path.get, path.stat_remote):
        with pytest.raises(ValueError):
            action()
    assert transport.calls == []


def test_derived_dots_within_the_base(work, transport):
    """.. within the base is normalised in the URI and in the target of get."""
    (Path("lit://@other/a") / "../b").get()
    assert transport.calls[0][1:3] == (Location("other", "b"), work.storage_root + "/@other/b")


def test_own_relative_path(work):
    """A relative path of one's own is what it is for open in this process."""
    path = with_origin(Path("data/x"), Origin("train"))
    assert path.uri == "lit://" + os.path.abspath("data/x")
    assert str(path) == "data/x"


@pytest.mark.parametrize("name", ["a b", "%41", "ü", os.fsdecode(b"\xff\xfe"), "new\nline", "lit:"])
def test_odd_names(work, name):
    """Any file name stands in a URI as it is, and comes back through pickle and JSON."""
    path = Path("lit://@other") / name
    assert path.uri == "lit://@other/" + name
    assert Path(path.uri) == path == pickle.loads(pickle.dumps(path))
    assert Path.from_dict(json.loads(json.dumps(path.to_dict()).encode("ascii"))) == path


# --- origins ---


def test_different_origins_do_not_join(work):
    """Paths of different Works are not joined by the constructor, / and joinpath."""
    mine, other = Path("lit://a"), Path("lit://@other/b")
    for join in (lambda: Path(mine, other), lambda: mine / other, lambda: mine.joinpath("x", other)):
        with pytest.raises(TypeError, match="different origins"):
            join()


def test_rename_onto_another_origin(work):
    """rename onto a Path of another origin moves the file and returns that origin."""
    mine, other = Path("lit://a"), Path("lit://@other")
    mine.write_text("x")
    other.mkdir()
    landed = mine.rename(other / "a")
    assert (landed.origin_name, landed.read_text()) == ("other", "x")


def test_unnamed_origins_are_told_apart_by_identity():
    """Works without a name yet are different origins, and one Work is one."""
    one, two = Origin(), Origin()
    a = with_origin(Path("lit://a"), one)
    assert (a / with_origin(Path("b"), one))._origin is one
    with pytest.raises(TypeError):
        a / with_origin(Path("b"), two)


def test_first_work_is_the_origin():
    """The first Work is the origin, the next one consumer."""
    path = with_origin(with_origin(Path("a"), Origin("one")), Origin("two"))
    path = with_consumer(path, Origin("two"))
    assert (path.origin_name, path.consumer_name) == ("one", "two")


def test_name_reaches_earlier_paths():
    """A name given to an Origin is seen by all Paths that were derived before."""
    origin = Origin()
    path = with_origin(Path("a"), origin) / "b"
    assert path.origin_name is None
    origin.assign("train")
    assert path.origin_name == "train"


def test_origin_keeps_its_name():
    """An origin is named once."""
    origin = Origin("train")
    origin.assign("train")
    with pytest.raises(RuntimeError):
        origin.assign("other")


@pytest.mark.parametrize("wrap", [Path, copy.copy, copy.deepcopy, lambda p: Path(p, "x").parent, Named])
def test_wrapping_keeps_origin_and_consumer(work, wrap):
    """Wrapping or copying a Path keeps its origin and consumer."""
    path = with_consumer(Path("lit://@other/a"), Origin("train"))
    again = wrap(path)
    assert (again, again.origin_name, again.consumer_name) == (path, "other", "train")


def test_copies_are_the_path_itself():
    """A Path never changes, so a copy is the same object."""
    path = Path("lit://a")
    assert copy.copy(path) is path is copy.deepcopy([path])[0]


# --- attach ---


@pytest.mark.parametrize(
    ("text", "value"),
    [("lit://", ""), ("lit://a/b", "/a/b"), ("lit://@o/a", "/@o/a"), ("lit://@o//d/x", "/@o/@/d/x")],
)
def test_attach_in_its_work(text, value):
    """An unattached Path gets its value in the home of its Work."""
    home = Home("train", "/r", "m")
    path = attach(with_consumer(Path(text), Origin("c")), Origin("train"), home)
    assert os.fspath(path) == "/r" + value
    assert path.consumer_name == "c"


def test_attach_own_absolute():
    """lit:///data/x is /data/x in its own Work."""
    assert os.fspath(attach(Path("lit:///data/x"), Origin("train"), Home("train", "/r", "m"))) == "/data/x"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (Path("lit://a"), "/f/@train/a"),
        (Path("/data/x"), "/f/@train/@/data/x"),
        (Path("lit:///data/x"), "/f/@train/@/data/x"),
    ],
)
def test_attach_elsewhere(path, value):
    """Elsewhere, a Work's Paths lie under its name; attaching again changes nothing."""
    origin, home = Origin("train"), Home(None, "/f", "m")
    attached = attach(path, origin, home)
    assert os.fspath(attached) == os.fspath(attach(attached, origin, home)) == value
    assert attached.origin_name == "train"


def test_attach_keeps_dots():
    """A .. that leaves the base is kept, and has no URI."""
    path = attach(Path("lit://@o/a") / "../../x", Origin("train"), Home("train", "/r", "m"))
    assert os.fspath(path) == "/r/@o/a/../../x"


def test_attach_needs_a_name():
    """A Path of a Work that has no name cannot be attached."""
    with pytest.raises(NotAttached, match="build the App"):
        attach(Path("lit://a"), Origin(), Home("train", "/r", "m"))


# --- exists and get ---


def test_exists_asks_locally_first(work, transport):
    """exists asks the origin only where nothing is there locally."""
    path = Path("lit://@other/a")
    assert path.exists()
    assert transport.calls == [("exists", Location("other", "a"))]
    path.parent.mkdir()
    path.touch()
    assert path.exists()
    assert len(transport.calls) == 1


def test_own_path_asks_nobody(work, transport):
    """Of one's own path the file system alone is asked, and get transfers nothing."""
    path = Path("lit://a")
    assert not path.exists_remote()
    for action in (path.get, path.stat_remote):
        with pytest.raises(PathNotFound):
            action()
    path.write_text("abc")
    assert path.exists_remote()
    assert path.stat_remote().size == 3
    assert (path.get().how, path.get().files) == ("own", 0)
    assert transport.calls == []


def test_own_path_to_elsewhere(work):
    """get of one's own path takes no target: that is a local copy."""
    with pytest.raises(InvalidURI, match="shutil"):
        Path("lit://a").get(to="x")


def test_get_refuses_an_existing_target(work, transport):
    """Onto something existing, get says overwrite=True and asks for no byte."""
    path = Path("lit://@other/a")
    path.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="overwrite=True") as caught:
        path.get()
    assert isinstance(caught.value, PathExists)
    assert transport.calls == []


def test_get_refuses_a_dangling_link(work, transport):
    """A link that leads nowhere is something existing."""
    path = Path("lit://@other/a")
    path.parent.mkdir()
    path.symlink_to("/no/such")
    with pytest.raises(PathExists):
        path.get()


def test_get_passes_everything_on(work, transport):
    """get hands location, target and options to the session."""
    Path("lit://@other//data/x").get(True, timeout=3, durable=False, symlinks="follow", on_change="accept")
    location, target, options = transport.calls[0][1:]
    assert (location, target) == (Location("other", "/data/x"), work.storage_root + "/@other/@/data/x")
    assert options == {
        "confined": True,
        "overwrite": True,
        "timeout": 3,
        "durable": False,
        "on_change": "accept",
        "symlinks": "follow",
        "progress": None,
    }


def test_get_to(notebook, transport, tmp_path, monkeypatch):
    """With to= the target is the caller's own, made absolute, and not confined."""
    monkeypatch.chdir(tmp_path)
    Path("lit://@other/a").get(to="here")
    assert transport.calls[0][2] == str(tmp_path / "here")
    assert not transport.calls[0][3]["confined"]


@pytest.mark.parametrize("options", [{"on_change": "ignore"}, {"symlinks": "drop"}])
def test_get_checks_its_options(work, transport, options):
    """A word that get does not know is a ValueError, before anything is asked."""
    with pytest.raises(ValueError):
        Path("lit://@other/a").get(**options)
    assert transport.calls == []


@pytest.mark.parametrize("action", ["exists_local", "exists_remote", "stat_remote", "get"])
def test_where_the_session_refuses(work, transport, action):
    """Where the session refuses, every operation on an origin's files does."""
    transport.refusing = True
    with pytest.raises(RuntimeError, match="not for this place"):
        getattr(Path("lit://@other/a"), action)()
    assert transport.calls == []


def test_without_a_session_any_more(tmp_path, transport):
    """After the session has closed, its Paths say what they need."""
    homes.enter(Home(None, str(tmp_path), "m"), transport)
    path = Path("lit://@other/a")
    homes.leave()
    with pytest.raises(NotAttached, match="session"):
        path.exists_remote()


# --- travelling ---


def travelled(path, home):
    """What `path` is after pickle in a session with `home`."""
    data = pickle.dumps(path)
    before, transport = homes.current(), homes.transport("test")
    homes.leave()
    homes.enter(home, Recording())
    arrived = pickle.loads(data)
    uri = arrived.uri
    homes.leave()
    homes.enter(before, transport)
    return arrived, uri


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lit://a", "/r/@train/a"),
        ("lit:///data/x", "/r/@train/@/data/x"),
        ("lit://@other/a", "/r/a"),
        ("lit://@other//data/x", "/data/x"),
        ("lit://@third/a", "/r/@third/a"),
    ],
)
def test_arriving_in_another_work(work, text, value):
    """A Path that arrives in another session means the same files, at that session's place for them."""
    path = Path(text)
    arrived, _ = travelled(path, Home("other", "/r", "m2"))
    assert (str(arrived), arrived.origin_name) == (value, path.origin_name)


def test_arriving_from_outside_of_its_base(work):
    """A Path without URI keeps value and origin."""
    arrived, uri = travelled(Path("lit://@third/a") / "/etc", Home("other", "/r", "m2"))
    assert (str(arrived), arrived.origin_name, uri) == ("/etc", "third", None)


def test_arriving_without_origin(work):
    """A plain Path keeps its value, wherever it arrives."""
    arrived, _ = travelled(Path("/data/x"), Home("other", "/r", "m2"))
    assert (str(arrived), arrived.origin_name) == ("/data/x", None)


def test_arriving_unattached_in_a_work(transport):
    """An unattached lit:// Path becomes the own path of the Work where it arrives."""
    data = pickle.dumps(Path("lit://a"))
    homes.enter(Home("train", "/r", "m"), transport)
    try:
        assert (str(pickle.loads(data)), pickle.loads(data).origin_name) == ("/r/a", "train")
    finally:
        homes.leave()


def test_arriving_where_nobody_is(tmp_path, transport):
    """Without a session a Path that arrives is unattached and knows its origin."""
    homes.enter(Home("train", str(tmp_path), "m"), transport)
    data = pickle.dumps(Path("lit://a"))
    homes.leave()
    path = pickle.loads(data)
    assert (str(path), path.origin_name) == ("lit://@train/a", "train")


@pytest.mark.parametrize(
    "path",
    [
        Path("lit://a"),
        Path("lit://@t//d"),
        Path("lit://a") / "../..",
        Path("a"),
        Named("lit://a"),
        Named("a"),
    ],
)
def test_pickle_in_one_process(path):
    """A pickled Path comes back equal, of its class, attached or not."""
    again = pickle.loads(pickle.dumps(path))
    assert (again, str(again), again.origin_name, type(again)) == (
        path,
        str(path),
        path.origin_name,
        type(path),
    )


def test_pickle_of_an_unnamed_origin():
    """Within one process a pickled Path keeps an origin that has no name yet."""
    origin = Origin()
    path = with_consumer(with_origin(Path("lit://a"), origin), origin)
    again = pickle.loads(pickle.dumps(path))
    assert again._origin is origin is again._consumer


def test_json(work):
    """to_dict is JSON, and from_dict leads back, of the class it is called on."""
    path = with_consumer(Path("lit://@other/a"), Origin("train"))
    data = json.loads(json.dumps(path.to_dict()))
    assert data == {
        "uri": "lit://@other/a",
        "path": str(path),
        "origin": "other",
        "consumer": "train",
        "machine": "m",
    }
    again = Named.from_dict(data)
    assert (again, again.origin_name, again.consumer_name, type(again)) == (path, "other", "train", Named)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"path": 3},
        {"path": "/a", "origin": 3},
        {"path": "/a", "origin": "../x"},
        {"path": "/a", "uri": "lit://@o/../x", "origin": "o"},
        {"path": "/a", "uri": "lit://@o/x", "origin": "p"},
        {"path": "/a", "uri": "file:///x", "origin": "p"},
    ],
)
def test_json_of_somebody_else(work, data):
    """What to_dict did not write is refused."""
    with pytest.raises(InvalidURI):
        Path.from_dict(data)


CHILDREN = """
import multiprocessing, os, sys
from lit_storage.paths import home
from lit_storage.paths.path import Path

def child(path, queue):
    with open(path) as file:
        queue.put((file.read(), os.fspath(path), path.origin_name, path.uri, str(Path("lit://a"))))

if __name__ == "__main__":
    class Nobody:
        def refuse(self, action): pass
    root = os.path.realpath(sys.argv[1])
    home.enter(home.Home("train", root, "m"), Nobody())
    path = Path("lit://a")
    path.write_text("hello")
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(path, queue))
        process.start()
        assert queue.get() == ("hello", root + "/a", "train", "lit://a", root + "/a"), method
        process.join()
    print("ok")
"""


@pytest.mark.slow
def test_children_of_a_work(tmp_path):
    """Children of a Work, forked, spawned or of a fork server, open the same file by the same Path."""
    script = tmp_path / "script.py"
    script.write_text(CHILDREN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert said.stdout == "ok\n", said.stderr
