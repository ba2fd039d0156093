"""What is shared, what is not, and what may be read of it."""

import os
import socket

import pytest

from lit_storage_proto.errors import (
    AccessDenied,
    InvalidURI,
    PathNotFound,
    ProtocolViolation,
    SourceChanged,
)
from lit_storage_server.sources.shares import Shares

NOBODY = 65534


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "root"
    (path / "out").mkdir(parents=True)
    (path / "out/file").write_text("x")
    return path


@pytest.fixture
def shares(root):
    shares = Shares(str(root), name="train")
    yield shares
    shares.close()


@pytest.fixture
def other_user():
    """Run the test under an effective user id that passes no check as root would."""
    os.seteuid(NOBODY)
    yield NOBODY
    os.seteuid(0)


def is_shared(shares, path):
    """Open and close `path`; raise what `open` raises."""
    with shares.open(path) as opened:
        return os.path.exists(f"/proc/self/fd/{opened.fd}")


@pytest.mark.parametrize("path", ["", "out", "out/file"])
def test_storage_root_is_shared(shares, path):
    """The storage root and all below it is shared."""
    assert is_shared(shares, path)


@pytest.mark.parametrize("path", ["@other", "@other/x", ".staging", ".staging/1/tree"])
def test_reserved_names_are_not_shared(shares, root, path):
    """Names kept for copies, directly under the storage root, are not shared."""
    (root / path).mkdir(parents=True)
    with pytest.raises(AccessDenied, match="not shared by 'train'"):
        shares.open(path)


def test_reserved_names_deeper_down_are_ordinary(shares, root):
    """Only directly under the storage root are the names reserved."""
    (root / "out/@x").mkdir()
    assert is_shared(shares, "out/@x")


def test_link_to_a_reserved_name_is_refused(shares, root):
    """A link does not make a copy of another's files shared."""
    (root / "@other").mkdir()
    (root / "link").symlink_to("@other")
    with pytest.raises(AccessDenied):
        shares.open("link")


@pytest.mark.parametrize(
    "path", ["..", "out/../out", "./out", "out//file", "out/", "a\0b", "//x", "x" * 70_000]
)
def test_malformed_paths_are_refused(shares, path):
    """A path with an empty part, '.', '..' or NUL, or one that is too long, never reaches the disk."""
    with pytest.raises(ProtocolViolation):
        shares.open(path)


def test_slash_is_not_shared(shares):
    """The root of the file system is not shared."""
    with pytest.raises(AccessDenied):
        shares.open("/")


@pytest.mark.parametrize("path", ["missing", "out/file/x", "n" * 256, "loop"])
def test_absent(shares, root, path):
    """What is not there, below a file, too long or a loop of links is PathNotFound, and named."""
    (root / "loop").symlink_to("loop")
    with pytest.raises(PathNotFound, match="'train' has no"):
        shares.open(path)


@pytest.mark.parametrize("absolute", [True, False])
def test_link_within_the_share_is_followed(shares, root, absolute):
    """A link that stays in its share is followed, be it relative or absolute."""
    (root / "link").symlink_to(root / "out" if absolute else "out")
    assert is_shared(shares, "link/file")


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", ".."])
def test_link_out_of_the_share_is_refused(shares, root, target):
    """A link that leaves its share is refused, whether or not something is there."""
    (root / "link").symlink_to(target)
    with pytest.raises(AccessDenied, match="'link'"):
        shares.open("link")


def test_undeclared_absolute_path(shares):
    """An absolute path that nobody declared is refused, and the sentence says how to share it."""
    with pytest.raises(AccessDenied, match="assign it to an attribute of the Work"):
        shares.open("/etc/passwd")


def test_declared_directory(shares, tmp_path):
    """A declared directory is shared with all below it, and its sibling is not."""
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data2").mkdir()
    shares.declare(str(tmp_path / "data"))
    assert is_shared(shares, f"{tmp_path}/data/deep")
    with pytest.raises(AccessDenied):
        shares.open(f"{tmp_path}/data2")


def test_declared_file(shares, tmp_path):
    """A declared file is shared, and nothing beside it."""
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    shares.declare(str(tmp_path / "one"))
    assert is_shared(shares, f"{tmp_path}/one")
    with pytest.raises(AccessDenied):
        shares.open(f"{tmp_path}/two")


def test_declared_before_it_exists(shares, tmp_path):
    """A path may be declared before it exists: it is absent until then."""
    shares.declare(str(tmp_path / "later"))
    with pytest.raises(PathNotFound):
        shares.open(f"{tmp_path}/later")
    (tmp_path / "later").mkdir()
    assert is_shared(shares, f"{tmp_path}/later")


@pytest.fixture
def other_share(shares, root, tmp_path):
    """A second share, `data/deep`, of the same Work, beside what it does not share."""
    for name in ("data/deep", "beside", "root/@other", "root/.staging"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "f").write_text("x")
    shares.declare(str(tmp_path / "data/deep"))
    return tmp_path / "data/deep"


def real_path(shares, path):
    """Return where an opened path lies."""
    with shares.open(path) as opened:
        return os.readlink(f"/proc/self/fd/{opened.fd}")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{base}/root/out", "root/out"),
        ("../../root/out/file", "root/out/file"),
        ("../../root", "root"),
        ("../deep/f", "data/deep/f"),
        ("{base}/root/back", "data/deep/f"),
        ("../../root/back", "data/deep/f"),
    ],
)
def test_link_into_another_share_is_followed(shares, root, other_share, tmp_path, text, place):
    """A link from one share of a Work into another one is followed, absolute or by '..', and back."""
    (root / "back").symlink_to("../data/deep/f")
    (other_share / "link").symlink_to(text.format(base=tmp_path))
    assert real_path(shares, f"{other_share}/link") == f"{tmp_path}/{place}"


@pytest.mark.parametrize(
    "text",
    [
        *("../../root/@other/f", "{base}/root/@other/f", "../../root/.staging", "../..", "..", "/"),
        *("../../beside/f", "{base}/beside", "../../data", "../../root/../beside/f", "../x/../../root/out"),
        *("{base}/root/../beside/f", "{base}/root/out/../../beside/f", "{base}/root/up/beside/f"),
        *("{base}/data/x/../deep/f", "/proc/self/cwd", "/proc/self/fd/{fd}"),
    ],
)
def test_link_between_shares_leads_to_nothing_else(shares, root, other_share, tmp_path, text):
    """Not to a reserved name, a directory above, what is no share, or through what is no share."""
    (root / "up").symlink_to("..")
    fd = os.open(tmp_path / "beside", os.O_RDONLY)
    (other_share / "link").symlink_to(text.format(base=tmp_path, fd=fd))
    with pytest.raises(AccessDenied):
        shares.open(f"{other_share}/link")
    with pytest.raises((AccessDenied, PathNotFound)):  # below a file there is nothing
        shares.open(f"{other_share}/link/f")
    os.close(fd)


def test_link_to_where_a_share_really_lies(shares, root, other_share, tmp_path):
    """A declared path may be a link of its owner; another link may name it by what that one means."""
    (tmp_path / "alias").symlink_to(tmp_path / "beside")
    (root / "link").symlink_to(tmp_path / "beside/f")
    with pytest.raises(AccessDenied):
        shares.open("link")
    shares.declare(str(tmp_path / "alias"))
    assert real_path(shares, f"{tmp_path}/alias/f") == real_path(shares, "link") == f"{tmp_path}/beside/f"
    (tmp_path / "alias").unlink()
    (tmp_path / "alias").symlink_to(tmp_path / "data")
    with pytest.raises(AccessDenied):
        shares.open("link")


def test_link_to_a_declared_file(shares, root, tmp_path):
    """A file may be a share of its own: a link leads to it, to nothing beside it, and to nothing below it."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        (root / name).symlink_to(tmp_path / name)
    shares.declare(str(tmp_path / "one"))
    assert real_path(shares, "one") == f"{tmp_path}/one"
    with pytest.raises(PathNotFound):
        shares.open("one/x")
    with pytest.raises(AccessDenied):
        shares.open("two")


def test_loop_between_shares_ends(shares, root, other_share, tmp_path):
    """Links that lead from share to share and back are absent, as any loop is."""
    (root / "link").symlink_to(other_share / "link")
    (other_share / "link").symlink_to(root / "link")
    with pytest.raises(PathNotFound):
        shares.open("link")


@pytest.mark.root
def test_link_of_another_user_does_not_leave_its_share(shares, root, other_share):
    """Who may merely write into a directory of a share does not say what of another one is read there."""
    for name in ("within", "out/there"):
        (root / name).symlink_to(root / "out/file" if name == "within" else other_share / "f")
        os.lchown(root / name, NOBODY, NOBODY)
    assert is_shared(shares, "within")
    with pytest.raises(AccessDenied):
        shares.open("out/there")
    os.chown(root / "out", NOBODY, NOBODY)  # a directory can be made wherever a link can
    with pytest.raises(AccessDenied):
        shares.open("out/there")
    os.chown(root, NOBODY, NOBODY)
    assert is_shared(shares, "out/there")


def test_too_wide_a_share_is_refused(shares, root):
    """'/' and each directory above the storage root cannot be declared."""
    for path in ("/", str(root.parent), str(root.parent.parent)):
        with pytest.raises(AccessDenied, match="holds the storage root"):
            shares.declare(path)


def test_link_to_too_wide_a_share_is_refused(shares, root, tmp_path):
    """A declared link to a directory above the storage root is refused, also if it appears later."""
    link = tmp_path / "data"
    shares.declare(str(link))
    link.symlink_to("/")
    with pytest.raises(AccessDenied):
        shares.open(f"{link}/etc")
    with pytest.raises(AccessDenied):
        shares.declare(str(link))


@pytest.mark.parametrize("path", ["data", "", "/data/../x", "/a\0b"])
def test_only_clean_absolute_paths_are_declared(shares, path):
    """A declared path is absolute, without '..' and NUL."""
    with pytest.raises(InvalidURI):
        shares.declare(path)


def test_path_below_the_root_by_its_absolute_name(shares, root):
    """A path below the storage root is the same by its absolute name, reserved names too."""
    assert is_shared(shares, f"{root}/out")
    with pytest.raises(AccessDenied):
        shares.declare(f"{root}/@other")
    with pytest.raises(AccessDenied):
        shares.open(f"{root}/@other")


@pytest.mark.root
def test_file_of_another_user_is_not_served(shares, root, other_user):
    """A file that this process neither owns nor may write is refused, and named."""
    with pytest.raises(AccessDenied, match="'out/file'.*neither owns"):
        shares.open("out/file")


@pytest.mark.root
def test_writable_file_of_another_user_is_served(shares, root, other_user):
    """A file that this process may write is served, whoever owns it."""
    os.seteuid(0)
    (root / "out/file").chmod(0o666)
    os.seteuid(other_user)
    assert is_shared(shares, "out/file")


@pytest.mark.root
def test_own_read_only_file_is_served(shares, root, other_user):
    """A file that this process owns is served, though its mode forbids writing."""
    os.seteuid(0)
    os.chown(root / "out/file", other_user, other_user)
    (root / "out/file").chmod(0o444)
    os.seteuid(other_user)
    assert is_shared(shares, "out/file")


@pytest.mark.root
def test_operators_grant(shares, other_user):
    """With writable_only=False a file is served that this process can only read."""
    shares.writable_only = False
    assert is_shared(shares, "out/file")


@pytest.mark.root
def test_directory_that_may_not_be_entered(shares, root, other_user):
    """A path through a directory that this process may not enter is AccessDenied, not absent."""
    os.seteuid(0)
    (root / "out").chmod(0o700)
    os.seteuid(other_user)
    with pytest.raises(AccessDenied, match="may not look into"):
        shares.open("out/file")


def test_open_regular_reads(shares, root):
    """A regular file is opened by its name in a directory."""
    with shares.open("out") as opened:
        fd, status = shares.open_regular(opened.fd, "file", "out/file")
    assert (os.read(fd, 9), status.st_size) == (b"x", 1)
    os.close(fd)


def test_open_regular_of_a_vanished_file(shares):
    """A file that vanished since it was listed is None."""
    with shares.open("out") as opened:
        assert shares.open_regular(opened.fd, "gone", "out/gone") is None


@pytest.mark.parametrize("kind", ["fifo", "link", "socket", "directory"])
def test_open_regular_refuses_all_else_at_once(shares, root, kind):
    """What became a FIFO, link, socket or directory is refused without waiting or following."""
    path = str(root / "out/odd")
    listener = socket.socket(socket.AF_UNIX)
    {
        "fifo": lambda: os.mkfifo(path),
        "link": lambda: os.symlink("file", path),
        "socket": lambda: listener.bind(path),
        "directory": lambda: os.mkdir(path),
    }[kind]()
    with shares.open("out") as opened, pytest.raises(SourceChanged, match="'out/odd'"):
        shares.open_regular(opened.fd, "odd", "out/odd")
    listener.close()


def test_no_descriptor_is_left(shares, root, tmp_path):
    """Neither an answer nor a refusal leaves a descriptor open."""
    (root / "out/out").symlink_to("../..")
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "data").mkdir()
    shares.declare(str(tmp_path / "data"))
    (root / "there").symlink_to(tmp_path / "data")
    (tmp_path / "data/back").symlink_to("../root/out")
    (tmp_path / "data/loop").symlink_to("../root/there/loop")
    names = ("", "out/file", "missing", "out/out", "@x", "/etc", "..", "there/back/file", "there/loop")
    for path in (*names, "there/missing"):
        try:
            shares.open(path).close()
        except OSError:
            continue
    assert len(os.listdir("/proc/self/fd")) <= before  # others may close theirs meanwhile


def test_closed_shares_open_nothing(root):
    """After close nothing can be opened, and a second close does nothing."""
    shares = Shares(str(root), name="train")
    shares.close()
    shares.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        shares.open("out")


def test_a_link_into_a_share_does_not_depend_on_who_asked_before(shares, root, tmp_path):
    """A share is found by its name without links too, also if nobody opened it yet."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "f").write_text("x")
    (tmp_path / "current").symlink_to("v1")
    shares.declare(str(tmp_path / "current"))
    (root / "link").symlink_to(tmp_path / "v1" / "f")
    assert is_shared(shares, "link")


def test_a_share_that_is_not_there_hides_no_other(shares, root, tmp_path):
    """What lies in two shares is found in the one that is there; what lies in that one alone is absent."""
    (tmp_path / "v1" / "sub").mkdir(parents=True)
    (tmp_path / "v1" / "sub" / "f").write_text("x")
    for share in ("gone", "v1/sub"):
        shares.declare(str(tmp_path / share))
    (tmp_path / "gone").symlink_to("none")
    for name, target in (("link", "v1/sub/f"), ("broken", "gone/f")):
        (root / name).symlink_to(tmp_path / target)
    assert is_shared(shares, "link")
    with pytest.raises(PathNotFound):
        shares.open("broken")


def test_a_way_that_enters_shares_without_end_is_given_up(shares, root, tmp_path):
    """Entering a share counts as following a link, since it opens all that leads there."""
    (tmp_path / "s").mkdir()
    shares.declare(str(tmp_path / "s"))
    (tmp_path / "s" / "f").write_text("x")
    for name, count in (("few", 10), ("many", 100)):
        (tmp_path / "s" / name).symlink_to("../s/" * count + "f")
    assert is_shared(shares, f"{tmp_path}/s/few")
    with pytest.raises(PathNotFound):
        shares.open(f"{tmp_path}/s/many")


def test_a_declared_path_that_leads_to_a_copy_has_an_absolute_place(shares, root, tmp_path):
    """Below a reserved name no reader of a manifest would look."""
    (root / "@other").mkdir()
    (root / "@other" / "f").write_text("x")
    (tmp_path / "best").symlink_to(root / "@other")
    shares.declare(str(tmp_path / "best"))
    with shares.open(f"{tmp_path}/best/f") as opened:
        assert shares.place_of(opened.fd) == str(root / "@other" / "f")
