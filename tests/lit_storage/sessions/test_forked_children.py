"""What a forked child of a process with a session does: it joins or connects, its parent goes on."""

import os
import subprocess
import sys

import pytest

import lit_storage
from lit_storage import Path, Security
from lit_storage.paths import home
from tests.processes import forked

SPAWNED = """
import multiprocessing, os, sys
import lit_storage
from lit_storage import Path

def child(path, queue):
    queue.put((path.read_text(), os.fspath(path), path.uri, os.fspath(Path("lit://@other/a"))))

if __name__ == "__main__":
    with lit_storage.connect(root=sys.argv[1]) as session:
        path = Path("lit://@other/a")
        path.parent.mkdir(parents=True)
        path.write_text("x")
        for method in ("fork", "spawn", "forkserver"):
            context = multiprocessing.get_context(method)
            queue = context.SimpleQueue()
            process = context.Process(target=child, args=(path, queue))
            process.start()
            expected = ("x", session.storage_root + "/@other/a", "lit://@other/a", os.fspath(path))
            assert queue.get() == expected, method
            process.join()
    print("ok")
"""


@pytest.fixture
def parent(root):
    """This process is the Work "parent" and has a file x."""
    with lit_storage.join("parent") as session:
        Path("lit://x").write_text("1")
        yield session
        assert session.registry.resolve("parent").instance_id == session.instance_id
        assert lit_storage.current() is session


def test_a_child_connects(parent, tmp_path):
    """It copies from its parent as any other process does."""

    def child():
        with lit_storage.connect() as session:
            assert session is lit_storage.current()
            return Path("lit://@parent/x").get(to=tmp_path / "copy").files

    assert forked(child) == 1


def test_a_child_joins(parent):
    """It is a Work of its own, and gives back only its own name."""

    def child():
        with lit_storage.join("child") as session:
            return session.registry.resolve("child").name, session.registry.resolve("parent").name

    assert forked(child) == ("child", "parent")


def test_a_child_lets_go_of_its_parents_session(parent):
    """close() there ends nothing of the parent, and makes room for a session of the child."""

    def child():
        lit_storage.current().close()
        assert lit_storage.current() is None
        with lit_storage.connect():
            return Path("lit://@parent/x").exists_remote()

    assert forked(child) is True


def connected_token(**settings):
    """Return the token of a session that is given none."""
    with lit_storage.connect(**settings) as session:
        return session.security.token


def test_a_child_has_the_token_of_its_parent(root):
    """A token that the parent was given in code counts, in a second session and in a grandchild too."""
    with lit_storage.connect(security=Security("in code")):
        assert (
            forked(lambda: [connected_token(), connected_token(), forked(connected_token)]) == ["in code"] * 3
        )


def test_a_child_may_name_another_token(root, tmp_path, monkeypatch):
    """In another root, or where it names a token in its environment, it does not have that of its parent."""

    def child():
        os.environ["LIT_STORAGE_TOKEN"] = "of the child"
        return connected_token()

    monkeypatch.setenv("LIT_STORAGE_TOKEN", "of the environment")
    with lit_storage.connect(security=Security("in code")):
        assert forked(lambda: connected_token(root=tmp_path / "other")) != "in code"
        assert forked(child) == "of the child"


def test_a_child_of_a_child(parent):
    """A child that has connected may fork in turn."""

    def grandchild():
        with lit_storage.connect():
            return Path("lit://@parent/x").exists_remote()

    def child():
        with lit_storage.connect():
            return forked(grandchild)

    assert forked(child) is True


def test_paths_of_the_parent_in_a_child_that_connected(parent):
    """They keep value and meaning: the parent's own file is here, and says whose it is."""
    path = Path("lit://x")

    def child():
        with lit_storage.connect():
            transfer = path.get()
            return os.fspath(path), path.uri, path.read_text(), transfer.how, path.exists_remote()

    assert forked(child) == (os.fspath(path), "lit://@parent/x", "1", "own", True)


@pytest.mark.slow
def test_a_copy_of_the_parent_is_got_where_its_path_says(parent, script):
    """get() in a child writes to the Path's own value, so that parent and child find the copy there."""
    other = script(
        """
        import lit_storage
        from lit_storage import Path
        with lit_storage.join("other"):
            Path("lit://y").write_text("2")
            print("up", flush=True)
            __import__("time").sleep(60)
        """
    )
    assert other.stdout.readline() == "up\n"
    path = Path("lit://@other/y")

    def child():
        with lit_storage.connect():
            return path.uri, path.get().files

    assert forked(child) == ("lit://@other/y", 1)
    assert path.read_text() == "2"


def test_after_its_session_a_child_has_the_home_of_its_parent_again(parent):
    """lit:// means the parent's files until the child connects, and after it has closed."""

    def child():
        before = home.current()
        with lit_storage.connect():
            assert home.current() != before
        return home.current() == before

    assert forked(child) is True


@pytest.mark.slow
def test_children_of_a_connected_process(tmp_path):
    """Its children, forked, spawned or of a fork server, open the same copy by the same Path."""
    file = tmp_path / "script.py"
    file.write_text(SPAWNED)
    command = [sys.executable, str(file), str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "ok\n", done.stderr
