"""Files of secrets that others made, read, or put there: refused, with what to do."""

import dataclasses
import os
import subprocess
import sys

import pytest

from lit_storage.sessions import environment
from lit_storage_core.security.secret import read_key, read_pem, read_tokens
from lit_storage_core.security.settings import Security, root_token
from lit_storage_proto.errors import AccessDenied

NOBODY = 65534
READERS = pytest.mark.parametrize("read", [read_tokens, read_key], ids=["token", "key"])


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text("a-secret\n")
    path.chmod(0o600)
    return path


@READERS
@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_file_of_ones_own(secret, read, mode):
    """That nobody else may read is read."""
    secret.chmod(mode)
    assert read(str(secret))


@READERS
@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644, 0o666, 0o620, 0o777, 0o660])
def test_a_file_that_others_may_use(secret, read, mode):
    """Refused, since they may know it already; the sentence says so and holds no secret."""
    secret.chmod(mode)
    with pytest.raises(AccessDenied, match="by others.*chmod 600") as caught:
        read(str(secret))
    assert "a-secret" not in str(caught.value)


@pytest.mark.root
@READERS
@pytest.mark.parametrize("mode", [0o400, 0o600, 0o644])
def test_a_file_of_another_user(secret, read, mode):
    """Refused, whatever its mode is: who owns it knows it, and may change it."""
    secret.chmod(mode)
    os.chown(secret, NOBODY, NOBODY)
    with pytest.raises(AccessDenied, match="another user"):
        read(str(secret))


@pytest.mark.root
@READERS
def test_a_link_of_another_user(secret, read, tmp_path):
    """In a directory that many write, anybody may put a link to one of my files, and know its first line."""
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert read(str(link))
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(AccessDenied, match="link of another user"):
        read(str(link))


@pytest.mark.root
def test_a_file_that_root_gives_to_a_group(public_directory, as_nobody):
    """As Kubernetes and systemd hand over secrets: of root, and readable by a group."""
    path = os.path.join(public_directory, "token")
    with open(path, "w") as file:
        file.write("a-secret\n")
    os.chown(path, 0, NOBODY)
    os.chmod(path, 0o440)
    code = "print(read_tokens(sys.argv[1]) == ('a-secret',))"
    assert as_nobody("from lit_storage_core.security.secret import read_tokens", code, path) == "True"


@READERS
@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "device", "missing", "loop"])
def test_what_is_no_file(tmp_path, read, kind):
    """It is an error at once: nobody waits for who writes into a FIFO."""
    import socket

    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX) as listener:
        {
            "directory": path.mkdir,
            "fifo": lambda: os.mkfifo(path, 0o600),
            "socket": lambda: listener.bind(str(path)),
            "device": lambda: path.symlink_to("/dev/zero"),
            "missing": lambda: None,
            "loop": lambda: path.symlink_to(path),
        }[kind]()
        with pytest.raises(AccessDenied, match="cannot be used"):
            read(str(path))


@pytest.mark.parametrize("line", ["-----BEGIN OPENSSH PRIVATE KEY-----", "[default]", "a b", "#!/bin/sh -e"])
def test_a_line_that_anybody_knows_is_no_token(secret, line):
    """A file of something else is not taken for a file of tokens only since its first line can be sent."""
    secret.write_text(f"{line}\nb c\n")
    with pytest.raises(AccessDenied, match="one token"):
        read_tokens(str(secret))


@pytest.mark.parametrize("text", ["tok\n", "tok", "tok\r\n", "\n\ntok\n", " tok \n"])
def test_how_a_token_may_be_written(secret, text):
    """As editors and echo leave it."""
    secret.write_bytes(text.encode())
    assert read_tokens(str(secret)) == ("tok",)


@pytest.mark.parametrize("kind", ["certificate", "ca"])
def test_trust_that_every_user_may_change(authority, kind):
    """An authority, or a chain, that anybody could write over is refused."""
    security = authority.issue("trainer")
    path = getattr(security, kind)
    os.chmod(path, 0o666)
    try:
        with pytest.raises(AccessDenied, match="written by every user"):
            read_pem(path)
    finally:
        os.chmod(path, 0o644)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_may_read_serves_nobody(authority, serve, tmp_path, mode, monkeypatch):
    """Neither server nor client begins with it."""
    monkeypatch.setattr("lit_storage_core.security.rotating._HALF_WRITTEN_SECONDS", 0.0)
    security = authority.forge(tmp_path / "f", "trainer")
    os.chmod(security.key, mode | (0o004 if os.geteuid() == 0 else 0))
    for use in (lambda: serve("trainer", security), security.client_context, security.channel_credentials):
        with pytest.raises(AccessDenied, match="private key.*chmod 600"):
            use()


@pytest.mark.root
def test_a_token_planted_in_a_root_that_many_write(tmp_path):
    """Who comes first to <root>/token does not say what the token of others is."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "token").write_text("of-mallory")
    (root / "token").chmod(0o600)
    os.chown(root / "token", NOBODY, NOBODY)
    with pytest.raises(AccessDenied, match="another user"):
        root_token(str(root))


def test_a_token_is_not_written_through_a_link(tmp_path):
    """A link at <root>/token to nothing is not followed to make a file elsewhere."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AccessDenied):
        root_token(str(tmp_path / "root"))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_token_that_is_made_is_nobody_elses(tmp_path, umask):
    """Whatever the umask of who comes first is."""
    code = f"""
import os, sys
os.umask({umask})
from lit_storage_core.security.settings import root_token
root_token(sys.argv[1])
"""
    environment_ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment_, check=True, timeout=60)
    assert os.stat(tmp_path / "token").st_mode & 0o077 == 0


def test_a_token_and_a_file_of_tokens(tmp_path, secret, monkeypatch):
    """Which of the two counts is not guessed."""
    monkeypatch.setenv("LIT_STORAGE_TOKEN", "a")
    monkeypatch.setenv("LIT_STORAGE_TOKEN_FILE", str(secret))
    with pytest.raises(AccessDenied, match="leave out one"):
        environment.security_of(None, str(tmp_path))


def test_a_file_of_tokens_of_the_environment(tmp_path, secret, monkeypatch):
    """LIT_STORAGE_TOKEN_FILE stands in for <root>/token, and is read anew."""
    monkeypatch.setenv("LIT_STORAGE_TOKEN_FILE", str(secret))
    security = environment.security_of(None, str(tmp_path))
    assert security.tokens() == ("a-secret",)
    assert not (tmp_path / "token").exists()


def test_a_file_of_tokens_of_the_environment_that_cannot_be_used(tmp_path, monkeypatch):
    """No random token takes its place."""
    monkeypatch.setenv("LIT_STORAGE_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(AccessDenied, match="none"):
        environment.security_of(None, str(tmp_path))


def test_security_names_files_from_everywhere(secret, monkeypatch):
    """A file of tokens is found again from another working directory."""
    monkeypatch.chdir(secret.parent)
    security = Security(token_file="secret").with_absolute_paths()
    assert dataclasses.asdict(security)["token_file"] == str(secret)
