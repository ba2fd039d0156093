"""Works and values whose classes no other process can import: here, those of a test's own function."""

import dataclasses
import enum
import functools
import inspect
import pickle
import threading
import typing
import warnings

import pytest

from lit_storage import App, Flow, InvalidApp, Path, Work, WorkError

pytestmark = pytest.mark.usefixtures("root")


def run_app(work, steps):
    class Pipeline(Flow):
        def __init__(self):
            super().__init__()
            self.work = work

        def run(self):
            steps(self.work)

    App(Pipeline()).run()
    return work


def test_a_local_class_runs_with_what_it_refers_to():
    """Functions around it, globals of its module, and its base classes."""
    factor = 3

    def triple(number):
        return factor * number

    class Base(Work):
        def prepare(self, number):
            return functools.reduce(int.__add__, [number, 1])

    class Local(Base):
        out = "lit://out"

        def run(self, number):
            self.kind = type(self).__qualname__
            self.out.write_text("written")
            return triple(super().prepare(number))

    returned = []
    work = run_app(Local(), lambda work: returned.append(work.run(1)))
    assert returned == [6]
    assert work.kind == Local.__qualname__
    assert isinstance(work.out, Path)


def test_values_of_local_classes_come_back_as_the_same_classes():
    """In attributes and in what `run` returns; the classes are as they were."""

    class Colour(enum.Enum):
        RED = 1

    @dataclasses.dataclass
    class Config:
        number: int

        def doubled(self):
            return 2 * self.number

    class Pair(typing.NamedTuple):
        left: int
        right: Config

    class Local(Work):
        def __init__(self):
            super().__init__()
            self.config = Config(1)
            self.pair = Pair(1, Config(2))

        def run(self, colour):
            assert colour is Colour.RED
            self.config = Config(self.config.doubled() + 1)
            return [self.pair, self.config]

    before = Config.doubled, Config.__init__, Local.run
    returned = []
    work = run_app(Local(), lambda work: returned.extend(work.run(Colour.RED)))
    assert (type(work.config), work.config.doubled()) == (Config, 6)
    assert returned == [Pair(1, Config(2)), Config(3)]
    assert [type(value) for value in returned] == [Pair, Config]
    assert (Config.doubled, Config.__init__, Local.run) == before


def test_a_local_exception_is_raised_as_itself():
    """The Flow can catch it by its class."""

    class Oops(Exception):
        pass

    class Local(Work):
        def run(self):
            raise Oops("it", 1)

    def steps(work):
        with pytest.raises(Oops) as caught:
            work.run()
        assert caught.value.args == ("it", 1)

    run_app(Local(), steps)


class Named(Work):
    """A class that the Work's process imports."""

    def run(self, what=None):
        if what == "raise":

            class Own(Exception):
                pass

            raise Own
        self.seen = what() if callable(what) else type(what).__name__


@pytest.mark.slow
def test_a_named_work_takes_functions_and_values_of_local_classes():
    """As arguments, and as what the Flow assigns."""

    class Option:
        def __init__(self):
            self.lock = threading.Lock

    work = run_app(Named(), lambda work: work.run(lambda: 5))
    assert work.seen == 5
    work = run_app(Named(), lambda work: work.run(Option()))
    assert work.seen == "Option"

    def assign(work):
        work.option = Option()
        work.run()
        assert type(work.option) is Option

    run_app(Named(), assign)


def test_a_class_that_a_work_made_stays_there():
    """An exception of it is a WorkError that tells its text."""

    def steps(work):
        with pytest.raises(WorkError, match="Own"):
            work.run("raise")

    run_app(Named(), steps)


@pytest.mark.slow
def test_a_class_that_is_defined_anew_is_another_class():
    """As when a cell of a notebook is edited and run again."""
    seen = []
    for number in (1, 2):

        class Edited(Work):
            value = number

            def run(self):
                return self.value

        run_app(Edited(), lambda work: seen.append(work.run()))
    assert seen == [1, 2]


@pytest.mark.slow
def test_a_method_that_is_exchanged_counts():
    """The class is sent as it is when the Work starts."""

    class Edited(Work):
        def number(self):
            return 1

        def run(self):
            return self.number()

    seen = []
    run_app(Edited(), lambda work: seen.append(work.run()))
    Edited.number = lambda self: 2
    run_app(Edited(), lambda work: seen.append(work.run()))
    assert seen == [1, 2]


def test_what_cannot_be_sent_is_named():
    """The sentence names the class, the Work, the reason and the way out."""
    lock = threading.Lock()

    class Local(Work):
        def run(self):
            lock.acquire()

    with pytest.raises(
        InvalidApp, match=r"Local' has no file that the process of 'work' could.*lock.*import it"
    ):
        run_app(Local(), lambda work: work.run())


def test_what_can_be_imported_is_named_and_not_sent():
    """Pickles of ordinary programs are as small as ever, and do not need cloudpickle."""
    from lit_storage.executors import by_value

    value = [Named, inspect.signature, type(None), warnings.warn, Path]
    assert by_value.dumps(value) == pickle.dumps(value)


@pytest.mark.slow
def test_slots_of_local_classes():
    """Instances come back with their slots, in attributes and in what `run` returns."""

    @dataclasses.dataclass(slots=True)
    class Point:
        x: int

    class Hidden(Work):
        __slots__ = ("__hidden", "point")

        def __init__(self):
            super().__init__()
            self.__hidden, self.point = 1, Point(1)

        def run(self):
            self.point = Point(self.__hidden + 1)
            return Point(3), [self.point]

    returned = []
    work = run_app(Hidden(), lambda work: returned.append(work.run()))
    assert returned == [(Point(3), [Point(2)])]
    assert work.point == Point(2)


@pytest.mark.slow
def test_a_class_that_cannot_be_made_again():
    """The error says that a class in a file can."""

    class Base(Work):
        def __init_subclass__(cls, /, kind, **options):
            super().__init_subclass__(**options)

        def run(self):
            pass

    class Derived(Base, kind="x"):
        pass

    with pytest.raises(InvalidApp, match="cannot be made again .*'kind'.*; write it into a file"):
        run_app(Derived(), lambda work: work.run())
