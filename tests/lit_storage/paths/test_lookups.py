"""What pathlib's questions say of the files of another Work."""

import multiprocessing
import os

import pytest

from lit_storage.paths import home as homes
from lit_storage.paths.home import Home
from lit_storage.paths.path import Path
from lit_storage_client.fetch import Transfer
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import NotAttached, PathNotFound

ORIGIN = {"d": Kind.DIRECTORY, "d/x": Kind.FILE, "d/late": Kind.FILE, "f": Kind.FILE}

QUESTIONS = {
    "exists": lambda path: path.exists(),
    "is_dir": lambda path: path.is_dir(),
    "is_file": lambda path: path.is_file(),
}
USES = {
    "stat": lambda path: path.stat(),
    "lstat": lambda path: path.lstat(),
    "open": lambda path: path.open(),
    "read_text": lambda path: path.read_text(),
    "read_bytes": lambda path: path.read_bytes(),
    "iterdir": lambda path: list(path.iterdir()),
    "glob": lambda path: list(path.glob("*")),
    "rglob": lambda path: list(path.rglob("*")),
}
if hasattr(Path, "walk"):
    USES["walk"] = lambda path: list(path.walk())


class Trainer:
    """A transport to a Work that has what `ORIGIN` says; it counts what it is asked."""

    def __init__(self):
        self.calls = []
        self.is_flow = False

    def refuse(self, action):
        if self.is_flow:
            raise NotAttached(action)

    def exists(self, location):
        self.calls.append(location.path)
        return location.path in ORIGIN

    def stat(self, location):
        self.calls.append(location.path)
        if location.path not in ORIGIN:
            raise PathNotFound(location.path)
        return Entry("", ORIGIN[location.path])

    def get(self, location, target, **options):
        os.makedirs(target, exist_ok=True)
        with open(os.path.join(target, "x"), "w") as file:
            file.write("1")
        return Transfer(1, 1, 0.0, "stream")


@pytest.fixture
def trainer(tmp_path):
    """This process is the Work "deploy", with a way to "trainer"."""
    trainer = Trainer()
    homes.enter(Home("deploy", os.path.realpath(tmp_path), "m"), trainer)
    yield trainer
    homes.leave()


@pytest.fixture
def flow(tmp_path):
    """This process is a Flow's."""
    trainer = Trainer()
    trainer.is_flow = True
    homes.enter(Home(None, os.path.realpath(tmp_path), "m"), trainer)
    yield trainer
    homes.leave()


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(("path", "kind"), [("d", Kind.DIRECTORY), ("f", Kind.FILE), ("none", None)])
def test_the_origin_is_asked_of_what_was_never_copied(trainer, question, path, kind):
    """exists, is_dir and is_file give the origin's answer."""
    right = {"exists": kind is not None, "is_dir": kind is Kind.DIRECTORY, "is_file": kind is Kind.FILE}
    assert QUESTIONS[question](Path(f"lit://@trainer/{path}")) is right[question]
    assert trainer.calls == [path]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("path", ["d", "d/x", "d/late", "d/none", "d/x/below"])
def test_a_copied_directory_answers_by_itself(trainer, question, path):
    """What lies in a directory that was copied gives pathlib's answer, and nobody is asked."""
    Path("lit://@trainer/d").get()
    path = Path(f"lit://@trainer/{path}")
    assert QUESTIONS[question](path) is getattr(os.path, question.replace("_", ""))(path)
    assert trainer.calls == []


def test_a_dangling_link_of_a_copy_answers_by_itself(trainer):
    """A link that is here is what was copied."""
    Path("lit://@trainer/d").get()
    os.symlink("none", Path("lit://@trainer/d/link"))
    assert not Path("lit://@trainer/d/link").exists()
    assert trainer.calls == []


def test_a_parent_that_was_only_made_is_no_copy(trainer):
    """Of what lies beside a copy the origin is asked."""
    Path("lit://@trainer/d/sub").get()
    assert Path("lit://@trainer/d/x").exists()
    assert trainer.calls == ["d/x"]


def test_a_directory_made_in_the_place_of_a_copy_is_no_copy(trainer):
    """A copy that was removed does not count any more, whatever is there now."""
    directory = Path("lit://@trainer/d")
    directory.get()
    os.rename(directory, f"{directory}-aside")
    (directory / "sub").mkdir(parents=True)
    assert (directory / "x").exists()
    assert trainer.calls == ["d/x"]


@pytest.mark.parametrize("use", USES)
def test_what_was_never_copied_names_get(trainer, use):
    """What needs the files is PathNotFound, though the origin has them."""
    with pytest.raises(PathNotFound, match=r"get\(\)"):
        USES[use](Path("lit://@trainer/d"))
    assert trainer.calls == []


@pytest.mark.parametrize("use", ["stat", "open", "iterdir"])
def test_what_is_missing_in_a_copy_is_pathlibs_error(trainer, use):
    """In a directory that was copied a missing file is the system's error."""
    Path("lit://@trainer/d").get()
    with pytest.raises(FileNotFoundError) as caught:
        USES[use](Path("lit://@trainer/d/none"))
    assert not isinstance(caught.value, PathNotFound)


def test_a_glob_in_a_copy_is_pathlibs(trainer):
    """In a directory that was copied a pattern that matches nothing yields nothing."""
    Path("lit://@trainer/d").get()
    assert [path.name for path in Path("lit://@trainer/d").glob("*")] == ["x"]
    assert list(Path("lit://@trainer/d/none").glob("*")) == []


@pytest.mark.parametrize("name", [*QUESTIONS, *USES])
@pytest.mark.parametrize("is_here", [True, False])
def test_a_flow_looks_at_no_files(flow, name, is_here):
    """In a Flow each of them is NotAttached, also where a copy lies there."""
    path = Path("lit://@trainer/d")
    if is_here:
        os.makedirs(path)
    with pytest.raises(NotAttached):
        {**QUESTIONS, **USES}[name](path)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_flow_may_look_at_its_own_paths(flow, tmp_path, name):
    """A Path without origin is pathlib's."""
    assert QUESTIONS[name](Path(tmp_path)) is (name != "is_file")


def answers_of_a_child(path):
    return [ask(path) for ask in QUESTIONS.values()]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_child_answers_by_itself(trainer, method):
    """A child process gives pathlib's answer, and raises nothing for a file that is missing."""
    path = Path("lit://@trainer/f")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(answers_of_a_child, (path,)) == [False, False, False]
        path.parent.mkdir()
        path.touch()
        assert pool.apply(answers_of_a_child, (path,)) == [True, False, True]
    assert trainer.calls == []


def test_what_is_written_here_is_here(trainer):
    """A file of this process's own below the place of copies is pathlib's."""
    path = Path("lit://@trainer/own")
    path.parent.mkdir()
    path.write_text("mine")
    assert (path.exists(), path.is_file(), path.read_text()) == (True, True, "mine")
    assert trainer.calls == []


def test_an_absolute_path_is_no_part_of_a_copied_origin(trainer):
    """R/@origin does not hold what the origin declared elsewhere."""
    Path("lit://@trainer").get()
    assert not Path("lit://@trainer//data").exists()
    assert trainer.calls == ["/data"]
