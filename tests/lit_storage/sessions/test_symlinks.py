"""What others get of a Work's symbolic links: as it has set it, live and when it does not run any more."""

import os
import pickle
import shutil
import signal

import pytest

import lit_storage
from lit_storage import App, Flow, Path, Work, WorkError
from lit_storage.apps.internals import internals
from lit_storage.apps.work import _rebuild
from lit_storage.executors import Resources

pytestmark = pytest.mark.usefixtures("root")

REVISION = "1" * 40


def make_cache(hub):
    """Make a cache of the Hugging Face hub; return the snapshot of a model.

    One blob lies with the model, the other with those of all models: there the link in the snapshot leads to
    a link, https://github.com/huggingface/huggingface_hub/pull/4498.
    """
    model = os.path.join(hub, "models--a--b")
    snapshot = os.path.join(model, "snapshots", REVISION)
    for directory in (f"{model}/blobs", snapshot, f"{hub}/blobs/91"):
        os.makedirs(directory)
    for path, text in ((f"{model}/blobs/etag0", "{}"), (f"{hub}/blobs/91/91bf", "weights")):
        with open(path, "w") as file:
            file.write(text)
    os.symlink("../../blobs/91/91bf", f"{model}/blobs/etag1")
    os.symlink("../../blobs/etag0", f"{snapshot}/config.json")
    os.symlink("../../blobs/etag1", f"{snapshot}/model.safetensors")
    return snapshot


class Download(Work):
    """Has a snapshot in a cache outside of its storage root, and perhaps declares the cache too."""

    def __init__(self, hub, **options):
        super().__init__(**options)
        self.hub = hub
        self.model = Path(f"lit://{hub}/models--a--b/snapshots/{REVISION}")

    def run(self, *doing):
        make_cache(self.hub)
        if "declare" in doing:
            lit_storage.current().declare(self.hub, persist=False)
        if "die" in doing:
            os.kill(os.getpid(), signal.SIGKILL)


class Hold(Work):
    """Has a Path of files that are there already."""

    def __init__(self, path):
        super().__init__()
        self.model = Path(f"lit://{path}")

    def run(self):
        """Do nothing: the Path is declared."""


class Load(Work):
    def __init__(self):
        super().__init__()
        self.seen = None

    def run(self, model):
        self.seen = content_of(model)


def content_of(tree):
    """Return the text of each file, and of a link where it leads."""
    return {
        name: f"-> {os.readlink(tree / name)}" if (tree / name).is_symlink() else (tree / name).read_text()
        for name in sorted(os.listdir(tree))
    }


def run_app(steps, download):
    class Pipeline(Flow):
        def __init__(self):
            super().__init__()
            self.download, self.load = download, Load()

        def run(self):
            steps(self)

    flow = Pipeline()
    App(flow).run()
    return flow


def read(uri, **options):
    """Return what a process that only connects gets, and what was left out."""
    with lit_storage.connect():
        path = Path(uri)
        transfer = path.get(overwrite=True, **options)
        return content_of(path), transfer.skipped


def uri_in(tmp_path):
    return f"lit://@download/{tmp_path}/hub/models--a--b/snapshots/{REVISION}"


WHOLE = {"config.json": "{}", "model.safetensors": "weights"}


@pytest.fixture(params=["in place", "file", "s3"])
def store(request, monkeypatch, tmp_path):
    """Where Works publish."""
    if request.param == "file":
        monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", f"file://{tmp_path}/store")
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", s3("rclone")[1])
    return request.param


@pytest.mark.slow
class TestAnApp:
    def test_a_snapshot_is_handed_over_whole(self, tmp_path, store):
        """From the live Work, and to whoever reads it when the Work has stopped."""
        download = Download(str(tmp_path / "hub"), symlinks="follow")
        flow = run_app(
            lambda flow: (flow.download.run("declare"), flow.load.run(flow.download.model)), download
        )
        assert flow.load.seen == WHOLE
        for symlinks in (None, "keep"):
            assert read(uri_in(tmp_path), symlinks=symlinks) == (WHOLE, ())

    def test_without_the_cache_links_are_left_out(self, tmp_path):
        """A link to what the Work did not declare is named, and its bytes are not there."""
        download = Download(str(tmp_path / "hub"), symlinks="follow")
        flow = run_app(lambda flow: (flow.download.run(), flow.load.run(flow.download.model)), download)
        assert flow.load.seen == {}
        files, skipped = read(uri_in(tmp_path))
        assert (files, sorted(skipped)) == ({}, sorted(WHOLE))

    def test_a_path_by_way_of_a_link(self, tmp_path):
        """Declared through a link on the way, it is there under that name, live and when the Work stopped."""
        (tmp_path / "disk/data").mkdir(parents=True)
        (tmp_path / "home").symlink_to("disk")
        data = tmp_path / "home/data"
        (data / "epoch").write_text("near")
        (data / "last").symlink_to(data / "epoch")
        flow = run_app(lambda flow: (flow.download.run(), flow.load.run(flow.download.model)), Hold(data))
        assert flow.load.seen == {"epoch": "near", "last": "-> epoch"}
        assert read(f"lit://@download/{data}") == (flow.load.seen, ())

    def test_a_killed_work(self, tmp_path, store):
        """Its App follows the links as it would have done, also into what was only shared."""

        def steps(flow):
            with pytest.raises(WorkError, match="SIGKILL"):
                flow.download.run("declare", "die")
            flow.load.run(flow.download.model)

        flow = run_app(steps, Download(str(tmp_path / "hub"), symlinks="follow"))
        assert flow.load.seen == WHOLE

    def test_links_are_kept_by_default(self, tmp_path):
        """As before there was a choice: those that leave the tree are left out."""
        download = Download(str(tmp_path / "hub"))
        flow = run_app(
            lambda flow: (flow.download.run("declare"), flow.load.run(flow.download.model)), download
        )
        assert flow.load.seen == {}


GET = """
import ast, sys
import lit_storage
with lit_storage.connect():
    symlinks, target = ast.literal_eval(sys.argv[1]), sys.argv[2]
    print(*lit_storage.Path("lit://@train/out").get(symlinks=symlinks, to=target).skipped)
"""


class TestAProcessThatJoined:
    @pytest.fixture
    def joined(self, tmp_path):
        """Return a way to join as a Work with links to one of its files and to one that it shares."""
        (tmp_path / "data").mkdir()
        (tmp_path / "data/far").write_text("far")
        (tmp_path / "secret").write_text("secret")

        def join(**options):
            session = lit_storage.join("train", **options)
            out = session.declare(Path("lit://out"))
            session.declare(tmp_path / "data", persist=False)
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            (out / "epoch").write_text("near")
            (out / "last").symlink_to(out / "epoch")
            (out / "far").symlink_to(tmp_path / "data/far")
            (out / "out").symlink_to(tmp_path / "secret")
            return session

        return join

    FOLLOWED = ({"epoch": "near", "last": "near", "far": "far"}, ("out",))
    KEPT = ({"epoch": "near", "last": "-> epoch"}, ("far", "out"))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("setting", "asked", "expected"),
        [
            ("keep", None, KEPT),
            ("keep", "keep", KEPT),
            ("keep", "follow", FOLLOWED),
            ("follow", None, FOLLOWED),
            ("follow", "keep", KEPT),
            ("follow", "follow", FOLLOWED),
        ],
    )
    def test_who_asks_may_choose(self, joined, script, tmp_path, setting, asked, expected):
        """The Work decides where the consumer does not."""
        with joined(symlinks=setting):
            output, errors = script(GET, repr(asked), str(tmp_path / "copy")).communicate(timeout=60)
        assert (content_of(tmp_path / "copy"), tuple(sorted(output.split()))) == expected, errors

    @pytest.mark.slow
    @pytest.mark.parametrize(("setting", "expected"), [("keep", KEPT), ("follow", FOLLOWED)])
    def test_what_it_leaves(self, joined, store, setting, expected):
        """When it has stopped, its default is what was published."""
        joined(symlinks=setting).close()
        files, skipped = read("lit://@train/out")
        assert (files, tuple(sorted(skipped))) == expected


@pytest.mark.slow
def test_a_path_below_a_link_in_the_storage_root(tmp_path, root, store):
    """What is declared by way of a link out of the storage root can be read by that name."""
    (tmp_path / "disk/data").mkdir(parents=True)
    (tmp_path / "disk/data/f").write_text("far")
    with lit_storage.join("train") as session:
        (root / "works/train/link").symlink_to(tmp_path / "disk")
        session.declare(Path("lit://link/data"))
    assert read("lit://@train/link/data") == ({"f": "far"}, ())


def test_unknown_words_are_refused(tmp_path):
    """symlinks is "keep" or "follow"."""
    with pytest.raises(ValueError, match="symlinks='never' is neither"):
        Download(str(tmp_path), symlinks="never")
    with pytest.raises(ValueError, match="symlinks='never' is neither"):
        lit_storage.join("train", symlinks="never")


def test_the_setting_travels_with_the_work(tmp_path):
    """Pickled and back it is the same, and a pickle from before there was a choice keeps links."""
    work = Download(str(tmp_path), symlinks="follow")
    assert internals(pickle.loads(pickle.dumps(work))).symlinks == "follow"
    arguments = (Download, False, "stop", Resources(), {}, "follow")
    assert internals(_rebuild(*arguments[:-1])).symlinks == "keep"
