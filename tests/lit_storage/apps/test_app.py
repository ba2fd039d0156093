"""The whole way of the data: Works in processes of their own, a Flow, and what passes between them."""

import os
import warnings

import pytest

from lit_storage import App, Flow, InvalidApp, InvalidURI, Path, Status, StorageError, Work, WorkError

pytestmark = pytest.mark.usefixtures("root")


class Train(Work):
    def __init__(self, **options):
        super().__init__(**options)
        self.checkpoint_dir = "lit://outputs/checkpoints"
        self.epochs = 0
        self.log = []
        self.pid = None

    def run(self, text="weights"):
        os.makedirs(self.checkpoint_dir, exist_ok=True)
        (self.checkpoint_dir / "model.txt").write_text(text)
        self.epochs += 1
        self.log.append(text)
        self.pid = os.getpid()
        self.best = self.checkpoint_dir / "model.txt"


class Deploy(Work):
    def __init__(self):
        super().__init__()
        self.seen = None
        self.facts = {}

    def run(self, checkpoint=None, **more):
        found = checkpoint if checkpoint is not None else more["nested"]["deep"][0]
        self.seen = sorted(os.listdir(found)) if found.is_dir() else found.read_text()
        self.facts = {
            "origin": found.origin_name,
            "consumer": found.consumer_name,
            "value": os.fspath(found),
            "pid": os.getpid(),
        }


def run_app(build, **options):
    """Run a Flow whose `run` is the function that `build` returns; return the Flow."""

    class Pipeline(Flow):
        def __init__(self):
            super().__init__()
            self.steps = build(self)

        def run(self):
            self.steps()

    flow = Pipeline()
    App(flow, **options).run()
    return flow


def train_then_deploy(pass_on):
    def build(flow):
        flow.train, flow.deploy = Train(), Deploy()

        def steps():
            flow.train.run()
            pass_on(flow)

        return steps

    return run_app(build)


@pytest.mark.slow
def test_a_directory_is_there_when_run_starts():
    """A Path passed to another Work's run is transferred before it."""
    flow = train_then_deploy(lambda flow: flow.deploy.run(flow.train.checkpoint_dir))
    assert flow.deploy.seen == ["model.txt"]


@pytest.mark.slow
def test_each_work_has_its_own_process():
    """Works run in processes of their own, and not in the Flow's."""
    flow = train_then_deploy(lambda flow: flow.deploy.run(flow.train.checkpoint_dir))
    assert len({flow.train.pid, flow.deploy.facts["pid"], os.getpid()}) == 3


@pytest.mark.slow
def test_an_argument_keeps_its_origin_and_gets_its_consumer():
    """As an argument of run, a Path knows whose files it is and who has them now."""
    flow = train_then_deploy(lambda flow: flow.deploy.run(flow.train.checkpoint_dir))
    assert (flow.deploy.facts["origin"], flow.deploy.facts["consumer"]) == ("train", "deploy")


@pytest.mark.slow
def test_a_copy_lands_under_its_origin(root):
    """The copy lies below @origin in the storage root of the consumer."""
    flow = train_then_deploy(lambda flow: flow.deploy.run(flow.train.checkpoint_dir))
    assert flow.deploy.facts["value"] == f"{root}/works/deploy/@train/outputs/checkpoints"


@pytest.mark.slow
def test_a_nested_argument_is_transferred():
    """A Path in a dict in a tuple of a keyword argument is transferred too."""
    flow = train_then_deploy(lambda flow: flow.deploy.run(nested={"deep": (flow.train.checkpoint_dir,)}))
    assert flow.deploy.seen == ["model.txt"]


@pytest.mark.slow
def test_a_single_file_is_transferred():
    """A derived Path that is one file arrives as that file."""
    flow = train_then_deploy(lambda flow: flow.deploy.run(flow.train.checkpoint_dir / "model.txt"))
    assert flow.deploy.seen == "weights"


@pytest.mark.slow
def test_an_attribute_first_set_in_run_reaches_the_flow():
    """State may begin in run, also a Path, which can be passed on."""
    flow = train_then_deploy(lambda flow: flow.deploy.run(flow.train.best))
    assert flow.deploy.seen == "weights"


@pytest.mark.slow
def test_state_comes_back():
    """Assigned and in-place changes of run are seen in the Flow when it has ended."""
    flow = train_then_deploy(lambda flow: flow.train.run("more"))
    assert (flow.train.epochs, flow.train.log) == (2, ["weights", "more"])


@pytest.mark.slow
def test_the_flow_sets_state_for_the_next_run():
    """What the Flow assigns, or changes in place, between two runs is there in the second."""

    def second(flow):
        flow.train.epochs = 10
        flow.train.log.append("from the flow")
        flow.train.run("more")

    flow = train_then_deploy(second)
    assert (flow.train.epochs, flow.train.log) == (11, ["weights", "from the flow", "more"])


class Consumer(Work):
    def __init__(self, source):
        super().__init__()
        self.source = source
        self.text = None

    def run(self):
        self.text = (self.source / "model.txt").read_text()


@pytest.mark.slow
def test_a_path_handed_to_init_is_transferred():
    """A Path attribute of another origin is fetched before run, and knows its origin."""

    def build(flow):
        flow.stage = Stage()

        def steps():
            flow.stage.train.run("deep")
            flow.stage.consumer.run()

        return steps

    flow = run_app(build)
    assert flow.stage.consumer.text == "deep"
    assert flow.stage.consumer.source.origin_name == "stage.train"


class Stage(Flow):
    def __init__(self):
        super().__init__()
        self.train = Train()
        self.consumer = Consumer(self.train.checkpoint_dir)

    def run(self):
        pass


class Idle(Flow):
    def __init__(self, **members):
        super().__init__()
        for name, value in members.items():
            setattr(self, name, value)

    def run(self):
        pass


def test_works_are_named_after_their_attributes():
    """Attributes, indexes and keys make the name, joined by dots."""
    app = App(Idle(train=Train(), stage=Stage(), workers=[Train(), Train()], by_key={"gpu": Train()}))
    names = {"train", "stage.train", "stage.consumer", "workers.0", "workers.1", "by_key.gpu"}
    assert set(app.works) == names


def test_a_key_outside_the_grammar_is_refused():
    """A Work under a key that makes no name is refused when the App is built."""
    with pytest.raises(InvalidURI, match="a key"):
        App(Idle(workers={"a key": Train()}))


def test_building_an_app_attaches_paths(root):
    """Paths found in attributes have names and values once the App is built."""
    flow = Idle(train=Train(), kept=None)
    flow.kept = [flow.train.checkpoint_dir / "x"]
    App(flow)
    assert os.fspath(flow.train.checkpoint_dir) == f"{root}/flow/@train/outputs/checkpoints"
    assert flow.kept[0].uri == "lit://@train/outputs/checkpoints/x"


def test_an_app_takes_a_flow():
    """Anything but a Flow is refused with a typed error."""
    with pytest.raises(InvalidApp, match="Train"):
        App(Train())


class Failing(Work):
    def __init__(self, **options):
        super().__init__(**options)
        self.calls = 0
        self.pid = None

    def run(self, fail=True):
        self.calls += 1
        self.pid = os.getpid()
        if fail:
            raise KeyError("boom")


@pytest.mark.slow
def test_an_exception_is_raised_in_the_flow_with_the_traceback_of_the_work():
    """What run raises is raised by the call in the Flow."""

    def build(flow):
        flow.failing = Failing()
        return flow.failing.run

    with pytest.raises(KeyError, match="boom") as caught:
        run_app(build)
    assert 'raise KeyError("boom")' in str(caught.value.__cause__)


@pytest.mark.slow
def test_a_call_after_a_failure_starts_a_new_instance():
    """A failed Work runs again in a new process, with the state that the Flow has."""
    pids = []

    def build(flow):
        flow.failing = Failing()

        def steps():
            with pytest.raises(KeyError):
                flow.failing.run()
            pids.append(flow.failing.pid)
            assert flow.failing.status is Status.FAILED
            flow.failing.run(fail=False)
            pids.append(flow.failing.pid)

        return steps

    flow = run_app(build)
    assert flow.failing.calls == 2
    assert pids[0] != pids[1]


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(a)


class Odd(Work):
    def run(self, how):
        if how == "exception":
            raise Unpicklable("odd", 2)
        if how == "exit":
            raise SystemExit(3)
        os.kill(os.getpid(), 9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [("exception", "Unpicklable: odd"), ("exit", "SystemExit: 3"), ("kill", "killed by SIGKILL")],
)
def test_an_end_without_a_picklable_exception_is_a_work_error(how, said):
    """An exception that cannot travel, sys.exit and SIGKILL are a WorkError that says so."""

    def build(flow):
        flow.odd = Odd()
        return lambda: flow.odd.run(how)

    with pytest.raises(WorkError, match=said):
        run_app(build)


class Waiting(Work):
    def __init__(self, **options):
        super().__init__(parallel=True, **options)
        self.steps = 0

    def run(self, until):
        import time

        self.steps = 1
        while not os.path.exists(until):
            time.sleep(0.01)
        self.steps = 2
        return "done"


@pytest.mark.slow
def test_a_parallel_run_returns_at_once(tmp_path):
    """parallel=True: run returns None, state arrives while it goes on, wait returns its value."""
    outcome = {}

    def build(flow):
        flow.waiting = Waiting()

        def steps():
            flag = str(tmp_path / "flag")
            outcome["returned"] = flow.waiting.run(flag)
            outcome["status"] = flow.waiting.status
            while flow.waiting.steps != 1:
                pass
            with pytest.raises(RuntimeError, match="running already"):
                flow.waiting.run(flag)
            with pytest.raises(TimeoutError, match=r"still runs after 0.01 s; call wait\(\) again") as raised:
                flow.waiting.wait(0.01)
            assert not isinstance(raised.value, StorageError)  # nothing was transferred
            (tmp_path / "flag").touch()
            outcome["value"] = flow.waiting.wait(60)

        return steps

    flow = run_app(build)
    assert outcome == {"returned": None, "status": Status.RUNNING, "value": "done"}
    assert flow.waiting.steps == 2


@pytest.mark.slow
def test_stop_unwinds_a_running_work(tmp_path):
    """stop() ends a run that would go on for ever."""

    def build(flow):
        flow.waiting = Waiting()

        def steps():
            flow.waiting.run(str(tmp_path / "never"))
            while flow.waiting.steps != 1:
                pass
            flow.waiting.stop()
            assert flow.waiting.status is Status.STOPPED

        return steps

    assert run_app(build).waiting.exception is None


@pytest.mark.slow
def test_the_app_waits_for_what_runs_when_the_flow_has_ended(tmp_path):
    """By default a parallel Work ends before app.run() returns."""

    def build(flow):
        flow.train = Train(parallel=True)
        return flow.train.run

    assert run_app(build).train.status is Status.STOPPED
    assert (tmp_path / "root/works/train/outputs/checkpoints/model.txt").exists()


def test_the_app_may_stop_what_runs_when_the_flow_has_ended(tmp_path):
    """on_flow_end='stop' ends Works that still run."""

    def build(flow):
        flow.waiting = Waiting()
        return lambda: flow.waiting.run(str(tmp_path / "never"))

    assert run_app(build, on_flow_end="stop").waiting.status is Status.STOPPED


@pytest.mark.slow
def test_a_failure_that_nobody_waited_for_is_raised_at_the_end():
    """The exception of a parallel Work is not lost: app.run() raises it."""

    def build(flow):
        flow.failing = Failing(parallel=True)
        return flow.failing.run

    with pytest.raises(KeyError, match="boom"):
        run_app(build)


class Withholding(Work):
    def run(self):
        self.number = 1.5
        self.lock = __import__("threading").Lock()


@pytest.mark.slow
def test_a_value_that_is_no_state_stays_and_says_so():
    """Reading it in the Flow raises an AttributeError that says where it is."""

    def build(flow):
        flow.withholding = Withholding()
        return flow.withholding.run

    flow = run_app(build)
    assert flow.withholding.number == 1.5
    with pytest.raises(AttributeError, match="stays in the process of 'withholding'"):
        flow.withholding.lock  # noqa: B018


def test_an_attribute_that_cannot_be_sent_is_named():
    """A lock made in __init__ cannot reach the process; the error names it."""

    def build(flow):
        flow.withholding = Withholding()
        flow.withholding.guard = __import__("threading").Lock()
        return flow.withholding.run

    with pytest.raises(TypeError, match="'guard' of 'withholding'"):
        run_app(build)


class Asking(Work):
    def __init__(self):
        super().__init__()
        self.answers = {}

    def run(self, path):
        self.answers = {"exists": path.exists_remote(), "local": path.exists_local()}


@pytest.mark.slow
def test_what_is_absent_at_its_origin_is_not_fetched():
    """A Work starts without a Path that its origin does not have."""

    def build(flow):
        flow.train, flow.asking = Train(), Asking()
        return lambda: flow.asking.run(flow.train.checkpoint_dir)

    assert run_app(build).asking.answers == {"exists": False, "local": False}


@pytest.mark.slow
def test_a_flow_moves_no_files():
    """exists_remote and get raise RuntimeError in a Flow, and work when the App has ended."""
    said = {}

    def build(flow):
        flow.train = Train()

        def steps():
            flow.train.run()
            for method in ("exists_remote", "get"):
                with pytest.raises(RuntimeError) as caught:
                    getattr(flow.train.checkpoint_dir, method)()
                said[method] = str(caught.value)

        return steps

    flow = run_app(build)
    assert len(set(said.values())) == 2
    assert flow.train.checkpoint_dir.exists_remote() is True  # what the Work left


def test_a_path_set_on_a_flow_has_no_origin():
    """A lit:// attribute of a Flow becomes a Path that is nobody's."""
    flow = Idle(shared="lit://x")
    App(flow)
    assert isinstance(flow.shared, Path)
    assert flow.shared.origin_name is None


@pytest.mark.slow
def test_a_plain_path_is_warned_of(tmp_path):
    """Passing an existing plain path says how to pass a Path instead."""
    (tmp_path / "data").mkdir()

    def build(flow):
        flow.asking = Keeping()
        return lambda: flow.asking.run(str(tmp_path / "data"))

    with pytest.warns(UserWarning, match="lit_storage.Path"):
        run_app(build)


class Keeping(Work):
    def run(self, value):
        self.value = value


@pytest.mark.slow
def test_other_strings_are_not_warned_of():
    """A string that is no existing path passes silently."""

    def build(flow):
        flow.asking = Keeping()
        return lambda: flow.asking.run("/no/such/path and more")

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert run_app(build).asking.value == "/no/such/path and more"


@pytest.mark.slow
def test_a_work_made_while_the_flow_runs_is_named_and_started():
    """A Work assigned to the Flow in its run is adopted at its first call."""

    def build(flow):
        def steps():
            flow.late = Train()
            flow.late.run()

        return steps

    assert run_app(build).late.epochs == 1


def test_a_work_that_is_no_attribute_of_the_flow_is_refused():
    """A Work in a local variable has no name, and says so instead of running in the Flow."""

    def build(flow):
        return lambda: Train().run()

    with pytest.raises(RuntimeError, match="no attribute of the Flow"):
        run_app(build)


@pytest.mark.slow
def test_an_absolute_path_is_shared_once_declared(tmp_path):
    """A Path outside of the storage root is shared because it is an attribute."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("1")

    def build(flow):
        flow.asking, flow.deploy = Owning(str(tmp_path / "data")), Deploy()

        def steps():
            flow.asking.run()
            flow.deploy.run(flow.asking.data)

        return steps

    flow = run_app(build)
    assert flow.deploy.seen == ["x"]
    assert flow.deploy.facts["value"].endswith(f"/works/deploy/@asking/@{tmp_path}/data")


class Owning(Work):
    def __init__(self, data):
        super().__init__()
        self.data = Path(data)

    def run(self):
        pass


def test_a_registry_of_one_process_is_refused():
    """Works are processes of their own, which a memory: registry would not reach."""
    with pytest.raises(InvalidApp, match="one process only"):
        App(Idle(train=Train()), registry="memory:").run()


class Parent(Work):
    def __init__(self, method):
        super().__init__()
        self.method = method
        self.dir = "lit://data"
        self.seen = []

    def run(self):
        import multiprocessing

        self.dir.mkdir(exist_ok=True)
        (self.dir / "x").write_text("1")
        context = multiprocessing.get_context(self.method)
        answers = context.SimpleQueue()
        for _ in range(2):
            child = context.Process(target=look, args=(self.dir, answers))
            child.start()
            child.join(30)
            self.seen.append(answers.get())


def look(path, answers):
    """What a child of a Work sees of a Path that it was given, and of one that it makes."""
    answers.put([(path / "x").read_text(), os.fspath(path), os.fspath(Path("lit://data")), path.origin_name])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_a_work_see_its_files(root, method):
    """Under each start method, a child opens the same file under the same value."""

    def build(flow):
        flow.parent = Parent(method)
        return flow.parent.run

    data = f"{root}/works/parent/data"
    assert run_app(build).parent.seen == [["1", data, data, "parent"]] * 2


class Changing(Work):
    def __init__(self):
        super().__init__()
        self.where = None
        self.seen = []

    def run(self, step):
        if step == "str":
            self.where = "lit://there"
        elif step == "path":
            self.where = self.where / "deeper"
        elif step == "deleted":
            del self.where
        else:
            self.where = None


@pytest.mark.slow
def test_an_attribute_may_change_between_none_str_and_path():
    """Each change shows in the state, and a lit:// str is a Path also where run assigns it."""
    seen = []

    def build(flow):
        flow.changing = Changing()

        def steps():
            for step in ("str", "path", "none", "deleted"):
                flow.changing.run(step)
                where = getattr(flow.changing, "where", "nothing")
                seen.append(where.uri if isinstance(where, Path) else where)

        return steps

    run_app(build)
    assert seen == ["lit://@changing/there", "lit://@changing/there/deeper", None, "nothing"]


@pytest.mark.parametrize("method", ["exists_remote", "get"])
def test_a_work_moves_no_files_in_its_init(method):
    """While a Work is made it has no name, so nothing can be asked or transferred."""

    class Early(Work):
        def __init__(self):
            super().__init__()
            self.dir = "lit://x"
            getattr(self.dir, method)()

        def run(self):
            pass

    with pytest.raises(RuntimeError):
        Early()


class Picky(Work):
    def __init__(self):
        super().__init__()
        self.got = {}

    def run(self, directory):
        for child in directory.iterdir():
            self.got[child.name] = [child.exists_remote(), child.get(overwrite=True).files]


@pytest.mark.slow
def test_children_of_a_path_can_be_got_one_by_one():
    """What iterdir yields knows its origin, which still runs."""
    flow = train_then_deploy(lambda flow: None)
    assert flow.train.epochs == 1

    def build(flow):
        flow.train, flow.picky = Train(), Picky()

        def steps():
            flow.train.run()
            flow.picky.run(flow.train.checkpoint_dir)

        return steps

    assert run_app(build).picky.got == {"model.txt": [True, 1]}


class Silent(Work):
    def __init__(self):
        super().__init__()
        self.dir = "lit://out"
        self.pid = None

    def run(self):
        self.dir.mkdir(exist_ok=True)
        self.pid = os.getpid()


class Starting(Work):
    def __init__(self):
        super().__init__()
        self.started = False

    def run(self, path):
        self.started = True


@pytest.mark.slow
def test_run_does_not_start_where_the_origin_is_live_but_silent():
    """Unknown is not absent: the call raises within its deadline, and run has not begun."""
    import signal

    from lit_storage import Limits, OriginUnavailable, TransferTimeout

    def build(flow):
        flow.silent, flow.starting = Silent(), Starting()

        def steps():
            flow.silent.run()
            os.killpg(flow.silent.pid, signal.SIGSTOP)
            try:
                with pytest.raises((OriginUnavailable, TransferTimeout), match="silent"):
                    flow.starting.run(flow.silent.dir)
            finally:
                os.killpg(flow.silent.pid, signal.SIGCONT)

        return steps

    assert run_app(build, limits=Limits(unary_seconds=2.0, connect_seconds=2.0)).starting.started is False


@pytest.mark.slow
def test_two_consumers_of_one_path():
    """Parallel Works fetch the same files at the same time, and each has them whole."""

    def build(flow):
        flow.train = Train()
        flow.readers = [Reading() for _ in range(3)]

        def steps():
            flow.train.run("x" * 1_000_000)
            for reader in flow.readers:
                reader.run(flow.train.checkpoint_dir)

        return steps

    assert [reader.size for reader in run_app(build).readers] == [1_000_000] * 3


class Reading(Work):
    def __init__(self):
        super().__init__(parallel=True)
        self.size = 0

    def run(self, directory):
        self.size = len((directory / "model.txt").read_text())
