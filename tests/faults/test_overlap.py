"""Gets whose targets contain each other, or are the same: each ends by itself, and no tree is a mixture."""

import contextlib
import os
import threading

import pytest

from lit_storage_core.system.libc import RENAME_EXCHANGE, renameat2

pytestmark = pytest.mark.slow

FILES = 40
TIMES = 15
INNER_FIRST = [["a/b", "a"], ["a", "a/b"]]

# What a get may say when another one took its place away from it; each is an error of a kind of its own.
TYPED = {"IntegrityError", "PathExists", "AccessDenied", "TransferTimeout", "SourceChanged"}


@pytest.fixture
def versions(origin):
    """The origin's tree a with a/b in it, and a way to change all of it at once to another version."""
    for version in (1, 2):
        for directory in (f"{origin.files}/{version}", f"{origin.files}/{version}/b"):
            os.makedirs(directory)
            for number in range(FILES):
                with open(f"{directory}/{number}", "w") as file:
                    file.write(str(version) * 1000)
    os.rename(f"{origin.files}/1", f"{origin.files}/a")

    def change():
        renameat2(-1, f"{origin.files}/a", -1, f"{origin.files}/2", RENAME_EXCHANGE)

    return change


def look(path):
    """See that a path means one version, whole; return how many files there are.

    What was replaced while it was looked at is passed over: None. A tree that was only made as the
    way to a part of it has no files, and one that is not there -1.
    """
    with contextlib.ExitStack() as stack:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return -1
        stack.callback(os.close, fd)
        try:
            names = [name for name in os.listdir(fd) if name != "b" and not name.startswith(".lit-staging-")]
            found = {read_at(fd, name) for name in names}
            is_current = os.path.samestat(os.stat(path), os.fstat(fd))
        except FileNotFoundError:
            return None
    if not is_current:
        return None
    assert len(names) in (0, FILES), (path, names)
    assert found in (set(), {"1" * 1000}, {"2" * 1000}), (path, found)
    return len(names)


def read_at(directory_fd, name):
    with open(os.open(name, os.O_RDONLY, dir_fd=directory_fd)) as file:
        return file.read()


@pytest.fixture
def looking():
    """Look at trees again and again in a thread of its own, while the block runs."""

    @contextlib.contextmanager
    def run(*paths):
        stopped, failures, whole = threading.Event(), [], []

        def look_on():
            is_last = False
            try:
                while not is_last:
                    is_last = stopped.is_set()  # the end is seen on a busy machine too
                    for path in paths:
                        count = look(path)
                        # A way down into a part may end in what is being removed; a name does not vanish.
                        assert count != 0 or path not in whole, f"{path} became empty"
                        assert count != -1 or path not in whole or path != paths[0], f"{path} vanished"
                        whole.extend([path] if count and count > 0 else [])
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=look_on)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
        assert failures == []
        assert set(whole) == set(paths)

    return run


def check_ends(ends, least):
    """Each get ended well or with an error that has a name, and enough of them well."""
    errors = [how for how in ends if "error" in how]
    assert [how for how in errors if how["error"][0] not in TYPED] == []
    assert len(ends) - len(errors) >= least


def told_while(children, change):
    """Return what all of them tell of their gets, in each of whose course the origin changes."""
    ends = []
    for child in children:
        while "left" not in (how := child.next()):
            ends.append(how)
            change()
        child.wait()
    return ends


@pytest.mark.parametrize("order", INNER_FIRST)
@pytest.mark.parametrize("local_copy", [True, False])
def test_processes(versions, fork, root, order, looking, left, local_copy):
    """Two processes get a tree and a part of it at the same time."""
    options = {"overwrite": True, "durable": False, "times": TIMES, "wait": True, "local_copy": local_copy}
    children = [fork("get", root=root, uri=f"lit://@origin/{path}", **options) for path in order]
    for child in children:
        assert child.next() == {"ready": True}
    place = f"{root}/connect/@origin/a"
    with looking(place, f"{place}/b"):
        for child in children:
            child.tell()
        ends = told_while(children, versions)
    check_ends(ends, least=TIMES)
    assert look(place) == FILES
    assert look(f"{place}/b") == FILES
    assert left() == []


@pytest.mark.parametrize("order", INNER_FIRST)
def test_threads(versions, fork, root, order, looking, left):
    """Two threads of one process get a tree and a part of it at the same time."""
    options = {"overwrite": True, "durable": False}
    gets = [[f"lit://@origin/{path}", options] for path in order]
    child = fork("get_in_threads", root=root, gets=gets, times=TIMES)
    place = f"{root}/connect/@origin/a"
    with looking(place, f"{place}/b"):
        assert child.next() == {"ready": True}
        ends = told_while([child], versions)
    check_ends(ends, least=TIMES)
    assert look(place) == FILES
    assert look(f"{place}/b") == FILES
    assert left() == []


@pytest.mark.parametrize("order", INNER_FIRST)
def test_targets_of_ones_own_choice(versions, fork, root, order, looking, left):
    """The same where copies are staged beside their targets, so one of them in the other's tree."""
    options = {"overwrite": True, "durable": False, "times": TIMES, "wait": True}
    children = [
        fork("get", root=root, uri=f"lit://@origin/{path}", to=f"{root}/chosen/{path}", **options)
        for path in order
    ]
    for child in children:
        assert child.next() == {"ready": True}
    place = f"{root}/chosen/a"
    with looking(place, f"{place}/b"):
        for child in children:
            child.tell()
        ends = told_while(children, versions)
    check_ends(ends, least=TIMES)
    assert look(place) == FILES
    assert left(f"{root}/chosen", place) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_one_target(versions, fork, root, overwrite, looking, left):
    """Processes that get one target at the same time all end; without overwrite exactly one of them well."""
    times = TIMES if overwrite else 1
    options = {"overwrite": overwrite, "durable": False, "times": times, "wait": True}
    children = [fork("get", root=root, uri="lit://@origin/a", **options) for _ in range(3)]
    for child in children:
        assert child.next() == {"ready": True}
    with looking(f"{root}/connect/@origin/a"):
        for child in children:
            child.tell()
        ends = told_while(children, versions if overwrite else lambda: None)
        assert look(f"{root}/connect/@origin/a") == FILES
    well = [how for how in ends if "error" not in how]
    assert len(well) == (3 * times if overwrite else 1), [how for how in ends if "error" in how]
    assert left() == []
