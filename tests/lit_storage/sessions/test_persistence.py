"""Files outlive their Work: what is published, when, and who reads it. Each fact in place and in S3."""

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import pytest

import lit_storage
from lit_storage import App, Flow, InvalidURI, Limits, NotAttached, Path, PathNotFound, Work, WorkError
from lit_storage_core.artifacts.urls import open_store
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_server.publishing.notes import Note
from tests.waiting import within

wait_until = within(20)

pytestmark = pytest.mark.usefixtures("root")


class Train(Work):
    """Writes files in whatever way a test asks for."""

    def __init__(self, **options):
        super().__init__(**options)
        self.out = "lit://outputs/ckpt"
        self.note = "lit://note.txt"
        self.never = None

    def run(self, doing="write", text="weights"):
        if doing == "nothing":
            return
        if doing == "delete":
            (self.out / "model").unlink()
            return
        if doing == "delete all":
            (self.out / "model").unlink()
            self.out.rmdir()
            return
        os.makedirs(self.out, exist_ok=True)
        (self.out / "model").write_text(text)
        self.note.write_text("note")
        (Path("lit://undeclared")).write_text("mine")
        if doing == "raise":
            raise ValueError("boom")
        if doing == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if doing == "hang":
            ctypes.PyDLL(None).sleep(60)  # C code that does not let go of the interpreter


class Restless(Train):
    """Goes on writing when run has returned."""

    def run(self):
        super().run()
        threading.Thread(target=self.write, daemon=True).start()

    def write(self):
        count = 0
        while True:
            count += 1
            for number in range(50):
                (self.out / f"noise{number}").write_text(str(count))


class Deploy(Work):
    """Looks at a Path of another Work."""

    def __init__(self):
        super().__init__()
        self.seen = None
        self.held = None

    def run(self, path=None):
        path = self.held if path is None else path
        self.seen = {"text": (path / "model").read_text() if path.exists_local() else None}


def run_app(steps, *, train=None, **options):
    class Pipeline(Flow):
        def __init__(self):
            super().__init__()
            self.train, self.deploy = train or Train(), Deploy()

        def run(self):
            steps(self)

    flow = Pipeline()
    App(flow, **options).run()
    return flow


@pytest.fixture(params=["in place", "s3"])
def store(request, monkeypatch, s3):
    """Where Works publish: in place, or in a store that the environment names."""
    if request.param == "s3":
        monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", s3("rclone")[1])
    return request.param


def read(uri="lit://@train/outputs/ckpt"):
    """Return what a process that only connects finds: None, or the text of the model in it."""
    with lit_storage.connect():
        path = Path(uri)
        if not path.exists_remote():
            with pytest.raises(PathNotFound):
                path.get(overwrite=True)
            return None
        path.get(overwrite=True)
        return (path / "model").read_text() if path.is_dir() else path.read_text()


@pytest.mark.slow
class TestWhenAWorkStops:
    def test_its_own_paths_can_be_read(self, store):
        """Directories and files among its attributes are there after the App, and nothing else of it."""
        run_app(lambda flow: flow.train.run())
        assert read() == "weights"
        assert read("lit://@train/note.txt") == "note"
        assert read("lit://@train/undeclared") is None

    def test_they_are_there_while_the_app_goes_on(self, store):
        """Another Work gets them when their origin was stopped."""
        flow = run_app(lambda flow: (flow.train.run(), flow.train.stop(), flow.deploy.run(flow.train.out)))
        assert flow.deploy.seen == {"text": "weights"}

    def test_run_raises(self, store):
        """What run had written when it raised is there, and the exception is its own."""

        def steps(flow):
            with pytest.raises(ValueError, match="boom"):
                flow.train.run("raise")
            flow.deploy.run(flow.train.out)

        assert run_app(steps).deploy.seen == {"text": "weights"}
        assert read() == "weights"

    def test_it_is_killed(self, store):
        """After SIGKILL the App publishes what is there, marked as unclean."""

        def steps(flow):
            with pytest.raises(WorkError, match="SIGKILL"):
                flow.train.run("kill")
            flow.deploy.run(flow.train.out)

        assert run_app(steps).deploy.seen == {"text": "weights"}
        (version, *_) = versions()
        assert (version["uri"], version["state"]) == ("lit://@train/note.txt", "unclean")

    def test_run_is_stuck(self, store, root):
        """A run that is stuck in C code holds its end up for half the grace, and its files are there."""
        began = []

        def steps(flow):
            flow.train.run("hang")
            until = time.monotonic() + 60
            while not (root / "works/train/undeclared").exists() and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(0.3)  # the last step into C is not to be seen from here
            began.append(time.monotonic())

        run_app(steps, train=Train(parallel=True), on_flow_end="stop", limits=Limits(stop_grace_seconds=3))
        assert time.monotonic() - began[0] < 45
        assert read() == "weights"

    def test_a_path_argument_is_another_works(self, store):
        """A Path of another origin among the attributes is got before run, and is not published."""

        def steps(flow):
            flow.train.run()
            flow.train.stop()
            flow.deploy.held = flow.train.out
            flow.deploy.run()

        assert run_app(steps).deploy.seen == {"text": "weights"}
        assert {version["uri"] for version in versions()} == {
            "lit://@train/outputs/ckpt",
            "lit://@train/note.txt",
        }

    def test_a_deleted_file_does_not_come_back(self, store):
        """What run deleted is not in what is read afterwards, nor in what a consumer had before."""
        run_app(lambda flow: flow.train.run())
        assert read() == "weights"
        run_app(lambda flow: flow.train.run("delete"))
        with lit_storage.connect():
            path = Path("lit://@train/outputs/ckpt")
            assert not (path / "model").exists_remote()
            path.get(overwrite=True)
            assert os.listdir(path) == []

    def test_a_deleted_path_does_not_come_back(self, store):
        """Nor does a declared path that was deleted as a whole."""
        run_app(lambda flow: flow.train.run())
        run_app(lambda flow: flow.train.run("delete all"))
        assert read() is None

    def test_the_next_app_finds_it(self, store):
        """An App with the same root finds what Works of the former one left."""
        run_app(lambda flow: flow.train.run())

        class Reader(Flow):
            def __init__(self):
                super().__init__()
                self.deploy = Deploy()
                self.path = Path("lit://@train/outputs/ckpt")

            def run(self):
                self.deploy.run(self.path)

        flow = Reader()
        App(flow).run()
        assert flow.deploy.seen == {"text": "weights"}

    def test_a_live_work_is_not_passed_over(self, store):
        """While the Work lives, what it has counts and not what it published before."""
        run_app(lambda flow: flow.train.run())
        with_join = textwrap.dedent(
            """
            import lit_storage, os
            with lit_storage.join("train"):
                p = lit_storage.Path("lit://outputs/ckpt/model")
                p.unlink()
                print("ready", flush=True)
                input()
            """
        )
        process = subprocess.Popen(
            [sys.executable, "-c", with_join], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        with lit_storage.connect():
            assert not Path("lit://@train/outputs/ckpt/model").exists_remote()
        process.communicate("\n")


def versions():
    """Return what `lit-storage artifacts ls` shows, the paths of one time in their order."""
    command = [
        sys.executable,
        "-c",
        "from lit_storage.cli.main import main; main()",
        "artifacts",
        "ls",
        "--json",
    ]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return sorted(shown, key=lambda version: (-version["version"], version["uri"]))


class TestEachRun:
    @pytest.mark.slow
    def test_published_when_run_has_returned(self, store):
        """With persist="run" what run wrote is in the store before the Flow goes on."""
        seen = []

        def steps(flow):
            for text in ("one", "two"):
                flow.train.run("write", text)
                seen.append(len(versions()))
            with pytest.raises(WorkError):
                flow.train.run("kill", "three")

        run_app(steps, train=Train(persist="run"))
        assert seen == ([2, 2] if store == "in place" else [2, 4])
        assert read() == "three"

    def test_an_unknown_word_is_refused(self):
        """persist is "stop" or "run"."""
        with pytest.raises(ValueError, match="persist='never' is neither"):
            Train(persist="never")


JOINED = """
import os, signal, sys
import lit_storage
from lit_storage import Path
session = lit_storage.join("train")
path = session.declare(Path("lit://outputs/ckpt"))
os.makedirs(path, exist_ok=True)
(path / "model").write_text("weights")
"""


@pytest.mark.slow
class TestAProcessThatJoined:
    @pytest.mark.parametrize(
        ("ending", "code"),
        [
            ("session.close()", 0),
            ("pass", 0),
            ("sys.exit(3)", 3),
            ("raise SystemExit('bye')", 1),
            ("1 / 0", 1),
            ("os.kill(os.getpid(), signal.SIGTERM); signal.pause()", 143),
        ],
        ids=["close", "end", "exit", "message", "exception", "sigterm"],
    )
    def test_publishes_however_it_ends(self, script, store, ending, code):
        """By close, at exit, by an exception or SIGTERM: it is published, and the exit status stays."""
        process = script(JOINED + ending)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        assert "UserWarning" not in errors
        assert read() == "weights"

    def test_publishes_when_asked(self, store):
        """Session.publish() does it at any time; only a process that joined can."""
        with lit_storage.join("train") as session:
            path = session.declare(Path("lit://outputs/ckpt"))
            os.makedirs(path)
            (path / "model").write_text("1")
            session.publish()
            assert [version["state"] for version in versions()] == ["clean"]
        with lit_storage.connect() as session, pytest.raises(NotAttached):
            session.publish()

    def test_a_handler_that_is_there_stays(self, script):
        """join replaces no handler of SIGTERM, which then decides what happens."""
        process = script(
            "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('mine', flush=True))"
            + JOINED
            + "os.kill(os.getpid(), signal.SIGTERM)"
        )
        assert process.communicate(timeout=60)[0] == "mine\n"
        assert read() == "weights"

    def test_a_second_sigterm_does_not_cut_publishing_short(self, script):
        """While it publishes, the process goes on; it ends as the signal wants it to."""
        process = script(
            JOINED
            + textwrap.dedent(
                """
                from lit_storage_server.publishing import custody
                def slow(*args, publish_all=custody.publish_all, **options):
                    os.kill(os.getpid(), signal.SIGTERM)
                    return publish_all(*args, **options)
                custody.publish_all = slow
                session.close()
                print("closed")
                """
            )
        )
        assert process.communicate(timeout=60)[0] == ""
        assert process.returncode == 143
        assert read() == "weights"


class TestWarnings:
    @pytest.mark.slow
    def test_a_missing_path_only_warns(self):
        """A declared path that never was is named in a warning, once, and the App ends well."""
        with pytest.warns(UserWarning, match="does not exist") as caught:
            run_app(lambda flow: flow.train.run("nothing"))
        texts = [str(warning.message) for warning in caught]
        assert sum("'outputs/ckpt' of 'train' does not exist" in text for text in texts) == 1

    def test_a_missing_path_warns_in_a_process_that_joined(self, capfd):
        """So it is where no App is."""
        with (
            pytest.warns(UserWarning, match=r"'x' of 'train' does not exist"),
            lit_storage.join("train") as s,
        ):
            s.declare(Path("lit://x"))

    @pytest.mark.slow
    @pytest.mark.parametrize("url", ["s3://no-such-bucket/x", "s3://unreachable/x", "s3://refused/x", "full"])
    def test_a_store_that_fails_changes_no_exit_status(self, script, monkeypatch, rclone, url, tmp_path):
        """A wrong bucket, a dead server, refused keys, a full disk: each path is named, and that is all."""
        for variable, value in rclone.environment.items():
            monkeypatch.setenv(variable, value)
        if "unreachable" in url:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        if "refused" in url:
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        if url == "full":
            (tmp_path / "file").write_text("")
            url = f"file://{tmp_path}/file/store"
        monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", url)
        process = script(JOINED + "session.close()\nsys.exit(7)")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 7
        assert "UserWarning: 'outputs/ckpt' of 'train' was not published" in errors
        assert errors.count("\n") == 1
        assert rclone.secret not in errors

    @pytest.mark.slow
    def test_warnings_as_errors(self, script, monkeypatch):
        """Where warnings are errors, the end of the Work is still its own."""
        monkeypatch.setenv("PYTHONWARNINGS", "error")
        process = script(
            """
            import lit_storage
            with lit_storage.join("train") as session:
                session.declare("/nowhere/x")
            """
        )
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, "'/nowhere/x'" in errors) == (0, True)

    @pytest.mark.slow
    def test_what_is_complete_is_published_when_time_is_over(self, script, monkeypatch, rclone, s3):
        """Of two paths the one that could be published in time is read, and the other one is named."""
        monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", s3("rclone")[1])
        process = script(
            """
            import os, time
            import lit_storage
            from lit_storage import Limits, Path
            from lit_storage_server.publishing import custody
            def slow(*args, publish=custody.publish, **options):
                if "b" in args:
                    time.sleep(20.1)
                return publish(*args, **options)
            custody.publish = slow
            with lit_storage.join("train", limits=Limits(publish_seconds=20.0)) as session:
                for name in "ab":
                    Path("lit://" + name).write_text(name)
                    session.declare(Path("lit://" + name))
            """
        )
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert "'b' of 'train' was not published" in errors
        assert "publish_seconds" in errors
        assert read("lit://@train/a") == "a"
        assert read("lit://@train/b") is None


class TestStores:
    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("/just/a/path", "file:///DIRECTORY"),
            ("file://relative", "absolute"),
            ("s3://user:secret@bucket/x", "credentials"),
            ("s3://bucket/x?key=secret", "credentials"),
            ("simplecache::s3://bucket", "begins none"),
            ("nothing://bucket", "no kind of store"),
        ],
    )
    def test_what_is_no_url_of_a_store_is_refused(self, url, why):
        """Before anything runs, in one sentence that shows no secret."""
        with pytest.raises(InvalidURI, match=why) as caught:
            lit_storage.join("train", artifacts=url)
        assert "secret" not in str(caught.value)
        assert lit_storage.current() is None

    @pytest.mark.slow
    def test_an_app_takes_a_store(self, tmp_path):
        """App(artifacts=) beats the environment."""
        run_app(lambda flow: flow.train.run(), artifacts=f"file://{tmp_path}/mine")
        assert len(open_store(f"file://{tmp_path}/mine", "train", limits=Limits()).versions()) == 2
        assert read() == "weights"

    @pytest.mark.slow
    def test_a_store_that_is_gone_is_unknown_and_not_absent(self, tmp_path):
        """Where the store cannot be reached, nobody can say whether the file is there."""
        run_app(lambda flow: flow.train.run(), artifacts=f"file://{tmp_path}/mine")
        os.rename(tmp_path / "mine", tmp_path / "unmounted")
        with lit_storage.connect():
            path = Path("lit://@train/outputs/ckpt")
            for ask in (path.exists_remote, path.get, path.stat_remote):
                with pytest.raises(lit_storage.OriginUnavailable, match="is its disk mounted"):
                    ask()

    @pytest.mark.slow
    def test_run_does_not_start_when_the_store_is_out_of_reach(self, tmp_path):
        """Unknown is not absent for the automatic transfer either."""
        run_app(lambda flow: flow.train.run(), artifacts=f"file://{tmp_path}/mine")
        os.rename(tmp_path / "mine", tmp_path / "unmounted")

        class Reader(Flow):
            def __init__(self):
                super().__init__()
                self.deploy = Deploy()

            def run(self):
                self.deploy.run(Path("lit://@train/outputs/ckpt"))

        with pytest.raises(lit_storage.OriginUnavailable):
            App(Reader()).run()

    @pytest.mark.slow
    def test_artifacts_in_place_on_another_machine(self, monkeypatch):
        """They cannot be read from here, which is said, and is no "no"."""
        run_app(lambda flow: flow.train.run())
        with lit_storage.connect() as session:
            session.origins._machine_id = "another"
            with pytest.raises(lit_storage.OriginUnavailable, match="in place on another machine"):
                Path("lit://@train/outputs/ckpt").exists_remote()


@pytest.mark.slow
def test_a_nested_path_is_published_with_the_one_that_holds_it():
    """No byte is stored twice for a Path that lies in another one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with lit_storage.join("train") as session:
            path = session.declare(Path("lit://outputs"))
            os.makedirs(path)
            session.declare(path / "best").write_text("1")
    assert [version["uri"] for version in versions()] == ["lit://@train/outputs"]
    assert read("lit://@train/outputs/best") == "1"


@pytest.mark.slow
def test_notes_of_what_is_declared_do_not_pile_up(root):
    """A Work that ended leaves no note, and one that starts removes that of a killed one."""
    for _ in range(2):
        process = subprocess.run(
            [sys.executable, "-c", JOINED + "os.kill(os.getpid(), signal.SIGKILL)"], check=False
        )
        assert process.returncode == -signal.SIGKILL
        assert len(os.listdir(root / "declared")) == 1
    run_app(lambda flow: flow.train.run())
    assert os.listdir(root / "declared") == []


def test_a_work_that_lives_holds_its_note(root):
    """Where its process cannot be looked up, as from another container, the lock tells that it lives."""
    holder = dataclasses.replace(ProcessIdentity.current(), pid_namespace="pid:[1]").to_text()
    with lit_storage.join("train") as session:
        session.declare(Path("lit://x")).write_text("1")
        note = Note(str(root), session.instance_id)
        declaration = dataclasses.replace(note.read(), holder=holder)
        assert declaration.is_held
        assert not note.has_ended(declaration)


@pytest.mark.slow
def test_works_of_a_killed_app_publish(root, script):
    """When the App itself is killed, its Works are asked to stop, and publish as they do."""
    process = script(
        """
        import os, signal
        from lit_storage import App, Flow, Work

        class Train(Work):
            def __init__(self):
                super().__init__()
                self.out = "lit://model"

            def run(self):
                self.out.write_text("weights")

        class Pipeline(Flow):
            def __init__(self):
                super().__init__()
                self.train = Train()

            def run(self):
                self.train.run()
                os.kill(os.getpid(), signal.SIGKILL)

        app = App(Pipeline())
        if __name__ == "__main__":
            app.run()
        """
    )
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    states = []
    for _ in range(200):
        states = [version["state"] for version in versions()]
        if states:
            break
        time.sleep(0.1)
    assert states == ["clean"]
    with lit_storage.connect() as session:  # it publishes before it gives its name back
        wait_until(lambda: session.registry.resolve("train", fresh=True) is None)
    assert read("lit://@train/model") == "weights"


def test_ctrl_c_while_publishing_still_leaves(root, monkeypatch):
    """Whatever befalls publishing, the name is given back and the server stopped."""
    from lit_storage_server.publishing import custody

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    session = lit_storage.join("train")
    session.declare(Path("lit://x")).write_text("1")
    monkeypatch.setattr(custody, "publish_all", interrupt)
    with pytest.raises(KeyboardInterrupt):
        session.close()
    assert lit_storage.current() is None
    with lit_storage.connect() as other:
        assert other.registry.resolve("train") is None


@pytest.mark.slow
def test_threads_do_not_pile_up(root, s3, monkeypatch):
    """Publishing again and again leaves no threads behind."""
    monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", s3("rclone")[1])
    with lit_storage.join("train") as session:
        session.declare(Path("lit://x")).write_text("1")
        session.publish()
        time.sleep(0.2)
        before = threading.active_count()
        for _ in range(5):
            session.publish()
        wait_until(lambda: threading.active_count() <= before)


def test_two_threads_that_publish(root):
    """They take turns, and what is read is whole."""
    with lit_storage.join("train") as session:
        path = session.declare(Path("lit://out"))
        path.mkdir()
        (path / "a").write_bytes(os.urandom(1 << 20))
        threads = [threading.Thread(target=session.publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    with lit_storage.connect():
        Path("lit://@train/out").get()


def test_a_registry_that_fails_at_the_end_loses_nothing(root, monkeypatch):
    """Where the registry cannot be told, the note stays for whoever can tell it later."""
    session = lit_storage.join("train")
    session.declare(Path("lit://x")).write_text("1")

    def fail(record):
        raise lit_storage.RegistryUnavailable("the registry does not answer")

    monkeypatch.setattr(session.registry, "update_work", fail)
    with pytest.warns(UserWarning, match="does not record the end of 'train'.*'x'.*custodian"):
        session.close()
    assert len(os.listdir(root / "declared")) == 1


@pytest.mark.slow
def test_publishing_does_not_fail_a_run(root, capfd, tmp_path):
    """With persist="run", a store that fails is a warning, and run has returned."""
    (tmp_path / "file").write_text("")
    flow = run_app(
        lambda flow: flow.train.run(), train=Train(persist="run"), artifacts=f"file://{tmp_path}/file/x"
    )
    assert flow.train.exception is None
    assert "'outputs/ckpt' of 'train' was not published" in capfd.readouterr().err


@pytest.mark.slow
def test_a_work_that_does_not_rest_is_published_when_it_is_gone(root, capfd):
    """A thread that goes on writing while its Work stops ends with its process; then the App publishes."""

    def steps(flow):
        flow.train.run()
        flow.train.stop()
        flow.deploy.run(flow.train.out)

    assert run_app(steps, train=Restless()).deploy.seen == {"text": "weights"}


def test_in_a_signal_handler(script):
    """A handler that publishes, as for SIGUSR1 of Slurm, does not wait for what it interrupted."""
    process = script(
        JOINED
        + textwrap.dedent(
            """
            from lit_storage_server.publishing import custody
            signal.signal(signal.SIGUSR1, lambda *_: session.publish())
            def interrupted(*args, publish_all=custody.publish_all, **options):
                os.kill(os.getpid(), signal.SIGUSR1)
                return publish_all(*args, **options)
            custody.publish_all = interrupted
            session.publish()
            session.close()
            print("closed")
            """
        )
    )
    out, errors = process.communicate(timeout=60)
    assert out == "closed\n"
    assert "is being published already" in errors
    assert read() == "weights"


def test_a_mapped_file_is_published_as_it_is(root):
    """What is written through mmap is seen by the next publication, which no time of the file tells of."""
    import mmap

    with lit_storage.join("train") as session:
        path = session.declare(Path("lit://x"))
        path.write_bytes(b"1" * 4096)
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:4] = b"run1"
            session.publish()
            mapped[:4] = b"run2"
            session.publish()
    with lit_storage.connect():
        path = Path("lit://@train/x")
        path.get()
        assert path.read_bytes()[:4] == b"run2"


def test_a_registry_without_records_says_so(root, tmp_path):
    """Where nobody could find what was published to a store, that is a warning."""
    with (
        pytest.warns(UserWarning, match="is not recorded in static:"),
        lit_storage.join(
            "train", registry="static:train=127.0.0.1:1", artifacts=f"file://{tmp_path}/store"
        ) as session,
    ):
        session.declare(Path("lit://x")).write_text("1")


def test_a_root_with_an_odd_path(tmp_path, monkeypatch):
    """In place, the path of the root may hold what URLs do not, and its directories may be links."""
    (tmp_path / "elsewhere").mkdir()
    odd = tmp_path / os.fsdecode(b"a b%20?#&\xff")
    odd.mkdir()
    os.symlink(tmp_path / "elsewhere", odd / "artifacts")
    monkeypatch.setenv("LIT_STORAGE_ROOT", str(odd))
    with lit_storage.join("train", registry=f"sqlite://{tmp_path}/registry.db") as session:
        session.declare(Path("lit://x")).write_text("1")
    with lit_storage.connect(registry=f"sqlite://{tmp_path}/registry.db"):
        Path("lit://@train/x").get()


def test_limits_with_large_chunks(root):
    """Chunks are as large as streams have them, whatever the limits say."""
    with lit_storage.join("train", limits=Limits(chunk_bytes=4 << 20)) as session:
        session.declare(Path("lit://x")).write_bytes(bytes(range(256)) * 20_000)
    with lit_storage.connect():
        Path("lit://@train/x").get()
