"""What the Paths in containers become when the App is built."""

import threading
import types

import pytest

import lit_storage
from lit_storage import App, Flow, Path, Work
from tests.lit_storage.apps.containers import IMMUTABLE, KINDS, Box, item_of

pytestmark = pytest.mark.usefixtures("root")
EVERY = {**KINDS, **IMMUTABLE}


class Holding(Work):
    def __init__(self, value):
        super().__init__()
        self.value, self.again = value, [value]

    def run(self):
        pass


class Two(Flow):
    """Two Works, and what the Flow itself holds."""

    def __init__(self, train, deploy=None, held=None):
        super().__init__()
        self.held = held
        self.train, self.deploy = Holding(train), Holding(deploy)

    def run(self):
        pass


def built(*values):
    flow = Two(*values)
    App(flow)
    return flow


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_path_in_a_container_is_of_its_work(make):
    """It has an origin and a value."""
    path = item_of(built(make(Path("lit://out"))).train.value)
    assert path.uri == "lit://@train/out"


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_the_flow_sees_the_path_of_the_work_to_which_it_gave_a_container(make):
    """Also where the container is immutable, and the Work has a copy."""
    value = make(Path("lit://out"))
    flow = built(value, None, [Box(value)])
    assert item_of(flow.held[0].item).uri == "lit://@train/out"


def test_two_attributes_share_one_copy():
    """What was one object stays one."""
    work = built((Path("lit://out"),)).train
    assert work.value is work.again[0]


def test_works_with_equal_frozen_objects_have_paths_of_their_own():
    """A frozen object may be the default of a class, which all instances share."""
    value = IMMUTABLE["frozen dataclass"](Path("lit://out"))
    flow = built(value, value)
    assert [work.value.item.origin_name for work in (flow.train, flow.deploy)] == ["train", "deploy"]


def test_a_path_of_another_work_in_a_container_stays_its():
    """The Work that holds it is no origin."""
    flow = Two(Path("lit://out"))
    flow.deploy.value = Box({flow.train.value})
    App(flow)
    assert item_of(flow.deploy.value.item).uri == "lit://@train/out"


def test_an_object_that_is_no_state_is_not_touched():
    """Its Path has no origin."""
    value = types.SimpleNamespace(path=Path("lit://out"), lock=threading.Lock())
    assert built(value).train.value.path.origin_name is None


@pytest.mark.slow
def test_a_path_of_the_flow_after_the_run(root):
    """The Path that the Flow holds is copied to the same place without a session, and in one."""
    flow = Two(Path("lit://out"))
    App(flow).run()
    path = flow.train.value
    lit_storage.join("train", root=root).close()
    (root / "works" / "train" / "out").write_text("x")
    with lit_storage.join("train", root=root) as session:
        session.declare(Path("lit://out"))
    with lit_storage.connect(root=root):
        path.get()
        assert path.read_text() == "x"
    assert path.read_text() == "x"
