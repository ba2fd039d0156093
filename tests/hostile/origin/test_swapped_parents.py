"""Somebody lets a directory and a link change places all the time: nothing outside ever arrives.

`swapped` is now a directory of the share, now a link to a directory outside that has the same names.
"""

import contextlib
import os
import time

import grpc
import pytest

from lit_storage_client.fetch import fetch
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.direct import Ways
from lit_storage_client.peers.remote import Remote
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import StorageError
from lit_storage_proto.limits import MIB, Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
from tests.hostile.origin.attacker import ASK, CANARY, Swapper, ask

QUICK_SECONDS = 0.25


def fill(directory, content):
    """Make files of several sizes, so that each way of reading is taken."""
    (directory / "deep" / "deeper").mkdir(parents=True)
    for number in range(8):
        (directory / f"small-{number}").write_bytes(content)
    (directory / "deep" / "large").write_bytes(content * (2 * MIB // len(content)))
    (directory / "deep" / "deeper" / "file").write_bytes(content)


@pytest.fixture
def contested(own_origin):
    """A tree in the share of which the middle is contested."""
    inside, outside = own_origin.root / "t" / "swapped", own_origin.outside / "swapped"
    inside.mkdir(parents=True)
    outside.mkdir()
    fill(inside, b"innocent" * 5)
    fill(outside, CANARY)
    for name in ("before", "zz"):
        (own_origin.root / "t" / name).mkdir()
        (own_origin.root / "t" / name / "file").write_bytes(b"innocent")
    return own_origin


def link_beside(origin, text):
    link = origin.root / "link"
    link.symlink_to(text)
    return Swapper(origin.root / "t" / "swapped", link)


LINKS = ["{outside}/swapped", "../../root-outside/swapped", "/proc/self/root{outside}/swapped"]
PATHS = ["t", "t/swapped", "t/swapped/small-0", "t/swapped/deep/large", "t/swapped/deep/deeper"]

# A walk that finds another thing than a moment ago says that it was changed.
OK = grpc.StatusCode.OK
CODES = {
    OK,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INVALID_ARGUMENT,
}


def contend(origin, text, rpcs, paths, seconds, tally):
    """Ask again and again while the link is swapped; return how often, and the codes."""
    codes, deadline, rounds = set(), time.monotonic() + seconds, 0
    with link_beside(origin, text.format(outside=origin.outside)) as swapper:
        while time.monotonic() < deadline or (OK not in codes and time.monotonic() < deadline + 20):
            for rpc in rpcs:
                for path in paths:
                    came, code = ask(origin.stub, rpc, path)
                    assert CANARY not in came
                    codes.add(code)
                    rounds += 1
    tally["calls while a parent was swapped"] += rounds
    tally["swaps of a parent"] += swapper.swaps
    assert swapper.swaps > rounds / 4
    assert OK in codes
    return codes


@pytest.mark.parametrize("rpc", ASK)
def test_a_parent_that_is_swapped(contested, rpc, tally):
    """Of every rpc: what comes is of the share, or the call ends with a status of its own."""
    assert contend(contested, LINKS[0], [rpc], PATHS, QUICK_SECONDS, tally) <= CODES


@pytest.mark.parametrize("rpc", ["exists", "stat", "stream", "stream-follow", "range"])
@pytest.mark.parametrize("contested_name", ["link", "directory"])
def test_a_way_between_shares_that_is_swapped(own_origin, rpc, contested_name, tally):
    """A link into another share, or a directory of that share, that is now one to what nobody shares."""
    declared, link = own_origin.root.parent / "declared", own_origin.root / "t" / "link"
    (declared / "d").mkdir(parents=True)
    (declared / "d" / "canary").write_bytes(b"innocent")
    link.parent.mkdir()
    link.symlink_to(declared / "d")
    own_origin.shares.declare(str(declared))
    (declared.parent / "other").symlink_to(own_origin.outside)
    swapped = link if contested_name == "link" else declared / "d"
    codes, deadline, rounds = set(), time.monotonic() + QUICK_SECONDS, 0
    with Swapper(swapped, declared.parent / "other"):
        while time.monotonic() < deadline or (OK not in codes and time.monotonic() < deadline + 20):
            for path in ("t", "t/link", "t/link/canary"):
                came, code = ask(own_origin.stub, rpc, path)
                assert CANARY not in came
                codes.add(code)
                rounds += 1
    tally["calls while a way between shares was swapped"] += rounds
    assert OK in codes
    assert codes <= CODES


@pytest.mark.soak
@pytest.mark.parametrize("text", LINKS)
def test_a_parent_that_is_swapped_for_long(contested, text, soak_seconds, tally):
    """As above, for long."""
    assert contend(contested, text, ASK, PATHS, soak_seconds, tally) <= CODES


@pytest.fixture
def remote_of(own_origin):
    """A consumer of the origin; closed after the test."""
    registry = MemoryRegistry(str(own_origin.root))
    address = own_origin.server.endpoint
    registry.register(LiveRecord("train", "i1", address, "machine"))
    with contextlib.ExitStack() as stack:

        def remote(ways=Ways.ALL):
            limits = Limits(resume_seconds=0.1)
            channels = stack.enter_context(contextlib.closing(Channels(Security(), limits)))
            return Remote(registry, channels, limits, ways)

        yield remote


def copies(remote, target, follow, seconds):
    """Get the tree again and again, however that ends, and until it was whole; return how often it was."""
    whole, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline or (not whole and time.monotonic() < deadline + 20):
        with contextlib.suppress(StorageError):
            fetch(
                remote,
                Location("train", "t"),
                root=None,
                target=str(target),
                overwrite=True,
                durable=False,
                symlinks=follow,
                on_change="accept",
            )
            whole += 1
        for directory, _, files in os.walk(target.parent):
            for name in files:
                path = os.path.join(directory, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        assert CANARY not in file.read()
    return whole


@pytest.mark.parametrize("follow", ["keep", "follow"])
@pytest.mark.parametrize("way", ["GRPC", "TCP", "UNIX"])
def test_a_copy_of_what_is_swapped(contested, remote_of, tmp_path, way, follow, tally):
    """On each way, also where whole files come as descriptors, no copy ever holds what lies outside."""
    ways = {"GRPC": Ways.NONE, "TCP": Ways.TCP, "UNIX": Ways.UNIX}[way]
    (tmp_path / "copies").mkdir()
    with link_beside(contested, str(contested.outside / "swapped")) as swapper:
        assert copies(remote_of(ways), tmp_path / "copies" / "t", follow, QUICK_SECONDS) > 0
    tally["swaps of a parent"] += swapper.swaps


@pytest.mark.soak
@pytest.mark.parametrize("way", [Ways.NONE, Ways.TCP, Ways.UNIX], ids=["grpc", "tcp", "unix"])
def test_a_copy_of_what_is_swapped_for_long(contested, remote_of, tmp_path, way, soak_seconds, tally):
    """As above, for long."""
    (tmp_path / "copies").mkdir()
    remote = remote_of(way)
    with link_beside(contested, str(contested.outside / "swapped")) as swapper:
        for follow in ("keep", "follow"):
            tally["copies while a parent was swapped"] += copies(
                remote, tmp_path / "copies" / "t", follow, soak_seconds / 2
            )
    tally["swaps of a parent"] += swapper.swaps


@pytest.mark.parametrize("rpc", ["stream", "stream-packs", "stream-settle", "stream-follow", "range", "stat"])
def test_a_file_that_is_swapped_for_a_link(contested, rpc, tally):
    """The last part of a path, too, is opened without being followed once it was looked at."""
    file, link = contested.root / "t" / "swapped" / "small-0", contested.root / "link"
    link.symlink_to(contested.outside / "canary")
    deadline = time.monotonic() + QUICK_SECONDS
    with Swapper(file, link) as swapper:
        while time.monotonic() < deadline:
            for path in ("t/swapped/small-0", "t/swapped", "t"):
                came, code = ask(contested.stub, rpc, path)
                assert CANARY not in came
                assert code in CODES
    tally["swaps of a file"] += swapper.swaps
