"""`lit-storage get`: its bar, its options, and what it says of a copy in the end."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading

import pytest

from lit_storage.cli.output import transfer_line, transfer_notes
from lit_storage_client.fetch import Transfer

COMMAND = [
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'lit-storage'; from lit_storage.cli.main import main; main()",
]
SERVE = """
import sys, lit_storage
with lit_storage.join("trainer", root=sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""
SIZE = 2 << 20


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with one running Work, "trainer", that has out/{model.bin,again.bin,link,pipe}."""
    root = tmp_path_factory.mktemp("root")
    out = root / "works" / "trainer" / "out"
    out.mkdir(parents=True)
    (out / "model.bin").write_bytes(bytes(SIZE - 1) + b"x")
    (out / "again.bin").hardlink_to(out / "model.bin")
    (out / "link").symlink_to("model.bin")
    os.mkfifo(out / "pipe")
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as work:
        assert work.stdout.readline() == "ready\n"
        yield root
        work.communicate(timeout=30)


@pytest.fixture
def lit(root, tmp_path):
    """Run the command in an empty directory, with pipes for stdout and stderr."""

    def run(*arguments):
        return subprocess.run(
            [*COMMAND, "--root", root, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    return run


@pytest.fixture
def seen(root, tmp_path):
    """Run the command in an empty directory, with a terminal as stderr; return what it shows, and stdout."""

    def run(*arguments):
        ours, theirs = pty.openpty()
        written = []

        def read():
            with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
                while data := os.read(ours, 65536):
                    written.append(data)

        reader = threading.Thread(target=read)
        reader.start()
        command = [*COMMAND, "--root", root, *arguments]
        environment = {**os.environ, "TERM": "xterm"}
        done = subprocess.run(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, timeout=60, env=environment
        )
        os.close(theirs)
        reader.join(30)
        os.close(ours)
        assert done.returncode == 0
        return b"".join(written).decode(), done.stdout.decode()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--progress"]], ids=str)
def test_bar(seen, tmp_path, options):
    """On a terminal a bar with the file's name is drawn, and is gone when the summary is printed."""
    written, out = seen("get", "trainer:out/model.bin", *options)
    assert "model.bin" in written
    assert "100%" in written
    assert written.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor back, one line up, the line erased
    assert out.startswith(f"{tmp_path / 'model.bin'}: 1 file, 2.0 MiB in ")
    assert (tmp_path / "model.bin").stat().st_size == SIZE


@pytest.mark.slow
def test_no_progress(seen, tmp_path):
    """--no-progress writes nothing to a terminal."""
    assert seen("get", "trainer:out/model.bin", "--no-progress")[0] == ""
    assert (tmp_path / "model.bin").stat().st_size == SIZE


@pytest.mark.slow
def test_no_bar_in_a_log(lit):
    """Where stderr is no terminal it stays empty, even with --progress."""
    assert lit("get", "trainer:out/model.bin", "--progress").stderr == ""


@pytest.mark.slow
def test_json_with_a_bar(seen):
    """--json keeps stdout to JSON, with a bar beside it on the terminal."""
    written, out = seen("get", "trainer:out/model.bin", "--json")
    assert "100%" in written
    assert json.loads(out)["bytes"] == SIZE


@pytest.mark.slow
def test_follow_symlinks(lit, tmp_path):
    """--follow-symlinks copies what links mean."""
    assert lit("get", "trainer:out", "--follow-symlinks").returncode == 0
    assert not (tmp_path / "out" / "link").is_symlink()
    assert (tmp_path / "out" / "link").stat().st_size == SIZE


@pytest.mark.slow
def test_summary(lit):
    """The summary counts hard links and what was left out; stderr names the latter."""
    done = lit("get", "trainer:out", "--no-durable", "--accept-changes")
    assert "2 files, 4.0 MiB in " in done.stdout
    assert done.stdout.endswith("; 2 hard links copied as files of their own; 1 left out\n")
    assert done.stderr == "left out, as neither file nor directory nor a link within the tree: pipe\n"


def test_summary_of_plain_files():
    """Of a copy about which nothing is special the summary is short."""
    transfer = Transfer(1, 5, 0.25, "stream")
    assert transfer_line("/a\x1b", transfer) == "/a\\x1b: 1 file, 5 B in 0.25 s"
    assert transfer_notes(transfer) == []


def test_summary_of_what_still_changed():
    """Files that went on changing are counted, and the first of them named."""
    transfer = Transfer(3, 5, 0.25, "stream", unsettled=("a", "b\n"), unsettled_count=3)
    assert transfer_line("/a", transfer).endswith("; 3 still changing")
    assert transfer_notes(transfer) == ["still changing when they were copied: a, b\\n, …"]


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ([], {"durable": True, "on_change": "raise", "symlinks": None}),
        (["--keep-symlinks"], {"symlinks": "keep"}),
        (
            ["--no-durable", "--accept-changes", "--follow-symlinks"],
            {"durable": False, "on_change": "accept", "symlinks": "follow"},
        ),
    ],
    ids=str,
)
def test_options_reach_get(root, tmp_path, monkeypatch, options, passed):
    """Each option is the argument of Path.get that it stands for."""
    from typer.testing import CliRunner

    from lit_storage.cli.main import main
    from lit_storage.paths.path import Path

    given = {}

    def get(self, overwrite, **arguments):
        given.update(arguments)
        return Transfer(1, 5, 0.25, "stream")

    monkeypatch.setattr(Path, "get", get)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["--root", str(root), "get", "trainer:out", *options])
    assert done.exit_code == 0, done.output
    assert {key: given[key] for key in passed} == passed
    assert given["progress"] is None


INTERRUPTED = """
import contextlib, os, signal, sys
from lit_storage.paths import bar

@contextlib.contextmanager
def interrupting(*args, **options):
    yield lambda done, total: done > 24 << 20 and os.kill(os.getpid(), signal.SIGINT)

bar.bar = interrupting
from lit_storage.cli.main import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_an_interrupt_says_what_is_kept(root, lit, tmp_path, as_json):
    """After Ctrl-C one sentence says how to go on, the code is 130, and the same command goes on."""
    content = os.urandom(48 << 20)
    (root / "works" / "trainer" / "large").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "--root", root, "get", "trainer:large", *as_json],
        env={**os.environ, "LIT_STORAGE_LOCAL_COPY": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    (line,) = done.stderr.splitlines()
    sentence = json.loads(line)["message"] if as_json else line
    assert (done.returncode, done.stdout, not (tmp_path / "large").exists()) == (130, "", True)
    assert "verified and kept, and the same get goes on from them" in sentence
    assert lit("get", "trainer:large").returncode == 0
    assert (tmp_path / "large").read_bytes() == content
