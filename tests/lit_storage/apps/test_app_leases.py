"""An App whose names are held by leases in etcd: what is different, and what is not."""

import os
import signal
import time

import pytest

from lit_storage import App, Flow, Limits, NameTaken, Path, Work, WorkError, connect
from lit_storage.sessions import session
from lit_storage_core.registries import open_registry
from lit_storage_proto.registry import LiveRecord, WorkState

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("root"),
    pytest.mark.filterwarnings("ignore:.*(as a plain path|does not exist)"),
]


class Doing(Work):
    """Does what a function of this module says."""

    def __init__(self):
        super().__init__()
        self.out = "lit://out"

    def run(self, what, *args):
        return globals()[what](self, *args)


def run_app(steps, url, **options):
    class Pipeline(Flow):
        def __init__(self):
            super().__init__()
            self.a, self.b = Doing(), Doing()

        def run(self):
            steps(self)

    App(Pipeline(), registry=url, **options).run()


@pytest.fixture
def registry(etcd):
    opened = open_registry(etcd.new_url(), machine_id="reader", limits=Limits())
    yield opened
    opened.close()


def write(work, text):
    os.makedirs(work.out, exist_ok=True)
    (work.out / "file").write_text(text)


def read(work, path):
    return (path / "file").read_text()


def test_files_are_handed_over(registry):
    """Works find each other in etcd; when the App is over nobody lives, and what they left can be read."""
    seen = []

    def steps(flow):
        flow.a.run("write", "content")
        seen.append(flow.b.run("read", flow.a.out))
        seen.append(sorted(live.name for live in registry.live()))

    run_app(steps, registry.url)
    assert seen == ["content", ["a", "b"]]
    assert (list(registry.live()), registry.work("a").state) == ([], WorkState.SUCCEEDED)
    with connect(registry=registry.url):
        Path("lit://@a/out").get(overwrite=True)
        assert Path("lit://@a/out/file").read_text() == "content"


def write_and_die(work):
    write(work, "left")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_work_is_not_waited_for(registry):
    """The App publishes what a killed Work left, and starts it anew, long before its lease ends."""
    began = time.monotonic()
    read_by_b = []

    def steps(flow):
        with pytest.raises(WorkError):
            flow.a.run("write_and_die")
        read_by_b.append(flow.b.run("read", Path("lit://@a/out")))
        flow.a.run("write", "anew")
        read_by_b.append(flow.b.run("read", flow.a.out))

    run_app(steps, registry.url, limits=Limits(lease_seconds=100.0))
    assert read_by_b == ["left", "anew"]
    assert time.monotonic() - began < 80


def lose_the_name(work):
    """Let somebody else have the name, as if the lease had ended."""
    mine = session.current()
    other = open_registry(mine.registry.url, machine_id="elsewhere", limits=Limits())
    other.unregister("a", mine.instance_id)
    other.register(LiveRecord("a", "another", "127.0.0.1:1", "elsewhere"))
    end = time.monotonic() + 60
    while mine._taken is None and time.monotonic() < end:
        time.sleep(0.01)
    other.close()


def test_a_work_that_lost_its_name_fails(registry):
    """Nobody could get what such a run made, so the Flow hears of it; the other instance stays."""

    def steps(flow):
        with pytest.raises(NameTaken, match=r"lost its name.* at 127\.0\.0\.1:1"):
            flow.a.run("lose_the_name")

    run_app(steps, registry.url, limits=Limits(lease_seconds=6.0))
    assert registry.resolve("a").instance_id == "another"
    assert registry.work("a").instance_id == "another"
