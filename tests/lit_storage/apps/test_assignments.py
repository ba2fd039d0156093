"""A refused assignment raises and leaves the attribute as it was."""

import dataclasses
import threading

import pytest

from lit_storage import AccessDenied, App, Flow, InvalidURI, Path, Work
from lit_storage.apps.internals import attributes_of, internals
from tests.lit_storage.apps.steps import run_steps

pytestmark = pytest.mark.usefixtures("root")

attrs = pytest.importorskip("attrs")


class Holding(Work):
    def __init__(self):
        super().__init__()
        self.value = "before"

    def run(self):
        pass


class Slotted(Holding):
    __slots__ = ("value",)


class Managed(Holding):
    @property
    def value(self):
        return self._value

    @value.setter
    def value(self, value):
        if value == "invalid":
            raise ValueError("refused")
        self._value = value


@attrs.define
class Defined(Work):
    value: str = attrs.field(default="before", validator=attrs.validators.instance_of((str, Path)))

    def run(self):
        pass


def watched(cls, notice):
    work = cls()
    internals(work).on_assign = notice
    return work


def refuse(work, name):
    if getattr(work, name, None) != "before":
        raise PermissionError("refused")


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("cls", [Holding, Slotted, Managed, Defined])
def test_an_attribute_is_restored_where_its_value_is_refused(cls):
    """As a path that cannot be declared, which is known once it was assigned."""
    work = watched(cls, refuse)
    with pytest.raises(PermissionError):
        work.value = "after"
    assert work.value == "before"


def test_an_attribute_that_was_not_there_is_not_there():
    """A refused first assignment leaves nothing."""
    work = watched(Holding, refuse)
    with pytest.raises(PermissionError):
        work.other = "after"
    assert not hasattr(work, "other")


@pytest.mark.parametrize("value", ["lit://../x", nested(251), Holding()], ids=["uri", "deep", "work"])
@pytest.mark.parametrize("cls", [Holding, Slotted, Defined])
def test_a_value_that_is_no_state_of_a_work_is_refused(cls, value):
    """An invalid URI, another Work, and what is nested too deeply; before and in a process."""
    for work in (cls(), watched(cls, lambda *_: None)):
        with pytest.raises((InvalidURI, TypeError, ValueError)):
            work.value = value
        assert work.value == "before"


def test_a_setter_that_raises_assigns_nothing():
    """It is not called again to restore anything."""
    notices = []
    work = watched(Managed, lambda _, name: notices.append(name))
    with pytest.raises(ValueError, match="refused"):
        work.value = "invalid"
    assert (work.value, notices) == ("before", [])


def test_deep_state_is_refused_in_a_sentence():
    """The error names the attribute and the way out; a private attribute may hold what it likes."""
    work = Holding()
    with pytest.raises(ValueError, match="'tree' cannot be nested more than 250 levels deep"):
        work.tree = nested(5000)
    work._tree = nested(5000)
    work.tree = nested(250)
    work.tree = [nested(5000), b"no state anyway"]


def test_a_setattr_that_does_not_call_super_is_noticed():
    """attrs generates one for validators: Paths get their origin, and assignments are reported."""
    notices = []
    work = watched(Defined, lambda _, name: notices.append(name))
    work.value = "lit://out"
    assert isinstance(work.value, Path)
    assert "value" in notices
    with pytest.raises(TypeError):
        work.value = 1
    assert work.value == Path("lit://out")


def test_mixins_see_assignments():
    """Work's own __setattr__ passes on to the next class."""
    seen = []

    class Seeing:
        def __setattr__(self, name, value):
            seen.append(name)
            super().__setattr__(name, value)

    class Both(Holding, Seeing):
        pass

    Both()
    assert seen == ["value"]


class Declaring(Work):
    def __init__(self):
        super().__init__()
        self.out = "lit://out"

    def run(self):
        with pytest.raises(AccessDenied):
            self.out = Path("lit:///")
        return self.out.name


@pytest.mark.slow
def test_a_path_that_cannot_be_shared_is_not_assigned(root):
    """The Work goes on with the Path that it had."""

    @dataclasses.dataclass
    class Steps(Flow):
        work: Work

        def run(self):
            self.name = self.work.run()

    flow = Steps(Declaring())
    App(flow).run()
    assert flow.name == "out"


class Symmetric(Work):
    """A property that keeps whatever it is given."""

    def __init__(self):
        super().__init__()
        self.model = None

    @property
    def model(self):
        return self._model

    @model.setter
    def model(self, value):
        self._model = value

    def run(self):
        self.model = self.model or object()
        return "ended"


class Converting(Work):
    """A setter that does not take what its getter returns, and one that changes it each time."""

    def __init__(self):
        super().__init__()
        self.tags, self.scale = "a,b", 1

    @property
    def tags(self):
        return self._tags

    @tags.setter
    def tags(self, text):
        self._tags = text.split(",")

    @property
    def scale(self):
        return self._scale

    @scale.setter
    def scale(self, value):
        self._scale = 2 * value

    def run(self, tags=""):
        if tags:
            self.tags = tags
        return self.tags, self.scale


def test_a_setter_under_a_lock_of_its_getter():
    """An assignment calls no getter, so the caller may hold the lock that the getter takes."""

    class Locked(Holding):
        @property
        def value(self):
            with lock:
                return self._value

        @value.setter
        def value(self, value):
            self._value = value

    lock = threading.Lock()
    work = Locked()
    with lock:
        work.value = "after"
    assert work.value == "after"


@pytest.mark.slow
def test_a_property_that_run_sets_to_an_object():
    """The Flow has no value of it to take, and a property without a deleter keeps the one it had."""
    work = Symmetric()
    assert run_steps(lambda work: work.run(), work) == "ended"
    assert work.model is None


@pytest.mark.slow
def test_a_setter_that_refuses_what_its_getter_returned():
    """Each process keeps its own value and says which attribute that is; the Work runs on."""
    work = Converting()
    with pytest.warns(
        UserWarning, match=r"'tags' of '.*' stays as it is .* let the setter take what the getter"
    ):
        assert run_steps(lambda work: work.run("c,d"), work) == (["c", "d"], 2)
    assert work.tags == ["a", "b"]


@pytest.mark.slow
def test_a_setter_that_changes_its_value_is_not_called_again():
    """What the setter made of a report is no assignment of the Flow, so the next run brings nothing along."""
    work = Converting()
    assert run_steps(lambda work: [work.run()[1] for _ in range(3)], work) == [2, 2, 2]


def test_an_attribute_that_a_class_keeps_elsewhere_stays_there():
    """A `__setattr__` of the user that stores by itself is left alone."""

    class Store(Work):
        def __init__(self):
            object.__setattr__(self, "_store", {})
            super().__init__()
            self.rate = 0.5

        def __setattr__(self, name, value):
            self._store[name] = value

        def __getattr__(self, name):
            return self._store[name] if name in self._store else super().__getattr__(name)

        def run(self):
            pass

    work = Store()
    assert "rate" not in attributes_of(work)
    assert work.rate == 0.5
