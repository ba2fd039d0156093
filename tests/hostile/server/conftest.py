"""Servers to attack, of both kinds; and whether they were harmed."""

import pytest

from tests.hostile.server.attacked import KINDS, Attacked


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def attack(kind, tmp_path):
    """Start servers of one kind, with these limits; all are ended after the test."""
    started = []

    def start(**options):
        started.append(Attacked(kind, tmp_path / str(len(started)), **options))
        return started[-1]

    yield start
    for attacked in started:
        attacked.stop()


@pytest.fixture(scope="module", params=KINDS)
def attacked(request, tmp_path_factory):
    """One server of each kind for a module's tests, which must leave it as it was."""
    server = Attacked(request.param, tmp_path_factory.mktemp("attacked"))
    (server.data / "directory").mkdir()
    (server.data / "directory" / "file").write_bytes(b"content")
    (server.data / "link").symlink_to("directory/file")
    yield server
    server.stop()
