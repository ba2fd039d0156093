"""Where files and copies lie, and who knows it."""

import os
import subprocess
import sys

import pytest

from lit_storage.paths import home as homes
from lit_storage.paths.home import Home
from lit_storage_proto.errors import NotAttached
from lit_storage_proto.uri import Location

WORK = Home("train", "/s/works/train", "m")
FLOW = Home(None, "/s/flow", "m")


class Refusing:
    """A transport that reaches nobody."""

    def refuse(self, action):
        raise NotAttached(action)


@pytest.fixture
def entered():
    homes.enter(WORK, Refusing())
    yield
    homes.leave()


MODEL = [
    (WORK, "train", "a/b", "/s/works/train/a/b"),
    (WORK, "train", "", "/s/works/train"),
    (WORK, "train", "/data/x", "/data/x"),
    (WORK, "other", "a/b", "/s/works/train/@other/a/b"),
    (WORK, "other", "", "/s/works/train/@other"),
    (WORK, "other", "/data/x", "/s/works/train/@other/@/data/x"),
    (WORK, "other", "/", "/s/works/train/@other/@"),
    (FLOW, "train", "a/b", "/s/flow/@train/a/b"),
]


@pytest.mark.parametrize(("home", "name", "path", "value"), MODEL)
def test_model(home, name, path, value):
    """A location and its value on this machine determine each other."""
    assert homes.value_of(home, Location(name, path)) == value
    assert homes.location_of(home, name, value) == Location(name, path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("other", "/s/works/train/@other/../a"),
        ("other", "/s/works/train/@other/a/../../@third/a"),
        ("other", "/s/works/train/@otherwise"),
        ("other", "/etc/passwd"),
        ("other", "a/b"),
        ("other", "/s/works/train/@other/@third/a"),
        ("other", "/s/works/train/@other/.staging/a"),
        ("train", "/s/works/train/@other/a"),
        ("train", "/s/works/train/.staging"),
        ("train", "/s/works/train/a/../@other"),
    ],
)
def test_no_location(name, value):
    """What leaves the base of its origin, or is reserved there, has no name."""
    assert homes.location_of(WORK, name, value) is None


def test_dots_inside():
    """ ".." that stays within the base is taken lexically."""
    assert homes.location_of(WORK, "other", "/s/works/train/@other/a/../b") == Location("other", "b")


def test_own_without_a_name():
    """A process without a name has no files of its own."""
    with pytest.raises(NotAttached, match="names no Work"):
        homes.value_of(FLOW, Location(None, "a"))


def test_nobody():
    """A process that entered nothing has no home, and no transport."""
    assert homes.current() is None
    with pytest.raises(NotAttached, match=r"join\(\)"):
        homes.transport("get()")


def test_enter_and_leave():
    """A home is known between enter and leave, here and in the environment."""
    transport = Refusing()
    homes.enter(WORK, transport)
    try:
        assert homes.current() == WORK
        assert homes.transport("get()") is transport
        assert os.environ[homes.WORK_PID] == str(os.getpid())
    finally:
        homes.leave()
    assert homes.current() is None
    assert homes.WORK_NAME not in os.environ


def test_second_enter(entered):
    """A second session in one process is refused, and the first one stays."""
    with pytest.raises(RuntimeError, match="already"):
        homes.enter(FLOW, Refusing())
    assert homes.current() == WORK


def test_a_home_that_is_not_handed_on_leaves_the_environment_alone():
    """The Works of an App do not have the home of its Flow."""
    before = dict(os.environ)
    homes.enter(FLOW, Refusing(), hand_on=False)
    try:
        assert dict(os.environ) == before
    finally:
        homes.leave()


def test_children_of_a_connected_process_have_its_home(monkeypatch):
    """Without a name, too, a child computes the same values as its parent."""
    homes.enter(FLOW, Refusing())
    try:
        variables = dict(os.environ)
    finally:
        homes.leave()
    for name in (homes.WORK_ROOT, homes.WORK_MACHINE):
        monkeypatch.setenv(name, variables[name])
    assert (homes.current(), homes.is_child()) == (FLOW, True)


def test_an_app_in_a_child_of_a_connected_process_has_its_own_home(monkeypatch):
    """What an App expects comes before what its process inherited without a name."""
    monkeypatch.setenv(homes.WORK_ROOT, "/r/connect")
    homes.expect(FLOW)
    assert homes.current() is FLOW


def test_a_child_knows_where_the_paths_of_its_parent_lie(monkeypatch):
    """A session of its own adds a home, and what the parent's Paths mean stays known."""
    monkeypatch.setenv(homes.WORK_NAME, "parent")
    monkeypatch.setenv(homes.WORK_ROOT, "/p")
    parent = Home("parent", "/p", "")
    homes.enter(WORK, Refusing())
    try:
        root = WORK.storage_root
        assert homes.home_of("parent", "/p/a") == homes.home_of("other", "/p/@other/a") == parent
        assert homes.home_of("other", f"{root}/@other/a") == homes.home_of("parent", root) == WORK
        assert [homes.storage_root_of(path) for path in ("/p/@other/a", f"{root}/@o/a", "/x")] == [
            "/p",
            root,
            root,
        ]
    finally:
        homes.leave()


@pytest.mark.slow
def test_new_process_inherits(entered):
    """A process that a Work starts knows name and storage root, and reaches nobody."""
    program = (
        "from lit_storage.paths import home; print(home.current())\n"
        "try: home.transport('get()')\n"
        "except RuntimeError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert repr(WORK) in said.stdout, said.stderr
    assert "child process of the Work 'train'" in said.stdout


def test_forked_child_inherits(entered):
    """A forked child has the home of its Work, no transport, and cannot end the Work's session."""
    child = os.fork()
    if child == 0:
        try:
            homes.transport("get()")
        except NotAttached:
            homes.leave()
            os._exit(0 if homes.current() == WORK else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_own_session_in_a_child_beats_what_it_inherits(monkeypatch):
    """A child of a Work that enters a home of its own has that one until it leaves."""
    monkeypatch.setenv(homes.WORK_NAME, "parent")
    monkeypatch.setenv(homes.WORK_ROOT, "/p")
    assert homes.current().name == "parent"
    homes.enter(WORK, Refusing())
    try:
        assert homes.current() == WORK
    finally:
        homes.leave()
    assert homes.current().name == "parent"
