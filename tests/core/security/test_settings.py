import os
import subprocess
import sys

import pytest

from lit_storage_core.security.settings import Security, root_token
from lit_storage_proto.errors import AccessDenied


def test_repr_hides_token():
    """The token is in no text that a log could catch."""
    security = Security(token="s3cret")
    assert "s3cret" not in f"{security!r} {security}"


def test_token_travels_as_bearer():
    """A token becomes the authorization header, and without one no header is sent."""
    assert Security(token="abc").metadata() == (("authorization", "Bearer abc"),)
    assert Security().metadata() == ()


def test_tls_follows_from_files():
    """A certificate or an authority means TLS; a token alone does not."""
    assert Security(certificate="c", key="k").tls
    assert Security(ca="a").tls
    assert not Security(token="t").tls


@pytest.mark.parametrize("token", ["", " ", "two\nlines", "ümlaut"])
def test_token_that_no_header_can_hold(token):
    """A token that is empty or not printable ASCII is refused, and not shown."""
    with pytest.raises(AccessDenied) as caught:
        Security(token=token)
    assert not token.strip() or token not in str(caught.value)


def test_certificate_without_key():
    """A certificate without its key is refused at once."""
    with pytest.raises(AccessDenied, match="key"):
        Security(certificate="c")


def test_unreadable_authority_is_named(tmp_path):
    """A TLS file that cannot be read is named."""
    with pytest.raises(AccessDenied, match="ca.pem"):
        Security(ca=str(tmp_path / "ca.pem")).channel_credentials()


def test_root_token_is_kept(tmp_path):
    """The token is made once, readable by its owner alone, and leaves no temporary behind."""
    root = str(tmp_path / "root")
    token = root_token(root)
    assert root_token(root) == token
    assert os.stat(f"{root}/token").st_mode & 0o777 == 0o600
    assert os.listdir(root) == ["token"]


@pytest.mark.slow
def test_root_token_has_one_winner(tmp_path):
    """Processes that come at once all return the same token."""
    code = (
        "import sys; from lit_storage_core.security.settings import root_token; "
        "print(root_token(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(8)]
    tokens = {process.communicate()[0] for process in started}
    assert len(tokens) == 1
    assert len(tokens.pop()) > 32


def test_root_token_that_cannot_be_read(tmp_path):
    """A token that cannot be read is an AccessDenied that names the file."""
    (tmp_path / "token").mkdir()
    with pytest.raises(AccessDenied, match="token"):
        root_token(str(tmp_path))


def test_empty_root_token(tmp_path):
    """An empty token file is not taken for a token."""
    (tmp_path / "token").touch()
    with pytest.raises(AccessDenied, match="empty"):
        root_token(str(tmp_path))
