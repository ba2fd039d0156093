"""Which name of a Work is suggested, and what that costs."""

import time

import pytest

from lit_storage.sessions.known_names import hint_for_own, unknown_name
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location


@pytest.fixture
def registry():
    return MemoryRegistry()


def register(registry, *names):
    for name in names:
        registry.register(LiveRecord(name, "i", "127.0.0.1:1", "m"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("trainr", "no Work 'trainr' is known; did you mean 'trainer'?"),
        ("unlike", "no Work 'unlike' is known"),
        ("lit", "no Work 'lit' is known; a URI of files starts with lit://@NAME/"),
    ],
)
def test_the_nearest_name_is_suggested(registry, name, sentence):
    """Only a name that is near."""
    register(registry, "trainer", "workers.0")
    assert unknown_name(registry, name) == sentence


@pytest.mark.parametrize("path", ["trainer", "trainer/x"])
def test_an_own_path_that_begins_with_a_name(registry, path):
    """The URI of that Work is suggested."""
    register(registry, "trainer")
    assert str(Location("trainer", path.partition("/")[2])) in hint_for_own(
        registry, Location("deploy", path)
    )


@pytest.mark.parametrize("path", ["\udcff/x", "", "a b/x", "/data/x", "x" * 300])
def test_an_own_path_that_begins_with_no_name(registry, path):
    """What no Work can be called suggests nothing."""
    assert hint_for_own(registry, Location("deploy", path)) == ""


def test_a_suggestion_is_cheap(registry):
    """Many long names that are alike cost a fraction of a second, whoever registered them."""
    register(registry, *(f"{number:05}" * 25 for number in range(3000)))
    began = time.monotonic()
    unknown_name(registry, "01234" * 25)
    assert time.monotonic() - began < 2
