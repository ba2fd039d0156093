"""A peer that registers as somebody else, in real registries and between real processes."""

import os
import subprocess
import sys

import pytest

import lit_storage
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import NameTaken, OriginUnavailable, RegistryUnavailable
from lit_storage_proto.limits import Limits
from tests.processes import kill_all

MALLORY = """
import sys
from lit_storage_core.registries import open_registry
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares
url, machine, root, name, tls_name, instance, *files = sys.argv[1:]
server = PeerServer(name, instance, Shares(root, name=name), security=Security("t", *files))
registry = open_registry(url, machine_id=machine, limits=Limits())
registry.register(LiveRecord(name, instance, server.start(), machine, tls_name))
print("serving", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "stolen").mkdir()
    (tmp_path / "stolen" / "x").write_text("poison")
    (tmp_path / "r" / "machine-id").write_text("0123456789abcdef0123456789abcdef")
    return tmp_path / "r"


@pytest.fixture
def register(root, tmp_path):
    """Register a server under a name, with the certificate of another one, from a process of its own."""
    started = []

    class Program:
        def __init__(self, *arguments):
            self.process = subprocess.Popen(
                [sys.executable, "-c", MALLORY, *arguments],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip

    def run(name, tls_name, security, instance="i1"):
        with lit_storage.connect(root=root, security=Security("t")) as session:
            url, machine = session.registry.url, session.home.machine_id
        files = [security.certificate, security.key, security.ca]
        started.append(Program(url, machine, str(tmp_path / "stolen"), name, tls_name, instance, *files))
        assert started[-1].process.stdout.readline() == "serving\n"

    yield run
    kill_all(started)


@pytest.mark.parametrize("tls_name", ["", "mallory", "trainer", "127.0.0.1"])
def test_a_registered_impostor_serves_nobody(authority, register, root, tmp_path, tls_name):
    """Not one byte of a path of "trainer" comes from who has not its certificate; what there was stays."""
    register("trainer", tls_name, authority.issue("mallory", hosts=["127.0.0.1"]))
    target = tmp_path / "target"
    target.write_text("mine")
    own = authority.issue("consumer")
    security = Security("t", own.certificate, own.key, own.ca)
    limits = Limits(connect_seconds=5.0, resume_seconds=0.1)
    # No Work writes a record with the name of another certificate: who finds one looks no further.
    is_record = tls_name in ("", "trainer")
    refusal, match = (OriginUnavailable, "trainer") if is_record else (RegistryUnavailable, "damaged")
    with lit_storage.connect(root=root, security=security, limits=limits):
        path = lit_storage.Path("lit://@trainer/x")
        for use in (path.exists_remote, path.stat_remote, lambda: path.get(to=target, overwrite=True)):
            with pytest.raises(refusal, match=match):
                use()
    assert target.read_text() == "mine"


@pytest.mark.slow
def test_whose_certificate_it_is_is_served(authority, register, root, tmp_path):
    """The same with the right certificate: what the tests above look at is the name alone."""
    register("trainer", "trainer", authority.issue("trainer"))
    own = authority.issue("consumer")
    with lit_storage.connect(root=root, security=Security("t", own.certificate, own.key, own.ca)):
        lit_storage.Path("lit://@trainer/x").get(to=tmp_path / "target")
    assert (tmp_path / "target").read_text() == "poison"


@pytest.mark.slow
def test_a_name_that_is_held_is_not_registered_twice(authority, register, root):
    """Who comes second is told that the name is taken, whatever certificate it has."""
    register("trainer", "trainer", authority.issue("trainer"))
    with pytest.raises(NameTaken):
        lit_storage.join("trainer", root=root, security=Security("t"))
