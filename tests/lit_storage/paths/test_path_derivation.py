"""Every public attribute of the running Python's pathlib.Path, and what it does with the origin.

Each attribute stands in exactly one of three tables: it derives paths that keep the origin, it
derives paths that do not, or it yields no path of ours. A Python that adds one fails here.
"""

import os
import pathlib
import warnings

import pytest

from lit_storage.paths import home as homes
from lit_storage.paths.home import Home
from lit_storage.paths.path import Origin, Path, with_consumer


class Silent:
    """A transport that nothing may be asked of: deriving is local."""

    def refuse(self, action):
        raise AssertionError(action)

    exists = stat = get = refuse


@pytest.fixture
def path(tmp_path):
    """R/@other/dir of a Work, with a file, a directory and a link in it."""
    homes.enter(Home("train", str(tmp_path.resolve()), "m"), Silent())
    path = with_consumer(Path("lit://@other/dir"), Origin("train"))
    (path / "sub" / "deep").mkdir(parents=True)
    (path / "file.txt").write_text("x")
    (path / "sub" / "deep" / "file.txt").write_text("x")
    (path / "link").symlink_to("lit://@x/y")
    yield path
    homes.leave()


def walked(path):
    return [directory for directory, _, _ in path.walk()] + [each for each, _, _ in path.walk(top_down=False)]


KEEPS = {
    "absolute": lambda p: [p.absolute(), p.relative_to(p).absolute()],
    "copy": lambda p: [(p / "file.txt").copy(str(p / "copied"))],
    "copy_into": lambda p: [(p / "file.txt").copy_into(str(p / "sub"))],
    "expanduser": lambda p: [p.expanduser(), p.with_segments("~/x").expanduser()],
    "glob": lambda p: [
        *p.glob("*"),
        *p.glob("**/*"),
        *p.glob("file.txt"),
        *p.glob("sub/"),
        *p.glob("sub/*/*.txt"),
        *p.glob("**"),
    ],
    "iterdir": lambda p: [*p.iterdir()],
    "joinpath": lambda p: [
        p.joinpath("a", "b"),
        p.joinpath(),
        p.joinpath("/etc"),
        p.joinpath(pathlib.Path("a")),
    ],
    "move": lambda p: [(p / "file.txt").move(str(p / "moved"))],
    "move_into": lambda p: [(p / "file.txt").move_into(str(p / "sub"))],
    "parent": lambda p: [p.parent, p.parent.parent.parent],
    "parents": lambda p: [*p.parents, p.parents[0], p.parents[-1], *p.parents[:2], *reversed(p.parents)],
    "relative_to": lambda p: [
        p.relative_to("/"),
        p.relative_to(p.parent),
        p.relative_to(pathlib.Path(p.parent)),
    ],
    "rename": lambda p: [(p / "file.txt").rename(str(p / "renamed"))],
    "replace": lambda p: [(p / "file.txt").replace(pathlib.Path(p / "renamed"))],
    "resolve": lambda p: [p.resolve(), (p / "sub" / ".." / "x").resolve(), p.resolve(strict=True)],
    "rglob": lambda p: [*p.rglob("*"), *p.rglob("file.txt"), *p.rglob("deep/*")],
    "walk": walked,
    "with_name": lambda p: [p.with_name("x")],
    "with_segments": lambda p: [p.with_segments("/a", "b"), p.with_segments(), p.with_segments("lit://@x/y")],
    "with_stem": lambda p: [p.with_stem("x")],
    "with_suffix": lambda p: [p.with_suffix(".x")],
    "__truediv__": lambda p: [
        p / "a",
        p / pathlib.Path("a"),
        p / Path("a"),
        p / "/etc",
        p / "..",
        p / "lit://x",
    ],
    "__rtruediv__": lambda p: ["a" / p, pathlib.Path("a") / p, Path("a") / p],
}

LOSES = {
    "cwd": lambda p: [type(p).cwd()],
    "from_uri": lambda p: [type(p).from_uri("file:///ab")],
    "home": lambda p: [type(p).home()],
    "readlink": lambda p: [(p / "link").readlink()],
}

NO_PATH = {
    "anchor",
    "as_posix",
    "as_uri",
    "chmod",
    "drive",
    "exists",
    "full_match",
    "group",
    "hardlink_to",
    "info",
    "is_absolute",
    "is_block_device",
    "is_char_device",
    "is_dir",
    "is_fifo",
    "is_file",
    "is_junction",
    "is_mount",
    "is_relative_to",
    "is_reserved",
    "is_socket",
    "is_symlink",
    "lchmod",
    "link_to",
    "lstat",
    "match",
    "mkdir",
    "name",
    "open",
    "owner",
    "parser",
    "parts",
    "read_bytes",
    "read_text",
    "rmdir",
    "root",
    "samefile",
    "stat",
    "stem",
    "suffix",
    "suffixes",
    "symlink_to",
    "touch",
    "unlink",
    "write_bytes",
    "write_text",
}

OURS = {
    "consumer_name",
    "exists_local",
    "exists_remote",
    "from_dict",
    "get",
    "origin_name",
    "stat_remote",
    "to_dict",
    "uri",
}


def present(names):
    return sorted(name for name in names if hasattr(pathlib.Path, name) or name == "with_segments")


def test_tables_are_complete():
    """Every public attribute of pathlib.Path stands in one table."""
    public = {name for name in dir(pathlib.Path) if not name.startswith("_")}
    tables = [set(KEEPS), set(LOSES), NO_PATH]
    assert public <= set.union(*tables)
    assert sum(map(len, tables)) == len(set.union(*tables))


def test_nothing_else_is_added():
    """Beside pathlib's, a Path has the documented attributes and no others."""
    public = {name for name in dir(Path) if not name.startswith("_")}
    assert public - set(dir(pathlib.Path)) - {"with_segments"} == OURS


@pytest.mark.parametrize("name", present(KEEPS))
def test_keeps_origin(path, name):
    """A derived path keeps class, origin and consumer, and nobody is asked."""
    derived = KEEPS[name](path)
    assert derived
    assert {(type(each), each.origin_name, each.consumer_name) for each in derived} == {
        (Path, "other", "train")
    }


@pytest.mark.parametrize("name", present(LOSES))
def test_loses_origin(path, name):
    """A path that comes from elsewhere has no origin, even where its text looks like a URI."""
    derived = LOSES[name](path)
    assert {(type(each), each.origin_name, each.consumer_name) for each in derived} == {(Path, None, None)}


@pytest.mark.parametrize("name", ["rename", "replace"])
def test_renamed_onto_a_path(path, name):
    """rename and replace onto a Path return that one's origin, also where it has none."""
    mine = Path("lit://a")
    assert getattr(path / "file.txt", name)(mine).origin_name == "train"
    assert getattr(mine, name)(Path(os.fspath(path / "b"))).origin_name is None


def test_plain_joined_with_origin(path):
    """A plain Path joined with one that has an origin takes it, from either side."""
    relative = path.relative_to(path.parent)
    assert (Path("/x") / relative).origin_name == Path("/x").joinpath("y", relative).origin_name == "other"
    assert Path("/x", relative).origin_name == "other"
    assert (Path("/x") / relative).consumer_name == "train"


def test_relative_to_another_origin(path):
    """Comparing with a path of another origin joins nothing, so it is allowed."""
    mine = Path("lit://")
    assert path.relative_to(mine).origin_name == "other"
    assert path.is_relative_to(mine)
    assert path.samefile(os.fspath(path))


class Tagged(Path):
    """A subclass with a value of its own, written as pathlib documents it."""

    def __init__(self, *segments, tag):
        super().__init__(*segments)
        self.tag = tag

    def with_segments(self, *segments):
        return type(self)(*segments, tag=self.tag)


def test_subclass_with_segments(path):
    """A subclass that overrides with_segments, as pathlib allows, is used for every derived path."""
    tagged = Tagged(path, tag=1)
    for each in (tagged / "a", "a" / tagged, tagged.parent, *tagged.iterdir(), (tagged / "link").readlink()):
        assert (type(each), each.tag) == (Tagged, 1)
    assert (tagged / "a").origin_name == tagged.joinpath("b").origin_name == "other"


def test_link_to(path):
    """link_to, while pathlib has it, makes a hard link."""
    if not hasattr(path, "link_to"):
        assert not hasattr(pathlib.Path, "link_to")
        return
    with warnings.catch_warnings(action="ignore"):
        (path / "file.txt").link_to(path / "hard")
    assert (path / "hard").samefile(path / "file.txt")
