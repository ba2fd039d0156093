"""Tokens, certificates, and where a server may listen with what."""

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import AccessDenied, InvalidURI
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_server.rpc.auth import check_bind, server_tls

TOKEN = "s3cret-token"
TLS = {"certificate": "c.pem", "key": "k.pem"}


@pytest.fixture
def guarded(serve):
    return serve(security=Security(token=TOKEN))


def test_right_token(guarded):
    """A call with the token is answered."""
    metadata = Security(token=TOKEN).metadata()
    assert guarded.stub.Exists(pb.ExistsRequest(), metadata=metadata).exists


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["Bearer wrong"],
        ["Bearer "],
        [TOKEN],
        [f"bearer {TOKEN}"],
        [f"Bearer {TOKEN}x"],
        [f"Bearer {TOKEN}"] * 2,
    ],
)
def test_wrong_tokens(guarded, values):
    """A call with no token, a wrong one, or two of them is UNAUTHENTICATED, and the sentence shows none."""
    metadata = [("authorization", value) for value in values]
    calls = [
        lambda: guarded.stub.Exists(pb.ExistsRequest(), metadata=metadata, timeout=20),
        lambda: list(guarded.stub.StreamFiles(pb.StreamFilesRequest(), metadata=metadata, timeout=20)),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert TOKEN not in caught.value.details()


def test_health_needs_no_token(guarded):
    """Health is told to anyone."""
    stub = health_pb2_grpc.HealthStub(guarded.channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_needs_a_token(guarded):
    """Reflection is told only to who has the token."""
    stub = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ServerReflectionInfo(asked, timeout=20))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "127.1.2.3:80", "localhost:0", "[::1]:5000"])
def test_loopback_needs_nothing(bind):
    """On loopback a server listens with any security."""
    assert check_bind(bind, Security())[1] >= 0


@pytest.mark.parametrize(
    "security",
    [Security(**TLS, ca="ca.pem"), Security(**TLS, token=TOKEN), Security(**TLS, ca="ca.pem", token=TOKEN)],
)
def test_open_address_with_enough(security):
    """Other machines may reach a server with mTLS, or with TLS and a token."""
    assert check_bind("0.0.0.0:7000", security) == ("0.0.0.0", 7000)


@pytest.mark.parametrize(
    "security", [Security(), Security(token=TOKEN), Security(**TLS), Security(ca="ca.pem", token=TOKEN)]
)
@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "10.0.0.1:1", "trainer.example:1"])
def test_open_address_with_too_little(bind, security):
    """Other machines may not reach a server that cannot tell who calls; the sentence has the way out."""
    with pytest.raises(AccessDenied, match="a certificate, a key and a CA") as caught:
        check_bind(bind, security)
    assert TOKEN not in str(caught.value)


def test_token_in_clear_must_be_allowed():
    """A token without TLS is enough only where that is said in so many words; nothing at all never is."""
    assert check_bind("0.0.0.0:1", Security(token=TOKEN, insecure=True)) == ("0.0.0.0", 1)
    with pytest.raises(AccessDenied):
        check_bind("0.0.0.0:1", Security(insecure=True))


def test_malformed_bind():
    """What is not HOST:PORT is no address to listen on."""
    with pytest.raises(InvalidURI, match="HOST:PORT"):
        check_bind("host", Security())


def test_no_credentials_without_tls():
    """Without TLS files a server has no credentials."""
    assert server_tls(Security(token=TOKEN)) is None


def test_ca_alone_does_not_serve():
    """A CA without a certificate of one's own is not enough to serve."""
    with pytest.raises(AccessDenied, match="certificate"):
        server_tls(Security(ca="ca.pem"))


def test_unreadable_tls_file(tmp_path):
    """A TLS file that is missing is named."""
    with pytest.raises(AccessDenied, match="k.pem"):
        server_tls(Security(certificate="c.pem", key=str(tmp_path / "k.pem")))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A certificate for localhost with its key, and the authority that signed it."""
    where = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    identity = authority.issue_cert("localhost")
    identity.cert_chain_pems[0].write_to_path(where / "c.pem")
    identity.private_key_pem.write_to_path(where / "k.pem")
    authority.cert_pem.write_to_path(where / "ca.pem")
    return {"certificate": str(where / "c.pem"), "key": str(where / "k.pem"), "ca": str(where / "ca.pem")}


def exists(endpoint, security, token=None):
    """Call Exists over TLS; the status of a refusal is returned in place of the answer."""
    metadata = Security(token=token).metadata()
    with grpc.secure_channel(endpoint, security.channel_credentials()) as channel:
        call = channel.unary_unary("/lit_storage.v1.PathStorage/Exists")
        try:
            return bool(call(b"", metadata=metadata, timeout=20))
        except grpc.RpcError as error:
            return error.code()


def test_tls_with_a_token(serve, files):
    """With TLS and a token, the token still decides."""
    security = Security(token=TOKEN, certificate=files["certificate"], key=files["key"])
    port = serve(bind="localhost:0", security=security).server.endpoint.rpartition(":")[2]
    anyone = Security(ca=files["ca"])
    assert exists(f"localhost:{port}", anyone, TOKEN) is True
    assert exists(f"localhost:{port}", anyone, "wrong") is grpc.StatusCode.UNAUTHENTICATED


def test_mutual_tls(serve, files):
    """With a CA, who shows no certificate of it gets no connection."""
    endpoint = serve(bind="localhost:0", security=Security(**files)).server.endpoint
    assert exists(endpoint, Security(**files)) is True
    assert exists(endpoint, Security(ca=files["ca"])) is grpc.StatusCode.UNAVAILABLE
