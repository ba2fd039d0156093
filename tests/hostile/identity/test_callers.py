"""Who may call: every lie about a token, a certificate or a protocol is refused, typed and soon."""

import dataclasses
import datetime
import socket
import ssl
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import AccessDenied, OriginUnavailable, StorageError
from lit_storage_proto.uri import Location
from lit_storage_server.rpc import auth
from tests.hostile.identity.conftest import DAY, pem

TOKEN = "the-token-0123456789"
HERE = Location("trainer", "small")
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
HOUR = datetime.timedelta(hours=1)
ENDED = "alert|EOF|reset|Broken pipe"


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    """Files that were written a moment ago are given no more time."""
    monkeypatch.setattr("lit_storage_core.security.rotating._HALF_WRITTEN_SECONDS", 0.0)


@pytest.fixture
def guarded(serve):
    return serve("trainer", Security(TOKEN)).endpoint


WRONG = {
    "none": [],
    "empty": ["Bearer "],
    "only the scheme": ["Bearer"],
    "no scheme": [TOKEN],
    "another scheme": [f"Basic {TOKEN}"],
    "a scheme in lower case": [f"bearer {TOKEN}"],
    "a scheme in capitals": [f"BEARER {TOKEN}"],
    "two spaces": [f"Bearer  {TOKEN}"],
    "a character more": [f"Bearer {TOKEN}0"],
    "a character less": [f"Bearer {TOKEN[:-1]}"],
    "another case": [f"Bearer {TOKEN.upper()}"],
    "twice": [f"Bearer {TOKEN}"] * 2,
    "right, then wrong": [f"Bearer {TOKEN}", "Bearer x"],
    "wrong, then right": ["Bearer x", f"Bearer {TOKEN}"],
    "two in one": [f"Bearer {TOKEN}, Bearer {TOKEN}"],
    "two with a comma": [f"Bearer x,Bearer {TOKEN}"],
    "a comparison": ["Bearer *"],
    "8 KiB": ["Bearer " + "x" * 6000],
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_what_is_not_the_token_is_refused(guarded, call, values):
    """Only one header, "Bearer" and the token, byte by byte, is let in."""
    assert call(guarded, [("authorization", value) for value in values]) is UNAUTHENTICATED


@pytest.mark.parametrize(
    "header",
    ["authorization-bin", "x-authorization", "proxy-authorization", "authorization_", "token", "cookie"],
)
def test_the_token_in_another_header_is_refused(guarded, call, header):
    """No other header is looked at."""
    value = f"Bearer {TOKEN}"
    assert call(guarded, [(header, value.encode() if header.endswith("-bin") else value)]) is UNAUTHENTICATED


@pytest.mark.parametrize("size", [9_000, 20_000, 1 << 20])
def test_headers_beyond_any_size(guarded, call, size):
    """Metadata of more than 8 KiB is refused by gRPC itself, and the server goes on."""
    refused = call(guarded, [("authorization", "Bearer " + "x" * size)])
    assert refused in (UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    assert call(guarded, [("authorization", f"Bearer {TOKEN}")]) is True


@pytest.mark.parametrize(
    "token", ["", " ", "a\nb", "a\r\nx-other: 1", "a\0", "\x7f", "ümlaut", "\ud800", " a", "a ", "\t", "a\t"]
)
def test_a_token_that_is_none_is_not_begun_with(token):
    """What cannot be sent as it is, or would mean "no token", is refused before anything is served."""
    with pytest.raises(AccessDenied) as caught:
        Security(token)
    assert len(token.strip()) < 3 or token not in str(caught.value)


def test_a_wrong_token_is_a_typed_error(serve, ask):
    """The consumer is told that it is the token, and neither of the two is shown."""
    record = serve("trainer", Security(TOKEN))
    with pytest.raises(AccessDenied, match="token is missing or wrong") as caught:
        ask(record, Security("another-token")).exists(HERE)
    assert TOKEN not in str(caught.value)
    assert "another-token" not in str(caught.value)


# Certificates.


@pytest.fixture
def forgeries(authority, stranger, tmp_path):
    """Make what an attacker, or a careless operator, may show."""
    where = tmp_path / "forged"
    only_server, only_client = [ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH]
    return {
        "expired": lambda name: authority.forge(where, name, begin=-2 * DAY, end=-HOUR),
        "not valid yet": lambda name: authority.forge(where, name, begin=HOUR),
        "self-signed": lambda name: authority.forge(where, name, by_itself=True),
        "another authority": lambda name: dataclasses.replace(stranger.issue(name), ca=authority.ca),
        "only to serve": lambda name: authority.forge(where, name, usage=only_server),
        "only to ask": lambda name: authority.forge(where, name, usage=only_client),
        "only for mail": lambda name: authority.forge(
            where, name, usage=[ExtendedKeyUsageOID.EMAIL_PROTECTION]
        ),
        "none": lambda name: Security(ca=authority.ca),
    }


NO_SERVER = ["expired", "not valid yet", "self-signed", "another authority", "only to ask", "only for mail"]
NO_CLIENT = [*(each for each in NO_SERVER if each != "only to ask"), "only to serve", "none"]


@pytest.mark.parametrize("which", NO_SERVER)
def test_a_server_with_a_bad_certificate_is_not_believed(authority, serve, ask, forgeries, which):
    """The consumer gets a typed error within the time of a connection, and sends nothing."""
    record = serve("trainer", forgeries[which]("trainer"))
    began = time.monotonic()
    with pytest.raises(OriginUnavailable, match="trainer"):
        ask(record, authority.issue("consumer"), connect_seconds=5.0).exists(HERE)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("which", NO_CLIENT)
def test_a_client_with_a_bad_certificate_is_not_served(authority, serve, ask, forgeries, which):
    """Nor is one that shows none; the consumer gets a typed error and no hang."""
    record = serve("trainer", authority.issue("trainer"))
    with pytest.raises(OriginUnavailable, match="trainer"):
        ask(record, forgeries[which]("consumer")).exists(HERE)


@pytest.mark.parametrize("which", NO_CLIENT)
def test_beside_grpc_a_bad_certificate_opens_nothing_either(authority, serve, forgeries, which):
    """The port for bulk data asks for the same certificate, and ends who has none during the handshake."""
    record = serve("trainer", authority.issue("trainer"))
    context = forgeries[which]("consumer").client_context()
    context.check_hostname = False
    port = serve.beside[record.endpoint]
    plain = socket.create_connection(("127.0.0.1", port), 20)
    # With TLS 1.3 the refusal comes after what the client takes for the end of the handshake.
    with (
        plain,
        pytest.raises(OSError, match=r"alert|EOF|reset|Broken pipe"),
        context.wrap_socket(plain) as tls,
    ):
        tls.sendall(b"x" * 40)
        if not tls.recv(1):
            raise ConnectionResetError("reset")


def of_another_key(authority, where):
    return authority.forge(where, "trainer", key_of=ec.generate_private_key(ec.SECP256R1()))


def broken(authority, where, file, content):
    made = authority.forge(where, "trainer")
    path = {"certificate": made.certificate, "key": made.key}.get(file)
    if path is None:
        path = str(where / "ca")
        made = dataclasses.replace(made, ca=path)
    with open(path, "wb") as opened:
        opened.write(content)
    return made


BROKEN = {
    "the key is another's": of_another_key,
    "the key has a passphrase": lambda a, w: broken(
        a, w, "key", pem(ec.generate_private_key(ec.SECP256R1()), b"secret")
    ),
    "the key is empty": lambda a, w: broken(a, w, "key", b""),
    "the key is no PEM": lambda a, w: broken(a, w, "key", b"\0" * 100),
    "the certificate is empty": lambda a, w: broken(a, w, "certificate", b""),
    "the certificate is cut off": lambda a, w: broken(
        a, w, "certificate", b"-----BEGIN CERTIFICATE-----\nMIIB"
    ),
    "the authority is empty": lambda a, w: broken(a, w, "ca", b""),
    "the authority is no PEM": lambda a, w: broken(a, w, "ca", b"\xff" * 100),
    "the key is a directory": lambda a, w: dataclasses.replace(a.forge(w, "trainer"), key=str(w)),
    "the authority is a device": lambda a, w: dataclasses.replace(a.forge(w, "trainer"), ca="/dev/zero"),
    "the certificate is not there": lambda a, w: dataclasses.replace(
        a.forge(w, "trainer"), certificate="/none"
    ),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_a_server_does_not_begin_with_files_that_cannot_be_used(authority, serve, tmp_path, make):
    """Never without TLS instead, and never waiting for somebody who types a passphrase."""
    with pytest.raises(AccessDenied) as caught:
        serve("trainer", make(authority, tmp_path / "broken"))
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_a_client_does_not_begin_with_files_that_cannot_be_used(authority, serve, ask, tmp_path, make):
    """It is told which files, and dials nobody."""
    record = serve("trainer", authority.issue("trainer"))
    with pytest.raises(AccessDenied):
        ask(record, make(authority, tmp_path / "broken")).exists(HERE)


# Protocols.


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"])
@pytest.mark.parametrize("way", ["gRPC", "direct"])
def test_old_tls_is_refused(authority, serve, version, way):
    """Neither port speaks TLS before 1.2, even with the right certificate."""
    record = serve("trainer", authority.issue("trainer"))
    context = authority.issue("consumer").client_context()
    context.check_hostname = False
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
    port = serve.beside[record.endpoint] if way == "direct" else int(record.endpoint.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 20) as plain, pytest.raises(OSError) as caught:
        context.wrap_socket(plain).recv(1)
    assert not isinstance(caught.value, TimeoutError)


@pytest.mark.parametrize("ask_for", ["exists", "stat", "stream", "list"])
@pytest.mark.parametrize("who_has_tls", ["client", "server"])
def test_where_one_speaks_tls_and_the_other_does_not(authority, serve, ask, who_has_tls, ask_for):
    """Both ways round it is a typed error, soon, for each call; nobody falls back to clear."""
    record = serve("trainer", authority.issue("trainer") if who_has_tls == "server" else Security(TOKEN))
    client = authority.issue("consumer") if who_has_tls == "client" else Security(TOKEN)
    began = time.monotonic()
    with pytest.raises(StorageError, match="trainer"):
        getattr(ask(record, client, connect_seconds=5.0), ask_for)(HERE)
    assert time.monotonic() - began < 30


def test_a_right_certificate_does_not_stand_for_the_token(authority, serve, ask):
    """With both, both are asked for."""
    record = serve("trainer", dataclasses.replace(authority.issue("trainer"), token=TOKEN))
    with pytest.raises(AccessDenied, match="token"):
        ask(record, authority.issue("consumer")).exists(HERE)
    assert ask(record, dataclasses.replace(authority.issue("consumer"), token=TOKEN)).exists(HERE)


@pytest.mark.parametrize(
    "method",
    [
        *(f"/lit_storage.v1.PathStorage/{rpc}" for rpc in ("Exists", "Stat", "ListFiles", "StreamFiles")),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/../Exists",
        "/grpc.health.v1.Healthy/Check",
        "/grpc.health.v1.Health",
    ],
)
@pytest.mark.parametrize("metadata", [[], [("authorization", "Bearer other")]], ids=["no token", "another"])
def test_health_and_nothing_else_needs_no_token(guarded, method, metadata):
    """Each rpc asks for it, and a path that only begins as a health check does is no health check."""
    with grpc.insecure_channel(guarded) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(b"", metadata=metadata, timeout=10)
        is_one = "Health" not in method
        assert caught.value.code() in (UNAUTHENTICATED, *([] if is_one else [grpc.StatusCode.UNIMPLEMENTED]))
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)


@pytest.mark.parametrize("says", [True, False])
def test_tokens_are_compared_in_constant_time(serve, call, monkeypatch, says):
    """Nothing but `hmac.compare_digest` decides, and it is asked of each token, whatever it said before."""
    given, asked = ("wrong" if says else TOKEN), []

    def compare(value, expected):
        asked.append((value, expected))
        return says

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    endpoint = serve("trainer", Security(TOKEN)).endpoint
    answer = call(endpoint, [("authorization", f"Bearer {given}")])
    assert (answer is UNAUTHENTICATED) is not says
    assert asked == [(f"Bearer {given}".encode(), f"Bearer {TOKEN}".encode())]
