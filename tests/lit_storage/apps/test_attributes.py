"""Attributes of a Work wherever Python stores them: in __dict__, in slots, behind descriptors."""

import copy
import dataclasses
import pickle

import pytest

from lit_storage import App, Flow, InvalidApp, Path, Work
from lit_storage.apps.attributes import Attributes
from lit_storage.apps.internals import attributes_of, internals

attrs = pytest.importorskip("attrs")


class Slotted(Work):
    __slots__ = ("__hidden", "out", "rate")

    def __init__(self, rate=0.5):
        super().__init__()
        self.rate = rate
        self.out = "lit://out"

    def run(self, rate=None):
        self.rate = rate or self.rate
        return self.rate


@dataclasses.dataclass(slots=True)
class Data(Work):
    rate: float = 0.5
    out: Path = "lit://out"

    def run(self, rate=None):
        self.rate = rate or self.rate
        return self.rate


@dataclasses.dataclass(frozen=True)
class Frozen(Work):
    rate: float = 0.5
    out: Path = "lit://out"

    def run(self, rate=None):
        return self.rate


@attrs.define
class Defined(Work):
    rate: float = attrs.field(default=0.5, validator=attrs.validators.instance_of(float))
    out: Path = "lit://out"

    def __attrs_post_init__(self):
        self.extra = 1

    def run(self, rate=None):
        self.rate = rate or self.rate
        return self.rate


class Managed(Work):
    def __init__(self, rate=0.5):
        super().__init__()
        self.rate = rate
        self.out = "lit://out"

    @property
    def rate(self):
        return self._rate

    @rate.setter
    def rate(self, rate):
        if rate < 0:
            raise ValueError("negative")
        self._rate = rate

    def run(self, rate=None):
        self.rate = rate or self.rate
        return self.rate


KINDS = [Slotted, Data, Defined, Managed]


@pytest.mark.slow
def test_each_kind_of_attribute_is_state(root):
    """It reaches the Work, comes back to the Flow, and is brought along by the next run."""

    class Steps(Flow):
        def __init__(self):
            super().__init__()
            self.works = [cls() for cls in [*KINDS, Frozen]]

        def run(self):
            self.first = [work.run() for work in self.works]
            self.second = [work.run(0.25) and work.rate for work in self.works[:-1]]
            for work in self.works[:-1]:
                work.rate = 0.125
            self.third = [work.run() for work in self.works]

    flow = Steps()
    App(flow).run()
    assert flow.first == [0.5] * 5
    assert flow.second == [0.25] * 4
    assert flow.third == [0.125] * 4 + [0.5]


@pytest.mark.parametrize("cls", [*KINDS, Frozen])
def test_a_lit_text_becomes_a_path_of_the_work(cls, root):
    """A Path in a slot or of a frozen object is attached when the App is built."""

    class Holding(Flow):
        def __init__(self):
            super().__init__()
            self.work = cls()

        def run(self):
            pass

    flow = Holding()
    App(flow)
    assert (flow.work.out.origin_name, flow.work.out.uri) == ("work", "lit://@work/out")


@pytest.mark.parametrize("slots", [True, False])
def test_works_in_slots_of_a_flow_are_named(slots, root):
    """A Flow may be a dataclass with slots; its Paths are Paths as well."""

    @dataclasses.dataclass(slots=slots)
    class Holding(Flow):
        work: Work
        out: Path = "lit://out"

        def run(self):
            pass

    flow = Holding(Data())
    assert list(App(flow).works) == ["work"]
    assert isinstance(flow.out, Path)


@pytest.mark.parametrize("cls", [*KINDS, Frozen])
def test_a_copy_has_all_attributes(cls):
    """Pickled or copied, a Work keeps what it has, and no more than the settings of its process."""
    work = cls(0.75)
    internals(work).persist = "run"
    internals(work).on_assign = lambda *_: None
    for other in (pickle.loads(pickle.dumps(work)), copy.copy(work), copy.deepcopy(work)):
        assert attributes_of(other).snapshot() == attributes_of(work).snapshot()
        assert (internals(other).persist, internals(other).on_assign) == ("run", None)
        assert internals(other) is not internals(work)


def test_attributes_of_an_object():
    """A mapping of all names that are assigned; what lit-storage keeps is not among them."""
    work = Slotted()
    work.other = 1
    attributes = attributes_of(work)
    assert set(attributes) == {"rate", "out", "other"}
    del attributes["rate"]
    assert "rate" not in attributes
    assert not hasattr(work, "rate")
    attributes["rate"] = 2
    assert (work.rate, attributes.get("_lit")) == (2, None)


def test_a_dict_that_was_replaced():
    """A Work may replace its __dict__ while it is watched."""
    work = WithState()
    attributes = attributes_of(work)
    work.__dict__ = {"rate": 0.25}
    assert attributes.snapshot() == {"rate": 0.25}


def test_a_property_is_an_attribute_once_it_was_assigned():
    """Getters are called of what was assigned alone; one that raises means that there is no value."""

    class Partly(Managed):
        @property
        def costly(self):
            raise AssertionError

    work = Partly()
    assert attributes_of(work)["rate"] == 0.5
    assert "costly" not in attributes_of(work)
    del work._rate
    assert "rate" not in attributes_of(work)


def test_the_slot_of_a_subclass_hides_that_of_its_base():
    """One name is one attribute."""

    class Base:
        __slots__ = ("__dict__", "x")

    class Derived(Base):
        __slots__ = ("x",)

    holder = Derived()
    Base.x.__set__(holder, "hidden")
    assert "x" not in Attributes(holder)
    holder.x = 1
    assert Attributes(holder).snapshot() == {"x": 1}


class WithState(Work):
    def __init__(self):
        super().__init__(persist="run")
        self.rate, self.lock = 0.5, object.__new__(Lock)

    def __getstate__(self):
        state = self.__dict__.copy()
        del state["lock"]
        return state

    def __setstate__(self, state):
        self.__dict__ = state | {"lock": "new"}

    def run(self):
        return self.rate


class Lock:
    def __reduce__(self):
        raise TypeError("cannot be pickled")


class WithArguments(Work):
    def __new__(cls, rate, *, unit):
        work = super().__new__(cls)
        work.rate = rate, unit
        return work

    def __init__(self, rate, *, unit):
        super().__init__()

    def __getnewargs_ex__(self):
        return (self.rate[0],), {"unit": self.rate[1]}

    def run(self):
        return self.rate


class WithReduce(Work):
    def __init__(self, rate):
        super().__init__(persist="run")
        self.rate, self._lock = rate, object.__new__(Lock)

    def __reduce__(self):
        return type(self), (self.rate,)

    def run(self):
        return self.rate


class Cyclic(Work):
    def __init__(self):
        super().__init__()
        self._callback = self.helper

    def helper(self):
        return 1

    def run(self):
        return self._callback()


@pytest.mark.slow
def test_the_methods_of_pickle_work(root):
    """A Work reaches its process as its class says."""

    class Steps(Flow):
        def __init__(self):
            super().__init__()
            self.works = [WithState(), WithArguments(0.5, unit="s"), WithReduce(0.5), Cyclic()]

        def run(self):
            self.values = [work.run() for work in self.works]

    flow = Steps()
    App(flow).run()
    assert flow.values == [0.5, (0.5, "s"), 0.5, 1]


def test_a_state_of_the_user_holds_nothing_of_lit_storage():
    """__getstate__ may copy __dict__, and __setstate__ may replace it."""
    work = WithState()
    for other in (pickle.loads(pickle.dumps(work)), copy.copy(work)):
        assert (other.lock, other.rate) == ("new", 0.5)
        assert internals(other) is not internals(work)


def refusal(work):
    class Holding(Flow):
        def __init__(self):
            super().__init__()
            self.work = work

        def run(self):
            pass

    with pytest.raises(InvalidApp) as refused:
        App(Holding())
    return str(refused.value)


def test_a_new_that_needs_arguments_is_refused(root):
    """Nobody gives them in the Work's process; the sentence says what to define."""

    class Needing(Slotted):
        def __new__(cls, rate):
            return super().__new__(cls)

    assert "define __getnewargs__" in refusal(Needing(0.5))


def test_a_base_in_c_is_refused(root):
    """The items of a list are neither attributes nor in slots."""

    class Listed(Work, list):
        def run(self):
            pass

    assert "'work' is a list too" in refusal(Listed())


def test_a_new_that_forgets_ours_is_accepted(root):
    """A Work gets its settings when they are needed."""

    class Forgetting(Work):
        def __new__(cls):
            return object.__new__(cls)

        def run(self):
            pass

    assert internals(Forgetting()).persist == "stop"
