"""The tree of a Flow is searched for Works, and its data are passed over."""

import pytest

from lit_storage import App, Flow, InvalidApp, Work

pytestmark = pytest.mark.usefixtures("root")


class Plain(Work):
    def run(self):
        pass


class Holding(Flow):
    def __init__(self, data):
        super().__init__()
        self.data = data
        self.work = Plain()

    def run(self):
        pass


class Key(str):
    __slots__ = ()
    shown = 0

    def __str__(self):
        Key.shown += 1
        return super().__str__()


def test_no_name_is_made_of_numbers():
    """A container of scalars is passed over as a whole, so a million of them cost no time."""
    Key.shown = 0
    App(Holding(dict.fromkeys(map(Key, "abc"), 1)))
    assert Key.shown == 0


def test_a_deep_flow_is_searched():
    """Data that are nested too deeply for recursion do not keep an App from being built."""
    data = None
    for _ in range(5000):
        data = [data]
    assert list(App(Holding(data)).works) == ["work"]


def test_a_container_that_is_held_often_is_searched_once():
    """Sixty levels that each hold the next one twice are sixty steps."""
    data = [Plain()]
    for _ in range(60):
        data = [data, data]
    (work,) = [name for name in App(Holding(data)).works if name != "work"]
    assert work == "data" + ".0" * 61


class Async(Flow):
    async def run(self):
        pass


class Yielding(Flow):
    def run(self):
        yield


class Lazy(Flow):
    def run(self):
        return iter_of(self)


def iter_of(flow):
    yield flow


@pytest.mark.parametrize("cls", [Async, Yielding])
def test_a_flow_that_would_not_run_is_refused(cls):
    """An App never ends well without having run its Flow."""
    with pytest.raises(InvalidApp, match=f"run\\(\\) of {cls.__name__} would not do its work"):
        App(cls())


def test_a_flow_that_has_not_run_is_refused():
    """Nor where that is known by what its run returned."""
    with pytest.raises(InvalidApp, match="would not do its work"):
        App(Lazy()).run()
