"""How far a get is: who is told, what they are told, and where a bar is drawn."""

import contextlib
import os
import pty
import select
import subprocess
import sys
import threading
import types
import warnings

import fsspec.callbacks
import pytest

import lit_storage
from lit_storage import PathExists, PathNotFound
from lit_storage.paths.bar import bar
from lit_storage.paths.path import Path
from lit_storage.paths.progress import telling
from tests.waiting import within

wait_until = within(20)

SIZE = 8 << 20
TREE_BYTES = SIZE + 5
SERVE = """
import sys, lit_storage
with lit_storage.join("trainer", root=sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""
GET = """
import os, sys, lit_storage
with lit_storage.connect(root=sys.argv[1]):
    lit_storage.Path("lit://@trainer/t").get(to=sys.argv[2], durable=False, progress=True)
print("done")
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The root of one running Work, "trainer", that has t/{large,small}."""
    root = tmp_path_factory.mktemp("root")
    tree = root / "works" / "trainer" / "t"
    tree.mkdir(parents=True)
    (tree / "large").write_bytes(os.urandom(SIZE))
    (tree / "small").write_bytes(b"small")
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as work:
        assert work.stdout.readline() == "ready\n"
        yield root
        work.communicate(timeout=30)


@pytest.fixture
def get(served, tmp_path, monkeypatch):
    """Get t as many messages into tmp_path/copy."""
    monkeypatch.setenv("LIT_STORAGE_LOCAL_COPY", "0")

    def get(path="t", **options):
        return Path(f"lit://@trainer/{path}").get(**{"to": tmp_path / "copy", "durable": False, **options})

    with lit_storage.connect(root=served):
        yield get


def slowly(tell):
    """Return `tell` as one that takes its time, so that the total is learnt in it, however late."""

    def slow(done, total):
        for thread in threading.enumerate():
            if thread.name == "lit-storage-total":
                thread.join(30)
        return tell(done, total)

    return slow


def drawn(*command, **options):
    """Run a command whose stderr is a terminal; return what it wrote there, and to stdout."""
    ours, theirs = pty.openpty()
    written = []

    def read():
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
            while data := os.read(ours, 65536):
                written.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=60, **options)
    os.close(theirs)
    reader.join(30)
    os.close(ours)
    return b"".join(written).decode(), done.stdout.decode()


@contextlib.contextmanager
def terminal(monkeypatch):
    """Let stderr be a terminal while the block runs; yield what returns all that it shows, and its end.

    No fixture: between the set-up of a test and the test itself, pytest sets its own stderr.
    """
    ours, theirs = pty.openpty()
    master, stream = os.fdopen(ours, "rb", buffering=0), os.fdopen(theirs, "w")
    text = ""

    def shown():
        nonlocal text
        while select.select([master], [], [], 0.05)[0]:
            text += master.read(65536).decode(errors="replace")
        return text

    try:
        with monkeypatch.context() as patch:
            patch.setenv("TERM", "xterm")
            patch.setattr(sys, "stderr", stream)
            yield shown, master.close
    finally:
        with contextlib.suppress(OSError):
            stream.close()
        master.close()


# --- A function ---


def test_function_hears_all(get, tmp_path):
    """Bytes done never become fewer, the total becomes known on the way, and both end as what there is."""
    heard = []
    get(progress=slowly(lambda done, total: heard.append((done, total))))
    done = [each for each, _ in heard]
    assert done == sorted(done)
    assert heard[0][1] is None
    assert {total for _, total in heard} == {None, TREE_BYTES}
    assert heard[-1] == (TREE_BYTES, TREE_BYTES)


def test_all_is_said_once_the_copy_is_there(get, tmp_path):
    """Only the last call has all bytes done, and only then there is something at the target."""
    heard = []
    get(progress=slowly(lambda done, total: heard.append((done == total, (tmp_path / "copy").exists()))))
    assert heard[-1] == (True, True)
    assert set(heard[:-1]) == {(False, False)}


def test_function_is_called_in_the_thread_of_the_get(get):
    """Whoever is told needs no lock."""
    threads = set()
    get(progress=lambda done, total: threads.add(threading.current_thread()))
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("error", [ValueError("enough"), OSError(28, "mine"), PathNotFound("mine")])
def test_function_that_raises_ends_the_get(get, tmp_path, error):
    """What it raises, whatever it is, is what get raises, and nothing is left."""

    def enough(done, total):
        if done > SIZE // 2:
            raise error

    with pytest.raises(type(error)) as caught:
        get(progress=enough)
    assert caught.value is error
    assert caught.value.__context__ is None
    assert os.listdir(tmp_path) == []


def test_function_that_raises_in_the_end(get, tmp_path):
    """What the last call raises comes from get too, though the copy is there."""

    def never(done, total):
        if total == done:
            raise ValueError

    with pytest.raises(ValueError):
        get(progress=never)
    assert (tmp_path / "copy" / "large").stat().st_size == SIZE


# --- An fsspec callback ---


def test_callback(get):
    """An fsspec Callback has the size on the way, values that never fall, and ends at 100 %."""
    calls = []
    callback = fsspec.callbacks.Callback(
        hooks={"note": slowly(lambda size, value: calls.append((size, value)))}
    )
    get(progress=callback)
    values = [value for _, value in calls]
    assert values == sorted(values)
    assert all(size is None or value < size for size, value in calls[:-1])
    assert len([size for size, _ in calls if size == TREE_BYTES]) > 2
    assert (callback.size, callback.value) == (TREE_BYTES, TREE_BYTES)


def test_callback_of_nothing(get, served):
    """An empty tree ends at 0 of 0."""
    (served / "works" / "trainer" / "empty").mkdir(exist_ok=True)
    callback = fsspec.callbacks.Callback()
    get("empty", progress=callback)
    assert (callback.size, callback.value) == (0, 0)


def test_what_can_be_told_nothing(get, tmp_path):
    """Something else is a TypeError that says what may be given, before a byte moves."""
    with pytest.raises(TypeError, match="fsspec Callback"):
        get(progress="yes")
    assert os.listdir(tmp_path) == []


# --- A bar ---


def test_bar_on_a_terminal(served, tmp_path):
    """get(progress=True) draws a bar that ends at 100 %, and leaves stdout alone."""
    written, out = drawn(
        *(sys.executable, "-c", GET, served, tmp_path / "copy"), env={**os.environ, "TERM": "xterm"}
    )
    assert "100%" in written
    assert "8.4/8.4 MB" in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is shown again
    assert out == "done\n"


def test_no_bar_in_a_log(served, tmp_path):
    """Where stderr is no terminal nothing is written, even if colors are wanted."""
    done = subprocess.run(
        [sys.executable, "-c", GET, served, tmp_path / "copy"],
        capture_output=True,
        timeout=60,
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm"},
    )
    assert (done.stdout, done.stderr) == (b"done\n", b"")


@pytest.mark.parametrize("variable", [{"TERM": "dumb"}, {"TTY_COMPATIBLE": "0"}], ids=str)
def test_terminal_that_cannot_draw(served, tmp_path, variable):
    """A terminal that knows no cursor gets no escape."""
    written, _ = drawn(
        sys.executable, "-c", GET, served, tmp_path / "copy", env={**os.environ, "TERM": "xterm", **variable}
    )
    assert "\x1b" not in written


def test_bar_of_what_fails(get, tmp_path, monkeypatch):
    """An error of the get passes the bar unchanged, and the display ends."""
    (tmp_path / "copy").touch()
    with terminal(monkeypatch) as (shown, _):
        with pytest.raises(PathExists):
            get(progress=True)
        with pytest.raises(PathNotFound):
            get("absent", to=tmp_path / "other", progress=True)
        wait_until(lambda: shown().endswith("\x1b[?25h"))  # the cursor
    wait_until(lambda: not [t for t in threading.enumerate() if type(t).__module__.startswith("rich")])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that of rich
def test_bar_on_a_terminal_that_is_gone(get, monkeypatch):
    """A bar that cannot be drawn keeps no get from its end."""
    with terminal(monkeypatch) as (_, hang_up):
        hang_up()
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert get(progress=True).bytes == TREE_BYTES


def test_bars_at_once_share_a_display(monkeypatch):
    """Two gets at once have a line each, and a display ends with the last of them."""
    with terminal(monkeypatch) as (shown, _):
        with bar("one"):
            with bar("two") as second:
                second(1, 2)
            with bar("three"):
                assert "\x1b[?25h" not in shown()
        wait_until(lambda: all(name in shown() for name in ("one", "two", "three")))


@pytest.mark.slow
def test_hostile_label(served, tmp_path):
    """A name that steers terminals is escaped."""
    tree = served / "works" / "trainer" / "\x1b[31mred[bold]"
    tree.mkdir(exist_ok=True)
    code = GET.replace("@trainer/t", "@trainer/\\x1b[31mred[bold]")
    written, out = drawn(
        *(sys.executable, "-c", code, served, tmp_path / "copy"), env={**os.environ, "TERM": "xterm"}
    )
    assert out == "done\n"
    assert "\\x1b[31mred[bold]" in written


def test_without_rich(get, monkeypatch):
    """Without rich one warning says what to install, and the get goes on."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with terminal(monkeypatch), pytest.warns(UserWarning, match="pip install rich"):
        assert get(progress=True).bytes == TREE_BYTES


def test_without_rich_or_terminal(get, monkeypatch):
    """Where no bar would be drawn, nobody misses rich."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert get(progress=True).bytes == TREE_BYTES


# --- A notebook ---


class Cell:
    """What IPython's display shows, and the updates of it."""

    def __init__(self):
        self.states = []

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id
        self.states.append(data)
        return self

    def update(self, data, *, raw):
        self.states.append(data)


@pytest.fixture
def cell(monkeypatch):
    """Let this process be the kernel of a notebook."""
    cell = Cell()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = cell.display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return cell


def test_notebook(get, cell, capsys):
    """In a notebook one part of the cell's output is drawn anew until 100 %, as HTML and as plain text."""
    get(progress=True)
    assert "100%" not in cell.states[0]["text/plain"]
    assert "100%" in cell.states[-1]["text/html"]
    assert "100%" in cell.states[-1]["text/plain"]
    assert not any("\x1b" in text or "\n" in text for state in cell.states for text in [state["text/plain"]])
    assert capsys.readouterr() == ("", "")


def test_percent_is_not_rounded_up(cell):
    """One byte before the end is 99 %, and the end is 100 %."""
    with bar("x") as tell:
        tell(10**9 - 1, 10**9)
        almost = cell.states[-1]["text/plain"]
        tell(10**9, 10**9)
    assert " 99%" in almost
    assert "100%" in cell.states[-1]["text/plain"]


def test_ipython_on_a_terminal_is_no_notebook(monkeypatch):
    """Its shell has no kernel."""
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    with bar("x") as tell:
        assert tell is None


# --- What may be given ---


@pytest.mark.parametrize("progress", [None, False])
def test_nobody_is_told(progress):
    """None and False tell nobody."""
    with telling(progress, "x") as tell:
        assert tell is None
