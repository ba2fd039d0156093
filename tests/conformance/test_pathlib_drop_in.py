"""A plain Path gives what pathlib.Path gives: the same results, and the same errors."""

import os
import pathlib
import pickle
import shutil

import pytest

from lit_storage.paths.path import Path

WHOLE = [
    (),
    ("",),
    (".",),
    ("a",),
    ("a", "b", "c"),
    ("a/b",),
    ("/",),
    ("//a",),
    ("///a",),
    ("a", "/b"),
    ("a", "", "b"),
    ("a//b/./c/",),
    ("..",),
    ("a/../b",),
    ("~/x",),
    ("a.tar.gz",),
    (".hidden",),
    ("a.",),
    ("lit:/a",),
    ("@x/a",),
    (os.fsdecode(b"\xff"),),
    (pathlib.PurePosixPath("a"), "b"),
    (pathlib.Path("/a"), pathlib.Path("b")),
]

PURE = {
    "str": str,
    "repr": repr,
    "fspath": os.fspath,
    "bytes": bytes,
    "parts": lambda p: p.parts,
    "name": lambda p: (p.name, p.stem, p.suffix, p.suffixes),
    "anchor": lambda p: (p.drive, p.root, p.anchor),
    "parent": lambda p: p.parent,
    "parents": lambda p: list(p.parents),
    "parents_index": lambda p: (p.parents[0], p.parents[-1], p.parents[:2], p.parents[::-1]),
    "parents_out_of_range": lambda p: p.parents[99],
    "is_absolute": lambda p: p.is_absolute(),
    "as_posix": lambda p: p.as_posix(),
    "as_uri": lambda p: p.as_uri(),
    "join": lambda p: (p / "x", "x" / p, p.joinpath("x", "/y"), p / pathlib.Path("x"), pathlib.Path("x") / p),
    "join_number": lambda p: p / 1,
    "join_number_left": lambda p: 1 / p,
    "join_bytes": lambda p: p / b"x",
    "joinpath_number": lambda p: p.joinpath(1),
    "with_name": lambda p: p.with_name("x"),
    "with_bad_name": lambda p: p.with_name("a/b"),
    "with_stem": lambda p: p.with_stem("x"),
    "with_suffix": lambda p: p.with_suffix(".x"),
    "with_bad_suffix": lambda p: p.with_suffix("x"),
    "relative_to": lambda p: p.relative_to("a"),
    "relative_to_root": lambda p: p.relative_to("/"),
    "relative_to_self": lambda p: p.relative_to(p),
    "is_relative_to": lambda p: (
        p.is_relative_to("a"),
        p.is_relative_to(p),
        p.is_relative_to(pathlib.Path("/")),
    ),
    "match": lambda p: (p.match("*"), p.match("a/*"), p.match("/*")),
    "match_empty": lambda p: p.match(""),
    "hash": hash,
    "equal": lambda p: (p == pathlib.Path(p), pathlib.Path(p) == p, p == str(p), p != pathlib.Path("x")),
    "order": lambda p: (
        p < pathlib.Path("b"),
        p >= type(p)("b"),
        sorted([p, pathlib.Path("b"), type(p)("a")]),
    ),
    "order_number": lambda p: p < 1,
    "pickle": lambda p: pickle.loads(pickle.dumps(p)),
    "expanduser": lambda p: p.expanduser(),
    "absolute": lambda p: p.absolute(),
}

DISK = {
    "iterdir": lambda p: sorted(p.iterdir()),
    "iterdir_file": lambda p: list((p / "file.txt").iterdir()),
    "iterdir_missing": lambda p: list((p / "missing").iterdir()),
    "iterdir_dot": lambda p: sorted(type(p)().iterdir()),
    "glob": lambda p: [
        sorted(p.glob(x)) for x in ("*", "**/*", "*.txt", "sub/*", "sub/", "**", "fi?e.txt", "[a-f]*", "..")
    ],
    "glob_empty": lambda p: list(p.glob("")),
    "glob_absolute": lambda p: list(p.glob("/x")),
    "rglob": lambda p: [sorted(p.rglob(x)) for x in ("*", "*.txt", "deep", "sub/*", "")],
    "glob_dot": lambda p: sorted(type(p)(".").glob("**/*.txt")),
    "walk": lambda p: (
        sorted((d, sorted(a), sorted(b)) for d, a, b in p.walk()) if hasattr(pathlib.Path, "walk") else 0
    ),
    "exists": lambda p: [x.exists() for x in (p, p / "missing", p / "dangling", p / "file.txt" / "x")],
    "exists_nul": lambda p: type(p)("a\0b").exists(),
    "kind": lambda p: [
        (x.is_dir(), x.is_file(), x.is_symlink(), x.is_fifo()) for x in (p, p / "file.txt", p / "link")
    ],
    "is_mount": lambda p: (p.is_mount(), type(p)("/").is_mount(), (p / "missing").is_mount()),
    "owner": lambda p: (p.owner(), p.group()),
    "stat": lambda p: ((p / "file.txt").stat().st_size, (p / "link").lstat().st_size),
    "stat_missing": lambda p: (p / "missing").stat(),
    "read": lambda p: (
        (p / "file.txt").read_text(),
        (p / "file.txt").read_bytes(),
        (p / "file.txt").open().read(),
    ),
    "read_directory": lambda p: p.read_text(),
    "write": lambda p: ((p / "new").write_text("ab"), (p / "new").write_bytes(b"c"), (p / "new").unlink()),
    "write_number": lambda p: (p / "new").write_text(3),
    "mkdir_exists": lambda p: p.mkdir(),
    "mkdir": lambda p: ((p / "x" / "y").mkdir(parents=True), p.mkdir(exist_ok=True), shutil.rmtree(p / "x")),
    "mkdir_no_parent": lambda p: (p / "x" / "y").mkdir(),
    "touch_exists": lambda p: (p / "file.txt").touch(exist_ok=False),
    "unlink_missing": lambda p: ((p / "missing").unlink(missing_ok=True), (p / "missing").unlink()),
    "rmdir_full": lambda p: p.rmdir(),
    "rename": lambda p: ((p / "file.txt").rename(p / "moved"), (p / "moved").replace(p / "file.txt")),
    "rename_missing": lambda p: (p / "missing").rename(p / "x"),
    "readlink": lambda p: (p / "link").readlink(),
    "readlink_file": lambda p: (p / "file.txt").readlink(),
    "resolve": lambda p: [(p / x).resolve() for x in ("link", "sub/..", "missing/x", ".")],
    "resolve_strict": lambda p: (p / "missing").resolve(strict=True),
    "resolve_loop": lambda p: (p / "loop").resolve(strict=True),
    "samefile": lambda p: ((p / "link").samefile(p / "file.txt"), (p / "link").samefile(str(p))),
    "chmod": lambda p: ((p / "file.txt").chmod(0o600), (p / "file.txt").stat().st_mode),
    "link": lambda p: (
        (p / "hard").hardlink_to(p / "file.txt"),
        (p / "hard").stat().st_nlink,
        (p / "hard").unlink(),
    ),
    "symlink": lambda p: (
        (p / "soft").symlink_to(p / "file.txt"),
        (p / "soft").readlink(),
        (p / "soft").unlink(),
    ),
    "cwd": lambda p: (type(p).cwd(), type(p).home()),
}


def outcome(function, argument):
    """What `function` returns, or the error it raises, without the name of the class."""
    try:
        return repr(function(argument)).replace("PosixPath(", "Path(")
    except Exception as error:
        return type(error), getattr(error, "errno", None)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A directory with one of each, which is also the working directory."""
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    for file in ("file.txt", "sub/deep/file.txt", "sub/b"):
        (tmp_path / file).write_text("x\n")
    (tmp_path / "link").symlink_to("file.txt")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PURE)
def test_pure(name):
    """What does not touch a disk gives the same for every shape of path."""
    for segments in WHOLE:
        assert outcome(PURE[name], Path(*segments)) == outcome(PURE[name], pathlib.Path(*segments)), segments


@pytest.mark.parametrize("name", DISK)
@pytest.mark.parametrize("start", ["absolute", "relative"])
def test_disk(tree, name, start):
    """What touches a disk gives the same, from an absolute and from a relative path."""
    text = str(tree) if start == "absolute" else os.path.relpath(tree, "..") + "/../" + tree.name
    if start == "relative":
        os.chdir(tree.parent)
    assert outcome(DISK[name], Path(text)) == outcome(DISK[name], pathlib.Path(text))


@pytest.mark.parametrize("segments", [(1,), (b"a",), (None,), ("a", 1), (["a"],)])
def test_wrong_segments(segments):
    """What is no path is a TypeError."""
    with pytest.raises(TypeError):
        Path(*segments)


def test_is_a_pathlib_path():
    """A Path is an instance of pathlib's classes and of os.PathLike."""
    assert all(
        isinstance(Path("a"), kind)
        for kind in (pathlib.Path, pathlib.PurePath, pathlib.PosixPath, os.PathLike)
    )


def test_generic_alias():
    """A Path class can be subscripted exactly where pathlib's can."""
    assert hasattr(Path, "__class_getitem__") == hasattr(pathlib.Path, "__class_getitem__")


def test_other_modules_take_it(tree):
    """os, os.path, open and shutil take a Path."""
    path = Path(tree)
    assert sorted(os.listdir(path)) == sorted(os.listdir(tree))
    assert os.path.join(path, "a") == str(tree / "a")
    shutil.copy(path / "file.txt", path / "copy")
    with open(path / "copy") as file:
        assert file.read() == "x\n"


def test_same_key(tree):
    """A Path and the pathlib path of its value are one key of a dict."""
    assert {Path(tree): 1}[tree] == {tree: 1}[Path(tree)] == 1
