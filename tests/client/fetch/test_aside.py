"""An earlier copy of what the origin no longer has is kept out of the way until there is a new one."""

import os
import subprocess

import pytest

from lit_storage_client.fetch.aside import ASIDE, discard_aside, move_aside
from lit_storage_proto.errors import AccessDenied, InvalidURI
from lit_storage_proto.uri import Location, check_name, is_reserved


@pytest.fixture
def root(tmp_path):
    """A storage root with copies of the Work "trainer"."""
    root = tmp_path / "R"
    (root / "@trainer" / "out" / "ckpt").mkdir(parents=True)
    (root / "@trainer" / "out" / "ckpt" / "w").write_text("1")
    return str(root)


def aside(root, path, target=None):
    location = Location("trainer", path)
    return move_aside(root, location, target or f"{root}/@trainer/{path}".rstrip("/"))


def renew(root, path, text="2"):
    """Put a new copy of a file in its place, as a get does."""
    target = f"{root}/@trainer/{path}"
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "w") as file:
        file.write(text)
    discard_aside(root, Location("trainer", path), target)


def content(path):
    with open(path) as file:
        return file.read()


def entries(root):
    return sorted(os.listdir(f"{root}/{ASIDE}"))


def test_a_copy_is_moved(root):
    """A directory is moved whole to a place with a readable name."""
    place = aside(root, "out/ckpt")
    assert place == f"{root}/@.aside/trainer:out%2Fckpt/ckpt"
    assert content(f"{place}/w") == "1"
    assert not os.path.lexists(f"{root}/@trainer/out/ckpt")


@pytest.mark.parametrize("path", ["none", "none/deeper", "out/none"])
def test_without_a_copy_nothing_is_made(root, path):
    """Where no copy is, nothing is said and nothing is made."""
    assert aside(root, path) == ""
    assert os.listdir(root) == ["@trainer"]


def test_the_place_is_reserved():
    """The place is neither served nor published, and no Work has its name."""
    assert is_reserved(f"{ASIDE}/trainer:x/x")
    with pytest.raises(InvalidURI):
        check_name(ASIDE.removeprefix("@"))


def test_a_further_move_leaves_it_alone(root):
    """While there is no new copy, what was moved stays."""
    place = aside(root, "out/ckpt")
    assert aside(root, "out/ckpt") == ""
    assert content(f"{place}/w") == "1"


def test_a_new_copy_ends_it(root):
    """It is removed when a whole new copy is in its place, together with its entry."""
    aside(root, "out/ckpt/w")
    renew(root, "out/ckpt/w")
    assert entries(root) == []


def test_the_copy_of_another_path_does_not_end_it(root):
    """A new copy of a neighbour leaves it."""
    aside(root, "out/ckpt/w")
    renew(root, "out/ckpt/w2")
    assert entries(root) == ["trainer:out%2Fckpt%2Fw"]


@pytest.mark.parametrize(("has_it", "left"), [(True, 0), (False, 1)])
def test_a_copy_of_what_holds_it_ends_it_if_it_is_there(root, has_it, left):
    """A new copy of a directory above counts only if the path is in it."""
    os.rename(f"{root}/@trainer/out/ckpt/w", f"{root}/@trainer/out/ckpt/w~1")
    aside(root, "out/ckpt/w~1")
    if has_it:
        renew(root, "out/ckpt/w~1")
        aside(root, "out/ckpt/w~1")
        with open(f"{root}/@trainer/out/ckpt/w~1", "w"):
            pass
    discard_aside(root, Location("trainer", "out"), f"{root}/@trainer/out")
    assert len(entries(root)) == left


def test_one_generation_is_kept(root):
    """A later copy takes the place of the one before it."""
    aside(root, "out/ckpt/w")
    with open(f"{root}/@trainer/out/ckpt/w", "w") as file:
        file.write("2")
    place = aside(root, "out/ckpt/w")
    assert content(place) == "2"
    assert os.listdir(os.path.dirname(place)) == ["w"]


@pytest.mark.parametrize("path", ["", "@/data/x"])
def test_the_whole_of_an_origin_and_absolute_paths(root, path):
    """R/@origin itself, and a copy of an absolute path, are moved as any other."""
    location = Location("trainer", path.removeprefix("@"))
    target = f"{root}/@trainer/{path}".rstrip("/")
    os.makedirs(target, exist_ok=True)
    assert os.path.isdir(move_aside(root, location, target))
    assert not os.path.lexists(target)


@pytest.mark.parametrize("name", ["x" * 255, "\udcff\n%", "ä" * 100, "~"])
def test_any_name(root, name):
    """Long names, and names that are not text, are moved, found again and removed."""
    os.rename(f"{root}/@trainer/out/ckpt/w", f"{root}/@trainer/{name}")
    assert os.path.isfile(aside(root, name))
    renew(root, name)
    assert entries(root) == []


@pytest.mark.root
def test_a_directory_that_cannot_be_written_is_moved(public_directory, as_nobody):
    """The mode of a copy does not matter."""
    printed = as_nobody(
        "from lit_storage_client.fetch.aside import move_aside; from lit_storage_proto.uri import Location",
        """
        os.makedirs(f"{sys.argv[1]}/R/@trainer/out")
        os.chmod(f"{sys.argv[1]}/R/@trainer/out", 0o555)
        print(move_aside(f"{sys.argv[1]}/R", Location("trainer", "out"), f"{sys.argv[1]}/R/@trainer/out"))
        """,
        str(public_directory),
    )
    assert printed.endswith("/R/@.aside/trainer:out/out")


def test_a_link_in_the_place_of_the_aside_is_not_followed(root, tmp_path):
    """A link cannot lead what is moved elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", f"{root}/{ASIDE}")
    with pytest.raises(AccessDenied, match="moved aside"):
        aside(root, "out/ckpt")
    assert os.path.isfile(f"{root}/@trainer/out/ckpt/w")
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.root
def test_a_mount_point_is_an_error(root):
    """What cannot be moved is never passed over, since run() would read it."""
    subprocess.run(["mount", "-t", "tmpfs", "none", f"{root}/@trainer/out"], check=True)
    try:
        with pytest.raises(AccessDenied, match="mount"):
            aside(root, "out")
    finally:
        subprocess.run(["umount", f"{root}/@trainer/out"], check=True)
