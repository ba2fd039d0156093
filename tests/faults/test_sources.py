"""A source that changes while it is copied: the copy is one whole version of it, or there is an error."""

import os
import secrets
import shutil

import pytest

from lit_storage_core.system.libc import RENAME_EXCHANGE, renameat2
from tests.faults.conftest import stopped

MIB = 1 << 20
LARGE = 32 * MIB
BYTES = [os.urandom(LARGE // 2) for _ in range(2)]
ALLOWED = ("SourceChanged", "PathNotFound")


@pytest.fixture
def root(in_memory):
    return f"{in_memory}/root"


@pytest.fixture
def make(origin):
    """Make anew what the origin has as t; beside it lies another version of all of it."""

    def make():
        for tree in (f"{origin.files}/other", f"{origin.files}/t"):
            shutil.rmtree(tree) if os.path.isdir(tree) else None
            os.unlink(tree) if os.path.isfile(tree) else None
            os.makedirs(f"{tree}/sub")
            for file in ("large", "sub/large"):
                write(f"{tree}/{file}", tree.encode() + file.encode() + BYTES[0])
            for number in range(200):
                write(f"{tree}/sub/{number}", tree.encode() * 5)
        return tree

    return make


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def rewrite(tree):
    """Other bytes of the same number, in place."""
    with open(f"{tree}/large", "r+b") as file:
        file.write(BYTES[1])


def truncate(tree):
    os.truncate(f"{tree}/large", LARGE // 4 + 7)


def truncate_to_nothing(tree):
    os.truncate(f"{tree}/large", 0)


def grow(tree):
    with open(f"{tree}/large", "ab") as file:
        file.write(b"more" * MIB)


def replace(tree):
    write(f"{tree}/new", BYTES[1])
    os.rename(f"{tree}/new", f"{tree}/large")


def delete(tree):
    os.unlink(f"{tree}/large")


def file_to_directory(tree):
    os.unlink(f"{tree}/large")
    os.makedirs(f"{tree}/large/inner")
    write(f"{tree}/large/inner/file", b"content")


def file_to_link(tree):
    os.unlink(f"{tree}/large")
    os.symlink("sub/1", f"{tree}/large")


def directory_to_file(tree):
    beside = f"{tree}/../{secrets.token_hex(4)}"
    write(beside, b"a file by now")
    renameat2(-1, f"{tree}/sub", -1, beside, RENAME_EXCHANGE)


def delete_directory(tree):
    os.rename(f"{tree}/sub", f"{tree}/../{secrets.token_hex(4)}")


def exchange_directory(tree):
    renameat2(-1, f"{tree}/sub", -1, f"{tree}/../other/sub", RENAME_EXCHANGE)


def exchange_all(tree):
    renameat2(-1, tree, -1, f"{tree}/../other", RENAME_EXCHANGE)


def delete_all(tree):
    os.rename(tree, f"{tree}/../{secrets.token_hex(4)}")


def all_to_file(tree):
    beside = f"{tree}/../{secrets.token_hex(4)}"
    write(beside, b"a file by now")
    renameat2(-1, tree, -1, beside, RENAME_EXCHANGE)


def change_small_ones(tree):
    for number in range(0, 200, 3):
        write(f"{tree}/sub/{number}", b"changed")
        os.unlink(f"{tree}/sub/{number + 1}") if number < 150 else None


CHANGES = [
    rewrite, truncate, truncate_to_nothing, grow, replace, delete, file_to_directory, file_to_link,
    directory_to_file, delete_directory, exchange_directory, exchange_all,
    change_small_ones,
]  # fmt: skip


@pytest.fixture
def get_while(fork, root):
    """Get lit://@origin/<path>, and do something once so many bytes are there; return how it went."""

    def run(path, change, at_bytes, **options):
        options = {"overwrite": True, "durable": False, "pause_at_bytes": at_bytes, **options}
        child = fork("get", root=root, uri=f"lit://@origin/{path}", **options)
        assert child.next() == {"ready": True}
        assert "paused" in child.next()
        change()
        child.tell()
        how = child.next()
        assert child.rest() == [{"left": True}]
        return how

    return run


@pytest.fixture
def check(origin, make, get_while, snapshot, root, left, until):
    """Change a path in the middle of a get of it, and see what came of it."""

    def run(path, change, at_bytes, *, local_copy):
        target, tree = f"{root}/connect/@origin/{path}", make()
        source = os.path.join(os.path.dirname(tree), path)
        shutil.rmtree(f"{root}/connect", ignore_errors=True)
        os.makedirs(f"{target}/old")
        write(f"{target}/old/file", b"old")
        old, before = snapshot(target), snapshot(source)

        def change_at_once():
            """While its server stands still: what is half changed is a version of the tree, too."""
            (server,) = until(origin.children)
            with stopped(server):
                change(tree)

        how = get_while(path, change_at_once, at_bytes, local_copy=local_copy)
        now, after = snapshot(target), snapshot(source) if os.path.lexists(source) else None
        if "error" in how:
            assert how["error"][0] in ALLOWED, how
            assert now == old
        else:
            assert is_one_of(now, before, after), differences(now, before, after)
        assert left() == []

    return run


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_tree(check, change):
    """The target is the source as it was or as it is, or what it was before a get that says why it failed."""
    for at_bytes in (0, LARGE // 2):
        for local_copy in (True, False):
            check("t", change, at_bytes, local_copy=local_copy)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [rewrite, truncate, truncate_to_nothing, grow, replace, delete, file_to_link]
)
def test_a_file(check, change):
    """The same of a get of one file alone."""
    for local_copy in (True, False):
        check("t/large", change, LARGE // 6, local_copy=local_copy)


@pytest.mark.parametrize("change", [delete_all, all_to_file])
def test_a_tree_that_is_deleted(check, change):
    """A tree that was deleted meanwhile is no empty one."""
    check("t", change, 0, local_copy=False)


def is_one_of(now, before, after):
    """Say whether a copy is one of two versions.

    A file system may set a time a moment after the size that it belongs to, as tmpfs does in
    truncate(2), so the times of what changed may be those of either.
    """
    wanted = [each for each in (before, after) if each is not None]
    times = {(name, each[name][1]) for each in wanted for name in each}
    return all((name, entry[1]) in times for name, entry in now.items()) and any(
        without_times(now) == without_times(each) for each in wanted
    )


def without_times(tree):
    return {name: (mode, content) for name, (mode, _, content) in tree.items()}


def differences(now, *wanted):
    """Names that differ, for whoever reads a failure."""
    return [
        {
            name: (now.get(name), each.get(name))
            for name in now.keys() | each.keys()
            if now.get(name) != each.get(name)
        }
        for each in wanted
        if each is not None
    ]
