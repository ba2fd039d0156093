"""A Path in a container is handed over: nine kinds, as argument, as keyword argument and in the state."""

import itertools
import threading
import types
import warnings

import pytest

from lit_storage import App, Flow, Path, Work
from tests.lit_storage.apps.containers import KINDS, Box, Pair, item_of

pytestmark = pytest.mark.slow

HOW = ["argument", "keyword", "state"]
WHEN = ["live", "stopped"]
CASES = list(itertools.product(KINDS, HOW, WHEN))


class Producer(Work):
    """Has one directory for each case; those of the cases "state" are in containers alone."""

    def __init__(self):
        super().__init__()
        self.out = "lit://out"
        for number, (kind, how, _) in enumerate(CASES):
            if how == "state":
                setattr(self, f"box_{number}", KINDS[kind](Path(f"lit://boxed/{number}")))

    def run(self):
        for number, (_, how, _) in enumerate(CASES):
            path = item_of(getattr(self, f"box_{number}")) if how == "state" else self.out / str(number)
            path.mkdir(parents=True)
            (path / "x").write_text("made")
        return Pair([Box(self.out)])


class Consumer(Work):
    def run(self, box=None):
        box = self.box if box is None else box
        path = item_of(box)
        return [(path / "x").read_text(), path.origin_name, box]


class Matrix(Flow):
    def __init__(self):
        super().__init__()
        self.producer, self.consumer, self.results = Producer(), Consumer(), {}

    def run(self):
        self.returned = self.producer.run()
        self.call_all("live")
        self.producer.stop()
        self.call_all("stopped")

    def call_all(self, now):
        for number, (kind, how, when) in enumerate(CASES):
            if when == now:
                try:
                    self.results[kind, how, when] = self.call(number, kind, how)
                except Exception as error:
                    self.results[kind, how, when] = error

    def call(self, number, kind, how):
        if how == "state":
            self.consumer.box = getattr(self.producer, f"box_{number}")
            return self.consumer.run()
        box = KINDS[kind](self.producer.out / str(number))
        return self.consumer.run(box) if how == "argument" else self.consumer.run(box=box)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """One App that has gone through all cases."""
    flow = Matrix()
    App(flow, root=tmp_path_factory.mktemp("matrix")).run()
    return flow


@pytest.mark.parametrize(("kind", "how", "when"), CASES)
def test_a_path_in_a_container_is_handed_over(matrix, kind, how, when):
    """Its files are there before run starts, and it is its origin's."""
    result = matrix.results[kind, how, when]
    assert isinstance(result, list), repr(result)
    assert result[:2] == ["made", "producer"]
    assert type(result[2]) is type(KINDS[kind](1))


def test_a_container_that_run_returns_keeps_its_type(matrix):
    """The Flow reads fields by name."""
    assert matrix.returned.item[0].item.origin_name == "producer"


class Changing(Work):
    """Changes what is in its state in place, and holds what is none."""

    def __init__(self):
        super().__init__()
        self.pair, self.box, self.names = Pair(1), Box(Path("lit://boxed")), {"a"}

    def run(self):
        if isinstance(self.box.item, Pair):
            return  # the second call brings what the Flow changed
        self.names.add("b")
        self.box.item = Pair(self.box.item / "below")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.opaque = types.SimpleNamespace(path=Path("lit://hidden"), lock=threading.Lock())

        class Local:
            def __init__(self, path):
                self.path = path

        self.local = Local(self.box.item.item)
        self.seen = [str(warning.message) for warning in caught]


class One(Flow):
    def __init__(self):
        super().__init__()
        self.work = Changing()

    def run(self):
        self.work.run()
        self.changed = [self.work.pair.item, set(self.work.names), self.work.box.item.item.uri]
        self.work.box = Box(Pair(self.work.box.item.item))
        self.work.names.add("c")
        self.work.run()
        self.work.bad = threading.Lock()
        with pytest.raises(TypeError) as raised:
            self.work.run()
        self.error = str(raised.value)
        del self.work.bad
        self.work.run()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    flow = One()
    App(flow, root=tmp_path_factory.mktemp("one")).run()
    return flow


def test_a_change_in_place_within_a_container_reaches_the_flow(one):
    """In a set, in a dataclass, and in a named tuple in it."""
    assert one.changed == [1, {"a", "b"}, "lit://@work/boxed/below"]


def test_a_change_of_the_flow_in_a_container_reaches_the_work(one):
    """By assignment and in place, before the next run."""
    assert one.work.names == {"a", "b", "c"}


def test_an_object_that_is_no_state_stays_and_its_path_is_named(one):
    """In the Work's process, at its assignment."""
    assert "'opaque' of 'work' is a SimpleNamespace" in one.work.seen[0]
    with pytest.raises(AttributeError, match="SimpleNamespace and stays in the process"):
        one.work.opaque  # noqa: B018


def test_an_instance_of_a_local_class_stays_in_the_work(one):
    """All other attributes reach the Flow."""
    with pytest.raises(AttributeError, match="Local and stays in the process"):
        one.work.local  # noqa: B018


def test_an_attribute_that_cannot_be_sent_is_named(one):
    """The Work can be called again once the attribute is gone."""
    assert "attribute 'bad' cannot be sent to the process of 'work'" in one.error
    assert one.work.exception is None
