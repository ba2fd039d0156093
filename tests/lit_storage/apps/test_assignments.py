"""A refused assignment raises and leaves the attribute as it was."""

import dataclasses

import pytest

from lit_storage import AccessDenied, App, Flow, InvalidURI, Path, Work
from lit_storage.apps.internals import internals

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
