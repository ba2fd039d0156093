"""Other users of the machine: what they plant where we look is not trusted, and what we make is ours."""

import json
import os
import socket
import subprocess
import sys

import pytest
import xxhash

from lit_storage.sessions import environment
from lit_storage_client.fetch.confine import choose, confine
from lit_storage_client.fetch.staging_area import area_for
from lit_storage_core.artifacts.local_objects import LocalObjects
from lit_storage_core.system.machine import machine_id
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_proto.errors import AccessDenied, IntegrityError, StorageError
from tests.hostile.neighbours.conftest import mode_of, this_process

NOBODY = 65534


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory below one in which others may have put something."""
    (tmp_path / "project" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "deep")
    monkeypatch.delenv("LIT_STORAGE_ROOT", raising=False)
    return tmp_path


@pytest.mark.root
@pytest.mark.parametrize("place", ["", "project", "project/deep"])
def test_a_root_of_another_user_is_not_found(here, place):
    """A .lit upwards from here that belongs to another user is refused, and the error says how to take it."""
    planted = here / place / ".lit"
    planted.mkdir()
    os.chown(planted, NOBODY, NOBODY)
    with pytest.raises(AccessDenied, match=r"belongs to user 65534; .* root= or LIT_STORAGE_ROOT"):
        environment.find_root(None)


@pytest.mark.root
def test_a_link_to_a_root_of_another_user_is_not_found(here):
    """Nor is one that a link leads to."""
    (here / "theirs").mkdir()
    os.chown(here / "theirs", NOBODY, NOBODY)
    (here / ".lit").symlink_to(here / "theirs")
    with pytest.raises(AccessDenied, match="belongs to user 65534"):
        environment.find_root(None)


def test_a_link_of_another_user_to_a_root_is_not_found(here):
    """Nor is one of our own that somebody else's link leads to: he would choose which of ours is used."""
    (here / "ours").mkdir()
    (here / ".lit").symlink_to(here / "ours")
    os.lchown(here / ".lit", NOBODY, NOBODY)
    with pytest.raises(AccessDenied, match="is a link of user 65534"):
        environment.find_root(None)


def test_a_root_that_everybody_can_write_is_not_found(here):
    """A .lit into which every user can write says nothing of who filled it."""
    (here / ".lit").mkdir()
    (here / ".lit").chmod(0o777)
    with pytest.raises(AccessDenied, match="written by every user"):
        environment.find_root(None)


@pytest.mark.root
@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_root_that_is_named_is_taken(here, monkeypatch, how):
    """Who names the root of another user means it: sharing one goes on."""
    (here / ".lit").mkdir()
    os.chown(here / ".lit", NOBODY, NOBODY)
    monkeypatch.setenv("LIT_STORAGE_ROOT", str(here / ".lit"))
    assert environment.find_root(here / ".lit" if how == "argument" else None) == str(here / ".lit")


@pytest.mark.slow
@pytest.mark.root
def test_a_root_of_the_system_is_taken(as_nobody, public_directory):
    """A .lit of uid 0 is found by another user: uid 0 could change whatever it is anyway."""
    os.mkdir(f"{public_directory}/.lit")
    code = "import os; os.chdir(sys.argv[1]); print(environment.find_root(None))"
    assert as_nobody("from lit_storage.sessions import environment", code, public_directory).endswith("/.lit")


@pytest.mark.root
@pytest.mark.parametrize("planted", ["works", "works/trainer", "connect"])
def test_a_link_of_another_user_is_no_storage_root(tmp_path, planted):
    """A storage root that another user has made a link does not serve, or write, what the link leads to."""
    (tmp_path / planted).parent.mkdir(exist_ok=True)
    (tmp_path / planted).symlink_to("/etc")
    os.chown(tmp_path / planted, NOBODY, NOBODY, follow_symlinks=False)
    directory = "connect" if planted == "connect" else "works/trainer"
    with pytest.raises(AccessDenied, match="is a link of user 65534"):
        environment.make_storage_root(str(tmp_path), directory)


def test_a_link_of_our_own_is_one(tmp_path):
    """A user may put a storage root elsewhere with a link of their own."""
    (tmp_path / "large").mkdir()
    (tmp_path / "works").mkdir()
    (tmp_path / "works" / "trainer").symlink_to(tmp_path / "large")
    path = environment.make_storage_root(str(tmp_path), "works/trainer")
    assert os.path.realpath(path) == str(tmp_path / "large")


@pytest.mark.parametrize("kind", ["file", "fifo", "dangling link"])
def test_what_is_no_directory_is_no_storage_root(tmp_path, kind):
    """Whatever stands where a storage root is to be, the error is typed and nothing hangs."""
    path = tmp_path / "connect"
    {"file": path.touch, "fifo": lambda: os.mkfifo(path), "dangling link": lambda: path.symlink_to("x")}[
        kind
    ]()
    with pytest.raises(AccessDenied, match="cannot be made"):
        environment.make_storage_root(str(tmp_path), "connect")


@pytest.mark.parametrize("name", [".gitignore"])
def test_nothing_is_written_through_a_planted_link(tmp_path, name, monkeypatch):
    """A link that appears in a new root just before we write there is not followed."""
    root, victim = tmp_path / ".lit", tmp_path / "victim"
    victim.write_text("kept")
    listed = os.listdir

    def list_and_plant(path):
        names = listed(path)
        (root / name).symlink_to(victim)
        return names

    root.mkdir()
    monkeypatch.setattr(os, "listdir", list_and_plant)
    environment.make_root(str(root))
    assert victim.read_text() == "kept"


MACHINE_IDS = {
    "empty": b"",
    "spaces": b" \n ",
    "zeros": b"\0" * 100,
    "an escape": b"\x1b[2Jid",
    "a path": b"../../etc",
    "two lines": b"a\nb",
    "endless": b"x" * 10_000_000,
}


@pytest.mark.parametrize("content", MACHINE_IDS.values(), ids=MACHINE_IDS)
def test_an_id_of_a_machine_is_one(tmp_path, content):
    """A planted file of the machine's id that holds none is a typed error that names it, printable."""
    (tmp_path / "machine-id").write_bytes(content)
    with pytest.raises(StorageError, match="holds no machine id") as raised:
        machine_id(str(tmp_path))
    assert str(raised.value).isprintable()


def test_an_id_that_is_no_text_has_one(tmp_path):
    """Bytes that are no UTF-8 make an id of printable characters, the same each time."""
    (tmp_path / "machine-id").write_bytes(b"id\xff\xfe")
    assert machine_id(str(tmp_path)) == machine_id(str(tmp_path)) == "id\ufffd\ufffd"


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "device"])
def test_a_file_of_an_id_that_is_none_does_not_hang(tmp_path, kind):
    """A FIFO, a device or whatever else stands there is an error at once."""
    path = tmp_path / "machine-id"
    if kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        make = {"fifo": lambda: os.mkfifo(path), "directory": path.mkdir}
        make.get(kind, lambda: path.symlink_to("/dev/zero"))()
    with pytest.raises((StorageError, OSError)):
        machine_id(str(tmp_path))


@pytest.mark.parametrize("value", ["a/b", "../x", "a\nb", "x" * 129, "\x1b[2J", "\udc80"], ids=ascii)
def test_an_id_of_the_environment_is_one(tmp_path, monkeypatch, value):
    """LIT_STORAGE_MACHINE_ID that cannot be an id is refused, and the error names the variable."""
    monkeypatch.setenv("LIT_STORAGE_MACHINE_ID", value)
    with pytest.raises(StorageError, match="LIT_STORAGE_MACHINE_ID is no id"):
        machine_id(str(tmp_path))


JOIN = """
import os, sys
os.umask(0)
import lit_storage
with lit_storage.join("trainer") as session:
    os.makedirs("made", exist_ok=True)
    open(session.storage_root + "/a", "w").close()
    session.declare(session.storage_root + "/a")
    session.publish()
"""


@pytest.mark.slow
def test_what_a_work_makes_nobody_else_can_write(tmp_path):
    """Also with the umask 000 no file or directory of a root can be written by every user."""
    environ = os.environ | {
        "LIT_STORAGE_ROOT": str(tmp_path / ".lit"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    subprocess.run([sys.executable, "-c", JOIN], env=environ, cwd=tmp_path, check=True, timeout=100)
    made = {}
    for directory, _, files in os.walk(tmp_path / ".lit"):
        made |= {
            path: mode_of(path) for path in [directory, *(os.path.join(directory, file) for file in files)]
        }
    open_to_all = [path for path, mode in made.items() if mode & 0o002 and not path.endswith("/trainer/a")]
    assert (open_to_all, made[f"{tmp_path}/.lit/token"]) == ([], 0o600)


@pytest.fixture
def plant(tmp_path):
    """Leave a staging beside a target, as a tree of an origin could hold one: complete, of our own user."""

    def leave(name=".lit-staging-1.filling", owner="abandoned", mode=0o700, **files):
        staging = tmp_path / name
        staging.mkdir(parents=True)
        (staging / "owner").write_text(owner)
        for file, text in files.items():
            (staging / file).write_text(text)
        staging.chmod(mode)
        return staging

    return leave


COPIED = {"from": "lit://@good/model"}


def sealed(*lines):
    texts = [json.dumps(line) for line in ({"format": 1, "copied": COPIED}, *lines)]
    return "".join(f"{text} {xxhash.xxh3_64_hexdigest(text.encode())}\n" for text in texts)


def journal_of(data, size=None):
    digest = xxhash.xxh3_128_hexdigest(data)
    return sealed(["file", 0, "", size or len(data), b"v".hex()], ["run", 0, 0, len(data), digest])


def area_beside(tmp_path):
    with choose(str(tmp_path / "target")) as destination:
        return area_for(destination, confined=False, copied=COPIED)


def test_a_staging_in_a_tree_of_an_origin_is_not_gone_on_from(plant, tmp_path):
    """What an origin sent, and looks like a copy that got stuck, gives no byte to one of another origin."""
    evil = os.urandom(1000)
    staging = plant(journal=journal_of(evil))
    (staging / "tree").write_bytes(evil)
    assert area_beside(tmp_path).adopt(3600) is None


def test_a_staging_of_ours_is_gone_on_from(plant, tmp_path):
    """The same with the bit that no entry of an origin has, which our own stagings have, is gone on from."""
    data = os.urandom(1000)
    staging = plant(journal=journal_of(data), mode=0o1700)
    (staging / "tree").write_bytes(data)
    (staging / "tree").chmod(0o600)
    adopted = area_beside(tmp_path).adopt(3600)
    assert [noted.size for noted in adopted.journal.held] == [1000]
    adopted.remove()


@pytest.mark.parametrize("state", ["filling", "swapping", "discarding", "making"])
def test_a_staging_in_a_tree_of_an_origin_stays_what_it_is(plant, tmp_path, state):
    """It is neither put back nor removed: it is a directory of the tree like any other."""
    staging = plant(f".lit-staging-1.{state}", old="evil", swap=json.dumps({"path": "target"}))
    area_beside(tmp_path).discard_dead(-1, keep=False)
    assert sorted(os.listdir(staging)) == ["old", "owner", "swap"]
    assert not os.path.lexists(tmp_path / "target")


def test_a_staging_of_ours_has_the_bit(tmp_path):
    """What a get makes beside its target can be told from what an origin can send."""
    staging = area_beside(tmp_path).create()
    assert os.fstat(staging.fd).st_mode & 0o7777 == 0o1700
    staging.remove()


SWAPS = [
    "",
    "{",
    "[]",
    "null",
    "17",
    '"x"',
    "{}",
    '{"path": 1}',
    '{"path": null}',
    '{"path": ""}',
    '{"path": "/etc/planted"}',
    '{"path": "../outside"}',
    '{"path": "../../outside"}',
    '{"path": "a/../../outside"}',
    '{"path": ".."}',
    '{"path": "out/planted"}',
    '{"path": "abs/planted"}',
    '{"path": "a\\u0000b"}',
    '{"path": "' + "x" * 5000 + '"}',
    "[" * 100_000,
]


@pytest.mark.parametrize("swap", SWAPS, ids=lambda swap: ascii(swap)[:30])
@pytest.mark.parametrize("confined", [True, False])
def test_a_note_of_a_swap_puts_nothing_elsewhere(plant, tmp_path, swap, confined):
    """A note that names what lies outside puts nothing there, and stops no get."""
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    inside.mkdir()
    outside.mkdir()
    (inside / "out").symlink_to("../outside")
    (inside / "abs").symlink_to(outside)
    name = ".staging/1.swapping" if confined else ".lit-staging-1.swapping"
    plant(f"inside/{name}", old="evil", swap=swap, mode=0o1700)
    target = str(inside / "@trainer" / "x") if confined else str(inside / "x")
    with confine(str(inside), "trainer", target) if confined else choose(target) as destination:
        area_for(destination, confined=confined).discard_dead(-1, keep=False)
    assert os.listdir(outside) == []
    assert not os.path.lexists(tmp_path / "planted")


OWNERS = [
    "{",
    "[" * 100_000,
    "null",
    json.dumps({"pid": 0}),
    *(json.dumps(json.loads(this_process()) | {"pid": pid}) for pid in (0, -1, 1, 10**30, -(2**31), True)),
    json.dumps(json.loads(this_process()) | {"boot_id": "../../x", "pid_namespace": "\x1b"}),
]


@pytest.mark.parametrize("owner", OWNERS, ids=range(len(OWNERS)))
def test_no_process_of_a_file_is_sent_a_signal(plant, tmp_path, owner, monkeypatch):
    """Whatever pid the owner's file of a staging names, nobody is sent more than the signal 0."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(os, "killpg", lambda pid, number: sent.append((pid, number)))
    plant(owner=owner, mode=0o1700)
    area_beside(tmp_path).discard_dead(3600)
    assert all(number == 0 for _, number in sent)


@pytest.mark.parametrize("text", ["zz", "0" * 31, "\u0660" * 32, "-1"])
def test_a_journal_that_lies_ends_no_get(plant, tmp_path, text):
    """A journal whose seals are right and whose digests are none is of no use, and raises nothing."""
    lines = [["file", 0, "a", 1000, text], ["run", 0, 0, 10, text], ["run", 0, 2**70, 2**71, "00"]]
    plant(journal=sealed(*lines), mode=0o1700)
    assert area_beside(tmp_path).adopt(3600) is None


@pytest.mark.parametrize("target", ["/etc", "somewhere", "."])
def test_staging_through_a_link_is_refused(tmp_path, target):
    """Where R/.staging is a link, nothing is staged, and nothing removed, where it leads."""
    (tmp_path / "somewhere").mkdir()
    (tmp_path / ".staging").symlink_to(target)
    destination = confine(str(tmp_path), "trainer", str(tmp_path / "@trainer"))
    with destination, pytest.raises(AccessDenied, match="cannot be staged"):
        area_for(destination, confined=True)


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
def test_an_object_that_is_no_file_is_damage(tmp_path, kind):
    """What stands where a store's object should be, and is none, is a typed error at once, and not read."""
    path = tmp_path / "data" / "x"
    path.parent.mkdir()
    make = {
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "link": lambda: path.symlink_to("/etc/passwd"),
    }
    make[kind]()
    with pytest.raises((IntegrityError, OSError)):
        LocalObjects(str(tmp_path)).read("data/x", 0, 10)
    assert all(found.key != "data/x" for found in LocalObjects(str(tmp_path)).list("data"))


def test_who_holds_a_name_is_this_very_process():
    """The identity of a process cannot be that of a later one with its pid."""
    mine = ProcessIdentity.current()
    assert (
        ProcessIdentity(mine.pid, mine.start_time + 1, mine.boot_id, mine.pid_namespace).is_alive() is False
    )
