"""What all tests share: a plain environment, and which tests need uid 0."""

import os
import sys
from collections.abc import Iterator

import pytest

for variable in [name for name in os.environ if name.startswith("LIT_STORAGE_")]:
    del os.environ[variable]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs uid 0: it mounts, or drops to another user id"))


@pytest.fixture(autouse=True)
def leave_session() -> Iterator[None]:
    """No test leaves a session behind, as the run of an App does, or expects one, as its making does."""
    yield
    session, home = sys.modules.get("lit_storage.session"), sys.modules.get("lit_storage.home")
    if session is not None and (left := session.current()) is not None:
        left.close()
    if home is not None:
        home.expect(None)
