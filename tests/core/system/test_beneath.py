"""Looking a path up below a directory: links that stay, links that leave, and nothing left open."""

import os

import pytest

from lit_storage_core.system.beneath import MAX_LINKS, open_beneath, open_without_links
from lit_storage_proto.errors import AccessDenied, InvalidURI


@pytest.fixture
def root(tmp_path):
    (tmp_path / "inside/a/b").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "inside/a/file").write_text("x")
    fd = os.open(tmp_path / "inside", os.O_PATH)
    yield fd, str(tmp_path / "inside")
    os.close(fd)


def reached(root, path, **options):
    """Return where a look-up ends, relative to the root."""
    fd = open_beneath(root[0], path, **options)
    try:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), root[1])
    finally:
        os.close(fd)


def test_empty_path_is_the_root(root):
    """An empty path is the root itself."""
    assert reached(root, "") == "."


def test_file_below(root):
    """A path without links is what the system would open."""
    assert reached(root, "a/file") == "a/file"


def test_descriptor_gives_no_access(root):
    """The descriptor only names what was found: it cannot be read."""
    fd = open_beneath(root[0], "a/file")
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.read(fd, 1)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("text", "path", "where"),
    [
        ("a", "link/b", "a/b"),
        ("a/b/../b", "link", "a/b"),
        ("./a//b/", "link", "a/b"),
        ("a/b/../../a/file", "link", "a/file"),
    ],
)
def test_relative_link_is_followed(root, text, path, where):
    """A relative link that stays below the root is followed, also through '..'."""
    os.symlink(text, root[1] + "/link")
    assert reached(root, path) == where


def test_dotdot_after_a_link_is_the_parent_of_what_it_means(root):
    """'..' behind a link to a directory means the parent of that directory, as for the system."""
    os.symlink("a/b", root[1] + "/to_b")
    os.symlink("to_b/../file", root[1] + "/link")
    assert reached(root, "link") == "a/file"


@pytest.mark.parametrize(
    "text", ["..", "../outside", "a/../../outside", "a/b/../../../inside/a", "/etc", "/"]
)
def test_leaving_link_is_refused(root, text):
    """A link that leads above the root is refused, even where it would come back."""
    os.symlink(text, root[1] + "/link")
    with pytest.raises(AccessDenied, match="'link/x'"):
        open_beneath(root[0], "link/x")


def test_absolute_link_below_the_root_path(root):
    """An absolute link is followed exactly where the root's path is given and its text begins with it."""
    os.symlink(root[1] + "/a/b", root[1] + "/link")
    assert reached(root, "link", root_path=root[1]) == "a/b"
    with pytest.raises(AccessDenied):
        open_beneath(root[0], "link")


def test_absolute_link_is_compared_by_whole_parts(root):
    """An absolute link into a directory whose name only begins like the root's leaves."""
    os.mkdir(root[1] + "-secret")
    os.symlink(root[1] + "-secret", root[1] + "/link")
    with pytest.raises(AccessDenied):
        open_beneath(root[0], "link", root_path=root[1])


def test_proc_link_counts_for_its_text(root, tmp_path):
    """A link of /proc is followed by its text alone, never to what it holds open."""
    held = os.open(tmp_path / "outside", os.O_RDONLY)
    proc = os.open("/proc/self/fd", os.O_PATH)
    try:
        with pytest.raises(AccessDenied):
            open_beneath(proc, str(held))
    finally:
        os.close(held)
        os.close(proc)


def test_last_link_can_be_opened_itself(root):
    """With follow_last=False a link at the path itself is opened, wherever it leads."""
    os.symlink("/etc", root[1] + "/link")
    fd = open_beneath(root[0], "link", follow_last=False)
    try:
        assert os.readlink("", dir_fd=fd) == "/etc"
    finally:
        os.close(fd)


def test_link_loop_ends(root):
    """A link that leads to itself is ELOOP and not an endless walk."""
    os.symlink("loop", root[1] + "/loop")
    with pytest.raises(OSError, match="Too many levels") as caught:
        open_beneath(root[0], "loop")
    assert caught.value.filename == "loop"


@pytest.mark.parametrize(("links", "followed"), [(MAX_LINKS, True), (MAX_LINKS + 1, False)])
def test_number_of_links(root, links, followed):
    """As many links are followed as Linux follows, and not one more."""
    for number in range(links):
        os.symlink(f"l{number + 1}" if number + 1 < links else "a", f"{root[1]}/l{number}")
    if followed:
        assert reached(root, "l0") == "a"
    else:
        with pytest.raises(OSError, match="Too many levels"):
            open_beneath(root[0], "l0")


@pytest.mark.parametrize("path", ["/a", "../inside", "a/..", "a\0b"])
def test_path_outside_the_grammar_is_refused(root, path):
    """A path itself may not be absolute, hold '..' or NUL."""
    with pytest.raises(InvalidURI):
        open_beneath(root[0], path)


@pytest.mark.parametrize("path", ["missing", "a/missing/x"])
def test_missing_is_named(root, path):
    """What is missing is FileNotFoundError with the whole path as its file name."""
    with pytest.raises(FileNotFoundError) as caught:
        open_beneath(root[0], path)
    assert caught.value.filename == path


def test_file_on_the_way(root):
    """A file where a directory is needed is NotADirectoryError, also before '..'."""
    os.symlink("a/file/../b", root[1] + "/link")
    for path in ("a/file/x", "link"):
        with pytest.raises(NotADirectoryError):
            open_beneath(root[0], path)


def test_create_makes_directories(root):
    """create=True makes what is missing, through links that stay."""
    os.symlink("a/b", root[1] + "/link")
    assert reached(root, "link/new/er", create=True) == "a/b/new/er"


def test_create_does_not_leave(root, tmp_path):
    """create=True makes nothing outside of the root."""
    os.symlink("../outside", root[1] + "/link")
    with pytest.raises(AccessDenied):
        open_beneath(root[0], "link/new", create=True)
    assert os.listdir(tmp_path / "outside") == []


def test_deep_path(root):
    """A path far longer than PATH_MAX, with names of 255 bytes, is made and found again."""
    path = "/".join(["n" * 255] * 600)
    for create in (True, False):
        os.close(open_beneath(root[0], path, create=create))


def test_name_that_is_not_utf8(root):
    """A name that is not UTF-8 is found by its surrogate escape."""
    os.mkdir(os.fsencode(root[1]) + b"/\xff\xfe")
    assert reached(root, os.fsdecode(b"\xff\xfe")) == os.fsdecode(b"\xff\xfe")


def test_no_descriptor_is_left(root):
    """Neither success nor any refusal leaves a descriptor open."""
    os.symlink("../..", root[1] + "/out")
    os.symlink("loop", root[1] + "/loop")
    os.symlink("a/b/../b/../file", root[1] + "/up")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("a/b", "up", "out", "loop", "missing/x", "a/file/x", "x" * 256):
        try:
            os.close(open_beneath(root[0], path))
        except OSError:
            continue
    assert len(os.listdir("/proc/self/fd")) <= before  # others may close theirs meanwhile


@pytest.mark.parametrize("path", ["link", "link/file", "a/link/b", "a/link/file"])
def test_no_link_is_followed_where_none_may_be(root, path):
    """A link on the way is refused. A link at the end is opened itself."""
    os.symlink("a", f"{root[1]}/link")
    os.symlink(".", f"{root[1]}/a/link")
    if "/" in path:
        with pytest.raises(NotADirectoryError):
            open_without_links(path, below=root[0], directory=False)
        return
    fd = open_without_links(path, below=root[0], directory=False)
    assert os.readlink(f"/proc/self/fd/{fd}") == f"{root[1]}/link"
    os.close(fd)
