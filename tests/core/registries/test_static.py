"""A registry that is a list."""

import pytest

from lit_storage_core.registries.static import StaticRegistry
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState


def test_a_record_is_of_any_instance():
    """A listed name resolves to its endpoint, with no instance id to compare."""
    assert StaticRegistry("a=host-1.pod:80, b=[::1]:81").resolve("b") == LiveRecord("b", "", "[::1]:81", "")


def test_a_listed_work_may_join():
    """Registering a listed name, at whatever address it is bound to, does nothing."""
    registry = StaticRegistry("trainer=10.0.0.1:80")
    registry.register(LiveRecord("trainer", "one", "10.1.2.3:80", "m"))
    assert registry.resolve("trainer").endpoint == "10.0.0.1:80"


def test_an_unlisted_work_is_told_to_be_added():
    """Registering a name that the list does not have says what to add."""
    with pytest.raises(InvalidURI, match="add deploy=HOST:PORT"):
        StaticRegistry("trainer=10.0.0.1:80").register(LiveRecord("deploy", "one", "10.1.2.3:80", "m"))


def test_it_keeps_no_work_records():
    """update_work replaces nothing, and unregister leaves the list as it is."""
    registry = StaticRegistry("trainer=10.0.0.1:80")
    assert registry.update_work(WorkRecord("trainer", "", WorkState.STOPPED, "m")) is False
    registry.unregister("trainer", "")
    assert (registry.works(), len(registry.live())) == ([], 1)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("a=127.0.0.9:1,b=[::1]:1,c=localhost:1", False),
        ("a=127.0.0.1:1,b=10.0.0.1:1", True),
        ("a=host:1", True),
    ],
)
def test_it_spans_machines_unless_all_is_loopback(text, spans):
    """One endpoint that is no loopback address makes the list one of many machines."""
    assert StaticRegistry(text).spans_machines is spans


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a=",
        "a=host",
        "a=host:0",
        "a=host:65536",
        "a=:80",
        "a=::1:80",
        "a/b=h:1",
        "a=h:1,",
        "a=h:1,a=h:2",
    ],
)
def test_what_is_no_list_is_refused(text):
    """An item that is not name=host:port, or a name that stands twice, is refused."""
    with pytest.raises(InvalidURI):
        StaticRegistry(text)
