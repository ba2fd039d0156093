"""Settling: after its last byte the server looks again, and sends anew what changed, and only that.

A small tree is sent in one frame a round, so what a test does when it has that frame happens between
one look at the tree and the next.
"""

import os

import pytest

from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import SourceChanged
from lit_storage_proto.limits import KIB, MAX_FRAME_BYTES
from lit_storage_server.sources.tree_stream import MAX_ROUNDS, PACKED_BYTES


def in_round(**changes):
    """Return what does `r0`, `r1`, ... when the frames of that round have been taken."""

    def after(frame):
        if frame.summary is None:
            changes.get(f"r{frame.round}", lambda: None)()

    return after


def rewrite(path, content):
    """Write a file anew under its name, with a time that no clock is too coarse for."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(content)
    os.utime(path, ns=(0, before + 10**9))


def set_mode(path, mode):
    """Change the mode, and go on until the clock does, where it is a coarse one."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.chmod(mode)


def remove_tree(path):
    (path / "f").unlink()
    path.rmdir()


def to_directory(path):
    path.unlink()
    path.mkdir()
    (path / "in").write_bytes(b"in")


def to_file(path):
    remove_tree(path)
    path.write_bytes(b"file")


def to_link(path):
    path.unlink()
    path.symlink_to("same")


def paths_of(tree):
    """Everything below a directory, with the content of files and the text of links."""
    found = {}
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


CHANGES = {
    "nothing": (lambda root: None, []),
    "rewritten": (lambda root: rewrite(root / "a", b"new"), ["a"]),
    "overwritten in place": (lambda root: rewrite(root / "a", b"A"), ["a"]),
    "grown": (lambda root: rewrite(root / "a", b"longer than before"), ["a"]),
    "emptied": (lambda root: rewrite(root / "a", b""), ["a"]),
    "mode": (lambda root: set_mode(root / "a", 0o600), ["a"]),
    "added": (lambda root: (root / "new").write_bytes(b"new"), ["", "new"]),
    "added below": (lambda root: (root / "d/new").write_bytes(b"new"), ["d", "d/new"]),
    "removed": (lambda root: (root / "a").unlink(), ["", "-a"]),
    "renamed": (lambda root: (root / "a").rename(root / "b"), ["", "-a", "b"]),
    "replaced": (lambda root: (root / "same").rename(root / "a"), ["", "-same", "a"]),
    "directory added": (lambda root: to_directory(root / "a"), ["", "-a", "a", "a/in"]),
    "directory removed": (lambda root: remove_tree(root / "d"), ["", "-d"]),
    "directory by file": (lambda root: to_file(root / "d"), ["", "-d", "d"]),
    "directory renamed": (lambda root: (root / "d").rename(root / "e"), ["", "-d", "e", "e/f"]),
    "file by link": (lambda root: to_link(root / "a"), ["", "a"]),
    "link removed": (lambda root: (root / "link").unlink(), ["", "-link"]),
    "link by file": (lambda root: ((root / "link").unlink(), rewrite(root / "link", b"x")), ["", "link"]),
    "directory's mode": (lambda root: (root / "d").chmod(0o700), ["d"]),
}


@pytest.fixture
def tree(root):
    """A tree with what is changed, and what stays as it is."""
    (root / "d").mkdir()
    for name, content in {"a": b"a", "same": b"same", "d/f": b"f"}.items():
        (root / name).write_bytes(content)
    (root / "link").symlink_to("same")
    for directory in (root / "d", root):
        os.utime(directory, ns=(0, 10**18))  # so that no clock is too coarse for a change of it
    return root


@pytest.mark.parametrize("packs", [False, True], ids=["chunks", "packs"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_sent_anew(copy, tree, change, packs):
    """The copy is the tree as it is after the change, and nothing but the change was sent again."""
    make, sent = CHANGES[change]
    copied = copy(settle=True, packs=packs, after=in_round(r0=lambda: make(tree)))
    assert paths_of(copied.tree) == paths_of(tree)
    assert copied.rounds.get(1, []) == sent
    for name in paths_of(tree):
        here, there = (copied.tree / name).lstat(), (tree / name).lstat()
        assert here.st_mode == there.st_mode
        assert here.st_mtime_ns == there.st_mtime_ns or (tree / name).is_symlink()
    assert max(copied.rounds) <= 1


def test_without_settle_nothing_is_looked_at_again(copy, tree):
    """Who did not ask to settle gets each file as it was, and no round."""
    copied = copy("", after=lambda frame: rewrite(tree / "a", b"new"))
    assert (copied.read("a"), list(copied.rounds)) == (b"a", [0])


def test_a_single_file(copy, root):
    """A path that is a file is looked at again too."""
    (root / "f").write_bytes(b"old")
    copied = copy("f", settle=True, after=in_round(r0=lambda: rewrite(root / "f", b"newer")))
    assert (copied.tree.read_bytes(), copied.rounds) == (b"newer", {0: [""], 1: [""]})


def test_changes_in_three_rounds(copy, tree):
    """What comes to rest in the third round is whole."""
    changes = {f"r{number}": lambda n=number: rewrite(tree / "a", b"%d" % n) for number in range(3)}
    copied = copy(settle=True, packs=True, after=in_round(**changes))
    assert (copied.read("a"), list(copied.rounds)) == (b"2", [0, 1, 2, 3])


@pytest.mark.parametrize("path", ["", "a"])
def test_what_never_rests(copy, tree, path):
    """After three rounds the error names what still changes, from the share's root, and nothing else."""
    frames = []

    def change(frame):
        frames.append(frame.round)
        rewrite(tree / "a", b"x" * len(frames))

    with pytest.raises(SourceChanged, match="^'a' went on changing"):
        copy(path, settle=True, packs=True, after=change)
    assert frames == list(range(MAX_ROUNDS + 1))


def test_a_change_that_is_only_seen_by_the_last_look(copy, tree):
    """After the third round nothing is sent any more, so a change in it is an error too."""
    with pytest.raises(SourceChanged, match="'d/new'"):
        copy(
            settle=True,
            after=in_round(
                r0=lambda: rewrite(tree / "a", b"1"),
                r1=lambda: rewrite(tree / "a", b"2"),
                r2=lambda: rewrite(tree / "a", b"3"),
                r3=lambda: (tree / "d/new").touch(),
            ),
        )


def test_files_that_belong_together(copy, tree):
    """Two files that are always written one after the other come from one time."""
    (tree / "d/f").write_bytes(b"1")
    (tree / "a").write_bytes(b"1")
    versions = iter("23")

    def after(frame):
        # In the first pass after the first of the two, so that the other one is a later version.
        version = next(versions, None)
        if version is not None and any(entry.path in ("a", "d/f") for entry in frame.entries):
            rewrite(tree / "a", version.encode())
            rewrite(tree / "d/f", version.encode())

    copied = copy(settle=True, chunk_bytes=16, after=after)
    assert copied.read("a") == copied.read("d/f") == (tree / "a").read_bytes()


def test_a_file_cut_short_while_it_is_read(copy, root):
    """A file that gets shorter while its chunks are sent is sent again as it is then."""
    (root / "f").write_bytes(bytes(64 * KIB))

    def cut(frame):
        if frame.round == 0 and frame.chunks:
            os.truncate(root / "f", 10)

    copied = copy("", settle=True, chunk_bytes=16 * KIB, after=cut)
    assert (copied.read("f"), copied.rounds[1]) == (bytes(10), ["f"])


def test_gone_again_before_it_was_sent_anew(copy, root):
    """A file that changed, and vanished before its turn in the round came, is not in the copy."""
    for name in ("changed", "removed", "same"):
        (root / name).write_bytes(b"first")

    def after(frame):
        if any(chunk.size for chunk in frame.chunks) and frame.round == 0:
            rewrite(root / "changed", b"second")
            (root / "removed").unlink(missing_ok=True)
        if any(entry.kind is Kind.REMOVED for entry in frame.entries) and (root / "changed").exists():
            (root / "changed").unlink()  # the look that found it changed is over

    copied = copy(settle=True, chunk_bytes=16, after=after)
    assert set(paths_of(copied.tree)) == {"same"}


def test_new_directories_are_sent_whole(copy, tree):
    """What is added comes with all below it, and with files of every size."""
    content = {"small": b"s", "large": os.urandom(PACKED_BYTES + 1)}

    def add():
        (tree / "d/x/y").mkdir(parents=True)
        for name, data in content.items():
            (tree / "d/x/y" / name).write_bytes(data)

    copied = copy(settle=True, packs=True, after=in_round(r0=add))
    assert {name: copied.read(f"d/x/y/{name}") for name in content} == content


def test_removed_and_made_again(copy, tree):
    """A directory that goes in one round and comes back in the next is sent whole again."""

    def make():
        (tree / "d").mkdir()
        (tree / "d/f").write_bytes(b"again")

    copied = copy(settle=True, packs=True, after=in_round(r0=lambda: remove_tree(tree / "d"), r1=make))
    assert (copied.read("d/f"), list(copied.rounds)) == (b"again", [0, 1, 2])


@pytest.mark.parametrize("settle", [False, True])
def test_a_directory_that_goes_while_it_is_let_go(copy, root, tmp_path, monkeypatch, settle):
    """A deep directory whose descriptor was closed, and that is gone, is no path that is not there."""
    monkeypatch.setattr("lit_storage_server.sources.walk.HELD_DIRECTORIES", 1)
    for name in ("a/c/e", "a/c/f", "a/d/e", "a/d/f", "b/c/e", "b/c/f", "b/d/e", "b/d/f"):
        (root / name).mkdir(parents=True)
    gone = []

    def after(frame):
        deep = [entry.path for entry in frame.entries if entry.path.count("/") == 2]
        if deep and not gone:
            gone.append(deep[0][0])
            (root / gone[0]).rename(tmp_path / "elsewhere")

    if not settle:
        with pytest.raises(SourceChanged, match="'[ab]/[cd]'"):
            copy(chunk_bytes=16, after=after)
        return
    copied = copy(settle=True, chunk_bytes=16, after=after)
    assert paths_of(copied.tree) == paths_of(root)
    assert set(os.listdir(copied.tree)) == {"a", "b"} - set(gone)


def put_aside(directory):
    """Rename a directory, and remove a part of it, as a producer does that removes its last checkpoint."""
    aside = directory.rename(directory.parent / "aside")
    (aside / "f").unlink()


def put_in_place(directory):
    put_aside(directory)
    directory.mkdir()
    (directory / "new").write_bytes(b"new")


@pytest.mark.parametrize("packs", [False, True], ids=["chunks", "packs"])
def test_another_directory_in_its_place(copy, tree, packs):
    """Where another one takes the place of the directory that is sent, the copy is that one, whole."""
    (tree / "d/g").write_bytes(b"g")
    copied = copy("d", settle=True, packs=packs, after=in_round(r0=lambda: put_in_place(tree / "d")))
    assert paths_of(copied.tree) == paths_of(tree / "d") == {"new": b"new"}


def test_another_directory_in_its_place_each_time(copy, tree):
    """One that gives place to another in every round never rests."""

    def after(frame):
        if frame.summary is None:
            aside = tree / f"aside-{frame.round}-{len(os.listdir(tree))}"
            (tree / "d").rename(aside)
            (tree / "d").mkdir()
            (tree / "d" / aside.name).write_bytes(b"x")

    with pytest.raises(SourceChanged, match="rests"):
        copy("d", settle=True, after=after)


def test_put_aside_and_half_removed(copy, tree):
    """A directory that was renamed away is not sent as what is left of it, though it rests."""
    (tree / "d/g").write_bytes(b"g")
    with pytest.raises(SourceChanged, match="'d' was removed"):
        copy("d", settle=True, after=in_round(r0=lambda: put_aside(tree / "d")))


def test_reserved_names_in_a_round(copy, tree):
    """What appears under a reserved name of the storage root is no change of what is shared."""

    def appear():
        (tree / "@other").mkdir()
        (tree / ".staging").mkdir()
        (tree / "d/@mine").write_bytes(b"x")

    copied = copy(settle=True, after=in_round(r0=appear))
    assert copied.rounds[1] == ["", "d", "d/@mine"]


def test_a_log_that_grows(copy, tree):
    """With accept_changes a file that only grew stands as it was announced, without a round."""

    def grow(frame):
        with open(tree / "a", "ab") as log:
            log.write(b"more")

    copied = copy(settle=True, accept_changes=True, after=grow)
    assert (copied.read("a"), list(copied.rounds)) == (b"a", [0])
    assert (copied.received.unsettled, copied.received.unsettled_count) == ((), 0)


def test_a_large_log_that_grows_while_it_is_read(copy, root):
    """Of a log that grows with each frame just the bytes that were announced come."""
    content = os.urandom(100 * KIB)
    (root / "log").write_bytes(content)

    def grow(frame):
        with open(root / "log", "ab") as log:
            log.write(b"more")

    for path in ("", "log"):
        size = (root / "log").stat().st_size
        copied = copy(path, settle=True, accept_changes=True, packs=True, chunk_bytes=16 * KIB, after=grow)
        copy_of = copied.tree / "log" if not path else copied.tree
        assert copy_of.read_bytes() == (root / "log").read_bytes()[:size]
        assert (copied.received.unsettled_count, list(copied.rounds)) == (0, [0])


@pytest.mark.parametrize("packs", [False, True], ids=["chunks", "packs"])
def test_what_did_more_than_grow_is_sent_anew(copy, tree, packs):
    """With accept_changes a file whose bytes are others under the same size is not taken for unchanged."""
    copied = copy(
        settle=True,
        accept_changes=True,
        packs=packs,
        after=in_round(r0=lambda: rewrite(tree / "same", b"SAME")),
    )
    assert (copied.read("same"), copied.received.unsettled_count) == (b"SAME", 0)


def test_what_never_rests_is_listed(copy, tree):
    """With accept_changes it is named in the summary, as it was in the third round, and the rest is whole."""
    (tree / "d/f").write_bytes(b"x" * 11)
    sizes = iter(range(10, 0, -1))
    copied = copy(
        settle=True, accept_changes=True, after=lambda frame: rewrite(tree / "d/f", b"x" * next(sizes))
    )
    assert (copied.received.unsettled, copied.received.unsettled_count) == (("d/f",), 1)
    assert (copied.read("d/f"), copied.read("same")) == (b"x" * 8, b"same")


def test_many_that_never_rest(copy, root):
    """Of those that are listed a hundred are named, and all are counted."""
    for number in range(120):
        (root / str(number)).write_bytes(b"x")
    times = iter(range(1, 100))

    def touch(frame):
        time = next(times)
        for number in range(120):
            os.utime(root / str(number), ns=(time, time))

    copied = copy(settle=True, accept_changes=True, packs=True, after=touch)
    assert (len(copied.received.unsettled), copied.received.unsettled_count) == (100, 120)
    assert set(copied.received.unsettled) <= {str(number) for number in range(120)}


def test_the_names_of_what_never_rests_fit_in_a_frame(copy, root):
    """Paths so long that a hundred of them do not fit in a message are named as far as they do."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(50):
        os.mkdir("d" * 250, dir_fd=fd)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    try:
        for number in range(100):
            os.close(os.open(str(number), os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        times = iter(range(1, 100))

        def touch(frame):
            time = next(times)
            for number in range(100):
                os.utime(str(number), ns=(time, time), dir_fd=fd)

        copied = copy(settle=True, accept_changes=True, packs=True, after=touch)
    finally:
        os.close(fd)
    assert copied.received.unsettled_count == 100
    assert 0 < sum(map(len, copied.received.unsettled)) < MAX_FRAME_BYTES
