"""The state of a Work as its Flow has it, and what the next process of the Work gets of it."""

import logging
import os
import pickle
import signal
import sys
import types

import pytest

from lit_storage import App, Flow, Work
from lit_storage.apps.flow_state import FlowState
from lit_storage.executors.work_state import Changes, pickled_state


def state(**attributes):
    known = FlowState("work", attributes)
    known.begin()
    return known, attributes


def withheld(*names):
    return Changes({}, dict.fromkeys(names, "object"), ())


def assigned(**values):
    return Changes({name: pickled_state(value) for name, value in values.items()}, {}, ())


def test_a_withheld_attribute_is_restored_for_the_next_process():
    """The Flow lacks it meanwhile; the next process gets the value of __init__."""
    known, attributes = state(model=None)
    known.apply(withheld("model"))
    assert (attributes, known.withheld) == ({}, {"model": "object"})
    assert known.restore() == ["model"]
    assert (attributes, known.withheld) == ({"model": None}, {})


def test_the_last_state_is_restored():
    """What run() assigned before the object counts, and what the Flow assigned after it."""
    known, attributes = state(model=None, other=None)
    known.apply(assigned(model=1, other=1))
    known.apply(withheld("model", "other"))
    known.apply(withheld("model"))
    attributes["other"] = 2
    known.assigned("other")
    known.restore()
    assert attributes == {"model": 1, "other": 2}


def test_a_process_that_lives_on_gets_nothing_back():
    """Its own value stays."""
    known, _ = state(model=None)
    known.apply(withheld("model"))
    assert known.changes() == Changes()


def test_a_deleted_attribute_is_not_restored():
    """The Work deleted it, whatever it was."""
    known, attributes = state(model=None)
    known.apply(withheld("model"))
    known.apply(Changes(deleted=("model",)))
    assert known.restore() == []
    assert attributes == {}


def test_an_attribute_that_began_as_an_object_stays_absent():
    """There is no value before it."""
    known, attributes = state()
    known.apply(withheld("model"))
    assert known.restore() == []
    assert attributes == {}


def test_a_state_that_the_flow_cannot_load_is_sent_back(monkeypatch):
    """The first run of the next process brings it along, as it came, once."""
    module = types.ModuleType("only_the_work_has_it")
    exec("class Point: x = 1", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    pickled = pickle.dumps(module.Point())
    monkeypatch.delitem(sys.modules, module.__name__)
    known, _ = state(point=None)
    with pytest.warns(UserWarning, match="cannot be loaded"):
        known.apply(Changes({"point": pickled}))
    assert known.changes() == Changes()
    assert known.restore() == ["point"]
    known.begin()
    assert known.changes() == Changes({"point": pickled})
    assert known.changes() == Changes()


class Losing(Work):
    def __init__(self):
        super().__init__()
        self.model, self.cache = None, {}

    def run(self, how):
        seen = [hasattr(self, "model") and self.model is None, getattr(self, "cache", None)]
        self.cache = {"epoch": 1}
        self.model = object()
        self.cache = {"bytes": b""}
        if how == "raise":
            raise ValueError("lost")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return seen


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raise", "stop"])
def test_attributes_exist_after_a_new_start(root, how, caplog):
    """A Work that raised or was stopped runs again with what __init__ or the last state gave it."""

    class Steps(Flow):
        def __init__(self):
            super().__init__()
            self.work = Losing()

        def run(self):
            try:
                self.first = self.work.run(how)
            except ValueError:
                pass
            self.work.stop()
            self.again = self.work.run("again")

    caplog.set_level(logging.INFO, "lit_storage.app")
    flow = Steps()
    App(flow).run()
    assert flow.again[0] is True
    assert flow.again[1] in ({}, {"epoch": 1})
    assert "the last state of cache, model" in caplog.text


@pytest.mark.slow
def test_attributes_exist_after_a_kill(root):
    """A Work that died is no exception."""

    class Steps(Flow):
        def __init__(self):
            super().__init__()
            self.work = Losing()

        def run(self):
            with pytest.raises(Exception, match="SIGKILL"):
                self.work.run("kill")
            self.again = self.work.run("again")

    flow = Steps()
    App(flow).run()
    assert flow.again[0] is True
    assert flow.again[1] in ({}, {"epoch": 1})
