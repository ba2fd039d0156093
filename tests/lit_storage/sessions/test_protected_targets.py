"""What no `get` replaces: the working directory, homes, roots, and what holds one of them."""

import os
import pwd
import subprocess
import sys

import pytest

import lit_storage
from lit_storage import AccessDenied, NotAttached, Path, PathExists

TRAINER = """
import time
import lit_storage
from lit_storage import Path
with lit_storage.join("trainer") as session:
    Path("lit://x").write_text("1")
    print(session.endpoint, flush=True)
    time.sleep(60)
"""

# By name: what is given as to=, and the directory that must stay, both relative to `top`.
TARGETS = {
    "empty": ("", "project"),
    "dot": (".", "project"),
    "dot and slash": ("./", "project"),
    "through a child": ("sub/..", "project"),
    "through what is missing": ("none/..", "project"),
    "absolute": ("{top}/project", "project"),
    "through a link on the way": ("{top}/link/project", "project"),
    "a link to it": ("{top}/alias", "project"),
    "parent": ("..", "."),
    "parent of the parent": ("../..", ".."),
    "root of the session": ("{top}/root", "root"),
    "parent of that root": ("{top}", "."),
    "storage roots": ("{top}/root/works", "root/works"),
    "own storage root": ("{top}/root/connect", "root/connect"),
    "storage root of another Work": ("{top}/root/works/trainer", "root/works/trainer"),
    "registry": ("{top}/root/registry.db", "root/registry.db"),
    "storage root that is a link": ("{top}/root/works/linked", "disk"),
    "what such a link means": ("{top}/disk", "disk"),
    "what a root is recognised by": ("{top}/root/root-identity", "root/root-identity"),
    "artifacts of a Work": ("{top}/root/artifacts/trainer", "root/artifacts"),
    "copies kept by a Work": ("{top}/root/works/trainer/@.aside", "root/works/trainer"),
    "directory of another App": ("{top}/other", "other"),
    "root of another App": ("{top}/other/.lit", "other/.lit"),
    "storage root of another App": ("{top}/other/.lit/works/a", "other/.lit/works/a"),
    "staging of another Work": ("{top}/root/works/trainer/.staging", "root/works/trainer/.staging"),
    "home": ("{top}/home", "home"),
    "home of this user": ("~", "~"),
    "file system": ("/", "/"),
}


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """A directory with a project, a home, the root of a session and that of another App."""
    top = tmp_path_factory.mktemp("top")
    for directory in ("project/sub", "home", "other/.lit/works/a", "root/works/trainer/.staging"):
        (top / directory).mkdir(parents=True)
    (top / "disk").mkdir()
    (top / "root" / "artifacts" / "trainer").mkdir(parents=True)
    (top / "root" / "works" / "linked").symlink_to(top / "disk")
    (top / "other" / ".lit" / "token").touch()
    (top / "link").symlink_to(".")
    (top / "alias").symlink_to("project")
    return top


@pytest.fixture(scope="module")
def consumer(top):
    """This process, connected to the root of a Work that runs."""
    environment = {**os.environ, "LIT_STORAGE_ROOT": f"{top}/root"}
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER], stdout=subprocess.PIPE, env=environment, text=True
    ) as work:
        work.stdout.readline()
        yield f"{top}/root"
        work.kill()


@pytest.fixture
def remote(top, consumer, monkeypatch):
    """A file of the Work; the working directory is the project, and the home is `home`."""
    monkeypatch.setenv("HOME", f"{top}/home")
    monkeypatch.chdir(top / "project")
    with lit_storage.connect(root=consumer):
        yield Path("lit://@trainer/x")


@pytest.mark.parametrize("name", TARGETS)
def test_a_protected_target_is_refused(remote, top, name):
    """It is a ValueError that names a path which can be used, and the directory stays the same one."""
    to, kept = (text.format(top=top) for text in TARGETS[name])
    if to == "~":
        to = kept = pwd.getpwuid(os.geteuid()).pw_dir
    inode = os.stat(top / kept).st_ino
    with pytest.raises(ValueError, match="replace"):
        remote.get(to=to, overwrite=True)
    assert os.stat(top / kept).st_ino == inode
    assert os.path.isdir(top / "project")


def test_the_way_out_works(remote, top):
    """The path that the error names is the one to copy to."""
    with pytest.raises(ValueError, match="working directory") as raised:
        remote.get(to=".")
    assert f"{top}/project/x" in str(raised.value)
    assert remote.get(to="./x", overwrite=True).files == 1


def test_other_targets_are_replaced(remote, top):
    """A directory of the caller's own is replaced as before, also below a root."""
    for target in (top / "project" / "sub" / "out", top / "root" / "connect" / "out", top / "out"):
        target.mkdir()
        remote.get(to=target, overwrite=True)
        assert target.read_text() == "1"
        target.unlink()


def test_a_parent_through_a_link_is_that_of_the_link(remote, top):
    """``link/../x`` means to `get` what it means to `open`."""
    (top / "deep" / "inner").mkdir(parents=True)
    os.symlink(top / "deep" / "inner", "jump")
    remote.get(to="jump/../x", overwrite=True)
    assert (top / "deep" / "x").read_text() == "1"


def test_a_copy_that_is_the_working_directory_is_replaced(remote, monkeypatch):
    """The rule about the working directory holds for to= only."""
    directory = Path("lit://@trainer/")
    directory.get(overwrite=True)
    monkeypatch.chdir(directory)
    assert directory.get(overwrite=True).files == 1


@pytest.mark.root
def test_a_mount_point_is_denied(remote):
    """It stays AccessDenied, whatever else it is."""
    with pytest.raises(AccessDenied, match="mount point"):
        remote.get(to="/proc", overwrite=True)


@pytest.mark.parametrize("overwrite", ["/my/dest", 1, 0, None, Path("x")])
def test_overwrite_is_a_bool(remote, overwrite):
    """Anything else is a TypeError; of a path it mentions to=."""
    with pytest.raises(TypeError, match="to=" if isinstance(overwrite, str | Path) else "True or False"):
        remote.get(overwrite)


@pytest.mark.parametrize(
    ("timeout", "error"), [("5", TypeError), (True, TypeError), (-1, ValueError), (float("nan"), ValueError)]
)
def test_a_timeout_is_a_number_of_seconds(remote, timeout, error):
    """Text, a bool, a negative number and NaN are refused."""
    with pytest.raises(error, match="timeout="):
        remote.get(timeout=timeout)


def test_an_endless_timeout_is_none(remote):
    """Infinity is a number of seconds."""
    assert remote.get(timeout=float("inf"), overwrite=True).files == 1


def test_without_overwrite_a_file_is_kept(remote, top):
    """A target that is there is PathExists, which names overwrite=True."""
    (top / "kept").write_text("mine")
    with pytest.raises(PathExists, match="overwrite=True"):
        remote.get(to=top / "kept")
    assert (top / "kept").read_text() == "mine"


def test_a_uri_as_target_is_a_path_of_this_process(consumer, top, monkeypatch):
    """It makes no directory named "lit:"; a process without files of its own is told."""
    monkeypatch.chdir(top / "project")
    with lit_storage.join("reader", root=consumer) as session:
        Path("lit://@trainer/x").get(to="lit://mine/x")
        assert os.path.isfile(f"{session.storage_root}/mine/x")
    with lit_storage.connect(root=consumer), pytest.raises(NotAttached):
        Path("lit://@trainer/x").get(to="lit://mine/x")
    assert not os.path.lexists("lit:")
