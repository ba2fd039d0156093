import os
import subprocess

import pytest

from lit_storage_client.fetch.confine import choose, confine
from lit_storage_proto.errors import AccessDenied, InvalidURI, PathExists


@pytest.fixture
def root(tmp_path):
    (tmp_path / "R" / "@trainer").mkdir(parents=True)
    return str(tmp_path / "R")


def parent_of(destination):
    """Where a destination's directory lies, made if it is missing."""
    with destination:
        fd = destination.open_parent()
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)


def test_parent_and_name(root):
    """A target is a name in its directory, whose missing parents are made."""
    destination = confine(root, "trainer", f"{root}/@trainer/a/b/c")
    assert destination.name == "c"
    assert parent_of(destination) == f"{root}/@trainer/a/b"


def test_nothing_is_made_before_it_is_needed(root):
    """Asking where a target lies makes no directory."""
    with confine(root, "trainer", f"{root}/@trainer/a/b") as destination:
        destination.check_place()
    assert os.listdir(f"{root}/@trainer") == []


def test_the_whole_of_an_origin(root):
    """The root of a Work's files goes to R/@origin itself."""
    destination = confine(root, "trainer", f"{root}/@trainer")
    assert destination.name == "@trainer"
    assert parent_of(destination) == root


@pytest.mark.parametrize(
    "target", ["{}/@other/x", "{}/x", "/etc/x", "{}/@trainerx", "{}/@trainer/../x", "{}/.staging"]
)
def test_text_that_is_outside(root, target):
    """A target whose text is not below R/@origin is refused as a ValueError."""
    with pytest.raises(InvalidURI):
        confine(root, "trainer", target.format(root))


@pytest.mark.parametrize("text", ["/etc", "..", "../..", "../@other"])
def test_link_that_leads_out(root, text):
    """A link on the way that leaves R/@origin is refused, though it stays in R."""
    os.mkdir(f"{root}/@other")
    os.symlink(text, f"{root}/@trainer/out")
    with pytest.raises(AccessDenied):
        confine(root, "trainer", f"{root}/@trainer/out/x")


def test_link_that_stays(root):
    """A link on the way that stays below R/@origin is followed."""
    os.mkdir(f"{root}/@trainer/real")
    os.symlink("real", f"{root}/@trainer/link")
    assert parent_of(confine(root, "trainer", f"{root}/@trainer/link/x")) == f"{root}/@trainer/real"


def test_origin_directory_that_is_a_link(root, tmp_path):
    """R/@origin itself is no link."""
    os.symlink(tmp_path, f"{root}/@evil")
    with pytest.raises(AccessDenied, match="symbolic link"):
        confine(root, "evil", f"{root}/@evil/x")


def test_parent_replaced_by_a_link_meanwhile(root, tmp_path):
    """A directory that is swapped for a link after the check does not lead the copy out."""
    os.mkdir(f"{root}/@trainer/a")
    destination = confine(root, "trainer", f"{root}/@trainer/a/b/c")
    os.rename(f"{root}/@trainer/a", f"{root}/@trainer/moved")
    os.symlink(tmp_path, f"{root}/@trainer/a")
    assert parent_of(destination) == f"{root}/@trainer/moved/b"


def test_file_on_the_way(root):
    """A file where a directory is needed is refused with a sentence."""
    with open(f"{root}/@trainer/file", "w"):
        pass
    with pytest.raises(PathExists, match="not a directory"):
        confine(root, "trainer", f"{root}/@trainer/file/x")


def test_existing_target_needs_overwrite(root):
    """A target that is there is refused, and the sentence says how to replace it."""
    os.mkdir(f"{root}/@trainer/a")
    with confine(root, "trainer", f"{root}/@trainer/a") as destination:
        with pytest.raises(PathExists, match="overwrite=True"):
            destination.check_absent()
        destination.check_place()


def test_dangling_link_is_there(root):
    """A link that leads nowhere is a target that is there."""
    os.symlink("nowhere", f"{root}/@trainer/a")
    with confine(root, "trainer", f"{root}/@trainer/a") as destination, pytest.raises(PathExists):
        destination.check_absent()


@pytest.mark.root
def test_mount_point_is_refused(root):
    """A mount point, also one of the same file system, is refused before anything moves."""
    os.mkdir(f"{root}/@trainer/mounted")
    subprocess.run(["mount", "--bind", root, f"{root}/@trainer/mounted"], check=True)
    try:
        destination = confine(root, "trainer", f"{root}/@trainer/mounted")
        with destination, pytest.raises(AccessDenied, match="mount point"):
            destination.check_place()
    finally:
        subprocess.run(["umount", f"{root}/@trainer/mounted"], check=True)


@pytest.mark.root
def test_directory_that_cannot_be_written(as_nobody, public_directory):
    """A parent without write permission is refused before anything moves."""
    os.mkdir(f"{public_directory}/kept", 0o755)
    said = as_nobody(
        "from lit_storage_client.fetch.confine import choose",
        """
        with choose(sys.argv[1]) as destination:
            try:
                destination.check_place()
            except PermissionError as error:
                print(error)
        """,
        f"{public_directory}/kept/x",
    )
    assert "cannot be written" in said


def test_own_choice_follows_links(tmp_path):
    """A path of the caller's own choice may lead through links anywhere."""
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    assert parent_of(choose(str(tmp_path / "link" / "a" / "b"))) == str(tmp_path / "real" / "a")


def test_own_choice_is_relative_to_the_current_directory(tmp_path, monkeypatch):
    """A relative path of the caller's own choice starts in the current directory."""
    monkeypatch.chdir(tmp_path)
    assert parent_of(choose("a/b/")) == str(tmp_path / "a")


def test_own_choice_without_a_name():
    """The root of the file system cannot be replaced."""
    with pytest.raises(InvalidURI):
        choose("/")


def test_no_descriptor_stays_open(root):
    """Refusals close what they had opened."""
    os.symlink("/etc", f"{root}/@trainer/out")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(AccessDenied):
            confine(root, "trainer", f"{root}/@trainer/out/x")
    assert len(os.listdir("/proc/self/fd")) <= before  # others may close theirs meanwhile
