"""``lit-storage certs``: an authority and certificates that hold, and files that nobody else gets."""

import datetime
import json
import os
import signal
import ssl
import subprocess
import sys
import sysconfig
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from typer.testing import CliRunner

from lit_storage.cli import certificates
from lit_storage.cli.main import main
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import AccessDenied, InvalidConfig, InvalidURI, PathExists, PathNotFound
from lit_storage_proto.uri import Location

TOOL = os.path.join(sysconfig.get_path("scripts"), "lit-storage")


@pytest.fixture
def certs(tmp_path, monkeypatch):
    """Run ``lit-storage certs``, and return exit code, what it printed and what it complained of."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        done = CliRunner().invoke(main, ["certs", *arguments])
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.fixture
def made(tmp_path):
    """The directory of an authority."""
    certificates.init(str(tmp_path / "certs"), days=30)
    return str(tmp_path / "certs")


def loaded(path):
    with open(path, "rb") as file:
        return x509.load_pem_x509_certificate(file.read())


def mode(path):
    return os.stat(path).st_mode & 0o777


def test_two_commands_make_mutual_tls(certs, serve, ask, tmp_path):
    """What an operator types, and both sides speak."""
    assert certs("init")[0] == 0
    for name in ("trainer", "deploy"):
        assert certs("issue", name)[0] == 0
    sides = [
        Security(None, *(f"{tmp_path}/certs/issued/{name}/{file}.pem" for file in ("cert", "key", "ca")))
        for name in ("trainer", "deploy")
    ]
    assert ask(serve("trainer", sides[0]), sides[1]).exists(Location("trainer", "small"))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027])
def test_keys_are_for_their_owner_alone(tmp_path, umask):
    """Also the directories, whatever the umask is."""
    before = os.umask(umask)
    try:
        certificates.init(str(tmp_path / "certs"), days=1)
        certificates.issue(str(tmp_path / "certs"), "trainer", days=1)
    finally:
        os.umask(before)
    private = [
        "certs",
        "certs/ca.key",
        "certs/issued",
        "certs/issued/trainer",
        "certs/issued/trainer/key.pem",
    ]
    assert [mode(tmp_path / path) & 0o077 for path in private] == [0] * 5


def test_an_authority_is_never_written_over(certs, tmp_path):
    """Not even by who asks twice; there is no option for it."""
    certs("init")
    files = [tmp_path / "certs" / "ca.key", tmp_path / "certs" / "ca.pem"]
    before = [file.read_bytes() for file in files]
    code, _, said = certs("init")
    assert (code, "never written over" in said) == (1, True)
    assert before == [file.read_bytes() for file in files]


@pytest.mark.slow
def test_one_of_many_that_come_at_once_makes_the_authority(tmp_path):
    """And its certificate is that of its key."""
    command = [TOOL, "certs", "init", "--dir", str(tmp_path / "certs")]
    started = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(5)
    ]
    codes = [process.wait(100) for process in started]
    assert 0 in codes
    assert certificates.issue(str(tmp_path / "certs"), "trainer", days=1)
    assert sorted(os.listdir(tmp_path / "certs")) == ["ca.key", "ca.pem", "issued"]


def test_what_a_kill_leaves_is_made_whole(tmp_path, made):
    """A key without its certificate is taken up by the next init, and not thrown away."""
    key = (tmp_path / "certs" / "ca.key").read_bytes()
    os.unlink(f"{made}/ca.pem")
    certificates.init(made, days=1)
    assert (tmp_path / "certs" / "ca.key").read_bytes() == key
    assert certificates.issue(made, "trainer", days=1)


@pytest.mark.parametrize("round_", range(8))
def test_a_kill_leaves_no_half_file(tmp_path, made, round_):
    """Whenever a renewal is killed, each file is a whole one, and nobody else can read a key."""
    certificates.issue(made, "trainer", days=1)
    process = subprocess.Popen([TOOL, "certs", "issue", "trainer", "--dir", made], stdout=subprocess.DEVNULL)
    time.sleep(0.2 + 0.03 * round_)
    process.send_signal(signal.SIGKILL)
    process.wait()
    where = f"{made}/issued/trainer"
    loaded(f"{where}/cert.pem")
    with open(f"{where}/key.pem", "rb") as key:
        serialization.load_pem_private_key(key.read(), None)
    assert not any(mode(f"{where}/{name}") & 0o077 for name in os.listdir(where) if "key" in name)


def test_what_a_certificate_says(made):
    """Names and addresses, both uses, no authority, a key of P-256, and a number of its own."""
    issued = certificates.issue(made, "workers.0", hosts=["gpu1.example", "10.0.0.1", "::1"], days=7)
    certificate = loaded(f"{issued.directory}/cert.pem")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["workers.0", "gpu1.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.public_key().curve.name == "secp256r1"
    assert certificate.serial_number != loaded(f"{made}/ca.pem").serial_number


def test_what_an_authority_says(made):
    """It signs certificates, and no further authority."""
    certificate = loaded(f"{made}/ca.pem")
    constraints = certificate.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)


@pytest.mark.parametrize("days", [1, 90, 1000])
def test_a_certificate_lasts_as_long_as_is_said_and_no_longer_than_its_authority(made, days):
    """The authority of this test is good for 30 days. Clocks may differ by minutes."""
    certificate = loaded(f"{certificates.issue(made, 'trainer', days=days).directory}/cert.pem")
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left <= datetime.timedelta(days=min(days, 30))
    assert left > datetime.timedelta(days=min(days, 30)) - datetime.timedelta(hours=1)
    assert certificate.not_valid_before_utc <= datetime.datetime.now(datetime.UTC)


def test_they_hold_to_the_letter(made):
    """Where the standard library checks as strictly as RFC 5280 says, which it does from Python 3.13 on."""
    security = issued_security(made, "trainer")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(security.certificate, security.key)
    client = security.client_context()
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="trainer"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert ends[0].getpeercert()["subjectAltName"] == (("DNS", "trainer"),)


def issued_security(directory, name):
    where = certificates.issue(directory, name, days=1).directory
    return Security(None, f"{where}/cert.pem", f"{where}/key.pem", f"{where}/ca.pem")


def test_to_issue_again_renews(made):
    """Another key and another certificate are in the same place."""
    before = issued_security(made, "trainer")
    first = loaded(before.certificate)
    issued_security(made, "trainer")
    assert loaded(before.certificate).serial_number != first.serial_number
    assert loaded(before.certificate).public_key() != first.public_key()
    assert sorted(os.listdir(os.path.dirname(before.certificate))) == ["ca.pem", "cert.pem", "key.pem"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "../x",
        "a b",
        "*",
        "*.x",
        "a..b",
        "-a",
        "x" * 129,
        "ü",
        "a\nb",
        "a\0b",
        "@x",
        "a:b",
    ],
)
def test_what_is_no_name_of_a_work(made, name):
    """No certificate is issued for it, and nothing is written anywhere."""
    with pytest.raises(InvalidURI):
        certificates.issue(made, name, days=1)
    assert not os.path.exists(f"{made}/issued")


@pytest.mark.parametrize("name", ["10.0.0.1", "1.2.3.4.5", "0.0.0.0", "999.999.999.999"])
def test_a_name_that_is_taken_for_an_address(made, name):
    """TLS would look for an address in the certificate, and never find the name."""
    with pytest.raises(InvalidURI, match="address"):
        certificates.issue(made, name, days=1)


@pytest.mark.parametrize(
    "host",
    ["", "*", "*.example", "a b", "a/b", "a..b", ".a", "a.", "a,b", "DNS:x", "ü", "a\nb", "x" * 254],
)
def test_what_is_no_host(made, host):
    """Neither a wildcard nor anything that means more than one name gets into a certificate."""
    with pytest.raises(InvalidURI, match="neither the name nor the address"):
        certificates.issue(made, "trainer", hosts=[host], days=1)


@pytest.mark.parametrize("second", [("Trainer", []), ("mallory", ["trainer"]), ("x", ["TRAINER"])])
def test_a_certificate_that_would_be_good_for_another_work(made, second):
    """TLS takes names that differ in case for one: the second one is not issued."""
    certificates.issue(made, "trainer", days=1)
    with pytest.raises(PathExists, match="trainer"):
        certificates.issue(made, second[0], hosts=second[1], days=1)


def test_what_is_good_for_another_one_too_can_be_renewed(made):
    """A name that was given to it before that had a certificate of its own stays in it."""
    certificates.issue(made, "app", hosts=["trainer"], days=1)
    certificates.issue(made, "trainer", days=1)
    assert certificates.issue(made, "app", hosts=["trainer"], days=2).names == ("app", "trainer")


@pytest.mark.parametrize("name", ["ca", "ca.pem", "ca.key", "issued", "cert.pem"])
def test_names_that_are_those_of_files(made, name):
    """A Work may be called so, and the authority stays as it was."""
    before = loaded(f"{made}/ca.pem")
    certificates.issue(made, name, days=1)
    assert loaded(f"{made}/ca.pem") == before
    assert sorted(os.listdir(made)) == ["ca.key", "ca.pem", "issued"]


def test_without_an_authority(tmp_path):
    """The way out is said, and nothing is made."""
    with pytest.raises(PathNotFound, match="certs init"):
        certificates.issue(str(tmp_path / "certs"), "trainer", days=1)
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("bits", [0o022, 0o002, 0o020])
def test_a_directory_that_others_write(made, bits):
    """They could put an authority of their own there."""
    os.chmod(made, 0o700 | bits)
    with pytest.raises(AccessDenied, match="others can write"):
        certificates.issue(made, "trainer", days=1)


def test_a_key_of_an_authority_that_others_may_read(made):
    """It signs nothing any more."""
    os.chmod(f"{made}/ca.key", 0o644)
    with pytest.raises(AccessDenied, match="by others"):
        certificates.issue(made, "trainer", days=1)


@pytest.mark.parametrize("file", ["ca.key", "ca.pem"])
@pytest.mark.parametrize("content", [b"", b"x", b"-----BEGIN CERTIFICATE-----\n"])
def test_an_authority_that_is_damaged(made, file, content):
    """It is a typed error that names the file."""
    with open(f"{made}/{file}", "wb") as opened:
        opened.write(content)
    with pytest.raises(AccessDenied, match=file):
        certificates.issue(made, "trainer", days=1)


def test_an_authority_of_another_key(made, tmp_path):
    """A key and a certificate that do not go together sign nothing."""
    certificates.init(str(tmp_path / "other"), days=1)
    os.replace(tmp_path / "other" / "ca.key", f"{made}/ca.key")
    with pytest.raises(AccessDenied, match="is not the certificate of"):
        certificates.issue(made, "trainer", days=1)


def test_a_link_in_the_place_of_a_key_is_replaced(made, tmp_path):
    """A key is not written through it."""
    certificates.issue(made, "trainer", days=1)
    key = f"{made}/issued/trainer/key.pem"
    os.unlink(key)
    os.symlink(tmp_path / "elsewhere", key)
    certificates.issue(made, "trainer", days=1)
    assert not os.path.islink(key)
    assert not (tmp_path / "elsewhere").exists()


def test_json(certs, tmp_path):
    """Paths, names and the end, for programs; an error is JSON too."""
    assert set(json.loads(certs("init", "--json")[1])) == {"ca", "key", "not_after"}
    said = json.loads(certs("issue", "trainer", "--host", "10.0.0.1", "--json")[1])
    assert said["names"] == ["trainer", "10.0.0.1"]
    assert said["key"] == str(tmp_path / "certs" / "issued" / "trainer" / "key.pem")
    code, _, text = certs("init", "--json")
    assert (code, json.loads(text)["error"]) == (1, "PathExists")


@pytest.mark.parametrize("arguments", [["init"], ["issue", "trainer"], ["issue", "trainer", "--json"]])
def test_no_key_is_printed(certs, made, arguments):
    """Neither by what succeeds nor by what fails."""
    _, out, said = certs(*arguments)
    assert "PRIVATE" not in out + said


@pytest.mark.parametrize("days", ["0", "-1", "100000", "x", "1.5"])
def test_lifetimes_out_of_reach(certs, made, days):
    """Wrong usage, and nothing is made."""
    assert certs("issue", "trainer", "--days", days)[0] == 2
    assert not os.path.exists(f"{made}/issued")


@pytest.mark.slow
@pytest.mark.parametrize("command", [["init"], ["issue", "trainer"]])
def test_without_the_library(tmp_path, command):
    """One sentence says what to install; `--help` and all else work without it."""
    code = "import sys; sys.modules['cryptography'] = None; from lit_storage.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "certs", *command], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "lit-storage[certs]" in done.stderr
    assert os.listdir(tmp_path) == []


def test_the_library_names_days_that_cannot_be(made):
    """As the command line does."""
    with pytest.raises(InvalidConfig, match="days"):
        certificates.issue(made, "trainer", days=0)
