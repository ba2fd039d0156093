"""Somebody swaps the directories of a target for links while copies are put there: nothing lands outside."""

import contextlib
import errno
import os
import time

import pytest

from lit_storage_client.fetch import fetch
from lit_storage_client.fetch.staging import Staging
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.remote import Remote
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import AccessDenied, InvalidURI, StorageError
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
from tests.hostile.origin.attacker import Swapper

SECONDS = 0.4
PATIENCE_SECONDS = 20  # on a machine that is busy


@pytest.fixture(scope="module")
def remote(origin):
    """A consumer of an origin that has t with files in it."""
    (origin.root / "t" / "sub").mkdir(parents=True)
    for name in ("file", "sub/file"):
        (origin.root / "t" / name).write_bytes(b"from the origin")
    registry = MemoryRegistry(str(origin.root))
    registry.register(LiveRecord("train", "i1", origin.server.endpoint, "machine"))
    limits = Limits(resume_seconds=0.1)
    with contextlib.closing(Channels(Security(), limits)) as channels:
        yield Remote(registry, channels, limits)


@pytest.fixture
def base(tmp_path):
    """A storage root R with a place for copies, and a directory outside of it."""
    (tmp_path / "R" / "@train" / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside" / "b").mkdir(parents=True)
    (tmp_path / "outside" / "b" / "t").write_text("not to be replaced")
    return tmp_path


def get(remote, base, target, **options):
    options = {"root": str(base / "R"), "overwrite": True, "durable": False, **options}
    return fetch(remote, Location("train", "t"), target=str(target), **options)


def everything(directory):
    return sorted((os.path.join(where, n)) for where, ds, fs in os.walk(directory) for n in [*ds, *fs])


def gets(remote, base, target, seconds, **options):
    """Get again and again, however that ends, and until it worked; return how often it did."""
    done, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline or (not done and time.monotonic() < deadline + PATIENCE_SECONDS):
        with contextlib.suppress(StorageError, OSError):
            get(remote, base, target, **options)
            done += 1
    return done


SWAPPED = {
    "a parent": ("R/@train/a", "R/@train/a/b/t"),
    "the parent": ("R/@train/a/b", "R/@train/a/b/t"),
    "the parent of what is to be made": ("R/@train/a/b", "R/@train/a/b/new/er/t"),
    "the directory of the origin": ("R/@train", "R/@train/b/t"),
    "the directory of the origin, and all of it is got": ("R/@train", "R/@train"),
    "the target": ("R/@train/a/b", "R/@train/a/b"),
}


def contend(remote, base, kind, seconds, tally, text="outside"):
    swapped, target = SWAPPED[kind]
    before = everything(base / "outside")
    link = base / "link"
    link.symlink_to(base / text)
    with Swapper(base / swapped, link) as swapper:
        worked = gets(remote, base, base / target, seconds)
    assert 0 < worked < swapper.swaps
    tally["gets while a parent was swapped"] += worked
    tally["swaps of a parent"] += swapper.swaps
    assert everything(base / "outside") == before
    assert (base / "outside" / "b" / "t").read_text() == "not to be replaced"


@pytest.mark.parametrize("kind", SWAPPED)
def test_nothing_lands_outside(remote, base, kind, tally):
    """Whichever directory on the way is a link at any moment, all outside is as it was."""
    contend(remote, base, kind, SECONDS, tally)


@pytest.mark.soak
@pytest.mark.parametrize("kind", SWAPPED)
def test_nothing_lands_outside_for_long(remote, base, kind, soak_seconds, tally):
    """As above, for long."""
    contend(remote, base, kind, soak_seconds, tally)


def test_a_staging_that_is_swapped(remote, base, tally):
    """Where copies grow is held by its descriptor too, and a link in its place is refused."""
    get(remote, base, base / "R/@train/a/b/t")
    before = everything(base / "outside")
    (base / "link").symlink_to(base / "outside")
    with Swapper(base / "R" / ".staging", base / "link") as swapper:
        assert 0 < gets(remote, base, base / "R/@train/a/b/t", SECONDS) < swapper.swaps
    tally["swaps of a parent"] += swapper.swaps
    assert everything(base / "outside") == before


@pytest.mark.parametrize("text", ["{outside}", "../../outside", "/proc/self/cwd", "/", "../../R/../outside"])
@pytest.mark.parametrize("where", ["R/@train", "R/@train/a", "R/.staging"])
def test_a_link_that_was_planted_before(remote, base, text, where):
    """It is refused before anything is transferred."""
    link = base / where
    if link.is_dir():
        link.rename(base / "aside")
    link.symlink_to(text.format(outside=base / "outside"))
    before = everything(base / "outside")
    with pytest.raises(AccessDenied):
        get(remote, base, base / "R/@train/a/b/t")
    assert everything(base / "outside") == before


@pytest.mark.parametrize(
    "target",
    [
        "outside/t",
        "R/t",
        "R/@other/t",
        "R/@train/../t",
        "R/@train/a/../../../outside/t",
        "R/.staging/t",
        "R/@train2/t",
        "R",
    ],
)
def test_a_target_outside_of_the_place_for_copies(remote, base, target):
    """It is refused by its text."""
    before = everything(base)
    with pytest.raises((InvalidURI, AccessDenied)):
        get(remote, base, f"{base}/{target}")
    assert everything(base) == before


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_a_staging_of_another_user_is_not_filled(remote, base, monkeypatch, mode):
    """In a directory that all may write, he may put his own in the place of the one that was just made."""
    public = base / "public"
    public.mkdir()
    make = os.mkdir

    def make_and_lose(path, *arguments, dir_fd=None, **options):
        make(path, *arguments, dir_fd=dir_fd, **options)
        if str(path).startswith(".lit-staging-") and not (public / "aside").exists():
            (public / path).rename(public / "aside")
            make(public / path)
            (public / path).chmod(mode)
            os.chown(public / path, 65534, 65534)

    monkeypatch.setattr(os, "mkdir", make_and_lose)
    with pytest.raises(AccessDenied, match="another user"):
        get(remote, base, public / "t", root=None)
    assert len(list(public.iterdir())) == 2  # "aside", and what is his


def test_a_directory_of_ours_in_the_place_of_a_staging_stays(remote, base, monkeypatch):
    """Nor does he have us take another directory of our own for the staging, and remove what is in it."""
    public = base / "public"
    (public / "ours").mkdir(parents=True)
    (public / "ours" / "kept").write_text("kept")
    make = os.mkdir

    def make_and_lose(path, *arguments, dir_fd=None, **options):
        make(path, *arguments, dir_fd=dir_fd, **options)
        if str(path).startswith(".lit-staging-") and (public / "ours").exists():
            (public / path).rename(public / "aside")
            (public / "ours").rename(public / path)

    monkeypatch.setattr(os, "mkdir", make_and_lose)
    with pytest.raises(AccessDenied, match="another user"):
        get(remote, base, public / "t", root=None)
    assert [path.read_text() for path in public.glob(".lit-staging-*/*")] == ["kept"]


def test_a_staging_of_ours_that_fails_at_once_is_removed(remote, base, monkeypatch):
    """What is certainly our own does not stay where its first file cannot be written."""
    (base / "public").mkdir()

    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Staging, "write_owner", full)
    with pytest.raises(OSError, match="No space left"):
        get(remote, base, base / "public" / "t", root=None)
    assert os.listdir(base / "public") == []
