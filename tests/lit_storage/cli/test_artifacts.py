"""The command line after the app: what Works left is listed, read, removed and pruned."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import lit_storage
from lit_storage import Path
from lit_storage.cli.main import main

COMMAND = [
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'lit-storage'; from lit_storage.cli.main import main; main()",
]


@pytest.fixture
def lit(root):
    """Run the command in this process, which has all imported; return exit code, stdout and stderr."""

    def run(*arguments):
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.fixture
def program(root):
    """Run the command in a process of its own, as a user does; return the same."""

    def run(*arguments):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(params=["in place", "file", "s3"])
def store(request, monkeypatch, tmp_path, s3):
    if request.param == "file":
        monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", f"file://{tmp_path}/store")
    elif request.param == "s3":
        monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", s3("rclone")[1])
    return request.param


@pytest.fixture
def trained(root, store):
    """A Work that published three times, and ended."""
    with lit_storage.join("train") as session:
        path = session.declare(Path("lit://out"))
        path.mkdir()
        session.declare(Path("lit://best")).write_text("0.97")
        for number in range(2):
            (path / f"m{number}").write_text(str(number))
            session.publish()
        (path / "m2").write_text("2")
    return store


def shown(text):
    """Return the rows of a table as lists of words."""
    return [line.split() for line in text.splitlines()[1:]]


@pytest.mark.slow
def test_works_all(lit, program, trained):
    """`works --all` says which paths of a Work can be read; `works` is as ever."""
    code, out, _ = program("works", "--all", "--json")
    (row,) = json.loads(out)
    assert (code, row["name"], row["state"], row["kept"]) == (0, "train", "stopped", ["best", "out"])
    assert lit("works", "-a")[1].splitlines()[1].endswith("best, out")
    assert "KEPT" not in lit("works")[1]


@pytest.mark.slow
def test_files_are_read(lit, trained, tmp_path):
    """`ls`, `stat`, `get` and `cat` answer from what was left, with parts of files too."""
    assert [line.split()[-1] for line in lit("ls", "train:out")[1].splitlines()] == ["m0", "m1", "m2"]
    assert "size  4 B" in lit("stat", "train:best")[1]
    assert lit("cat", "train:best") == (0, "0.97", "")
    assert lit("cat", "train:best", "--offset", "2", "--length", "1")[1] == "9"
    code, out, _ = lit("get", "train:out", str(tmp_path / "here"))
    assert (code, sorted(os.listdir(tmp_path / "here"))) == (0, ["m0", "m1", "m2"])
    code, _, errors = lit("cat", "train:none")
    assert (code, "does not hold it" in errors) == (1, True)


@pytest.mark.slow
def test_a_work_that_ended_is_listed(lit, trained):
    """`ls` of the whole Work, and of a directory above what it left, lists what can be read."""
    assert [line.split()[-1] for line in lit("ls", "train:")[1].splitlines()] == ["best", "out"]
    rows = json.loads(lit("ls", "train:", "--recursive", "--json")[1])
    assert [row["path"] for row in rows] == ["best", "out", "out/m0", "out/m1", "out/m2"]


@pytest.mark.slow
def test_artifacts_ls(lit, trained):
    """Versions are listed by path, the newest first, with files, bytes and state."""
    rows = json.loads(lit("artifacts", "ls", "--json")[1])
    kept = [3] if trained == "in place" else [3, 2, 1]
    assert [(row["uri"], row["version"]) for row in rows] == [
        (f"lit://@train/{path}", number) for path in ("best", "out") for number in kept
    ]
    assert [(row["files"], row["bytes"], row["state"]) for row in rows if "out" in row["uri"]][0] == (
        3,
        3,
        "clean",
    )
    (first, *_) = shown(lit("artifacts", "ls", "train:out")[1])
    assert first[:4] == ["train:out", "3", "clean", "3"]
    assert len(shown(lit("artifacts", "ls", "train")[1])) == 2 * len(kept)
    assert lit("artifacts", "ls", "nobody")[0] == 0


@pytest.mark.slow
def test_prune(lit, trained):
    """All but the newest N of each path go; what is left is read as before."""
    code, out, errors = lit("artifacts", "prune", "--keep", "1")
    removed = 0 if trained == "in place" else 4
    assert (code, len(out.splitlines())) == (0, removed)
    assert errors.startswith(f"{removed} removed")
    assert {row["version"] for row in json.loads(lit("artifacts", "ls", "--json")[1])} == {3}
    assert lit("cat", "train:out/m0") == (0, "0", "")
    assert lit("artifacts", "prune", "--keep", "0")[0] == 2


@pytest.mark.slow
def test_rm(lit, trained, root):
    """A version, a path, or all that a Work left; files in place stay where they are."""
    if trained != "in place":
        assert lit("artifacts", "rm", "train:out", "--version", "3")[1] == "removed train:out version 3\n"
        assert [line.split()[-1] for line in lit("ls", "train:out")[1].splitlines()] == ["m0", "m1"]
    assert lit("artifacts", "rm", "train:out")[0] == 0
    assert lit("ls", "train:out")[0] == 1
    assert lit("cat", "train:best")[0] == 0
    assert lit("artifacts", "rm", "train")[0] == 0
    assert lit("cat", "train:best")[0] == 1
    assert (root / "works/train/out/m0").read_text() == "0"
    code, _, errors = lit("artifacts", "rm", "train")
    assert (code, errors) == (1, "nothing is kept of 'train'\n")


@pytest.mark.slow
def test_a_damaged_version_is_shown(lit, root, tmp_path, monkeypatch):
    """It is named as damaged, and does not count when older ones are pruned."""
    monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", f"file://{tmp_path}/store")
    with lit_storage.join("train") as session:
        session.declare(Path("lit://best")).write_text("1")
        session.publish()
    (unit,) = os.listdir(tmp_path / "store/train/manifests")
    newest = max((tmp_path / "store/train/manifests" / unit).iterdir())
    content = newest.read_bytes()
    newest.unlink()
    newest.write_bytes(content[:-1])
    assert [row[1:4] for row in shown(lit("artifacts", "ls")[1])] == [
        ["1", "clean", "1"],
        ["2", "damaged", "-"],
    ]
    assert lit("artifacts", "prune", "--keep", "1")[0] == 0
    assert lit("cat", "train:best")[1] == "1"


@pytest.mark.slow
def test_one_store_out_of_reach_hides_no_other(lit, root, tmp_path, monkeypatch):
    """What can be read is shown, what cannot is said, and the code is 1."""
    for name, url in (("a", f"file://{tmp_path}/a"), ("b", f"file://{tmp_path}/b")):
        with lit_storage.join(name, artifacts=url) as session:
            session.declare(Path("lit://x")).write_text("1")
    os.rename(tmp_path / "a", tmp_path / "unmounted")
    code, out, errors = lit("artifacts", "ls")
    assert (code, [row[0] for row in shown(out)]) == (1, ["b:x"])
    assert "is its disk mounted" in errors
    code, out, errors = lit("works", "--all", "--json")
    assert (code, [row["kept"] for row in json.loads(out)]) == (1, [["?"], ["x"]])
    assert lit("artifacts", "ls", "b:x")[0] == 0
    assert lit("artifacts", "rm", "a")[0] == 1


def test_help_of_artifacts(lit):
    """In 80 columns the help shows the summary of each command whole."""
    code, out, _ = lit("artifacts", "--help")
    commands = out.partition("Commands:")[2].split("\n")[1:-1]
    assert [line.split()[0] for line in commands] == ["ls", "rm", "prune"]
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)
