"""The commands of an operator: how settings come together, and the question whether something serves."""

import json
import os
import subprocess
import sysconfig

import pytest
import trustme
from typer.testing import CliRunner

from lit_storage.cli import serve as cli_serve
from lit_storage.cli.main import main
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import InvalidConfig
from lit_storage_server.daemon.config import Config
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.shares import Shares

PROGRAM = os.path.join(sysconfig.get_path("scripts"), "lit-storage")


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Run a command in a directory of its own."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        done = CliRunner().invoke(main, list(arguments))
        return done.exit_code, done.output.strip()

    return invoke


@pytest.fixture
def made(invoke, monkeypatch):
    """Run serve, and return the configuration with which a daemon would run, and who it is to others."""
    from lit_storage_server.daemon import daemon, logs

    monkeypatch.setattr(logs, "set_up", lambda log_format: None)

    def made(*arguments):
        seen = []
        monkeypatch.setattr(daemon.Daemon, "run", lambda self: seen.append((self._config, self._place)))
        code, text = invoke("serve", *arguments)
        assert code == 0, text
        return seen[0]

    return made


class TestSettings:
    def test_flags(self, made, tmp_path):
        """Each reaches the daemon; relative directories are those of whoever typed them."""
        (tmp_path / "token").write_text("secret\n")
        (tmp_path / "token").chmod(0o600)
        config, place = made(
            *("--name", "store", "--share", "data=x", "--share", "models=/y=z", "--bind", "[::1]:7"),
            *("--advertise", "h:8", "--registry", "static:store=h:8", "--root", "r", "--token-file", "token"),
            *(
                "--metrics",
                "9",
                "--no-custodian",
                "--drain-seconds",
                "3",
                "--log-format",
                "json",
                "--insecure",
            ),
        )
        assert config.shares == {"data": str(tmp_path / "x"), "models": "/y=z"}
        assert (config.bind, config.advertise, config.metrics) == ("[::1]:7", "h:8", "9")
        assert (config.custodian, config.drain_seconds, config.log_format) == (False, 3.0, "json")
        assert config.insecure
        assert (place.root, place.registry_url) == (str(tmp_path / "r"), "static:store=h:8")
        assert place.security.tokens() == ("secret",)

    def test_flags_beat_the_file_and_that_the_environment(self, made, tmp_path, monkeypatch):
        """In this order."""
        (tmp_path / "x.toml").write_text('name = "of-file"\nbind = "127.0.0.1:1"\nadvertise = "of-file"\n')
        for variable in ("BIND", "ADVERTISE"):
            monkeypatch.setenv(f"LIT_STORAGE_{variable}", "127.0.0.1:3")
        config, _ = made("--config", "x.toml", "--bind", "127.0.0.1:2")
        assert (config.name, config.bind, config.advertise) == ("of-file", "127.0.0.1:2", "of-file")
        config, _ = made("--name", "x")
        assert (config.bind, config.advertise) == ("127.0.0.1:3", "127.0.0.1:3")

    def test_options_before_the_command(self, invoke, made, tmp_path, monkeypatch):
        """Root and registry may stand there, as with every command."""
        from lit_storage_server.daemon import daemon

        seen = []
        monkeypatch.setattr(daemon.Daemon, "run", lambda self: seen.append(self._place))
        assert invoke("--root", "r", "--registry", "memory:x", "serve", "--name", "x")[0] == 0
        assert (seen[0].root, seen[0].registry_url) == (str(tmp_path / "r"), "memory:x")

    def test_the_token(self, made, tmp_path, monkeypatch):
        """Of a file, else of the environment, else the root's own; it is shown nowhere."""
        _, place = made("--name", "x", "--root", "r")
        assert place.security.tokens() == ((tmp_path / "r" / "token").read_text(),)
        monkeypatch.setenv("LIT_STORAGE_TOKEN", "of-environment")
        _, place = made("--name", "x", "--root", "r")
        assert place.security.tokens() == ("of-environment",)
        (tmp_path / "file").write_text("of-file")
        (tmp_path / "file").chmod(0o600)
        config, place = made("--name", "x", "--root", "r", "--token-file", "file")
        assert place.security.tokens() == ("of-file",)
        assert "of-file" not in f"{config!r}{place!r}"

    @pytest.mark.parametrize("content", [b"", b" \n", b"\xff"])
    def test_a_token_that_is_none(self, tmp_path, content):
        """An empty file, or one that is no text, is refused and not taken for "no token"."""
        (tmp_path / "token").write_bytes(content)
        (tmp_path / "token").chmod(0o600)
        with pytest.raises(InvalidConfig, match="the token in"):
            cli_serve._security(Config(token_file=str(tmp_path / "token")), str(tmp_path))

    def test_no_option_takes_a_token(self, invoke):
        """Arguments are seen by every user of a machine."""
        _, text = invoke("serve", "--help")
        assert "--token-file" in text
        assert "--token " not in text

    def test_what_is_missing_is_said(self, invoke):
        """In one sentence, as wrong usage."""
        assert invoke("serve") == (
            2,
            "a daemon needs a name under which others reach it: give it with --name",
        )


class TestHealth:
    @pytest.fixture
    def serve(self, tmp_path):
        started = []

        def serve(**options):
            root = tmp_path / "shared"
            root.mkdir()
            server = PeerServer("x", "i", Shares(str(root), name="x"), **options)
            started.append(server)
            return server.start()

        yield serve
        for server in started:
            server.stop()

    def test_one_that_serves(self, serve, invoke):
        """It says so, also of its service, and asks for no token."""
        endpoint = serve(security=Security(token="secret"))
        assert invoke("health", endpoint) == (0, "SERVING")
        assert invoke("health", endpoint, "--service", "lit_storage.v1.PathStorage") == (0, "SERVING")

    def test_a_service_that_is_not_there(self, serve, invoke):
        """It is named as the server does."""
        code, text = invoke("health", serve(), "--service", "other")
        assert (code, "does not say that it serves: not_found" in text) == (1, True)

    def test_nobody(self, invoke):
        """A port at which nobody listens, and an address that is none."""
        code, text = invoke("health", "127.0.0.1:1", "--timeout", "5")
        assert (code, "127.0.0.1:1 does not say that it serves: unavailable" in text) == (1, True)
        assert invoke("health", "nowhere")[0] == 2

    def test_one_whose_name_may_be_anothers(self, serve, invoke):
        """It says that it does not serve, and that is a failure."""
        code, text = invoke("health", serve(holds=lambda: False))
        assert (code, "says NOT_SERVING" in text) == (1, True)

    def test_with_certificates(self, serve, invoke, tmp_path, monkeypatch):
        """They come from the environment, as everywhere; the name of the other's can be given."""
        authority = trustme.CA()
        identity = authority.issue_cert("x")
        files = {"CERT": tmp_path / "cert", "KEY": tmp_path / "key", "CA": tmp_path / "ca"}
        identity.cert_chain_pems[0].write_to_path(files["CERT"])
        identity.private_key_pem.write_to_path(files["KEY"])
        authority.cert_pem.write_to_path(files["CA"])
        endpoint = serve(security=Security(None, *map(str, files.values())))
        for kind, file in files.items():
            monkeypatch.setenv(f"LIT_STORAGE_TLS_{kind}", str(file))
        assert invoke("health", endpoint, "--tls-name", "x") == (0, "SERVING")
        assert invoke("health", endpoint)[0] == 1


@pytest.mark.slow
def test_a_daemon_is_listed_with_what_it_is(tmp_path):
    """works tells who is the custodian of a machine."""
    command = [PROGRAM, "serve", "--name", "store", "--root", str(tmp_path), "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert any('"serving"' in line for line in process.stderr)
        done = subprocess.run([PROGRAM, "--root", str(tmp_path), "works", "--json"], capture_output=True)
        process.terminate()
        process.stderr.read()
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["state"], row["custodian"]) == ("store", "running", True)
