"""Wherever a Work has its run from, a call in the Flow's process runs in the Work's process."""

import abc
import ast
import contextlib
import dataclasses
import functools
import inspect
import os
import subprocess
import sys
import types
import unittest.mock

import pytest

from lit_storage import App, Flow, Status, Work
from lit_storage.apps.dispatch import Dispatcher, adopting, is_generator_function


class Loop:
    def run(self, steps=1):
        """Make steps."""
        return os.getpid()


class FromMixin(Loop, Work):
    pass


class AroundMixin(FromMixin):
    def run(self):
        return super().run(2)


class Base(Work):
    def run(self):
        return "base"


class Patched(Base):
    pass


def pid(*_):
    return os.getpid()


Patched.run = pid


class Plug:
    pass


class Plugged(Plug, Base):
    pass


Plug.run = pid


class Static(Work):
    @staticmethod
    def run():
        return os.getpid()


class ByClass(Work):
    @classmethod
    def run(cls):
        return os.getpid()


class Partial(Work):
    def go(self, _):
        return os.getpid()

    run = functools.partialmethod(go, 3)


class Callable:
    def __call__(self):
        """Say where it runs."""
        return os.getpid()


class ByObject(Work):
    run = Callable()


class ByPartial(Work):
    run = staticmethod(functools.partial(pid, 3))


def traced(function):
    @functools.wraps(function)
    def trace(*args, **kwargs):
        return function(*args, **kwargs)

    return trace


class Decorated(Work):
    @traced
    def run(self):
        return os.getpid()


class ByProperty(Work):
    @property
    def run(self):
        return functools.partial(pid, self)


class OfInstance(Base):
    def __init__(self):
        super().__init__()
        self.run = pid


class WithoutSuper(Work):
    def __init_subclass__(cls):
        pass


class BelowWithoutSuper(WithoutSuper):
    def run(self):
        return os.getpid()


KINDS = [
    FromMixin,
    AroundMixin,
    Patched,
    Plugged,
    Static,
    ByClass,
    Partial,
    ByObject,
    ByPartial,
    Decorated,
    ByProperty,
    OfInstance,
    BelowWithoutSuper,
]


class Elsewhere:
    """A supervisor that notes calls."""

    name, withheld, status = "work", types.MappingProxyType({}), Status.NOT_STARTED

    def assigned(self, name):
        pass

    def run(self, arguments):
        return "elsewhere"


def in_flow(work):
    vars(work)["_lit"].supervisor = Elsewhere()
    return work


@pytest.mark.parametrize("cls", KINDS)
def test_a_call_in_the_flow_is_passed_on(cls):
    """No kind of run runs in the Flow's process."""
    assert in_flow(cls()).run() == "elsewhere"


@pytest.mark.parametrize("cls", KINDS)
def test_outside_of_an_app_run_is_an_ordinary_method(cls):
    """A Work without an App runs where it is called."""
    assert cls().run() == os.getpid()


@pytest.mark.slow
def test_each_kind_runs_in_its_process(root):
    """Over a whole App, each call has another process, also in parallel."""

    class Calls(Flow):
        def __init__(self):
            super().__init__()
            self.works = {cls.__name__: cls() for cls in KINDS[::3]}
            self.parallel = FromMixin(parallel=True)

        def run(self):
            self.parallel.run()
            self.pids = [work.run() for work in self.works.values()] + [self.parallel.wait()]

    flow = Calls()
    App(flow).run()
    assert len({*flow.pids, os.getpid()}) == len(flow.pids) + 1


def test_super_runs_the_code_of_the_base():
    """`super().run()` is never a call to another process, and follows the order of inheritance."""

    class Passing(FromMixin):
        def run(self):
            return super().run()

    class Sibling(FromMixin):
        def run(self):
            return "sibling"

    class Both(Passing, Sibling):
        pass

    assert Passing().run() == os.getpid()
    assert Both().run() == "sibling"


def test_an_instance_overrides_its_class_and_not_super():
    """A run that was assigned to the Work may call the one of its class."""
    work = Base()
    work.run = lambda: "mine and " + type(work).run(work)
    assert work.run() == "mine and base"
    del work.run
    assert work.run() == "base"
    with pytest.raises(AttributeError):
        del work.run


def test_signature_docstring_and_name_are_the_users():
    """What inspect and help show is what the user wrote."""
    work = FromMixin()
    assert str(inspect.signature(work.run)) == "(steps=1)"
    assert (work.run.__doc__, work.run.__name__) == ("Make steps.", "run")
    assert inspect.unwrap(work.run) is Loop.run
    assert str(inspect.signature(Partial().run)) == "()"
    assert str(inspect.signature(ByObject().run)) == "()"
    assert FromMixin.run is FromMixin.run
    assert work.run == work.run


def test_a_patch_of_a_class_is_undone(monkeypatch):
    """Tools that assign to a class and restore leave it as it was, also where it inherits its run."""
    with monkeypatch.context() as patch:
        patch.setattr(FromMixin, "run", pid)
        patch.setattr(Base, "run", lambda self: "patched")
        assert Base().run() == "patched"
    assert Base().run() == "base"
    FromMixin.run = pid
    del FromMixin.run
    assert isinstance(vars(FromMixin)["run"], Dispatcher)
    assert FromMixin().run() == os.getpid()


def test_a_class_without_run_is_abstract():
    """It can be instantiated once it gets a run."""

    class Later(Work):
        pass

    class Abstract(Work):
        @abc.abstractmethod
        def run(self):
            pass

    for cls in (Later, Abstract):
        with pytest.raises(TypeError, match="abstract"):
            cls()
    Later.run = pid
    assert Later().run() == os.getpid()


def test_a_second_class_of_the_same_attributes_has_a_run_of_its_own():
    """dataclass(slots=True) makes one."""

    @dataclasses.dataclass(slots=True)
    class Slotted(FromMixin):
        rate: float = 0.5

    assert in_flow(Slotted()).run() == "elsewhere"
    assert vars(Slotted)["run"]._owner is Slotted


def test_attrs_corrects_super_in_run():
    """attrs makes a second class as well, and looks for `super()` in the closures of its methods."""
    attrs = pytest.importorskip("attrs")

    @attrs.define
    class Defined(Base):
        def run(self):
            return super().run()

    assert Defined().run() == "base"


class Yielding(Work):
    def run(self):
        yield 1


class YieldingAsync(Work):
    async def run(self):
        yield 1


class YieldingObject(Work):
    class Call:
        def __call__(self):
            yield 1

    run = Call()


@pytest.mark.parametrize("cls", [Yielding, YieldingAsync, YieldingObject])
def test_a_generator_is_refused_by_the_call(cls):
    """A call in the Flow raises, before a late Work gets its process."""
    adopted = []
    with pytest.raises(TypeError, match=f"run\\(\\) of {cls.__name__} has a yield"):
        in_flow(cls()).run()
    with adopting(adopted.append), pytest.raises(TypeError, match="yield"):
        cls().run()
    assert adopted == []


def test_a_base_may_be_a_generator():
    """A run may use what the run of its base yields."""

    class Using(Yielding):
        def run(self):
            return list(super().run())

    assert in_flow(Using()).run() == "elsewhere"
    assert Using().run() == [1]


def test_what_consumes_a_generator_is_none():
    """Only the outermost callable counts; a coroutine made by `types.coroutine` is no generator."""

    @types.coroutine
    def wait():
        yield

    @contextlib.contextmanager
    def opened():
        yield

    assert not is_generator_function(wait)
    assert not is_generator_function(functools.partial(opened))


@pytest.mark.slow
def test_a_class_may_be_pickled_by_value():
    """cloudpickle takes a class apart and makes it again in another process."""
    cloudpickle = pytest.importorskip("cloudpickle")

    class Mixed(Loop, Work):
        pass

    @dataclasses.dataclass(slots=True)
    class Slotted(Mixed):
        rate: float = 0.5

        def run(self):
            return super(Slotted, self).run(), self.rate

    cloudpickle.register_pickle_by_value(sys.modules[Loop.__module__])
    try:
        pickled = cloudpickle.dumps((Mixed(), Slotted()))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[Loop.__module__])
    code = "import pickle, sys; a, b = pickle.load(sys.stdin.buffer); print((a.run(), b.run()))"
    printed = subprocess.run(
        [sys.executable, "-c", code], input=pickled, capture_output=True, check=True
    ).stdout
    first, (second, rate) = ast.literal_eval(printed.decode())
    assert first == second != os.getpid()
    assert rate == 0.5


def test_outside_of_an_app_a_mock_is_itself():
    """Whoever tests a Work replaces its run by a mock, and asks the mock through the Work."""
    work = Base()
    with unittest.mock.patch.object(Base, "run") as replaced:
        work.run(2)
        work.run.assert_called_once_with(2)
    assert replaced.call_count == 1
    with unittest.mock.patch.object(work, "run", wraps=work.run):
        work.run()
        work.run.assert_called_once_with()
