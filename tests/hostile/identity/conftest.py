"""An authority, Works that serve with certificates of it, and who asks them; all on loopback."""

import contextlib
import dataclasses
import datetime
import os
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lit_storage.cli import certificates
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.direct import Ways
from lit_storage_client.peers.remote import Remote
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
from tests.waiting import within

DAY = datetime.timedelta(days=1)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Authority:
    """An authority of ``lit-storage certs``, in a directory of its own."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.ca = f"{directory}/ca.pem"
        certificates.init(self.directory, days=30)

    def issue(self, name, **options):
        """Issue a certificate as an operator does, and return what a process shows with it."""
        where = certificates.issue(self.directory, name, days=options.pop("days", 10), **options).directory
        return Security(None, f"{where}/cert.pem", f"{where}/key.pem", f"{where}/ca.pem")

    def forge(self, where, name, *, begin=-DAY, end=DAY, usage=BOTH, by_itself=False, key_of=None):
        """Sign what no operator would; `key_of` another key than that of the certificate."""
        where.mkdir(exist_ok=True)
        now = datetime.datetime.now(datetime.UTC)
        key, (authority, signer) = ec.generate_private_key(ec.SECP256R1()), self._own()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if by_itself else authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        )
        signed = builder.sign(key if by_itself else signer, hashes.SHA256())
        (where / "cert").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        (where / "key").write_bytes(pem(key_of or key))
        (where / "key").chmod(0o600)
        return Security(None, str(where / "cert"), str(where / "key"), self.ca)

    def _own(self):
        with open(self.ca, "rb") as certificate, open(f"{self.directory}/ca.key", "rb") as key:
            return (
                x509.load_pem_x509_certificate(certificate.read()),
                serialization.load_pem_private_key(key.read(), None),
            )


def pem(key, passphrase=None):
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def is_direct(remote, location):
    """Copy, and say whether it went beside gRPC."""
    size = 0
    with remote.stream(location, TreeOptions(direct=True)) as frames:
        for frame in frames:
            size += sum(chunk.size for chunk in frame.chunks)
            time.sleep(0.01)  # time for the connection to be made
        assert size == 8 << 20
        return frames._switch._has_moved


class Told:
    """A registry that says what it was told, as whoever writes it may."""

    def __init__(self, record, url="memory:told"):
        self.record, self.url = record, url

    spans_machines = False

    def work(self, name):
        return None

    def resolve(self, name, *, fresh=False):
        return self.record


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority") / "certs")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """Another authority."""
    return Authority(tmp_path_factory.mktemp("stranger") / "certs")


@pytest.fixture
def new_authority(tmp_path):
    return lambda name: Authority(tmp_path / name)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "small").write_bytes(b"small")
    (tmp_path / "root" / "large").write_bytes(os.urandom(8 << 20))
    return tmp_path / "root"


@pytest.fixture
def serve(root):
    """Serve `root` under a name, and return the record that its registry would have."""
    with contextlib.ExitStack() as stack:

        def start(name, security=None, *, bind="127.0.0.1:0", **said):
            shares = Shares(str(root), name=name)
            server = PeerServer(name, "i1", shares, bind=bind, security=security)
            endpoint = server.start()
            start.beside[endpoint] = server._ways._tcp_port
            stack.callback(shares.close)
            stack.callback(server.stop)
            return LiveRecord(name, "i1", **{"endpoint": endpoint, "machine_id": "m", **said})

        start.beside = {}  # by endpoint, the port of the direct way
        yield start


@pytest.fixture
def ask():
    """Make a Remote of a session with some security, whose registry holds one record."""
    with contextlib.ExitStack() as stack:

        def make(record, security=None, *, ways=Ways.TCP, url="memory:told", **limits):
            # Refusals come at once; an answer may have to wait for a machine that stands still for seconds.
            seconds = {"connect_seconds": 20.0, "unary_seconds": 30.0, "progress_seconds": 30.0, **limits}
            channels = Channels(security or Security(), Limits(**seconds))
            stack.callback(channels.close)
            return Remote(Told(record, url), channels, channels._limits, ways)

        yield make


@pytest.fixture
def with_token():
    """The same security with a token, or a file of tokens."""
    return dataclasses.replace


@pytest.fixture
def token_file(tmp_path):
    """Write a file of tokens as an operator renews it: whole, by a rename."""

    def write(*tokens, path=tmp_path / "tokens", mode=0o600):
        new = path.with_name("new")
        new.write_text("".join(f"{token}\n" for token in tokens))
        new.chmod(mode)
        os.replace(new, path)
        return str(path)

    return write


@pytest.fixture
def call():
    """Make one call as any client of gRPC may, and return True or the status of the refusal."""

    def make(endpoint, metadata=(), credentials=None, name=None, seconds=10):
        options = [("grpc.use_local_subchannel_pool", 1)]
        options += [("grpc.ssl_target_name_override", name)] if name else []
        opened = (
            grpc.insecure_channel(endpoint, options)
            if credentials is None
            else grpc.secure_channel(endpoint, credentials, options)
        )
        with opened as channel:
            try:
                channel.unary_unary("/lit_storage.v1.PathStorage/Exists")(
                    b"", metadata=metadata, timeout=seconds
                )
            except grpc.RpcError as error:
                return error.code()
        return True

    return make


@pytest.fixture
def wait_until():
    return within(20)
