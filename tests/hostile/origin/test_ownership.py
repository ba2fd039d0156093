"""A Work serves only what it could write itself, whoever put what into its share.

The server runs as user 65534, in a process of its own; its share holds files of others.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import grpc
import pytest

from tests.hostile.origin import attacker
from tests.hostile.origin.attacker import ASK, CANARY

pytestmark = pytest.mark.root

NOBODY, OTHER = 65534, 4242
READING = [rpc for rpc in ASK if rpc.startswith(("stream", "range"))]
_numbers = itertools.count()
OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def base():
    """What is shared by all servers of this module, and beside it a directory that is not."""
    path = Path(tempfile.mkdtemp(prefix="lit-storage-test-"))
    path.chmod(0o755)
    for name in ("share", "beside"):
        (path / name).mkdir()
        os.chown(path / name, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def share(base):
    """A directory of user 65534 in what is shared."""
    path = base / "share" / f"test-{next(_numbers)}"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


@pytest.fixture
def beside(base):
    """A directory that is not shared."""
    path = base / "beside" / f"test-{next(_numbers)}"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def served(base, serve_as):
    """One server of each user, started when it is first needed."""
    stubs = {}

    def stub_of(user):
        if user not in stubs:
            stubs[user] = serve_as(user, base / "share")
        return stubs[user]

    return stub_of


@pytest.fixture
def ask(share, served):
    """Ask a server for a path in the directory of this test."""

    def asked(rpc, path, user=NOBODY):
        return attacker.ask(served(user), rpc, f"{share.name}/{path}" if path else share.name)

    return asked


def put(path, *, user=0, group=0, mode=0o644):
    path.write_bytes(CANARY)
    os.chown(path, user, group)
    os.chmod(path, mode)
    return path


# Of files that user 65534 can read and cannot write.
READABLE = {
    "of root": {},
    "of root, read-only": {"mode": 0o444},
    "of another user": {"user": OTHER, "group": OTHER},
    "of a group that may read": {"user": OTHER, "group": NOBODY, "mode": 0o640},
    "of a group that may only execute": {"user": OTHER, "group": NOBODY, "mode": 0o615},
    "that others may execute": {"mode": 0o755},
    "with the set-user-id bit": {"mode": 0o4755},
    "with the set-group-id bit": {"group": NOBODY, "mode": 0o2755},
}
# Of files that it can write.
WRITABLE = {
    "its own": {"user": NOBODY, "mode": 0o600},
    "its own, read-only": {"user": NOBODY, "mode": 0o400},
    "that everybody may write": {"mode": 0o666},
    "that its group may write": {"user": OTHER, "group": NOBODY, "mode": 0o660},
}


@pytest.mark.parametrize("kind", READABLE)
def test_what_it_can_only_read_is_not_served(share, ask, kind):
    """Of no rpc that sends bytes, by itself or in its directory."""
    put(share / "file", **READABLE[kind])
    for rpc in READING:
        assert ask(rpc, "file") == (ask(rpc, "none")[0], DENIED)
    for rpc in ("stream", "stream-packs", "stream-settle", "stream-follow"):
        came, code = ask(rpc, "")
        assert CANARY not in came
        assert code is DENIED


@pytest.mark.parametrize("kind", WRITABLE)
def test_what_it_could_write_is_served(share, ask, kind):
    """Else the test above would prove nothing."""
    put(share / "file", **WRITABLE[kind])
    for rpc in READING:
        came, code = ask(rpc, "file" if rpc != "stream-packs" else "")
        assert code is OK
        assert (CANARY in came) or rpc == "stream-held"


@pytest.fixture
def unprotected_hard_links():
    """The system's default lets nobody link to what he could not write; it may be switched off."""
    setting = Path("/proc/sys/fs/protected_hardlinks")
    before = setting.read_text()
    setting.write_text("0")
    yield
    setting.write_text(before)


@pytest.mark.parametrize("rpc", READING)
def test_a_hard_link_to_a_file_of_root_is_not_served(share, beside, ask, unprotected_hard_links, rpc):
    """Though anybody who may write into the share can plant one where hard links are not protected."""
    secret = put(beside / "secret")
    subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "ln", secret, share / "hard"],
        check=True,
    )
    assert ask(rpc, "hard")[1] is DENIED


@pytest.mark.parametrize("rpc", READING)
def test_a_link_to_a_readable_file_of_root_is_not_served(share, ask, rpc):
    """A link within the share leads to a file that counts as by its own path."""
    put(share / "file")
    (share / "link").symlink_to("file")
    os.chown(share / "link", NOBODY, NOBODY, follow_symlinks=False)
    assert ask(rpc, "link")[1] is DENIED


@pytest.mark.slow
@pytest.mark.parametrize("declared", ["file", "directory"])
def test_a_declared_path_grants_no_more(share, beside, serve_as, declared):
    """What a Work declares outside of its root is served by the same rule."""
    secret = put(beside / "secret")
    path = secret if declared == "file" else secret.parent
    stub = serve_as(NOBODY, share, path)
    for rpc in ("stream", "stream-packs", "range"):
        assert attacker.ask(stub, rpc, str(secret))[1] is DENIED


def test_passwd_is_not_served_even_if_declared(share, serve_as):
    """Everybody can read /etc/passwd, and no user but root could have written it."""
    stub = serve_as(NOBODY, share, "/etc/passwd")
    assert attacker.ask(stub, "stream", "/etc/passwd")[1] is DENIED


@contextlib.contextmanager
def mounted(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(arguments[-1])], check=True)


@pytest.mark.parametrize(("user", "code"), [(NOBODY, OK), (OTHER, DENIED)], ids=["own", "others"])
def test_a_read_only_mount(share, beside, ask, user, code):
    """One's own files are served from it; those that only a mode would let be written are not."""
    put(beside / "file", user=user, mode=0o666)
    (share / "mnt").mkdir()
    with mounted("--bind", beside, share / "mnt"):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(share / "mnt")], check=True)
        assert ask("stream", "mnt/file")[1] is code


def test_a_sticky_directory_changes_nothing(share, ask):
    """It is about who removes a file, not about who writes it."""
    os.chmod(share, 0o1777)
    put(share / "writable", user=OTHER, mode=0o666)
    put(share / "readable", user=OTHER, mode=0o644)
    assert (ask("stream", "writable")[1], ask("stream", "readable")[1]) == (OK, DENIED)


@pytest.mark.parametrize(("entry", "code"), [("u:65534:rw", OK), ("u:65534:r", DENIED), ("g:65534:rw", OK)])
def test_access_control_lists_count(share, ask, entry, code):
    """They say who may write, as the kernel reads them."""
    if shutil.which("setfacl") is None:
        pytest.skip("setfacl is not installed")
    subprocess.run(["setfacl", "-m", entry, put(share / "file", mode=0o600)], check=True)
    assert ask("stream", "file")[1] is code


@pytest.mark.parametrize("rpc", READING)
def test_a_file_that_changes_its_owner_meanwhile(share, ask, rpc):
    """What was served before is not served any more, by the very server that served it."""
    path = put(share / "file", user=NOBODY)
    assert ask(rpc, "file")[1] is OK
    os.chown(path, 0, 0)
    assert ask(rpc, "file")[1] is DENIED


@pytest.mark.parametrize("kind", READABLE)
def test_a_work_that_is_root_serves_all_of_its_share(share, ask, kind):
    """Root could write any file, so for root the rule refuses nothing: what lies in its share is served."""
    put(share / "file", **READABLE[kind])
    came, code = ask("stream", "file", user=0)
    assert (code, CANARY in came) == (OK, True)


@pytest.mark.parametrize("rpc", ["list", "list-all", "stream", "stream-packs", "stream-follow"])
def test_a_directory_that_it_cannot_read_is_refused(share, ask, rpc):
    """And named, rather than left out of what then looks like a whole tree."""
    (share / "closed").mkdir(mode=0o700)
    put(share / "closed" / "file")
    came, code = ask(rpc, "closed")
    assert (code, CANARY in came) == (DENIED, False)
