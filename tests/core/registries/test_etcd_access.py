"""Who a process is to etcd: a user with a password, TLS on both sides, and what is refused."""

import contextlib
import os
import shutil
import traceback

import pytest
import trustme

from lit_storage_core.registries import open_registry
from lit_storage_core.registries.etcd.access import EtcdAccess
from lit_storage_proto.errors import AccessDenied, RegistryUnavailable
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from tests.etcd_server import EtcdServers
from tests.waiting import within

wait_until = within(15)

PASSWORD = "pass word-of:tests"
LIMITS = Limits(resolve_seconds=15.0)


def record(name="trainer"):
    return LiveRecord(name, "one", "127.0.0.1:4000", "machine")


@pytest.fixture
def open_as():
    opened = []

    def make(url, access, limits=LIMITS):
        opened.append(open_registry(url, machine_id="machine", limits=limits, access=access))
        return opened[-1]

    yield make
    for registry in opened:
        registry.close()


class TestEnvironment:
    def test_unset_means_nobody(self):
        """Without variables there is no user and no TLS."""
        assert EtcdAccess.from_environment({}) == EtcdAccess()

    def test_a_password_comes_from_a_file(self, tmp_path):
        """The file's text is the password, without the end of its line."""
        file = tmp_path / "password"
        file.write_text(f"{PASSWORD}\n")
        file.chmod(0o600)
        variables = {"LIT_STORAGE_ETCD_USER": "lit", "LIT_STORAGE_ETCD_PASSWORD_FILE": str(file)}
        assert EtcdAccess.from_environment(variables) == EtcdAccess("lit", PASSWORD)

    @pytest.mark.parametrize(
        ("mode", "content", "told"),
        [(0o640, "x", "chmod 600"), (0o600, "", "is empty"), (None, "", "cannot be read")],
    )
    def test_a_file_that_does_not_do_is_named(self, tmp_path, mode, content, told):
        """A file that others may read, an empty one and a missing one are refused by name."""
        file = tmp_path / "password"
        if mode is not None:
            file.write_text(content)
            file.chmod(mode)
        with pytest.raises(AccessDenied, match=f"{file}.*{told}"):
            EtcdAccess.from_environment(
                {"LIT_STORAGE_ETCD_USER": "lit", "LIT_STORAGE_ETCD_PASSWORD_FILE": str(file)}
            )

    @pytest.mark.parametrize("half", ["USER", "PASSWORD", "CERT", "KEY"])
    def test_half_of_a_pair_is_refused(self, half):
        """A user and a password, and a certificate and a key, go together."""
        with pytest.raises(AccessDenied, match="LIT_STORAGE_ETCD_"):
            EtcdAccess.from_environment({f"LIT_STORAGE_ETCD_{half}": "x"})

    def test_files_are_absolute(self, tmp_path, monkeypatch):
        """What is given relative to this directory can be read by a process in another one."""
        monkeypatch.chdir(tmp_path)
        assert EtcdAccess.from_environment({"LIT_STORAGE_ETCD_CA": "ca.pem"}).ca == f"{tmp_path}/ca.pem"

    def test_no_password_in_clear_to_another_machine(self):
        """A password without TLS goes to loopback alone."""
        access = EtcdAccess("lit", PASSWORD)
        open_registry("etcd://127.0.0.1/p", machine_id="m", limits=Limits(), access=access).close()
        with pytest.raises(AccessDenied, match=r"in clear to node-1:2379.*LIT_STORAGE_ETCD_CA") as raised:
            open_registry("etcd://127.0.0.1,node-1/p", machine_id="m", limits=Limits(), access=access)
        assert PASSWORD not in str(raised.value)

    def test_the_password_is_not_in_the_repr(self):
        """Whoever prints it shows no password."""
        assert PASSWORD not in repr(EtcdAccess("lit", PASSWORD))


@pytest.fixture(scope="module")
def with_users(tmp_path_factory):
    """An etcd with users: "root", and "lit", which may use the prefix "tests/" alone; tokens last 2 s."""
    options = ["--auth-token-ttl", "2"]
    directory = tmp_path_factory.mktemp("users")
    with EtcdServers(directory, options=options) as servers:
        servers.control("user", "add", "root:root-password")
        servers.control("user", "grant-role", "root", "root")
        servers.control("user", "add", f"lit:{PASSWORD}")
        servers.control("role", "add", "lit")
        servers.control("role", "grant-permission", "lit", "--prefix=true", "readwrite", "tests/")
        servers.control("user", "grant-role", "lit", "lit")
        servers.control("auth", "enable")
        yield servers


class TestUsers:
    @pytest.mark.slow
    def test_a_user_may_use_its_prefix(self, with_users, open_as):
        """With its password a user registers, resolves, watches, renews and unregisters."""
        registry = open_as(with_users.new_url(), EtcdAccess("lit", PASSWORD))
        lease = registry.register(record())
        wait_until(lambda: registry.resolve("trainer") == record() and registry.is_watching)
        assert registry.renew(lease, 5) is not None
        registry.unregister("trainer", "one")
        assert registry.resolve("trainer") is None

    @pytest.mark.parametrize(
        "access",
        [None, EtcdAccess("lit", "wrong"), EtcdAccess("nobody", PASSWORD)],
        ids=["none", "wrong", "unknown"],
    )
    def test_others_are_refused(self, with_users, open_as, access):
        """No user, a wrong password and an unknown user are refused, with what to check and no password."""
        registry = open_as(with_users.new_url(), access)
        for call in (lambda: registry.resolve("trainer"), lambda: registry.register(record())):
            with pytest.raises(AccessDenied, match="LIT_STORAGE_ETCD_USER") as raised:
                call()
            shown = "".join(traceback.format_exception(raised.value))
            assert "wrong" not in shown.replace("a wrong", "")
            assert PASSWORD not in shown

    def test_another_prefix_is_refused(self, with_users, open_as):
        """A user whose role does not have the prefix is told so."""
        url = with_users.new_url().replace("/tests/", "/others/")
        with pytest.raises(AccessDenied, match="its role may use 'others/"):
            open_as(url, EtcdAccess("lit", PASSWORD)).register(record())

    def test_a_token_that_ran_out_is_renewed(self, with_users, open_as):
        """After the time of its token, and after users were changed, a process goes on as before."""
        registry = open_as(with_users.new_url(), EtcdAccess("lit", PASSWORD))
        registry.register(record())
        first = registry._connection._token
        root = ["--user", "root:root-password"]
        with_users.control(*root, "user", "add", f"u{os.urandom(4).hex()}:x")  # tokens are of a revision
        assert registry.resolve("trainer", fresh=True) == record()
        registry._connection._token = "no.such-token"
        assert registry.resolve("trainer", fresh=True) == record()
        assert registry._connection._token not in (first, "no.such-token")

    def test_a_watch_survives_its_token(self, with_users, open_as):
        """A watch whose token is not taken any more authenticates anew."""
        registry = open_as(with_users.new_url(), EtcdAccess("lit", PASSWORD))
        registry.register(record())
        registry._connection._token = "no.such-token"
        registry._watch.start()
        wait_until(lambda: registry.is_watching)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """An etcd that asks for certificates of one authority, and that authority's files."""
    directory = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "client.test")):
        issued = ca.issue_cert(identity)
        issued.private_key_pem.write_to_path(directory / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
    other = trustme.CA()
    other.cert_pem.write_to_path(directory / "other.pem")
    options = ["--client-cert-auth", "--trusted-ca-file", str(directory / "ca.pem")]
    options += ["--cert-file", str(directory / "server.pem"), "--key-file", str(directory / "server.key")]
    with EtcdServers(directory / "etcd", options=options, scheme="https") as servers:
        yield servers, directory


def access_of(directory, ca="ca.pem", name="client"):
    files = [str(directory / f"{name}.{kind}") for kind in ("pem", "key")] if name else [None, None]
    return EtcdAccess(None, None, *files, str(directory / ca))


class TestTLS:
    def test_a_certificate_lets_in(self, tls, open_as):
        """With a certificate of its authority, all goes as without TLS, the watch too."""
        servers, directory = tls
        registry = open_as(servers.new_url(), access_of(directory))
        registry.register(record())
        wait_until(lambda: registry.resolve("trainer") == record() and registry.is_watching)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [{"name": None}, {"ca": "other.pem"}, None],
        ids=["no certificate", "another authority", "clear"],
    )
    def test_all_else_is_kept_out(self, tls, open_as, options):
        """Without a certificate, with a server that is not trusted, and in clear, nothing is resolved."""
        servers, directory = tls
        access = EtcdAccess() if options is None else access_of(directory, **options)
        with pytest.raises(RegistryUnavailable, match="check that etcd runs there"):
            open_as(servers.new_url(), access, Limits(resolve_seconds=0.8)).resolve("trainer")

    @pytest.mark.slow
    def test_a_renewed_certificate_is_shown(self, tls, open_as, tmp_path):
        """The next call is made with it, whether it is a good one or not; nothing is opened anew."""
        servers, directory = tls
        other = trustme.CA().issue_cert("client.test")
        for file in ("ca.pem", "client.pem", "client.key"):
            shutil.copy(directory / file, tmp_path)
        (tmp_path / "client.key").chmod(0o600)
        registry = open_as(servers.new_url(), access_of(tmp_path), Limits(resolve_seconds=2))
        registry.register(record())
        other.private_key_pem.write_to_path(tmp_path / "client.key")
        other.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
        with pytest.raises(RegistryUnavailable):
            registry.resolve("nobody", fresh=True)
        for file in ("client.key", "client.pem"):
            shutil.copy(directory / file, tmp_path)

        def is_back():
            with contextlib.suppress(RegistryUnavailable):
                return registry.resolve("trainer", fresh=True) == record()

        wait_until(is_back)

    def test_a_file_that_is_missing_is_named(self, tls, open_as):
        """A TLS file that cannot be read is told by name."""
        servers, directory = tls
        with pytest.raises(AccessDenied, match="none.pem"):
            open_as(servers.new_url(), access_of(directory, ca="none.pem")).resolve("trainer")
