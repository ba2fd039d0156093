"""What goes wrong in or around a Work reaches the Flow as what it is, and never as a hang."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from lit_storage import App, Flow, Limits, NameTaken, NotAttached, Path, Status, Work, WorkError
from tests.waiting import within

wait_until = within(60)

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.filterwarnings("ignore:.*as a plain path")]


class Doing(Work):
    """Does what a function of this module says."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dir = "lit://out"
        self.dirs = [Path("lit://listed")]
        self.values = []

    def run(self, what, *args):
        return globals()[what](self, *args)


def run_app(steps, works, **options):
    class Pipeline(Flow):
        def __init__(self):
            super().__init__()
            for name, work in works.items():
                setattr(self, name, work)

        def run(self):
            steps(self)

    flow = Pipeline()
    App(flow, **options).run()
    return flow


def run_one(what, *args, **options):
    returned = []
    flow = run_app(lambda flow: returned.append(flow.a.run(what, *args)), {"a": Doing()}, **options)
    return flow.a, returned[0]


def crash_with_a_child(work):
    subprocess.Popen(["sleep", "60"], close_fds=False)
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_the_death_of_a_work_is_seen_though_its_children_live():
    """What a killed Work leaves behind neither hides its end nor outlives it."""
    began = time.monotonic()
    with pytest.raises(WorkError, match="SIGKILL"):
        run_one("crash_with_a_child")
    assert time.monotonic() - began < 45


def crash(work):
    os._exit(9)


@pytest.mark.slow
def test_a_program_that_ignores_its_children_sees_a_crash():
    """With SIGCHLD ignored the system keeps no exit code, and the end is told all the same."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(WorkError, match="before run"):
            run_one("crash")
    finally:
        signal.signal(signal.SIGCHLD, before)


def fork_and_return(work):
    return "child" if os.fork() == 0 else "parent"


@pytest.mark.slow
def test_a_forked_child_does_not_speak_for_the_work():
    """Only the Work itself returns to the Flow."""
    assert run_one("fork_and_return")[1] == "parent"


def hold_a_cycle(work):
    work.values.append(work.values)
    work.loop = work.values
    return "done"


@pytest.mark.slow
def test_state_that_holds_itself_stays_in_the_work():
    """A list in itself is no state; the run is not harmed."""
    work, returned = run_one("hold_a_cycle")
    assert returned == "done"
    with pytest.raises(AttributeError, match="stays in the process"):
        work.loop  # noqa: B018


def raise_with_a_cycle(work):
    work.values.append(work.values)
    raise ValueError("boom")


@pytest.mark.slow
def test_an_exception_is_not_lost_where_the_state_cannot_be_told():
    """The report of what ended the Work comes through."""
    with pytest.raises(ValueError, match="boom"):
        run_one("raise_with_a_cycle")


def raise_what_only_the_work_knows(work, where):
    sys.path.insert(0, where)
    import only_here

    raise only_here.Trouble("strange")


def hold_what_only_the_work_knows(work, where):
    sys.path.insert(0, where)
    import only_here

    work.kept = only_here.Special("lit://x")


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "plugins").mkdir()
    text = "import lit_storage\nclass Trouble(Exception): pass\nclass Special(lit_storage.Path): pass\n"
    (tmp_path / "plugins" / "only_here.py").write_text(text)
    return str(tmp_path / "plugins")


@pytest.mark.slow
def test_an_exception_of_a_class_that_only_the_work_can_import(plugin):
    """It becomes a WorkError that says what it was, with the Work's traceback."""
    with pytest.raises(WorkError, match="strange") as caught:
        run_one("raise_what_only_the_work_knows", plugin)
    assert "only_here.Trouble" in str(caught.value.__cause__)


@pytest.mark.slow
def test_a_state_of_a_class_that_only_the_work_can_import(plugin):
    """The Flow is warned, and goes on."""
    with pytest.warns(UserWarning, match="'kept'"):
        assert run_one("hold_what_only_the_work_knows", plugin)[0].status is Status.STOPPED


def remove_the_root_and_raise(work, root):
    import shutil

    shutil.rmtree(root)
    raise ValueError("boom")


@pytest.mark.slow
def test_an_exception_is_not_lost_where_the_work_cannot_leave(root):
    """A registry that went away does not hide what run raised."""
    with pytest.raises(ValueError, match="boom"):
        run_one("remove_the_root_and_raise", str(root))


def assign_in_a_handler(work):
    def handler(signum, frame):
        work.ticks = time.monotonic()

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    for number in range(20):
        work.values = list(range(100_000))
        work.number = number
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.slow
def test_a_signal_handler_may_assign_attributes():
    """It may interrupt an assignment that is being told, and neither waits for the other."""
    work, _ = run_one("assign_in_a_handler")
    assert (work.number, len(work.values)) == (19, 100_000)


def assign_faster_than_it_can_be_told(work):
    began = time.monotonic()
    while time.monotonic() - began < 3:
        work.counter = getattr(work, "counter", 0) + 1
        work.values = ["x" * 10_000_000, work.counter]
    raise ValueError(work.counter, time.monotonic())


@pytest.mark.slow
def test_assignments_never_pile_up():
    """However fast run assigns, its end is heard at once, and with the last values."""

    def steps(flow):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            flow.a.run("assign_faster_than_it_can_be_told")
        counter, raised_at = caught.value.args
        assert time.monotonic() - raised_at < 12
        assert flow.a.counter == flow.a.values[1] == counter

    run_app(steps, {"a": Doing()})


def hold_the_interpreter(work, begin, held):
    import ctypes
    import threading

    def hold():
        pipe = os.open(held, os.O_RDWR)
        while not os.path.exists(begin):
            time.sleep(0.01)
        ctypes.PyDLL(None).write(pipe, bytes(1 << 20), 1 << 20)  # more than it takes: it does not come back

    threading.Thread(target=hold, daemon=True).start()


@pytest.mark.slow
def test_a_large_argument_to_a_busy_work_does_not_hold_up_the_end(tmp_path):
    """stop() never waits for a message to be taken."""
    os.mkfifo(tmp_path / "held")

    def steps(flow):
        flow.a.run("hold_the_interpreter", str(tmp_path / "begin"), str(tmp_path / "held"))
        flow.a.wait(60)
        (tmp_path / "begin").touch()
        with open(tmp_path / "held", "rb", buffering=0) as held:
            held.read(1)  # from now on nothing is done there
        flow.a.run("crash", "x" * 10_000_000)
        flow.a.stop()
        assert flow.a.status is Status.STOPPED

    began = time.monotonic()
    run_app(steps, {"a": Doing(parallel=True)}, limits=Limits(stop_grace_seconds=2.0))
    assert time.monotonic() - began < 60


def write(work):
    work.dir.mkdir(exist_ok=True)
    (work.dir / "x").write_text("1")


def write_and_raise(work):
    write(work)
    raise ValueError("boom")


def look(work, path):
    return [path.origin_name, path.uri, path.exists_local(), os.fspath(path)]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stopped", "failed"])
def test_paths_of_an_ended_work_stay_its_own(root, end):
    """When its origin has ended, a Path means what that origin left, and never its own files."""
    seen = []

    def steps(flow):
        if end == "stopped":
            flow.a.run("write")
            flow.a.stop()
        else:
            with pytest.raises(ValueError, match="boom"):
                flow.a.run("write_and_raise")
        seen.extend(flow.b.run("look", flow.a.dir))

    flow = run_app(steps, {"a": Doing(), "b": Doing()})
    assert seen == ["a", "lit://@a/out", True, f"{root}/works/b/@a/out"]
    assert flow.a.dir.uri == "lit://@a/out"
    flow.a.dir.get()
    assert (root / "flow" / "@a" / "out" / "x").read_text() == "1"


def append_an_absolute_path(work, where):
    pathlib.Path(where).mkdir()
    (pathlib.Path(where) / "x").write_text("1")
    work.dirs.append(Path(where))


def read(work, path):
    return (path / "x").read_text()


def test_paths_in_containers_have_their_work_as_origin():
    """Also those that __init__ made before the Work had a name."""
    flow = run_app(lambda flow: None, {"a": Doing()})
    assert flow.a.dirs[0].uri == "lit://@a/listed"


@pytest.mark.slow
def test_paths_appended_in_run_are_shared(tmp_path):
    """What run puts into a list of its own is declared, and can be handed on."""
    returned = []

    def steps(flow):
        flow.a.run("append_an_absolute_path", str(tmp_path / "data"))
        returned.append(flow.b.run("read", flow.a.dirs[1]))

    run_app(steps, {"a": Doing(), "b": Doing()})
    assert returned == ["1"]


def hold_and_raise(work):
    work.kept = [Path("/data/q")]
    raise ValueError("boom")


@pytest.mark.slow
def test_paths_in_containers_have_an_origin_where_run_raised():
    """Whatever ends run, what the Flow hears of its state knows whose it is."""

    def steps(flow):
        with pytest.raises(ValueError, match="boom"):
            flow.a.run("hold_and_raise")

    assert run_app(steps, {"a": Doing()}).a.kept[0].uri == "lit://@a//data/q"


def test_building_an_app_keeps_lists_what_they_are():
    """Paths are replaced inside of a list, so that others who hold it see the same."""
    work = Doing()
    mine = work.dirs
    run_app(lambda flow: None, {"a": work})
    assert work.dirs is mine


def test_a_path_of_a_work_outside_of_the_flow_is_refused():
    """It has no origin that could be asked, and must not be taken for the receiver's own."""
    stray = Doing()
    with pytest.raises(NotAttached, match="no attribute of the Flow"):
        run_one("look", stray.dir)


@pytest.mark.slow
def test_a_path_without_an_origin_is_left_alone():
    """It gets no consumer."""
    assert run_one("consumer_of", Path("plain"))[1] is None


def consumer_of(work, path):
    return path.consumer_name


def test_an_argument_that_cannot_travel_is_a_type_error():
    """The error names the Work."""
    with pytest.raises(TypeError, match="'a'"):
        run_one("look", threading.Lock())


def test_two_works_of_one_name_are_refused():
    """Keys that read alike make one name, which only one Work can have."""

    class Pair(Flow):
        def __init__(self):
            super().__init__()
            self.works = {0: Doing(), "0": Doing()}

        def run(self):
            pass

    with pytest.raises(NameTaken, match=r"works\.0"):
        App(Pair())


@pytest.mark.slow
def test_a_work_that_replaces_a_live_one_is_refused():
    """The name is free once the first one was stopped."""

    def steps(flow):
        first = flow.a
        first.run("look", Path("x"))
        flow.a = Doing()
        with pytest.raises(NameTaken, match="stop"):
            flow.a.run("write")
        first.stop()
        flow.a.run("write")

    assert run_app(steps, {"a": Doing()}).a.status is Status.STOPPED


@pytest.mark.slow
def test_a_refused_name_is_not_given():
    """A Work that got no name may get another one, and harms no other Work."""

    def steps(flow):
        late = Doing()
        flow.a.run("look", Path("x"))
        first, flow.a = flow.a, late
        with pytest.raises(NameTaken):
            late.run("write")
        assert late.dir.origin_name is None
        flow.a, flow.c = first, late
        late.run("write")
        assert late.dir.origin_name == "c"

    run_app(steps, {"a": Doing()})


def wait_for_ever(work):
    work.values = ["begun"]
    while True:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_blocking_run_that_is_stopped_raises():
    """Its caller must not take the end for a result."""
    import threading

    def steps(flow):
        def stop():
            wait_until(lambda: flow.a.values)
            flow.a.stop()

        threading.Thread(target=stop).start()
        with pytest.raises(WorkError, match="was stopped"):
            flow.a.run("wait_for_ever")

    run_app(steps, {"a": Doing()})


def slow(work):
    return "done"


def test_a_process_that_does_not_start_in_time_is_given_up():
    """The error says so, and the next call starts another process."""

    def steps(flow):
        with pytest.raises(TimeoutError, match="did not start"):
            flow.a.run("slow")
        assert flow.a.status is Status.FAILED

    run_app(steps, {"a": Doing()}, limits=Limits(start_seconds=0.05))
