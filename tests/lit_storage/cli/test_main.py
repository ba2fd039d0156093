"""The command line: what it prints, and the code with which it ends."""

import importlib.metadata
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lit_storage.cli.main import main

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
HOSTILE = "\x1b[31mred"
CONTENT = bytes(range(256)) * 8192  # 2 MiB, so several chunks

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with one running Work, "trainer", and files of its own."""
    root = tmp_path_factory.mktemp("root")
    own = root / "works" / "trainer"
    (own / "out" / "deep").mkdir(parents=True)
    (own / "out" / "model.bin").write_bytes(CONTENT)
    (own / "out" / "deep" / "notes.txt").write_text("hello")
    (own / "hostile").mkdir()
    (own / "hostile" / HOSTILE).touch()
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as work:
        assert work.stdout is not None
        assert work.stdout.readline() == "ready\n"
        yield root
        work.communicate(timeout=30)


@pytest.fixture
def lit(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty directory, in this process, which has all imported."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        words = ["--root", str(root), *map(str, arguments)]
        # `run` sets the variable; afterwards it is as it was.
        done = CliRunner().invoke(main, words, env={"LIT_STORAGE_ROOT": None}, catch_exceptions=False)
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout_bytes, done.stderr_bytes)

    return run


@pytest.fixture
def program(root: Path, tmp_path: Path) -> Run:
    """Run the command in an empty directory, in a process of its own, as a user does."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*COMMAND, "--root", root, *arguments], cwd=tmp_path, capture_output=True, timeout=60, **options
        )

    return run


def one_line(text: bytes) -> str:
    (line,) = text.decode().splitlines()
    return line


@pytest.mark.slow
def test_works(lit: Run) -> None:
    """`works` shows name and state of a running Work."""
    assert one_line(lit("works").stdout.splitlines()[1]).split()[:2] == ["trainer", "running"]


@pytest.mark.slow
def test_works_json(program: Run) -> None:
    """`works --json` gives name, state, endpoint and instance."""
    (row,) = json.loads(program("works", "--json").stdout)
    assert (row["name"], row["state"]) == ("trainer", "running")
    assert row["endpoint"].startswith("127.0.0.1:")
    assert row["instance"]


def test_ls_children(lit: Run) -> None:
    """`ls` of a directory lists its direct children, with sizes."""
    lines = lit("ls", "trainer:out").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["directory", "file"]
    assert "2.0 MiB" in lines[1]


def test_ls_recursive(lit: Run) -> None:
    """`ls --recursive --json` gives paths below the one asked for, sizes in bytes, times in ns."""
    rows = json.loads(lit("ls", "trainer:out", "--recursive", "--json").stdout)
    assert [row["path"] for row in rows] == ["deep", "deep/notes.txt", "model.bin"]
    assert rows[2]["size"] == len(CONTENT)
    assert rows[2]["mtime_ns"] > 10**18


def test_ls_file(lit: Run) -> None:
    """`ls` of a file lists the file itself; a URI names it as well."""
    (row,) = json.loads(lit("ls", "lit://@trainer/out/model.bin", "--json").stdout)
    assert (row["path"], row["kind"]) == ("model.bin", "file")


def test_hostile_name(lit: Run) -> None:
    """A name with control characters is escaped for people, and kept in JSON."""
    assert b"\\x1b[31mred" in lit("ls", "trainer:hostile").stdout
    assert json.loads(lit("ls", "trainer:hostile", "--json").stdout)[0]["path"] == HOSTILE


def test_stat(lit: Run) -> None:
    """`stat` gives kind and size, for people and for programs."""
    assert f"({len(CONTENT)} bytes)".encode() in lit("stat", "trainer:out/model.bin").stdout
    assert json.loads(lit("stat", "trainer:out", "--json").stdout)["kind"] == "directory"


@pytest.mark.slow
def test_get_default_destination(program: Run, tmp_path: Path) -> None:
    """`get` copies to the path's last name in the working directory."""
    assert program("get", "trainer:out").returncode == 0
    assert (tmp_path / "out" / "model.bin").read_bytes() == CONTENT
    assert (tmp_path / "out" / "deep" / "notes.txt").read_text() == "hello"


def test_get_json(lit: Run, tmp_path: Path) -> None:
    """`get --json` says what was transferred, and to where."""
    transfer = json.loads(lit("get", "trainer:out/model.bin", "copy.bin", "--json").stdout)
    assert (transfer["files"], transfer["bytes"]) == (1, len(CONTENT))
    assert transfer["target"] == str(tmp_path / "copy.bin")


@pytest.mark.parametrize("destination", [".", "sub/"])
def test_get_into(lit: Run, tmp_path: Path, destination: str) -> None:
    """A destination that is a dot or ends in a slash is where the copy goes, and is not replaced."""
    (tmp_path / destination).mkdir(exist_ok=True)
    (tmp_path / destination / "mine").touch()
    assert lit("get", "trainer:out", destination, "--overwrite").returncode == 0
    assert sorted(os.listdir(tmp_path / destination)) == ["mine", "out"]


def test_get_existing(lit: Run, tmp_path: Path) -> None:
    """`get` onto what exists fails with one sentence and changes nothing."""
    (tmp_path / "out").write_text("mine")
    done = lit("get", "trainer:out")
    assert done.returncode == 1
    assert one_line(done.stderr).endswith("pass --overwrite to replace it")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("options", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_get_file_onto_directory(lit: Run, tmp_path: Path, options: list[str]) -> None:
    """A file never replaces a directory, whose name may just lack the slash."""
    (tmp_path / "mydocs").mkdir()
    done = lit("get", "trainer:out/model.bin", "mydocs", *options)
    assert done.returncode == 1
    assert one_line(done.stderr) == "'mydocs' is a directory; end it with '/' to copy into it"
    assert os.listdir(tmp_path / "mydocs") == []


def test_get_file_onto_directory_inside(lit: Run, tmp_path: Path) -> None:
    """A file does not replace a directory of its own name either, inside of the destination."""
    (tmp_path / "into" / "model.bin").mkdir(parents=True)
    assert lit("get", "trainer:out/model.bin", "into/", "--overwrite").returncode == 1
    assert (tmp_path / "into" / "model.bin").is_dir()


def test_get_directory_onto_directory(lit: Run, tmp_path: Path) -> None:
    """A directory onto a directory is refused with both ways out, and changes nothing."""
    (tmp_path / "here").mkdir()
    done = lit("get", "trainer:out", "here")
    assert done.returncode == 1
    assert "end it with '/' to copy into it, or replace it as a whole with --overwrite" in one_line(
        done.stderr
    )
    assert os.listdir(tmp_path / "here") == []


def test_get_directory_replaces_directory(lit: Run, tmp_path: Path) -> None:
    """With --overwrite a directory replaces a directory as a whole."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine").touch()
    assert lit("get", "trainer:out", "here", "--overwrite").returncode == 0
    assert sorted(os.listdir(tmp_path / "here")) == ["deep", "model.bin"]


def test_get_stdout(lit: Run, tmp_path: Path) -> None:
    """`get` to a dash is refused, and points to cat."""
    done = lit("get", "trainer:out/model.bin", "-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"use cat to write a file to stdout" in done.stderr
    assert os.listdir(tmp_path) == []


def test_get_overwrite(lit: Run, tmp_path: Path) -> None:
    """`get --overwrite` replaces what exists."""
    (tmp_path / "out").write_text("mine")
    assert lit("get", "trainer:out", "--overwrite").returncode == 0
    assert (tmp_path / "out" / "model.bin").exists()


@pytest.mark.slow
def test_get_progress(root: Path, tmp_path: Path) -> None:
    """On a terminal `get` works with its progress bar too."""
    ours, theirs = pty.openpty()
    copy = [*COMMAND, "--root", root, "get", "trainer:out/model.bin"]
    assert subprocess.run(copy, cwd=tmp_path, stdout=theirs, stderr=theirs, timeout=60).returncode == 0
    os.close(theirs)
    os.close(ours)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


@pytest.mark.slow
def test_cat(program: Run) -> None:
    """`cat` writes the bytes of a file and nothing else."""
    assert program("cat", "trainer:out/model.bin").stdout == CONTENT


def test_cat_directory(lit: Run) -> None:
    """`cat` of a directory fails with one sentence and writes nothing."""
    done = lit("cat", "trainer:out")
    assert (done.returncode, done.stdout) == (1, b"")
    assert "trainer" in one_line(done.stderr)


@pytest.mark.slow
def test_cat_broken_pipe(root: Path) -> None:
    """`cat` into a pipe that closes ends quietly, as cat does."""
    cat = subprocess.Popen(
        [*COMMAND, "--root", root, "cat", "trainer:out/model.bin"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert cat.stdout is not None
    cat.stdout.close()
    assert cat.wait(timeout=60) == 128 + signal.SIGPIPE
    assert cat.stderr is not None
    assert cat.stderr.read() == b""
    cat.stderr.close()


@pytest.mark.parametrize("command", ["ls", "stat", "get", "cat"])
def test_absent(lit: Run, command: str) -> None:
    """What is not there is one sentence that names it, and the code 1."""
    done = lit(command, "trainer:nowhere")
    assert done.returncode == 1
    assert "nowhere" in one_line(done.stderr)


def test_absent_work(lit: Run) -> None:
    """A Work that nobody knows is named, and so is the registry that was asked."""
    done = lit("ls", "nobody:out")
    assert done.returncode == 1
    assert "no Work 'nobody' is known to sqlite://" in one_line(done.stderr)


def test_absent_root(lit: Run, tmp_path: Path) -> None:
    """A root that is not there is named, with the option to name another, and is not made."""
    done = lit("--root", tmp_path / "nowhere", "works")
    assert done.returncode == 1
    assert "nowhere'; go to where the app runs, or name its root with --root" in one_line(done.stderr)
    assert os.listdir(tmp_path) == []


def test_missing_at_sign(lit: Run) -> None:
    """A URI that lacks the @ before the name is shown as it should be written."""
    done = lit("ls", "lit://trainer/out")
    assert one_line(done.stderr) == (
        "'lit://trainer/out' names no Work; if 'trainer' is one, write 'lit://@trainer/out' or 'trainer:out'"
    )


@pytest.mark.slow
def test_error_json(program: Run) -> None:
    """With --json an error is JSON on stderr."""
    done = program("stat", "trainer:nowhere", "--json")
    assert json.loads(done.stderr)["error"] == "PathNotFound"
    assert done.stdout == b""


def test_error_json_names_options(lit: Run, tmp_path: Path) -> None:
    """With --json too, an error names the option and not the argument of Python."""
    (tmp_path / "model.bin").touch()
    message = json.loads(lit("get", "trainer:out/model.bin", "--json").stderr)["message"]
    assert message.endswith("pass --overwrite to replace it")


def test_error_keeps_names(lit: Run) -> None:
    """A file that is called as an argument of Python keeps its name in an error."""
    assert "'lit://@trainer/overwrite=True'" in one_line(lit("stat", "trainer:overwrite=True").stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "tr@iner:out"],
        ["ls", "trainer:../out"],
        ["cat", "lit://../etc/passwd"],
        ["get", "lit://out"],
        ["get", "trainer:out", ""],
        ["stat", "trainer:@other/x"],
        ["works", "--bogus"],
        ["ls"],
        ["bogus"],
        ["run", "missing.py"],
        ["run"],
    ],
    ids=" ".join,
)
def test_wrong_usage(lit: Run, arguments: list[str]) -> None:
    """Wrong usage ends with 2, prints nothing on stdout, and is no traceback."""
    done = lit(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stderr
    assert done.stderr


@pytest.mark.slow
def test_help_summaries(program: Run) -> None:
    """In 80 columns the help shows the summary of each command whole."""
    text = program("--help", env={**os.environ, "COLUMNS": "80"}).stdout.decode()
    commands = text.partition("Commands:")[2].split("\n")[1:-1]
    names = ["run", "works", "ls", "stat", "get", "cat", "serve", "health", "artifacts", "certs"]
    assert [line.split()[0] for line in commands] == names
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_registry_option(lit: Run, before: bool) -> None:
    """--registry, before or after the command, decides where names are looked up."""
    registry = ["--registry", "static:elsewhere=127.0.0.1:9"]
    done = lit(*registry, "works", "--json") if before else lit("works", "--json", *registry)
    assert [row["name"] for row in json.loads(done.stdout)] == ["elsewhere"]


def test_root_option_after(lit: Run, root: Path, tmp_path: Path) -> None:
    """--root after the command beats the one before it."""
    done = lit("--root", tmp_path / "nowhere", "stat", "trainer:out", "--root", root)
    assert done.returncode == 0


APP = """
import sys
from lit_storage import App, Flow, Work

class Count(Work):
    def run(self):
        {body}

class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.count = Count()

    def run(self):
        self.count.run()

app = App(Pipeline())
"""


@pytest.fixture
def run_app(program: Run, tmp_path: Path) -> Run:
    """Run an app whose Work has the given body, below a root of its own."""

    def run(body: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        (tmp_path / "app.py").write_text(APP.format(body=body))
        return program("--root", tmp_path / "own", "run", "app.py", *arguments)

    return run


@pytest.mark.slow
def test_run(run_app: Run, tmp_path: Path) -> None:
    """`run` runs the app, with the root that was named, and ends with 0."""
    done = run_app("print('counted', flush=True)")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"counted\n", b"")
    assert (tmp_path / "own" / "works" / "count").is_dir()


def first_frame(text: bytes) -> str:
    """The first line of a traceback that names a file."""
    return next(line.strip() for line in text.decode().splitlines() if line.lstrip().startswith("File "))


@pytest.mark.slow
def test_run_failing_work(run_app: Run, tmp_path: Path) -> None:
    """An exception in a Work is shown once, with the Work's name, from the user's frame on."""
    done = run_app("raise KeyError('no such digit')")
    assert done.returncode == 1
    assert done.stderr.startswith(b"in the process of 'count':")
    assert done.stderr.count(b"Traceback") == 1
    assert first_frame(done.stderr).startswith(f'File "{tmp_path / "app.py"}", line 7')
    assert done.stderr.endswith(b"KeyError: 'no such digit'\n")


@pytest.mark.slow
def test_run_error_of_ours(run_app: Run, tmp_path: Path) -> None:
    """An error of ours is one sentence and the user's line; no traceback."""
    done = run_app("import os; os._exit(3)")
    sentence, place = done.stderr.decode().splitlines()
    assert sentence == "the process of 'count' exited with code 3 before run() had ended"
    assert place == f"  at {tmp_path / 'app.py'}:15, in Pipeline.run"


@pytest.mark.slow
def test_run_taken_name(root: Path, program: Run, tmp_path: Path) -> None:
    """A second app of the same root is refused in one sentence, and the first goes on."""
    app = tmp_path / "app.py"
    app.write_text(APP.format(body=f"print('begun', flush=True); open({str(tmp_path / 'gate')!r}).read()"))
    os.mkfifo(tmp_path / "gate")
    command = [*COMMAND, "run", "--root", tmp_path / "own", app]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"begun\n"
        second = program("--root", tmp_path / "own", "run", app)
        (tmp_path / "gate").write_text("go on")
        first.communicate(timeout=60)
    assert (first.returncode, second.returncode, second.stdout) == (0, 1, b"")
    sentence, place = second.stderr.decode().splitlines()
    assert sentence.startswith("the name 'count' is taken by process ")
    assert place.startswith(f"  at {app}:")


@pytest.mark.slow
def test_run_names_options(program: Run, tmp_path: Path) -> None:
    """An error about the root that the command line gave names --root."""
    (tmp_path / "file").touch()
    (tmp_path / "app.py").write_text(APP.format(body="pass"))
    done = program("--root", tmp_path / "file", "run", "app.py")
    assert "choose another one with --root or" in one_line(done.stderr)


@pytest.mark.slow
def test_run_names_arguments(program: Run, tmp_path: Path) -> None:
    """An error that the user's code met names arguments of Python."""
    (tmp_path / "app.py").write_text("from lit_storage import PathExists\nraise PathExists\n")
    assert b"pass overwrite=True" in program("run", "app.py").stderr


@pytest.mark.slow
def test_run_attribute_that_cannot_travel(program: Run, tmp_path: Path) -> None:
    """An attribute that no process can be sent is one sentence that names it."""
    app = APP.format(body="pass").replace("= Count()", "= Count(); self.count.lock = open(__file__)")
    (tmp_path / "app.py").write_text(app)
    done = program("run", "--root", tmp_path / "own", "app.py")
    assert done.returncode == 1
    assert one_line(done.stderr).startswith("TypeError: attribute 'lock' of 'count' ")


@pytest.mark.slow
def test_run_arguments(program: Run, tmp_path: Path) -> None:
    """What follows the file's name, options too, is the app's."""
    (tmp_path / "app.py").write_text("import sys\nprint(sys.argv)\nraise SystemExit(0)\n")
    assert one_line(program("run", "app.py", "--epochs", "3").stdout) == "['app.py', '--epochs', '3']"


@pytest.mark.slow
def test_run_without_app(program: Run, tmp_path: Path) -> None:
    """A file without an App is wrong usage, in one sentence that says what to add."""
    (tmp_path / "app.py").write_text("x = 1\n")
    done = program("run", "app.py")
    assert done.returncode == 2
    assert "App" in one_line(done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("1 / 0", b"ZeroDivisionError: division by zero\n"),
        ("import no_such_module", b"ModuleNotFoundError: No module named 'no_such_module'\n"),
        ("def run(:", b"SyntaxError: invalid syntax\n"),
    ],
)
def test_run_broken_file(program: Run, tmp_path: Path, line: str, error: bytes) -> None:
    """An exception of the file itself is shown from its own line on, and the code is 1."""
    (tmp_path / "app.py").write_text(f"{line}\n")
    done = program("run", "app.py")
    assert done.returncode == 1
    assert first_frame(done.stderr).startswith(f'File "{tmp_path / "app.py"}", line 1')
    assert done.stderr.endswith(error)


@pytest.mark.slow
def test_run_interrupted(root: Path, tmp_path: Path) -> None:
    """Ctrl-C stops the app and ends with 130."""
    (tmp_path / "app.py").write_text(
        APP.format(body="print('begun', flush=True); import threading; threading.Event().wait(60)")
    )
    app = [*COMMAND, "--root", tmp_path / "own", "run", tmp_path / "app.py"]
    with subprocess.Popen(app, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"begun\n"
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"Traceback" not in errors


@pytest.mark.slow
def test_version(program: Run) -> None:
    """The version is that of the installed distribution."""
    assert program("--version").stdout.decode().strip() == importlib.metadata.version("lit-storage")


@pytest.mark.parametrize("arguments", [["-h"], ["ls", "-h"], ["artifacts", "rm", "-h"]])
def test_short_help(lit: Run, arguments: list[str]) -> None:
    """-h is --help, of each command."""
    done = lit(*arguments)
    assert done.returncode == 0
    assert done.stdout == lit(*arguments[:-1], "--help").stdout


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(program: Run, shell: str) -> None:
    """A shell is told how to complete commands, and then gets their names."""
    assert b"lit-storage" in program("--show-completion", shell).stdout
    asked = {"_LIT_STORAGE_COMPLETE": "complete_bash", "COMP_WORDS": "lit-storage art", "COMP_CWORD": "1"}
    assert program(env={**os.environ, **asked}).stdout.split() == [b"artifacts"]


@pytest.mark.slow
def test_run_as_a_module() -> None:
    """`python -m lit_storage` is the command, where no scripts are installed."""
    done = subprocess.run(
        [sys.executable, "-m", "lit_storage", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: python -m lit_storage ")
