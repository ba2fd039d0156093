"""What a person sees of a peer that lies: the command line, its bar, and the log, from a terminal's view."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading

import grpc
import pytest

from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.frames import Frame, Summary
from lit_storage_proto.v1 import path_storage_pb2 as pb
from tests.hostile.consumer.liar import ORIGIN, ROOT, a_file, a_link, a_pack, told

COMMAND = [
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'lit-storage'; from lit_storage.cli.main import main; main()",
]
STEERING = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202e\x08e\x7f"
WHO = pb.Origin(name=ORIGIN[0], instance_id=ORIGIN[1])


@pytest.fixture
def options(liar, tmp_path):
    """A root, and a registry that knows the peer."""
    (tmp_path / ".lit").mkdir()
    token = tmp_path / ".lit" / "token"
    token.touch(0o600)
    token.write_text("secret")
    return ["--root", str(tmp_path / ".lit"), "--registry", f"static:trainer={liar.record.endpoint}"]


@pytest.fixture
def lit(options, tmp_path, monkeypatch, capfd):
    """Run the command line; return its exit code, and all that it wrote."""
    from lit_storage.cli.main import main

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["lit-storage", *options, *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, "".join(capfd.readouterr())

    return run


@pytest.fixture
def lit_on_a_terminal(options, tmp_path):
    """Run the command line in a process of its own that writes on a terminal."""

    def run(*arguments):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, *options, *arguments], cwd=tmp_path, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
            while more := os.read(ours, 1 << 16):
                written += more
        os.close(ours)
        return process.wait(60), written.decode()

    return run


def is_clean(text):
    """Say whether a text steers no terminal and spoils no line."""
    return all(line.isprintable() for line in text.split("\n")) and len(text) < 200_000


def listed(*entries):
    return [pb.ListFilesResponse(origin=WHO, entries=[pb.Entry(kind=2), *entries], complete=True)]


def test_ls(liar, lit):
    """`ls` escapes names and the texts of links, and takes any size and time."""
    liar.pages = listed(
        pb.Entry(path=STEERING, kind=1, size=2**63 - 1, mtime_ns=-(2**63)),
        pb.Entry(path="link", kind=3, link_target=STEERING, mtime_ns=2**63 - 1),
        pb.Entry(path_bytes=b"\xff\xfe", kind=4),
        pb.Entry(path="two\nlines", kind=2),
    )
    code, text = lit("ls", "trainer:out")
    assert (code, is_clean(text), len(text.splitlines())) == (0, True, 4)


def test_ls_json(liar, lit):
    """`ls --json` is ASCII, and gives each name to the letter."""
    liar.pages = listed(pb.Entry(path=STEERING, kind=1), pb.Entry(path_bytes=b"\xff", kind=1))
    code, text = lit("ls", "--json", "trainer:out")
    assert (code, text.isascii(), is_clean(text)) == (0, True, True)
    assert [entry["path"] for entry in json.loads(text)] == [STEERING, "\udcff"]


def test_stat(liar, lit):
    """`stat` shows any size and time."""
    liar.stat = pb.StatResponse(origin=WHO, entry=pb.Entry(kind=1, size=2**63 - 1, mtime_ns=-(2**63)))
    code, text = lit("stat", "trainer:out")
    assert (code, is_clean(text)) == (0, True)


ARGUMENTS = [["ls", "trainer:out"], ["stat", "trainer:out"], ["get", "trainer:out"], ["cat", "trainer:out"]]
commands = pytest.mark.parametrize("arguments", ARGUMENTS, ids=[each[0] for each in ARGUMENTS])


@commands
@pytest.mark.parametrize("extra", [[], ["--json"]], ids=["text", "json"])
def test_sentence_that_steers(liar, lit, arguments, extra):
    """The sentence of a refusal is one line, escaped."""
    if arguments[0] == "cat" and extra:
        pytest.skip("cat has no JSON")
    liar.stat = lambda context: context.abort(grpc.StatusCode.PERMISSION_DENIED, STEERING * 100)
    liar.frames = liar.pages = lambda context: [liar.stat(context)]
    code, text = lit(*arguments, *extra)
    assert (code, is_clean(text), len(text.splitlines())) == (1, True, 1)
    assert "owned" in text  # it is the peer's sentence


@commands
def test_garbage(liar, lit, arguments):
    """An answer that is none is told in one line, with no traceback of a library."""
    liar.stat, liar.frames, liar.pages = b"\xff" * 9, [b"\xff" * 9], [b"\xff" * 9]
    code, text = lit(*arguments)
    assert (code, is_clean(text), len(text.splitlines())) == (1, True, 1)
    assert "trainer" in text or "cannot be decoded" in text  # and not, say, that our token is refused


def test_get(liar, lit):
    """What `get` leaves out and what was changing is named in lines that steer nothing."""
    liar.frames = told(
        ROOT,
        Entry(STEERING, Kind.SKIPPED),
        a_link("out\n" + STEERING, "/etc"),
        a_pack([STEERING + "p"]),
        summary=Summary(3, 0, 1, 1, 1, 1, (STEERING + "p",), 2**63),
    )
    code, text = lit("get", "--accept-changes", "trainer:out", "copy")
    assert (code, is_clean(text)) == (0, True)
    assert len(text.splitlines()) == 3


@pytest.mark.slow
def test_get_on_a_terminal(liar, lit_on_a_terminal):
    """A bar whose total is told by a peer holds only escapes of its own, whatever the total."""
    liar.pages = listed(*[pb.Entry(path=f"{STEERING}{n}", kind=1, size=2**63 - 1) for n in range(50)])

    def frames(context):
        import time

        yield from told(ROOT, a_pack([STEERING]))[:-1]
        time.sleep(1)
        yield told(ROOT, a_pack([STEERING]))[-1]

    liar.frames = frames
    code, text = lit_on_a_terminal("get", "trainer:out", "copy")
    assert code == 0
    assert "owned" not in text
    assert "\x07" not in text


@pytest.mark.slow
def test_get_that_fails_on_a_terminal(liar, lit_on_a_terminal):
    """Nor does the error that ends it."""
    liar.frames = told(ROOT, a_file(STEERING, b"x"), Frame(entries=[a_file(STEERING)]))
    code, text = lit_on_a_terminal("get", "trainer:out", "copy")
    assert code == 1
    assert "]0;owned" not in text.replace("\\x1b]0;owned", "")
    assert "\x07" not in text


CODE = """
import lit_storage, logging, os, sys
logging.basicConfig(level=logging.DEBUG)
root, registry, target = sys.argv[1:]
with lit_storage.connect(root=root, registry=registry):
    path = lit_storage.Path("lit://@trainer/out")
    for ask in (path.exists_remote, path.stat_remote, lambda: path.get(to=target), path.get):
        try:
            print(ask())
        except Exception as error:
            assert isinstance(error, lit_storage.StorageError), repr(error)
            print(type(error).__name__, error)
"""


@pytest.fixture
def code(options, tmp_path):
    """Run Python code that asks the peer in each way there is; return what it printed."""

    def run():
        arguments = [*options[1::2], str(tmp_path / "to")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", CODE, *arguments], env=environment, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return (done.stdout + done.stderr).decode()

    return run


@pytest.mark.slow
def test_names_in_what_python_prints(liar, code):
    """A Transfer and an entry can be printed, and the log too."""
    liar.stat = pb.StatResponse(origin=WHO, entry=pb.Entry(kind=3, link_target=STEERING))
    liar.frames = told(ROOT, Entry(STEERING, Kind.SKIPPED), a_link("l", "/" + STEERING))
    text = code()
    assert is_clean(text)
    assert text.count("Transfer(") == 2


@pytest.mark.slow
def test_lies_through_the_public_paths(liar, code, tmp_path):
    """`exists_remote`, `stat_remote` and `get`, also with `to=`, fail as typed errors, and make nothing."""
    liar.exists = liar.stat = b"\xff" * 9
    liar.frames = told(ROOT, a_file("../../../key"))
    text = code()
    assert is_clean(text)
    assert text.count("ProtocolViolation") == 4
    assert not os.path.exists(tmp_path / "to")
    assert not os.path.exists(tmp_path / "key")


BEFORE_RUN = {
    "a name that leads up": told(ROOT, a_file("../../../../key")),
    "a link, and a file through it": told(ROOT, a_link("l", "../.."), a_file("l/key")),
    "no summary": told(ROOT)[:-1],
    "damaged": told(ROOT, a_pack(["f"], digest=bytes(16))),
    "set-user-id": told(ROOT, a_file("f", mode=0o4755)),
    "another name": told(ROOT, origin=("other", "i1")),
}


@pytest.mark.parametrize("frames", BEFORE_RUN.values(), ids=BEFORE_RUN)
def test_lies_before_a_run(liar, options, tmp_path, frames):
    """What is fetched before a Work runs is held to the same, and a lie ends it: the Work does not start."""
    import lit_storage
    from lit_storage.apps.handover import fetch_all

    liar.frames = frames
    with lit_storage.connect(root=options[1], registry=options[3]):
        paths = [lit_storage.Path(f"lit://@trainer/{name}") for name in ("out", "log")]
        with pytest.raises(lit_storage.StorageError) as caught:
            fetch_all(paths, workers=2)
    for thread in threading.enumerate():  # the other transfer is not waited for, and is to have made nothing
        if thread.name.startswith("lit-fetch"):
            thread.join(60)
            assert not thread.is_alive()
    assert is_clean(str(caught.value))
    assert [path for path in tmp_path.rglob("*") if path.name in ("key", "f", "l")] == []


@pytest.mark.slow
def test_garbage_on_a_terminal(liar, lit_on_a_terminal):
    """No library writes a traceback of it there either."""
    liar.stat = b"\xff" * 9
    code, text = lit_on_a_terminal("stat", "trainer:out")
    assert (code, "Traceback" in text, len(text.splitlines())) == (1, False, 1)
