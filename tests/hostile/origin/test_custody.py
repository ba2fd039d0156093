"""Whoever publishes for a Work that was killed reads nothing on the word of another user."""

import dataclasses
import os
import shutil

import pytest

from lit_storage_core.artifacts.urls import in_place_url, open_store
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_proto.errors import InvalidConfig
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_server.daemon.custodian import Custodian, CustodianLock
from lit_storage_server.daemon.left_source import LeftSource
from lit_storage_server.publishing.custody import publish_all, publish_left
from lit_storage_server.publishing.notes import Declaration, Note, noted
from tests.hostile.origin.attacker import CANARY

OTHER = 4242
LIMITS = Limits()


class Killed:
    """A Work that was killed, in a root of several; beside it what nobody declared."""

    def __init__(self, base):
        self.root, self.outside = base / "lit", base / "outside"
        self.work = self.root / "works" / "train"
        (self.work / "out").mkdir(parents=True)
        (self.work / "out" / "a").write_bytes(b"declared")
        (self.outside / "out").mkdir(parents=True)
        for path in (self.outside / "secret", self.outside / "out" / "a"):
            path.write_bytes(CANARY)
        self.store = base / "store"
        self.registry = MemoryRegistry(str(base))
        self.registry.register(LiveRecord("train", "i1", "127.0.0.1:1", "machine"))
        self.registry.unregister("train", "i1")

    def note(self, **fields):
        declared = Declaration("train", "i1", "machine", str(self.work), f"file://{self.store}")
        declared = dataclasses.replace(declared, **{"paths": {"out": True}, **fields})
        Note(str(self.root), "i1").begin(declared)
        return self.root / "declared" / "i1"

    def publish(self):
        """Publish as an App and as a custodian do."""
        told = publish_left(str(self.root), self.registry, "train", limits=LIMITS)
        Custodian(str(self.root), "machine", self.registry, LIMITS).look()
        return told

    def kept(self):
        """All that came to be in the store, as bytes."""
        found = [path.read_bytes() for path in self.store.rglob("*") if path.is_file()]
        return b"".join(found)

    def planted(self):
        """What a thief would write into a note, by its name."""
        return {
            "an absolute path": {"paths": {str(self.outside / "secret"): True}},
            "shadow": {"paths": {"/etc/shadow": True}},
            "another storage root": {"storage_root": str(self.outside), "paths": {"secret": True}},
            "a whole storage root": {"storage_root": str(self.outside), "paths": {"": True}},
            "an own path": {},
        }


@pytest.fixture
def killed(tmp_path):
    return Killed(tmp_path)


def test_an_own_note_is_believed(killed):
    """Else all below would prove nothing."""
    killed.note()
    assert killed.publish() == []
    assert b"declared" in killed.kept()


PLANTED = ["an absolute path", "shadow", "another storage root", "a whole storage root", "an own path"]


@pytest.mark.root
@pytest.mark.parametrize("owner_of_root", [0, OTHER], ids=["root's", "the other's"])
@pytest.mark.parametrize("what", PLANTED)
def test_a_note_of_another_user_is_not_believed(killed, what, owner_of_root):
    """Neither where a group may write into the root, nor where all of the root is that user's."""
    note = killed.note(**killed.planted()[what])
    os.chmod(killed.root, 0o775)
    os.chown(note, OTHER, OTHER)
    for path in (killed.root, note.parent):
        os.chown(path, owner_of_root, OTHER)
    killed.publish()
    assert (noted(str(killed.root)), killed.store.exists()) == ([], False)


@pytest.mark.root
def test_root_is_believed_by_others(killed, public_directory, as_nobody):
    """Who is root reads all there is anyway; so its notes count for everybody."""
    note = killed.note()
    shutil.copytree(note.parent.parent, f"{public_directory}/lit")
    code = """
    found = noted(sys.argv[1])
    print(len(found))
    """
    os.chmod(f"{public_directory}/lit/declared/i1", 0o644)
    count = as_nobody(
        "import encodings.ascii, sys\nfrom lit_storage_server.publishing.notes import noted",
        code,
        f"{public_directory}/lit",
    )
    assert count == "1"


@pytest.mark.parametrize("kind", ["link", "link to what is gone", "fifo", "directory", "empty", "loop"])
def test_what_stands_for_a_note_is_none(killed, kind):
    """A link is not followed and a FIFO is not waited for, whoever made them."""
    note = killed.note(**killed.planted()["an absolute path"])
    elsewhere = note.rename(killed.outside / "note")
    if kind == "link":
        note.symlink_to(elsewhere)
    elif kind == "link to what is gone":
        note.symlink_to("gone")
    elif kind == "loop":
        note.symlink_to("i1")
    elif kind == "fifo":
        os.mkfifo(note)
    elif kind == "directory":
        note.mkdir()
    else:
        note.touch()
    killed.publish()
    assert (noted(str(killed.root)), CANARY in killed.kept()) == ([], False)


@pytest.mark.parametrize(
    "path",
    [
        "../../../outside/secret",
        "out/../../../../outside/secret",
        "/",
        "/..",
        "{root}",
        "{root}/works",
        "\0",
        "//etc",
    ],
)
def test_a_path_that_may_not_be_declared_is_not_published(killed, path):
    """A note of its own Work that names it is damaged; what else it names is published."""
    killed.note(paths={path.format(root=killed.root): True, "out": True})
    killed.publish()
    assert b"declared" in killed.kept()
    assert CANARY not in killed.kept()


@pytest.mark.parametrize("where", ["link", "out/link", "out/deep/../link"])
@pytest.mark.parametrize(
    "text", ["{outside}/secret", "{outside}", "../../../outside/secret", "/proc/self/root{outside}"]
)
def test_a_link_out_of_the_storage_root_is_not_published(killed, where, text):
    """What a Work declared may hold links that others planted; what they mean outside stays there."""
    (killed.work / "out" / "deep").mkdir()
    os.symlink(text.format(outside=killed.outside), killed.work / where)
    killed.note(paths={"link": True, "out": True})
    killed.publish()
    assert CANARY not in killed.kept()


@pytest.mark.parametrize("swapped", ["works/train", "works"])
def test_a_storage_root_that_became_a_link_is_not_read(killed, swapped):
    """It was resolved when the Work began, so a link on the way to it is of somebody who wants more."""
    killed.note(paths={"out": True})
    (killed.outside / "train").symlink_to(killed.outside)
    (killed.root / swapped).rename(killed.root / "aside")
    (killed.root / swapped).symlink_to(killed.outside)
    killed.publish()
    assert CANARY not in killed.kept()
    assert noted(str(killed.root)) != []  # it is still to be published, when all is as it was


@pytest.fixture
def in_place(killed):
    """What the Work left in place, and the source that hands it out."""
    url = in_place_url(str(killed.root), "machine")
    killed.note(artifacts_url=url)
    assert killed.publish() == []
    source = LeftSource(str(killed.root), "machine", killed.registry, LIMITS)
    yield source
    source.close()


def sent(source, path):
    """All bytes that come of a path, and the error if there was one."""
    from lit_storage_server.sources.tree_stream import TreeOptions

    came, error = b"", None
    try:
        for frame in source.tree(path, TreeOptions()).frames():
            came += b"".join(bytes(chunk.data) for chunk in frame.chunks)
    except Exception as caught:  # noqa: BLE001  whatever it is
        error = caught
    return came, error


def test_what_is_in_place_is_handed_out(in_place):
    """Else all below would prove nothing."""
    assert sent(in_place, "@train/out") == (b"declared", None)


@pytest.mark.parametrize("rank", ["out/a", "out", ""])
def test_what_is_in_place_and_became_a_link_is_not_followed(killed, in_place, rank):
    """A file, its directory, or the whole storage root: what lies elsewhere was not published."""
    path = killed.work / rank if rank else killed.work
    path.rename(killed.root / "aside")
    target = killed.outside / rank if rank else killed.outside
    path.symlink_to(target)
    came, error = sent(in_place, "@train/out")
    assert CANARY not in came
    assert isinstance(error, OSError | RuntimeError)


@pytest.mark.parametrize("same", ["size", "size and time"])
def test_what_is_in_place_and_was_replaced_is_not_sent(killed, in_place, same):
    """Other bytes of the same length and time are told by their digest."""
    path = killed.work / "out" / "a"
    status = path.stat()
    path.unlink()
    path.write_bytes(CANARY[: status.st_size])
    if same == "size and time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    came, error = sent(in_place, "@train/out")
    assert (came, type(error).__name__) == (b"", "SourceChanged")


@pytest.mark.root
def test_a_manifest_of_another_user_is_not_read(killed, in_place):
    """Though it lies where those of the Work lie, in a root into which a group may write."""
    (manifest,) = [path for path in (killed.root / "artifacts").rglob("*") if path.is_file()]
    os.chown(manifest, OTHER, OTHER)
    came, error = sent(in_place, "@train/out")
    assert (came, type(error).__name__) == (b"", "IntegrityError")


@pytest.mark.parametrize(
    "path",
    [
        "@train/../../outside/secret",
        "@train//etc/shadow",
        "@train/@/etc/shadow",
        "@train/@//etc/shadow",
        "@train/@/../etc/shadow",
        "@train/out/../../x",
        "@train/out//a",
        "@train/./out",
        "@train/out/a/",
        "@train/@manifests/../../x",
        "@train/@manifests//etc/shadow",
        "@train/@manifests/out/../../x",
        "@train/\0",
        "@../train/out",
        "@/etc/shadow",
        "@",
        "@@train/out",
        "@train/secret",
        "@train/.staging",
        "@train/@other/x",
        "@nobody/out",
        "@" + "n" * 10_000,
        "@train/" + "n" * 10_000,
    ],
)
def test_no_spelling_leads_out_of_what_was_left(in_place, path):
    """Of no path that begins with @ comes a byte that no manifest names."""
    came, error = sent(in_place, path)
    assert came == b""
    assert isinstance(error, OSError | ValueError)


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "mode"), [(0, 0o775), (0, 0o777), (0, 0o1777), (OTHER, 0o755), (OTHER, 0o700)]
)
def test_nobody_is_the_custodian_of_a_root_that_others_write(tmp_path, owner, mode):
    """As root, of none that a group or another user may write; else they could have it read any file."""
    (tmp_path / "lit").mkdir()
    os.chown(tmp_path / "lit", owner, 0)
    os.chmod(tmp_path / "lit", mode)
    with pytest.raises(InvalidConfig):
        CustodianLock(str(tmp_path / "lit"))


def test_a_store_that_is_a_link_holds_no_manifests(killed, in_place):
    """A directory of manifests that became a link is none of the store's."""
    manifests = killed.root / "artifacts" / "train" / "manifests"
    manifests.rename(killed.outside / "manifests")
    manifests.symlink_to(killed.outside / "manifests")
    url = in_place_url(str(killed.root), "machine")
    assert open_store(url, "train", limits=LIMITS, own=True).versions() == []


def test_a_declared_path_is_published_through_the_same_rule(killed):
    """Of what is not there by then, nothing is published in its place."""
    killed.note(paths={str(killed.outside / "none"): True})
    declaration = Note(str(killed.root), "i1").read()
    outcome = publish_all(declaration, limits=LIMITS, unclean=True)
    assert (outcome.missing, CANARY in killed.kept()) == ([str(killed.outside / "none")], False)
