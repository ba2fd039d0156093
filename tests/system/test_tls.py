"""Works that speak mTLS: certificates of one private authority, each with the name of its Work."""

import pytest
import trustme

import lit_storage
from lit_storage import OriginUnavailable, Path, Security

ORIGIN = """
import time
import lit_storage
from lit_storage import Path
with lit_storage.join("trainer") as session:
    Path("lit://x").write_text("secret")
    print("serving", session.endpoint, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def identity(authority, tmp_path):
    """Write certificate, key and authority of a name; return their files."""

    def write(name, authority=authority):
        certificate = authority.issue_cert(name)
        files = [tmp_path / f"{name}.{kind}" for kind in ("pem", "key", "ca")]
        certificate.cert_chain_pems[0].write_to_path(files[0])
        certificate.private_key_pem.write_to_path(files[1])
        authority.cert_pem.write_to_path(files[2])
        return [str(file) for file in files]

    return write


@pytest.fixture
def trainer(program, identity, monkeypatch):
    files = identity("trainer")
    for kind, file in zip(("CERT", "KEY", "CA"), files, strict=True):
        monkeypatch.setenv(f"LIT_STORAGE_TLS_{kind}", file)
    program(ORIGIN).read_until("serving")


def connect(root, files):
    token = (root / "token").read_text().strip()
    return lit_storage.connect(root=root, security=Security(token, *files))


@pytest.mark.slow
def test_files_pass_under_mtls(trainer, root, identity, tmp_path):
    """Both sides show a certificate of the same authority, and the copy arrives."""
    with connect(root, identity("consumer")):
        Path("lit://@trainer/x").get(to=tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "secret"


@pytest.mark.slow
def test_a_certificate_of_another_authority_is_refused(trainer, root, identity, tmp_path):
    """A consumer of a strange authority gets a typed error and no byte, though its token is right."""
    with connect(root, identity("stranger", trustme.CA())), pytest.raises(OriginUnavailable, match="trainer"):
        Path("lit://@trainer/x").get(to=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_consumer_without_a_certificate_is_refused(trainer, root, identity, tmp_path):
    """To trust the authority is not enough: the origin asks who it speaks to."""
    with connect(root, [None, None, identity("consumer")[2]]), pytest.raises(OriginUnavailable):
        Path("lit://@trainer/x").get(to=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
