"""Links sent as what they mean: inside the share as files and directories, all others skipped."""

import os

import pytest

from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import AccessDenied, SourceChanged
from lit_storage_server.sources.tree_stream import PACKED_BYTES

REVISION = "1" * 40


@pytest.fixture
def follow(copy):
    def follow(path="", **options):
        return copy(path, follow_links=True, **options)

    return follow


@pytest.fixture
def hub(root):
    """A cache of the Hugging Face hub with two files of one model; return their content."""
    content = {"config.json": b"{}", "model.safetensors": os.urandom(PACKED_BYTES + 1)}
    model = root / "hub/models--a--b"
    (model / "blobs").mkdir(parents=True)
    (model / "snapshots" / REVISION / "onnx").mkdir(parents=True)
    for number, (name, data) in enumerate(content.items()):
        (model / "blobs" / f"sha{number}").write_bytes(data)
        (model / "snapshots" / REVISION / name).symlink_to(f"../../blobs/sha{number}")
    (model / "snapshots" / REVISION / "onnx/model.safetensors").symlink_to("../../../blobs/sha1")
    content["onnx/model.safetensors"] = content["model.safetensors"]
    return content


def rewrite(path, content):
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(content)
    os.utime(path, ns=(0, before + 10**9))


def skipped(copied):
    return {entry.path for entry in copied.entries if entry.kind is Kind.SKIPPED}


def files_of(tree):
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [{}, {"packs": True, "holes": True, "settle": True}])
def test_a_snapshot_of_the_hub(follow, hub, options):
    """A snapshot, all of whose files are links into the blobs beside it, arrives as files."""
    copied = follow(f"hub/models--a--b/snapshots/{REVISION}", **options)
    assert {name: copied.read(name) for name in hub} == hub
    assert not any(path.is_symlink() for path in copied.tree.rglob("*"))
    assert (copied.summary.skipped, list(copied.rounds)) == (0, [0])


def test_without_following_a_snapshot_is_of_links_that_leave(copy, hub):
    """Who did not ask for it gets no bytes from beside the tree: the links are counted."""
    copied = copy(f"hub/models--a--b/snapshots/{REVISION}")
    assert (files_of(copied.tree), copied.summary.skipped) == (set(), 3)


def test_mode_and_time_are_those_of_what_is_meant(follow, root):
    """A followed link has the metadata of its file, and none of its own."""
    (root / "file").write_bytes(b"x")
    (root / "file").chmod(0o600)
    os.utime(root / "file", ns=(0, 10**18))
    (root / "link").symlink_to("file")
    status = (follow().tree / "link").lstat()
    assert (status.st_mode, status.st_mtime_ns) == ((root / "file").stat().st_mode, 10**18)


def test_links_to_links_and_absolute_ones(follow, root):
    """A link through others, or by an absolute path within the share, is what it means in the end."""
    (root / "t/d").mkdir(parents=True)
    (root / "file").write_bytes(b"x")
    (root / "t/one").symlink_to("two")
    (root / "t/two").symlink_to(root / "t/d/three")
    (root / "t/d/three").symlink_to("../../file")
    copied = follow("t")
    assert {name: copied.read(name) for name in files_of(copied.tree)} == dict.fromkeys(
        ("one", "two", "d/three"), b"x"
    )


@pytest.mark.parametrize(
    "target",
    ["missing", "/etc/hostname", "/etc", "../../../../etc", "link", "b", "@other/x", ".staging", "fifo"],
)
@pytest.mark.parametrize("settle", [False, True])
def test_what_cannot_be_followed_is_skipped(follow, root, target, settle):
    """Links that dangle, leave the share, lead in circles, or mean no file, are named and not made."""
    (root / "@other").mkdir()
    (root / ".staging").mkdir()
    (root / "@other/x").write_bytes(b"secret")
    (root / "b").symlink_to("link")
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to(target)
    copied = follow(settle=settle)
    assert (os.listdir(copied.tree), skipped(copied)) == ([], {"b", "fifo", "link"})


@pytest.fixture
def cache(tmp_path, tree_shares):
    """A cache of the hub outside of the storage root, whose blobs the models share; declare a snapshot.

    So it is since https://github.com/huggingface/huggingface_hub/pull/4498: the link in a snapshot leads to
    a link among the blobs of its model, and that one to the blobs of all models.
    """
    model = tmp_path / "hub/models--a--b"
    shared = tmp_path / "hub/blobs/91"
    snapshot = model / "snapshots" / REVISION
    for directory in (model / "blobs", shared, snapshot / "onnx"):
        directory.mkdir(parents=True)
    (shared / "91bf").write_bytes(b"weights")
    (shared / "91c0").write_bytes(b"{}")
    (model / "blobs/etag0").symlink_to("../../blobs/91/91bf")
    (model / "blobs/etag1").symlink_to(shared / "91c0")
    (snapshot / "model.safetensors").symlink_to("../../blobs/etag0")
    (snapshot / "config.json").symlink_to("../../blobs/etag1")
    (snapshot / "onnx/model").symlink_to(model / "blobs/etag0")
    (snapshot / "README.md").write_bytes(b"here")
    tree_shares.declare(str(snapshot))
    return snapshot


@pytest.mark.parametrize("options", [{}, {"packs": True, "holes": True, "settle": True}])
def test_a_cache_that_is_declared_makes_a_snapshot_whole(follow, cache, tree_shares, tmp_path, options):
    """Links lead from the snapshot into the cache if both are declared; else they are left out and named."""
    links = {"model.safetensors", "config.json", "onnx/model"}
    alone = follow(str(cache), **options)
    assert (files_of(alone.tree), skipped(alone)) == ({"README.md"}, links)
    tree_shares.declare(str(tmp_path / "hub"))
    whole = follow(str(cache), **options)
    assert (whole.read("onnx/model"), whole.read("config.json")) == (b"weights", b"{}")
    assert (files_of(whole.tree), skipped(whole)) == ({"README.md", *links}, set())


def test_a_link_to_the_storage_root_from_another_share(follow, root, tree_shares, tmp_path):
    """The whole storage root comes without reserved names, wherever the link to it lies."""
    for name in ("@other/secret", ".staging/secret", "mine"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (tmp_path / "declared").mkdir()
    (tmp_path / "declared/all").symlink_to(root)
    (tmp_path / "declared/copy").symlink_to(root / "@other")
    tree_shares.declare(str(tmp_path / "declared"))
    for settle in (False, True):
        copied = follow(str(tmp_path / "declared"), settle=settle)
        assert (files_of(copied.tree), skipped(copied)) == ({"all/mine"}, {"copy"})


def test_a_circle_of_two_shares(follow, root, tree_shares, tmp_path):
    """Shares that link to each other end where one would hold itself."""
    (tmp_path / "declared").mkdir()
    (tmp_path / "declared/out").symlink_to(root / "out")
    (root / "out").mkdir()
    (root / "out/declared").symlink_to(tmp_path / "declared")
    tree_shares.declare(str(tmp_path / "declared"))
    copied = follow("out", settle=True)
    assert (files_of(copied.tree), skipped(copied)) == (set(), {"declared/out"})


def test_another_storage_root_is_no_share(follow, root, tmp_path):
    """A link to the files of another Work is left out: that Work has not declared them here."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model").write_bytes(b"not ours")
    (root / "link").symlink_to(tmp_path / "other/model")
    (root / "up").symlink_to("../other")
    copied = follow()
    assert (files_of(copied.tree), skipped(copied)) == (set(), {"link", "up"})


@pytest.mark.parametrize("follows", [False, True])
def test_the_work_decides(copy, root, tree_shares, follows):
    """Where a call leaves it to the origin, links are followed if the Work has set that, and else kept."""
    (root / "file").write_bytes(b"x")
    (root / "link").symlink_to("file")
    tree_shares.follow_links = follows
    assert (copy(links_as_origin=True).tree / "link").is_symlink() is not follows
    assert (copy().tree / "link").is_symlink()
    assert not (copy(follow_links=True).tree / "link").is_symlink()


@pytest.mark.parametrize("follows", [False, True])
def test_absolute_links_settle(copy, root, tree_shares, follows):
    """A tree with absolute links, also among what comes in a further round, rests after one look."""
    (root / "t").mkdir()
    (root / "t/file").write_bytes(b"x")
    (root / "t/last").symlink_to(root / "t/file")

    def add(frame):
        if frame.round == 0 and frame.summary is None:
            (root / "t/late").unlink(missing_ok=True)
            (root / "t/late").symlink_to(root / "t/file")

    copied = copy("t", settle=True, follow_links=follows, after=add)
    assert {copied.read("last"), copied.read("late")} == {b"x"}
    assert (copied.received.unsettled_count, set(copied.rounds)) == (0, {0, 1})
    assert follows or os.readlink(copied.tree / "late") == "file"


def test_a_link_to_a_directory(follow, root):
    """It is a directory with all below it, as often as links lead to it."""
    (root / "data/deep").mkdir(parents=True)
    (root / "data/deep/f").write_bytes(b"x")
    (root / "t").mkdir()
    (root / "t/one").symlink_to("../data")
    (root / "t/two").symlink_to("../data/deep")
    for options in ({}, {"packs": True, "settle": True}):
        copied = follow("t", **options)
        assert files_of(copied.tree) == {"one/deep/f", "two/f"}


@pytest.mark.parametrize("settle", [False, True])
def test_circles(follow, root, settle):
    """A link to a directory that holds it, near or far, is skipped; all else of the circle is there."""
    (root / "a/b").mkdir(parents=True)
    (root / "a/f").write_bytes(b"x")
    (root / "a/b/self").symlink_to(".")
    (root / "a/b/up").symlink_to("..")
    (root / "a/b/top").symlink_to("../..")
    copied = follow(settle=settle)
    assert (files_of(copied.tree), skipped(copied)) == ({"a/f"}, {"a/b/self", "a/b/up", "a/b/top"})


def test_a_circle_of_two_directories(follow, root):
    """Directories that link to each other end where one would hold itself."""
    for name, other in (("a", "b"), ("b", "a")):
        (root / name).mkdir()
        (root / name / f"file-{name}").write_bytes(b"x")
        (root / name / "other").symlink_to(f"../{other}")
    copied = follow()
    assert files_of(copied.tree) == {"a/file-a", "a/other/file-b", "b/file-b", "b/other/file-a"}
    assert skipped(copied) == {"a/other/other", "b/other/other"}


def test_too_many_linked_directories(follow, root, monkeypatch):
    """Links that multiply end in an error that says so, and not in a copy without end."""
    monkeypatch.setattr("lit_storage_server.sources.walk.MAX_LINKED_DIRECTORIES", 50)
    for number in range(6):
        (root / f"d{number}").mkdir()
        for other in range(6):
            (root / f"d{number}/to{other}").symlink_to(f"../d{other}")
    with pytest.raises(AccessDenied, match="over 50 directories"):
        follow()


def test_deep_linked_directories(follow, root, monkeypatch):
    """Below a link directories are opened again too, where the walk let go of them."""
    monkeypatch.setattr("lit_storage_server.sources.walk.HELD_DIRECTORIES", 1)
    for name in ("a/c/e", "a/c/f", "a/d/e", "a/d/f"):
        (root / "data" / name).mkdir(parents=True)
        (root / "data" / name / "file").write_bytes(b"x")
    (root / "t").mkdir()
    (root / "t/link").symlink_to("../data")
    copied = follow("t", settle=True)
    assert files_of(copied.tree) == {f"link/a/{name}/file" for name in ("c/e", "c/f", "d/e", "d/f")}


def test_reserved_names_through_a_link(follow, root):
    """A link to the storage root shows no more of it than a request for it does."""
    for name in ("@other/secret", ".staging/secret", "mine", "t/f"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "t/up").symlink_to("..")
    for settle in (False, True):
        assert files_of(follow("t", settle=settle).tree) == {"f", "up/mine", "up/t/f"}


def once(act):
    """Return what calls `act` when the first pass is over."""

    def after(frame):
        if frame.round == 0 and frame.summary is None:
            act()

    return after


@pytest.fixture
def beside(root):
    """A tree `t` of links to a file and to a directory beside it."""
    (root / "t").mkdir()
    (root / "data").mkdir()
    (root / "file").write_bytes(b"old")
    (root / "data/f").write_bytes(b"old")
    (root / "t/link").symlink_to("../file")
    (root / "t/dir").symlink_to("../data")
    (root / "t/none").symlink_to("../late")
    return root


def retarget(link, target):
    link.unlink()
    link.symlink_to(target)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: rewrite(root / "file", b"NEW"), {"link": b"NEW"}),
        (lambda root: rewrite(root / "data/f", b"NEW"), {"dir/f": b"NEW"}),
        (lambda root: (root / "data/g").write_bytes(b"new"), {"dir/g": b"new"}),
        (lambda root: (root / "data/f").unlink(), {"dir/f": None}),
        (lambda root: (root / "file").unlink(), {"link": None}),
        (lambda root: (root / "late").write_bytes(b"new"), {"none": b"new"}),
        (lambda root: (root / "data").rename(root / "late"), {"dir/f": None, "none/f": b"old"}),
        (lambda root: retarget(root / "t/link", "../data"), {"link": None, "link/f": b"old"}),
        (lambda root: retarget(root / "t/dir", "../file"), {"dir/f": None, "dir": b"old"}),
        (lambda root: retarget(root / "t/link", "/etc/hostname"), {"link": None}),
        (lambda root: (root / "t/dir").unlink(), {"dir/f": None}),
    ],
)
@pytest.mark.parametrize("packs", [False, True])
def test_what_is_meant_changes(follow, beside, change, expected, packs):
    """Where the call settles, what links mean is looked at again as the tree itself is."""
    copied = follow("t", settle=True, packs=packs, after=once(lambda: change(beside)))
    before = {"link": b"old", "dir/f": b"old"}
    after = {name: content for name, content in {**before, **expected}.items() if content is not None}
    assert {name: copied.read(name) for name in files_of(copied.tree)} == after


@pytest.mark.parametrize("settle", [False, True])
def test_a_linked_directory_that_goes_before_it_is_entered(follow, root, settle):
    """It is passed over where the call settles, and else an error that asks to try again."""
    (root / "t").mkdir()
    for name in ("one", "two"):
        (root / f"data-{name}").mkdir()
        (root / f"data-{name}/f").write_bytes(b"x")
        (root / "t" / name).symlink_to(f"../data-{name}")
    entered = []

    def after(frame):
        entered.extend(entry.path for entry in frame.entries if entry.path in ("one", "two"))
        if len(entered) == 1 and not (root / "elsewhere").exists():
            (root / f"data-{'two' if entered == ['one'] else 'one'}").rename(root / "elsewhere")

    if not settle:
        with pytest.raises(SourceChanged, match="'t/(one|two)'"):
            follow("t", chunk_bytes=16, after=after)
        return
    copied = follow("t", settle=True, chunk_bytes=16, after=after)
    assert (files_of(copied.tree), skipped(copied)) == ({f"{entered[0]}/f"}, {entered[1]})
