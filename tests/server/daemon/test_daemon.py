"""A daemon as its operator sees it: started as a program, asked by others, told to stop."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sysconfig
import threading
import time
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from lit_storage_client.fetch import fetch
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.remote import Remote
from lit_storage_core.registries import open_registry
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import AccessDenied, PathNotFound
from lit_storage_proto.limits import MIB, Limits
from lit_storage_proto.registry import LiveRecord, WorkState
from lit_storage_proto.uri import Location
from lit_storage_proto.v1 import path_storage_pb2 as pb
from lit_storage_proto.v1 import path_storage_pb2_grpc as pb_grpc
from tests.processes import kill_all
from tests.waiting import within

wait_until = within(30)

PROGRAM = os.path.join(sysconfig.get_path("scripts"), "lit-storage")
TOKEN = "some-token-of-tests"


class Running:
    """A daemon that runs; its log is read line by line."""

    def __init__(self, arguments, environment):
        command = [PROGRAM, "serve", "--log-format", "json", *arguments]
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            bufsize=0,  # what `select` does not see must not wait in a buffer
        )
        self.log = []

    def read_until(self, event, seconds=60):
        """Return the next line of the log of this event."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self.process.stderr], [], [], max(0, deadline - time.monotonic()))[0]:
                line = self.process.stderr.readline()
                assert line, f"ended without {event!r}: {self.log}"
                with contextlib.suppress(ValueError):
                    self.log.append(json.loads(line))
                    if self.log[-1]["event"] == event:
                        return self.log[-1]
        raise AssertionError(f"no {event!r} in time: {self.log}")

    def end(self, seconds=60):
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, (out + err).decode()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.end()


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "file").write_text("content")
    return path


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def start(root, data):
    """Start a daemon "store" that shares `data`; all are killed after the test."""
    started = []

    def start(*arguments, shares=True, environment=None):
        arguments = ["--name", "store", "--root", str(root), *arguments]
        if shares:
            arguments += ["--share", f"data={data}"]
        started.append(Running(arguments, {"LIT_STORAGE_TOKEN": TOKEN, **(environment or {})}))
        return started[-1]

    yield start
    kill_all(started)


@pytest.fixture
def serving(start):
    """Start one, and return it once it serves, with what it said then."""

    def serve(*arguments, **options):
        running = start(*arguments, **options)
        running.said = running.read_until("serving")
        return running

    return serve


@pytest.fixture
def registry(root):
    root.mkdir(exist_ok=True)
    opened = open_registry(f"sqlite://{root}/registry.db", machine_id=_machine(root), limits=Limits())
    yield opened
    opened.close()


def _machine(root):
    from lit_storage_core.system.machine import machine_id

    return machine_id(str(root))


@pytest.fixture
def remote(registry):
    channels = Channels(Security(token=TOKEN), Limits())
    yield Remote(registry, channels, Limits())
    channels.close()


def metrics_of(running):
    """Return what asks a daemon for its metrics."""
    address = next(line for line in running.log if line["event"] == "metrics are served")["address"]
    assert address.startswith("127.0.0.1:")

    def ask():
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
            return answer.read().decode()

    return ask


def channel_to(running):
    return grpc.insecure_channel(running.said["endpoint"], [("grpc.use_local_subchannel_pool", 1)])


def health_of(channel, service=""):
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=20).status


@pytest.mark.slow
class TestServing:
    def test_its_shares_are_read_by_name(self, serving, remote, tmp_path):
        """Another process finds it in the registry, and copies what it shares, but nothing else."""
        serving()
        fetch(remote, Location("store", "data"), root=None, target=str(tmp_path / "copy"))
        assert (tmp_path / "copy" / "sub" / "file").read_text() == "content"
        with pytest.raises(AccessDenied, match="has no share 'private'; it shares 'data'"):
            remote.stat(Location("store", "private"))

    def test_what_it_says_when_it_serves(self, serving, root, data):
        """Name, addresses, shares, registry and how callers prove who they are; and no token."""
        running = serving("--metrics", "0")
        said = running.said
        assert (said["name"], said["shares"], said["security"]) == ("store", {"data": str(data)}, "a token")
        assert said["registry"] == f"sqlite://{root}/registry.db"
        assert said["custodian_of"] == str(root)
        assert said["listening"] == said["endpoint"]
        code, text = running.stop()
        assert (code, TOKEN in text, TOKEN in str(running.log)) == (0, False, False)

    def test_its_token_is_asked_for(self, serving):
        """Without it no file is described; health and its single services need none."""
        with channel_to(serving()) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                pb_grpc.PathStorageStub(channel).Stat(pb.StatRequest(path="data"), timeout=20)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            serving_status = health_pb2.HealthCheckResponse.SERVING
            assert health_of(channel) == health_of(channel, "lit_storage.v1.PathStorage") == serving_status

    def test_reflection_lists_its_services(self, serving):
        """As grpcurl does, with the token."""
        with channel_to(serving()) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            metadata = [("authorization", f"Bearer {TOKEN}")]
            (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=metadata, timeout=20)
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {"lit_storage.v1.PathStorage", "grpc.health.v1.Health"}

    def test_a_line_for_each_transfer(self, serving, remote, data, tmp_path):
        """Who, what, how much, how long and how it ended; odd names are escaped."""
        (data / "a\nb").write_bytes(b"x" * 10)
        running = serving()
        fetch(remote, Location("store", "data/a\nb"), root=None, target=str(tmp_path / "copy"))
        line = running.read_until("transfer")
        assert (line["path"], line["bytes"], line["status"]) == (r"data/a\nb", 10, "ok")
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert 0 <= line["seconds"] < 20
        with pytest.raises(PathNotFound):
            fetch(remote, Location("store", "data/none"), root=None, target=str(tmp_path / "none"))
        line = running.read_until("transfer")
        assert (line["status"], line["reason"], line["level"]) == ("failed", "PathNotFound", "warning")

    def test_metrics(self, serving, remote, tmp_path):
        """What was sent, how long it took, what failed, and what runs, on loopback unless told else."""
        metrics = metrics_of(serving("--metrics", "0"))
        fetch(remote, Location("store", "data"), root=None, target=str(tmp_path / "copy"))
        with pytest.raises(PathNotFound):
            remote.stat(Location("store", "data/none"))
        # The consumer has all that it came for before the server has counted it.
        wait_until(lambda: 'lit_storage_transfers_total{status="ok"} 1.0' in metrics())
        text = metrics()
        assert "lit_storage_transferred_bytes_total 7.0" in text
        assert "lit_storage_transfer_seconds_count 1.0" in text
        assert 'lit_storage_errors_total{kind="not_found"} 1.0' in text
        assert "lit_storage_streams_in_flight 0.0" in text
        assert "lit_storage_registry_reachable 1.0" in text
        assert re.search(r'lit_storage_build_info\{python="3[^"]*",version="[^"]+"\} 1\.0', text)
        assert "lease_age" not in text  # of this registry there are no leases


def large(data):
    """Share a file that no socket's buffers hold."""
    with open(data / "large", "wb") as file:
        file.truncate(256 * MIB)


def begun(channel):
    """Begin a copy of it over gRPC, of which only the first message is taken."""
    request = pb.StreamFilesRequest(path="data/large")
    call = pb_grpc.PathStorageStub(channel).StreamFiles(
        request, metadata=[("authorization", f"Bearer {TOKEN}")]
    )
    next(call)
    return call


@pytest.mark.slow
class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_gives_its_name_back(self, serving, registry, number):
        """Told to stop it ends with 0; nobody lives under its name, and it was stopped."""
        running = serving()
        assert registry.resolve("store").custodian is True
        assert running.stop(number)[0] == 0
        assert registry.resolve("store") is None
        assert registry.work("store").state is WorkState.STOPPED

    def test_a_transfer_that_runs_is_ended_first(self, serving, registry, data):
        """New streams are refused with what can be tried again, health says so, and this one is whole."""
        large(data)
        running = serving("--drain-seconds", "100")
        with channel_to(running) as channel:
            call = begun(channel)
            running.process.send_signal(signal.SIGTERM)
            running.read_until("stopping")
            assert registry.resolve("store") is None or wait_until(lambda: registry.resolve("store") is None)
            stub, metadata = pb_grpc.PathStorageStub(channel), [("authorization", f"Bearer {TOKEN}")]

            def code():
                with pytest.raises(grpc.RpcError) as refused:
                    request = pb.StreamFilesRequest(path="data/sub")
                    next(stub.StreamFiles(request, metadata=metadata, timeout=20))
                    raise grpc.RpcError
                return getattr(refused.value, "code", lambda: None)()

            assert wait_until(lambda: code() is grpc.StatusCode.UNAVAILABLE)
            not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
            assert health_of(channel) == health_of(channel, "lit_storage.v1.PathStorage") == not_serving
            assert list(call)[-1].summary.bytes == 256 * MIB
        assert running.end()[0] == 0

    def test_a_transfer_that_does_not_end(self, serving, data):
        """It is cut off when the time to drain is over, and the exit is as good."""
        large(data)
        running = serving("--drain-seconds", "0.5")
        with channel_to(running) as channel:
            call = begun(channel)
            assert running.stop()[0] == 0
            with pytest.raises(grpc.RpcError):
                list(call)

    def test_a_second_signal_ends_it_at_once(self, serving, data):
        """Whatever runs, and with 0."""
        large(data)
        running = serving("--drain-seconds", "1000")
        with channel_to(running) as channel:
            begun(channel)
            running.process.send_signal(signal.SIGTERM)
            running.read_until("stopping")
            assert running.stop()[0] == 0

    def test_it_can_be_started_again_at_once(self, serving, registry, remote, tmp_path):
        """Killed and started anew on its port it has its name, and is found there."""
        first = serving()
        first.process.kill()
        first.process.wait()
        second = serving("--bind", first.said["endpoint"])
        assert registry.resolve("store").instance_id == second.said["instance"] != first.said["instance"]
        assert remote.exists(Location("store", "data/sub/file"))

    def test_sighup_changes_nothing(self, serving, remote):
        """It goes on, and says what is read anew by itself."""
        running = serving()
        running.process.send_signal(signal.SIGHUP)
        running.read_until("SIGHUP changes nothing: TLS files and tokens are read anew when they change")
        assert remote.exists(Location("store", "data"))

    @pytest.mark.parametrize("is_abstract", [False, True])
    def test_a_service_manager_is_told(self, serving, tmp_path, is_abstract):
        """READY once it serves, STOPPING when it is to end, also over an abstract socket."""
        name = f"@lit-storage-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(60)
            manager.bind("\0" + name[1:] if is_abstract else name)
            running = serving(environment={"NOTIFY_SOCKET": name})
            assert manager.recv(1024) == b"READY=1\nSTATUS=serving as store"
            running.stop()
            assert manager.recv(1024) == b"STOPPING=1"


class TestRefused:
    @pytest.fixture
    def refused(self, root, monkeypatch):
        """Start one in this process, which ends before it serves: its last line, and its exit code."""
        from lit_storage.cli.main import main
        from lit_storage_server.daemon import logs

        monkeypatch.setattr(logs, "set_up", lambda log_format: None)
        monkeypatch.setenv("LIT_STORAGE_TOKEN", TOKEN)

        def refused(match, code, *arguments):
            done = CliRunner().invoke(main, ["serve", "--name", "store", "--root", str(root), *arguments])
            last = done.output.strip().splitlines()[-1]
            assert (done.exit_code, bool(re.search(match, last))) == (code, True), done.output
            assert TOKEN not in done.output

        return refused

    @pytest.mark.parametrize(
        ("arguments", "match", "code"),
        [
            (["--share", "data=/none"], "share 'data' cannot be used: /none: No such file", 2),
            (["--share", "all=/"], "share 'all' is '/'", 2),
            (["--share", "a=/usr", "--share", "b=/usr/bin"], "lead to the same files", 2),
            (["--share", "data"], "takes NAME=DIRECTORY.*'data' is none", 2),
            (["--share", "a=/usr", "--share", "a=/opt"], "names 'a' twice", 2),
            (["--no-custodian"], "nothing to serve: name a directory with --share", 2),
            (["--share", "a=/usr", "--bind", "0.0.0.0:0"], "reached from other machines.*--insecure", 1),
            (["--config", "/none.toml"], "'/none.toml' cannot be read", 2),
            (["--token-file", "/none"], "the token in '/none' cannot be used", 2),
            (["--share", "a=/usr", "--registry", "static:other=127.0.0.1:1"], "does not list 'store'", 2),
            (["--custodian", "--registry", "static:store=127.0.0.1:1"], "a static registry knows nothing", 2),
            (["--registry", "nonsense://x"], "'nonsense' is no kind of registry", 2),
            (["--metrics", "nowhere"], "metrics: 'nowhere' is no address", 2),
        ],
    )
    def test_what_cannot_be_done(self, refused, arguments, match, code):
        """It ends before it is registered, with one sentence and its exit code."""
        refused(match, code, *arguments)

    def test_a_share_that_holds_the_root(self, refused, tmp_path):
        """The root has the token in it."""
        refused("which others must not read", 2, "--share", f"all={tmp_path}")

    @pytest.mark.parametrize("variable", ["LIT_STORAGE_ETCD_PASSWORD_FILE", "LIT_STORAGE_ETCD_KEY"])
    def test_a_share_that_holds_what_is_shown_to_etcd(self, refused, data, monkeypatch, variable):
        """Its password and its key are as secret as the daemon's own."""
        (data / "secret").write_text("x")
        monkeypatch.setenv(variable, str(data / "secret"))
        refused("data/secret, which others must not read", 2, "--share", f"data={data}")

    @pytest.mark.slow
    def test_a_name_that_is_taken(self, refused, serving, data):
        """Another live process has it, and is named."""
        serving()
        refused("the name 'store' is taken by process", 1, "--no-custodian", "--share", f"data={data}")

    @pytest.mark.slow
    def test_a_second_custodian_of_a_root(self, refused, serving):
        """It is told which process is, and how to do without."""
        first = serving()
        match = rf"another daemon \(process {first.process.pid}\) is the custodian of .*--no-custodian"
        refused(match, 2, "--name", "other")

    def test_a_port_that_is_taken(self, refused, data):
        """The address is named."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"127.0.0.1:{other.getsockname()[1]}"
            refused(f"'{taken}' is taken by another", 1, "--share", f"data={data}", "--bind", taken)

    @pytest.mark.slow
    def test_a_registry_that_does_not_answer(self, refused, root, tmp_path, caplog):
        """It is tried again, which is said, for as long as a start may take, and then it ends."""
        root.mkdir()
        (root / "registry.db").write_bytes(b"no database at all" * 500)
        settings = tmp_path / "daemon.toml"
        settings.write_text("[limits]\nstart_seconds = 1.5\n")
        refused("is damaged or no registry", 1, "--config", str(settings))
        assert [record.message for record in caplog.records].count(
            "not registered yet; it is tried again"
        ) == 1

    @pytest.mark.slow
    def test_told_to_stop_while_it_waits_for_the_registry(self, start, root):
        """It stops at once, as told."""
        root.mkdir()
        (root / "registry.db").write_bytes(b"no database at all" * 500)
        running = start()
        running.read_until("not registered yet; it is tried again")
        assert running.stop()[0] == 0


class TestRegistry:
    @pytest.mark.slow
    def test_a_registry_that_goes_away(self, serving, remote, registry, root):
        """What it serves it goes on serving; it is said once, and metrics show it."""
        running = serving("--metrics", "0")
        metrics = metrics_of(running)
        with channel_to(running) as channel:
            os.rename(root / "registry.db", root / "hidden.db")
            running.read_until("the registry does not answer; what runs goes on")
            metadata = [("authorization", f"Bearer {TOKEN}")]
            assert (
                pb_grpc.PathStorageStub(channel)
                .Exists(pb.ExistsRequest(path="data"), metadata=metadata, timeout=20)
                .exists
            )
            wait_until(lambda: "lit_storage_registry_reachable 0.0" in metrics())
            os.rename(root / "hidden.db", root / "registry.db")
            running.read_until("the registry answers again")


@pytest.mark.slow
class TestLeases:
    """Where names are held by leases, as in etcd."""

    @pytest.fixture
    def leased(self, etcd, tmp_path):
        url = etcd.new_url()
        settings = tmp_path / "leased.toml"
        settings.write_text(f'registry = "{url}"\n[limits]\nlease_seconds = 6\n')
        opened = open_registry(url, machine_id="other", limits=Limits())
        yield ["--config", str(settings)], opened
        opened.close()

    def test_its_lease_is_kept(self, serving, leased):
        """It lives on past the time of a lease, and metrics tell how old that is."""
        arguments, registry = leased
        running = serving(*arguments, "--metrics", "0")
        metrics = metrics_of(running)
        threading.Event().wait(7)
        assert registry.resolve("store", fresh=True).instance_id == running.said["instance"]
        (age,) = re.findall(r"^lit_storage_lease_age_seconds (\S+)$", metrics(), re.MULTILINE)
        assert 0 <= float(age) < 6

    def test_a_pause_that_costs_the_lease(self, serving, leased):
        """Stopped for longer, it answers as the former instance to nobody, and then as a new one."""
        arguments, registry = leased
        running = serving(*arguments)
        running.process.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: registry.resolve("store", fresh=True) is None)
        running.process.send_signal(signal.SIGCONT)
        with channel_to(running) as channel:
            request = pb.StatRequest(path="data")
            request.target.name, request.target.instance_id = "store", running.said["instance"]
            with pytest.raises(grpc.RpcError) as refused:
                pb_grpc.PathStorageStub(channel).Stat(
                    request, metadata=[("authorization", f"Bearer {TOKEN}")], timeout=20
                )
            assert refused.value.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.FAILED_PRECONDITION,
            )
            again = running.read_until("the name is held again")
            request.target.instance_id = again["instance"]
            assert registry.resolve("store", fresh=True).instance_id == again["instance"]
            pb_grpc.PathStorageStub(channel).Stat(
                request, metadata=[("authorization", f"Bearer {TOKEN}")], timeout=20
            )

    def test_a_pause_in_which_another_takes_the_name(self, serving, leased):
        """It does not come back, and ends with 1."""
        arguments, registry = leased
        running = serving(*arguments)
        running.process.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: registry.resolve("store", fresh=True) is None)
        record = LiveRecord("store", "i2", "127.0.0.1:9", "other")
        lease = registry.register(record)
        running.process.send_signal(signal.SIGCONT)
        ended = threading.Event()

        def renew():
            nonlocal lease
            while not ended.wait(1):
                lease = registry.renew(lease, 5) or lease

        renewing = threading.Thread(target=renew)
        renewing.start()
        try:
            code, text = running.end()
        finally:
            ended.set()
            renewing.join()
        assert code == 1
        assert "'store'" in text
        assert registry.resolve("store", fresh=True).instance_id == "i2"
