"""A path that was declared, or shared by name, and then replaced by a link: whose links count."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import grpc
import pytest

from lit_storage_proto.errors import PathNotFound
from lit_storage_proto.limits import MIB
from lit_storage_proto.v1 import path_storage_pb2_grpc as pb_grpc
from lit_storage_server.daemon.named_shares import NamedShares, NamedSource, check_shares
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
from tests.hostile.origin.attacker import ASK, CANARY, Swapper, ask

USER, OTHER = 65534, 4242
OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def base():
    """A directory that everybody may write, and a secret where only the server's user may enter."""
    path = Path(tempfile.mkdtemp(prefix="lit-storage-test-"))
    path.chmod(0o755)
    (path / "R").mkdir()
    (path / "public").mkdir()
    (path / "private").mkdir()
    (path / "private" / "file").write_bytes(CANARY)
    for name in ("R", "private", "private/file"):
        os.chown(path / name, USER, USER)
    (path / "private").chmod(0o700)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def stub(base, serve_as):
    """A server of user 65534 that declared three paths in the public directory, which are not there yet."""
    return serve_as(USER, base / "R", *(base / "public" / name for name in ("data", "sub/data", "file")))


@pytest.fixture
def public(base):
    """The public directory, empty and not sticky."""
    path = base / "public"
    shutil.rmtree(path)
    path.mkdir()
    os.chmod(path, 0o777)
    return path


def link(path, target, user):
    path.symlink_to(target)
    os.chown(path, user, user, follow_symlinks=False)


MODES = pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775], ids=["public", "sticky", "group"])


@pytest.mark.root
@MODES
@pytest.mark.parametrize("rpc", ASK)
def test_a_link_of_another_user_at_a_declared_path_is_not_followed(base, public, stub, rpc, mode):
    """Who may write into the directory of a declared path cannot have the Work hand out its own secrets."""
    public.chmod(mode)
    link(public / "data", base / "private", OTHER)
    link(public / "file", base / "private" / "file", OTHER)
    link(public / "sub", base, OTHER)
    link(base / "data", base / "private", OTHER) if not (base / "data").is_symlink() else None
    for path in ("data", "data/file", "file", "sub/data", "sub/data/file"):
        came, code = ask(stub, rpc, str(public / path))
        assert CANARY not in came
        assert code in (DENIED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.root
@pytest.mark.parametrize("chain", [["own"], ["own", "own"], ["own", "other"]])
def test_each_link_of_a_chain_is_looked_at(base, public, stub, chain):
    """One that the Work relied on may lead to another one that it did not."""
    users = {"own": USER, "other": OTHER}
    names = ["data", *(f"link-{number}" for number in range(1, len(chain)))]
    for name, after, kind in zip(names, [*names[1:], base / "private"], chain, strict=True):
        link(public / name, after, users[kind])
    code = ask(stub, "stream", str(public / "data" / "file"))[1]
    assert code is (DENIED if "other" in chain else OK)


@pytest.mark.root
@pytest.mark.parametrize(
    ("user", "owner"), [(USER, 0), (0, OTHER), (OTHER, OTHER)], ids=["own", "root", "owner"]
)
def test_links_that_a_work_may_rely_on_are_followed(base, public, stub, user, owner):
    """Its own ones, those of root, and those of whom the directory is: "latest" stays of use."""
    os.chown(public, owner, owner)
    link(public / "data", base / "private", user)
    came, code = ask(stub, "stream", str(public / "data" / "file"))
    assert (code, CANARY in came) == (OK, True)


def test_links_of_a_declared_path(tmp_path):
    """Relative, absolute, with "..", through each other, to itself: as the system takes them."""
    (tmp_path / "R").mkdir()
    (tmp_path / "real" / "data").mkdir(parents=True)
    (tmp_path / "real" / "data" / "x").write_text("x")
    links = {
        "a": "real/data",
        "b": f"{tmp_path}/real/data",
        "c": "real/../real/./data/",
        "d": "a",
        "e": "up/data",
    }
    for name, target in {**links, "up": "real", "loop": "loop"}.items():
        (tmp_path / name).symlink_to(target)
    shares = Shares(str(tmp_path / "R"), name="train")
    for name in [*links, "loop"]:
        shares.declare(str(tmp_path / name))
    for name in links:
        shares.open(f"{tmp_path}/{name}/x").close()
    with pytest.raises(PathNotFound):
        shares.open(f"{tmp_path}/loop")
    shares.close()


def test_a_storage_root_is_no_link(tmp_path):
    """It was resolved before; one that became a link is not served from."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "R").symlink_to("elsewhere")
    with pytest.raises(NotADirectoryError):
        Shares(str(tmp_path / "R"), name="train")


@contextlib.contextmanager
def serving(base):
    """A daemon that shares `data` by that name; beside it is what it does not share."""
    for directory, content in (("data", b"innocent"), ("secret", CANARY)):
        (base / "above" / directory / "sub").mkdir(parents=True)
        (base / "above" / directory / "file").write_bytes(content)
        (base / "above" / directory / "sub" / "large").write_bytes(content * (MIB // 8))
    checked = check_shares({"data": str(base / "above" / "data")})
    server = PeerServer("store", "i1", NamedSource(NamedShares(checked, name="store"), MIB))
    channel = grpc.insecure_channel(server.start(), options=[("grpc.use_local_subchannel_pool", 1)])
    try:
        yield pb_grpc.PathStorageStub(channel)
    finally:
        channel.close()
        server.stop()


@pytest.fixture(scope="module")
def above(tmp_path_factory):
    """Where the share of one daemon, for all tests of this module, lies."""
    return tmp_path_factory.mktemp("daemon") / "above"


@pytest.fixture(scope="module")
def daemon(above):
    with serving(above.parent) as stub:
        yield stub


SPELLINGS = [
    "data/../secret/file",
    "../secret/file",
    "secret/file",
    "data/sub/../../secret/file",
    "{above}/secret/file",
    "{above}/data/file",
    "data/{above}/secret/file",
    "data//sub",
    "data/",
    "/data/file",
    "./data",
    "data\0",
    "DATA/file",
    "data ",
    "@store/data",
    "@data/file",
    "@data/../etc/passwd",
    ".staging",
    b"data/\xff/../../secret/file",
    "data/" + "../" * 40 + "etc/passwd",
]


@pytest.mark.parametrize("rpc", ASK)
def test_no_spelling_leads_out_of_a_named_share(daemon, above, rpc):
    """What a daemon shares begins with the name of a share, in each rpc."""
    faults = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS)
    for spelling in SPELLINGS:
        path = spelling if isinstance(spelling, bytes) else spelling.replace("{above}", str(above))
        came, code = ask(daemon, rpc, path)
        assert code not in (OK, *faults), spelling
        assert CANARY not in came, spelling


@pytest.mark.parametrize("text", ["{above}/secret", "../secret", "../../above/secret", "/", "/proc/self/cwd"])
@pytest.mark.parametrize("rpc", ["list-all", "stream-packs", "stream-follow", "range"])
def test_a_link_in_a_named_share_stays_in_it(daemon, above, rpc, text):
    """As in what a Work shares."""
    (above / "data" / "link").symlink_to(text.format(above=above))
    for path in ("data", "data/link", "data/link/file", f"data/link{above}/secret/file"):
        assert CANARY not in ask(daemon, rpc, path)[0]
    (above / "data" / "link").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["above/data", "above", "above/data/sub"])
def test_a_named_share_that_is_swapped_for_a_link(tmp_path, what, tally):
    """The share itself, what it lies in and what lies in it, all the time, after the daemon has begun."""
    secret, trap, link = tmp_path / "above" / "secret", tmp_path / "trap", tmp_path / "link"
    with serving(tmp_path) as daemon:
        shutil.copytree(secret, tmp_path / "secret")
        trap.mkdir()
        (trap / "data").symlink_to(tmp_path / "secret")
        link.symlink_to({"above/data": secret, "above": trap, "above/data/sub": tmp_path / "secret"}[what])
        deadline = time.monotonic() + 1
        with Swapper(tmp_path / what, link) as swapper:
            while time.monotonic() < deadline:
                for rpc in ("stat", "list-all", "stream-packs", "stream-settle", "stream-follow", "range"):
                    for path in ("data", "data/file", "data/sub/large"):
                        assert CANARY not in ask(daemon, rpc, path)[0]
        tally["swaps of a parent"] += swapper.swaps
