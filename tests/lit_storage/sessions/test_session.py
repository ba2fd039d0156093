"""join and connect: one session a process, refused with a sentence, left without a trace."""

import os
import socket

import pytest

import lit_storage
from lit_storage import AccessDenied, AddressInUse, InvalidURI, NameTaken, NotAttached, Path, PathNotFound
from lit_storage_core.registries import open_registry
from lit_storage_proto.limits import Limits

TRAINER = """
import sys
import lit_storage
from lit_storage import Path
with lit_storage.join("trainer") as session:
    Path("lit://out").mkdir()
    Path("lit://out/x").write_text("1")
    print(session.endpoint, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def trainer(script):
    """Another process that joined as "trainer" and has out/x; yields its endpoint."""
    process = script(TRAINER.replace("sys.stdin.read()", "__import__('time').sleep(60)"))
    return process.stdout.readline().strip()


def test_join_gives_the_process_a_place(root):
    """In a joined process lit:// is the storage root of its name."""
    with lit_storage.join("trainer-0") as session:
        assert os.fspath(Path("lit://a")) == f"{root}/works/trainer-0/a"
        assert (session.name, session.storage_root) == ("trainer-0", f"{root}/works/trainer-0")


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_second_join_is_refused(root, name):
    """A process is one Work: join() names the session that is open, and changes nothing."""
    with lit_storage.join("one"):
        with pytest.raises(RuntimeError, match=r"Session of one .*use lit_storage.current\(\), or close\(\)"):
            lit_storage.join(name)
        assert lit_storage.current().name == "one"


def test_a_closed_session_makes_room(root):
    """After close, another session can be opened, under the same name too."""
    for _ in range(2):
        with lit_storage.join("again"):
            pass
    assert lit_storage.current() is None


def test_leaving_takes_the_record_and_the_port(root):
    """What is left is the record that the Work stopped."""
    with lit_storage.join("gone") as session:
        host, port = session.endpoint.split(":")
        url, machine = session.registry.url, session.home.machine_id
    registry = open_registry(url, machine_id=machine, limits=Limits())
    assert (registry.resolve("gone"), registry.work("gone").state) == (None, "stopped")
    registry.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


@pytest.mark.parametrize("name", ["", "a b", ".a", "a..b", "@a", "a/b", "x" * 129, "é"])
def test_a_name_outside_the_grammar_is_refused(root, name):
    """The error names the name, and nothing is made on disk."""
    with pytest.raises(InvalidURI, match="cannot be the name of a Work"):
        lit_storage.join(name)
    assert not root.exists()


@pytest.mark.slow
def test_a_second_work_of_a_name_is_refused(root, trainer):
    """While the first one lives, its name is taken; the sentence names it."""
    with pytest.raises(NameTaken, match="trainer"):
        lit_storage.join("trainer")
    assert lit_storage.current() is None


def test_a_taken_port_is_refused(root):
    """The error names the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=bind):
            lit_storage.join("late", bind=bind)


def test_a_wildcard_bind_without_protection_is_refused(root):
    """Serving other machines needs TLS and a token, or mTLS; the sentence says so."""
    with pytest.raises(AccessDenied, match="certificate"):
        lit_storage.join("open", bind="0.0.0.0:0")


def test_a_root_that_is_a_file_is_refused(tmp_path):
    """A file where the root should be is named, and the way out with it."""
    (tmp_path / "file").touch()
    with pytest.raises(AccessDenied, match="LIT_STORAGE_ROOT"):
        lit_storage.connect(root=tmp_path / "file")


@pytest.mark.root
def test_an_unwritable_root_is_refused(script, tmp_path):
    """Without write permission the root is named, and the way out with it."""
    os.chmod(tmp_path, 0o755)
    process = script(
        """
        import os
        import lit_storage
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            lit_storage.join("nobody", root="/etc/lit-root")
        except lit_storage.AccessDenied as error:
            print(error)
        """
    )
    assert "/etc/lit-root" in process.communicate(timeout=20)[0]


@pytest.mark.slow
def test_a_connected_process_gets_from_a_joined_one(root, trainer):
    """connect() is enough to copy."""
    with lit_storage.connect():
        path = Path("lit://@trainer/out")
        assert path.exists_remote()
        assert path.get().files == 1
        assert (path / "x").read_text() == "1"
        assert os.fspath(path) == f"{root}/connect/@trainer/out"


def test_get_to_another_place(root, trainer, tmp_path):
    """to= copies to where the user says."""
    with lit_storage.connect():
        Path("lit://@trainer/out/x").get(to=tmp_path / "deep" / "y")
    assert (tmp_path / "deep" / "y").read_text() == "1"


def test_an_unknown_work_is_absent(root):
    """Nobody of that name: exists_remote() is False and get() names the Work."""
    with lit_storage.connect():
        path = Path("lit://@nobody/x")
        assert path.exists_remote() is False
        with pytest.raises(PathNotFound, match="nobody"):
            path.get()


def test_a_declared_path_is_shared(root, tmp_path):
    """declare() returns the path with this Work as its origin."""
    (tmp_path / "data").mkdir()
    with lit_storage.join("owner") as session:
        path = session.declare(tmp_path / "data")
        assert (path.origin_name, path.uri) == ("owner", f"lit://{tmp_path}/data")


def test_the_root_of_the_file_system_is_not_shared(root):
    """A directory above the storage root would share it with all else: refused."""
    with lit_storage.join("owner") as session:
        for path in ("/", root.parent):
            with pytest.raises(AccessDenied):
                session.declare(path)


def test_a_connected_process_declares_nothing(root):
    """It serves nothing, and says so."""
    with lit_storage.connect() as session, pytest.raises(NotAttached, match="join"):
        session.declare("/data")


def test_another_works_path_cannot_be_declared(root):
    """Only its owner shares a path."""
    with lit_storage.join("owner") as session, pytest.raises(InvalidURI, match="not this Work's own"):
        session.declare(Path("lit://@other/x"))


def test_git_passes_over_the_root(root):
    """The root tells git to leave it alone."""
    with lit_storage.connect():
        assert (root / ".gitignore").read_text() == "*\n"


def test_the_token_is_private(root):
    """Only the user may read the token, and no repr shows it."""
    with lit_storage.connect() as session:
        token = (root / "token").read_text()
        assert (root / "token").stat().st_mode & 0o777 == 0o600
        assert token.strip() not in repr(session) + repr(session.security) + repr(vars(session))


@pytest.fixture
def work_of(root):
    """Return what the registry of this test's root knows of a Work."""

    def look(name):
        machine = (root / "machine-id").read_text().strip()
        registry = open_registry(f"sqlite://{root}/registry.db", machine_id=machine, limits=Limits())
        record = registry.work(name)
        live = registry.resolve(name)
        registry.close()
        return record.state.value, live is not None

    return look


def test_a_program_that_ends_well_was_stopped(script, work_of):
    """Leaving without close() is no failure."""
    assert script("import lit_storage; lit_storage.join('brief')").wait(20) == 0
    assert work_of("brief") == ("stopped", False)


def test_sigterm_leaves_the_session(script, work_of):
    """What a service manager sends unwinds a joined program, and its record says so."""
    process = script(
        """
        import time
        import lit_storage
        with lit_storage.join("brief"):
            print("joined", flush=True)
            while True:
                time.sleep(0.1)  # a signal that comes just before a long sleep would not end it
        """
    )
    process.stdout.readline()
    process.terminate()
    assert process.wait(20) == 143
    assert work_of("brief") == ("stopped", False)


def test_join_replaces_no_signal_handler(script):
    """A handler that is there already stays."""
    process = script(
        """
        import signal
        import lit_storage
        handler = lambda *_: None
        signal.signal(signal.SIGTERM, handler)
        with lit_storage.join("brief"):
            print(signal.getsignal(signal.SIGTERM) is handler)
        print(signal.getsignal(signal.SIGTERM) is handler)
        """
    )
    assert process.communicate(timeout=20)[0].split() == ["True", "True"]


@pytest.mark.slow
def test_a_forked_child_does_not_end_its_parents_session(script):
    """It may leave the with block; the name stays the parent's."""
    process = script(
        """
        import os
        import lit_storage
        with lit_storage.join("brief") as session:
            if (pid := os.fork()) == 0:
                raise SystemExit(0)
            os.waitpid(pid, 0)
            print(session.registry.resolve("brief") is not None, flush=True)
        """
    )
    out, err = process.communicate(timeout=20)
    assert out == "True\n"
    assert "Traceback" not in err
