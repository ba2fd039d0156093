"""lit:// text among the attributes of a class."""

from __future__ import annotations

import typing
from typing import ClassVar

import pytest

from lit_storage import App, Flow, Path, Work
from lit_storage.apps.class_attributes import class_paths

pytestmark = pytest.mark.usefixtures("root")


class Shared:
    inherited: ClassVar[str] = "lit://base"
    mixed = "lit://mixed"
    replaced = "lit://replaced"


class Train(Shared, Work):
    """lit://documentation is text."""

    out = "lit://o"
    annotated: str = "lit://annotated"
    _private = "lit://private"
    remote = "lit://@deploy/o"
    prefix = "lit://"
    replaced = None
    constant: ClassVar[str] = "lit://constant"
    inherited = "lit://inherited"
    bare: typing.ClassVar = "lit://bare"
    given = "lit://default"

    def __init__(self):
        super().__init__()
        self.given = "lit://given"

    def run(self):
        pass


class Both(Flow):
    shared = "lit://shared"
    prefix = "lit://"

    def __init__(self):
        super().__init__()
        self.train, self.deploy = Train(), Train()

    def run(self):
        pass


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("out", "lit://@train/o"),
        ("annotated", "lit://@train/annotated"),
        ("_private", "lit://@train/private"),
        ("mixed", "lit://@train/mixed"),
        ("remote", "lit://@deploy/o"),
        ("given", "lit://@train/given"),
    ],
)
def test_text_of_the_class_becomes_a_path_of_the_instance(name, uri):
    """Also text of a mixin; an attribute of the instance goes first."""
    flow = Both()
    App(flow)
    assert getattr(flow.train, name).uri == uri


@pytest.mark.parametrize("name", ["prefix", "replaced", "constant", "inherited", "bare", "__doc__"])
def test_other_attributes_of_the_class_stay(name):
    """A prefix, what a subclass replaced, a ClassVar, and the documentation."""
    flow = Both()
    App(flow)
    assert getattr(flow.train, name) is getattr(Train, name)


def test_two_instances_have_two_paths():
    """Each is of its own Work, and the class keeps its text."""
    flow = Both()
    App(flow)
    assert flow.deploy.out.uri == "lit://@deploy/o" != flow.train.out.uri
    assert Train.out == "lit://o"


def test_text_of_a_flow_becomes_a_path_without_origin():
    """As text that a Flow assigns."""
    flow = Both()
    App(flow)
    assert isinstance(flow.shared, Path)
    assert (flow.shared.origin_name, flow.prefix) == (None, "lit://")


def test_without_an_app_nothing_changes():
    """The text is text."""
    assert Train().out == "lit://o"


def test_text_that_is_no_uri_stays_text():
    """A warning says so; the App is built."""

    class Template:
        pattern = "lit://@{name}/out"

    with pytest.warns(UserWarning, match="Template.pattern stays a str"):
        assert class_paths(Template()) == {}


class Typed(Work):
    """As one writes it for a type checker."""

    out = Path("lit://o")

    def run(self):
        raise AssertionError


class TwoTyped(Flow):
    def __init__(self):
        super().__init__()
        self.train, self.deploy = Typed(), Typed()

    def run(self):
        raise AssertionError


def test_a_path_of_the_class_becomes_a_path_of_each_instance():
    """It belongs to nobody in the class, and to its Work in each instance."""
    flow = TwoTyped()
    App(flow)
    assert (flow.train.out.uri, flow.deploy.out.uri) == ("lit://@train/o", "lit://@deploy/o")
    assert Typed.out.origin_name is None
