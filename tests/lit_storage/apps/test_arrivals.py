"""Warnings and log lines about the Paths that a `run` is handed."""

import ast
import logging
import warnings

import pytest

import lit_storage
from lit_storage import Path
from lit_storage.apps.arrivals import Arrivals
from lit_storage.apps.handover import fetch_all
from lit_storage_client.fetch import Transfer

APP = """
import logging, os, shutil, sys
from lit_storage import App, Flow, Path, Work
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

class Train(Work):
    def __init__(self):
        super().__init__()
        self.directory, self.file = "lit://out/ckpt", "lit://best.txt"
    def run(self, text):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.file.unlink(missing_ok=True)
        if text:
            os.makedirs(self.directory)
            (self.directory / "w").write_text(text)
            self.file.write_text(text)

class Deploy(Work):
    def __init__(self):
        super().__init__()
        self.given = None
    def run(self, directory):
        found = [os.path.isdir(directory) and (directory / "w").read_text(),
                 os.path.isfile(self.given) and self.given.read_text()]
        aside = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(directory))), "@.aside")
        found.append(sorted(os.listdir(aside)) if os.path.isdir(aside) else [])
        return found

class Main(Flow):
    def __init__(self):
        super().__init__()
        self.train, self.deploy = Train(), Deploy()
    def run(self):
        self.deploy.given = self.train.file
        for text in sys.argv[1:]:
            self.train.run(text.strip("-"))
            print(self.deploy.run(self.train.directory), flush=True)

if __name__ == "__main__":
    App(Main()).run()
"""
ASIDE = ["train:best.txt", "train:out%2Fckpt"]


def run(script, *texts):
    """Run the app; return what each hand-over found, and what was written to stderr."""
    printed, errors = script(APP, *texts).communicate(timeout=120)
    return [ast.literal_eval(line) for line in printed.splitlines()], errors


@pytest.mark.slow
def test_what_the_origin_removed_is_not_read(script):
    """An earlier copy is moved aside, in one app, until there is a new one; twice absent changes nothing."""
    found, errors = run(script, "a", "-", "-", "b", "-")
    assert found == [
        ["a", "a", []],
        [False, False, ASIDE],
        [False, False, ASIDE],
        ["b", "b", []],
        [False, False, ASIDE],
    ]
    assert errors.count("UserWarning: lit://@train/best.txt is not at its origin any more") == 2
    assert "works/deploy/@.aside/train:out%2Fckpt/ckpt'" in errors


@pytest.mark.slow
def test_what_an_earlier_app_copied_is_not_read(script):
    """The same holds for the next app with the same root."""
    assert run(script, "a")[0] == [["a", "a", []]]
    assert run(script, "-")[0] == [[False, False, ASIDE]]


@pytest.mark.slow
def test_what_is_not_made_yet_is_logged_once(script):
    """A path that a known Work has not made is logged at INFO, however often it is handed over."""
    found, errors = run(script, "-", "-")
    assert found == [[False, False, []]] * 2
    assert "is not at its origin" not in errors
    assert errors.count("INFO lit://@train/best.txt is not there yet") == 1


# --- One hand-over ------------------------------------------------------------------------------


@pytest.fixture
def session(root):
    """This process is the Work "deploy"."""
    with lit_storage.join("deploy") as session:
        yield session


def arriving(session, *texts):
    """Hand Paths over; return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arrivals = Arrivals(session)
        for _ in range(2):
            fetch_all([Path(text) for text in texts], workers=2, arrivals=arrivals)
    return [str(warning.message) for warning in caught]


@pytest.mark.slow
def test_an_unknown_name_is_warned_of_once(session, other):
    """The nearest name that a Work has is suggested."""
    assert arriving(session, "lit://@trainr/x") == [
        "no Work 'trainr' is known; did you mean 'trainer'? (lit://@trainr/x was not handed over)"
    ]


@pytest.mark.slow
def test_a_known_name_is_not_warned_of(session, other, caplog):
    """A known Work that has not made the path yet is logged at INFO."""
    caplog.set_level(logging.INFO, "lit_storage.work")
    assert arriving(session, "lit://@trainer/none") == []
    assert [record.getMessage() for record in caplog.records] == [
        "lit://@trainer/none is not there yet, so run() starts without it"
    ]


@pytest.fixture
def other(script):
    """Another process that joined as "trainer"; it shares a socket and links that leave the tree."""
    process = script(
        """
        import os, socket, time
        import lit_storage
        from lit_storage import Path
        with lit_storage.join("trainer"):
            directory = Path("lit://out")
            directory.mkdir()
            for number in range(5):
                os.symlink("/etc/passwd", directory / f"link{number}")
            os.chdir(directory)
            socket.socket(socket.AF_UNIX).bind("socket")
            Path("lit://f").write_text("abc")
            Path("lit://one").mkdir()
            os.symlink("/etc/passwd", Path("lit://one/link"))
            print(flush=True)
            time.sleep(60)
        """
    )
    process.stdout.readline()
    return process


@pytest.mark.slow
def test_what_is_left_out_is_named_once(session, other):
    """Links that leave the tree and sockets are named, the first of them and how many more."""
    few, many = sorted(arriving(session, "lit://@trainer/out", "lit://@trainer/one"), key=len)
    assert few.startswith("'link' of lit://@trainer/one was left out")
    assert "and 3 more of lit://@trainer/out were left out" in many


@pytest.mark.slow
def test_a_copy_that_is_whole_is_not_warned_of(session):
    """Without anything left out there is no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Arrivals(session).copied(Path("lit://@trainer/x"), Transfer(1, 1, 0.1, "stream"))


@pytest.mark.slow
def test_a_get_of_an_unknown_name_suggests_one(session, other):
    """get, too, says which name may have been meant."""
    with pytest.raises(FileNotFoundError, match="did you mean 'trainer'"):
        Path("lit://@trainr/x").get()


@pytest.mark.slow
def test_an_own_path_that_names_a_work_is_explained(session, other):
    """lit://trainer/x is a path of one's own; where it is missing, the URI of the Work is suggested."""
    for use in (Path.get, Path.stat_remote):
        with pytest.raises(FileNotFoundError, match="write 'lit://@trainer/x'"):
            use(Path("lit://trainer/x"))
    with pytest.raises(FileNotFoundError) as caught:
        Path("lit://nobody/x").get()
    assert "write" not in str(caught.value)


@pytest.mark.slow
def test_a_transfer_is_logged(session, other, caplog):
    """Each copy is one line at INFO of lit_storage.transfer: what, from whom, bytes and seconds."""
    caplog.set_level(logging.INFO, "lit_storage.transfer")
    Path("lit://@trainer/f").get()
    assert [record.getMessage().partition(" in ")[0] for record in caplog.records] == [
        "copied 'lit://@trainer/f': 1 file, 3 bytes"
    ]
