"""What all tests share: a plain environment, servers of S3, and which tests need uid 0."""

import collections
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import trustme

from tests.etcd_server import EtcdServers, free_ports
from tests.ray_cluster import RayCluster
from tests.ray_driver import RayDriver

# A command that a shell started in the background ignores SIGINT, and so do the processes that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests start thousands of processes. Without bytecode on the disk each of them compiles this product first.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

for variable in [name for name in os.environ if name.startswith("LIT_STORAGE_")]:
    del os.environ[variable]

_write_to_path = trustme.Blob.write_to_path


def _write_for_the_owner(self: trustme.Blob, path: str, append: bool = False) -> None:
    """Others may not read keys, or they are refused; trustme writes them as the umask says."""
    _write_to_path(self, path, append)
    os.chmod(path, 0o600)


trustme.Blob.write_to_path = _write_for_the_owner

# An example takes as long as the machine is busy: by default one that took 0.2 s fails its test. The examples
# are the same each time, so that a change is judged by what it changes; those of the soak are others.
hypothesis.settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("repeatable")


_tally = pytest.StashKey[collections.Counter[str]]()
_soak_tests = pytest.StashKey[int]()


def pytest_collection_finish(session: pytest.Session) -> None:
    soak = [item for item in session.items if item.get_closest_marker("soak")]
    session.config.stash[_soak_tests] = len(soak)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what, count in sorted(config.stash.get(_tally, collections.Counter()).items()):
        terminalreporter.write_line(f"tally: {count:,} {what}")


@pytest.fixture
def soak_seconds(request: pytest.FixtureRequest) -> float:
    """How long one test marked `soak` may go on: its share of SOAK_SECONDS."""
    return float(os.environ.get("SOAK_SECONDS") or 20) / max(1, request.config.stash[_soak_tests])


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> "collections.Counter[str]":
    """Counts what a test did: ``tally["kills"] += 1``. A run in one process prints the sums."""
    return request.config.stash.setdefault(_tally, collections.Counter())


def needs_ray(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)  # only a parametrised test has one
    return "ray_cluster" in getattr(item, "fixturenames", ()) or (call and "ray" in call.params.values())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The first worker of xdist begins with the first tests, and others take from the end of what it has left.
    # So one worker runs all tests of Ray, and one cluster is started.
    items.sort(key=lambda item: not needs_ray(item))
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs uid 0: it mounts, or drops to another user id"))


@pytest.fixture(autouse=True)
def leave_session() -> Iterator[None]:
    """No test leaves a session behind, as the run of an App does, or expects one, as its making does."""
    yield
    session, home = sys.modules.get("lit_storage.sessions.session"), sys.modules.get("lit_storage.paths.home")
    if session is not None and (left := session.current()) is not None:
        left.close()
    if home is not None:
        home.expect(None)


class S3Server:
    """A real server of S3's protocol on loopback, for as long as the tests run."""

    key, secret = "some-key", "some-secret-of-tests"

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        for _ in range(2000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{command[0]} does not listen: {log.read_text()}")

    @property
    def environment(self) -> dict[str, str]:
        """What tells S3 clients how to reach it, and with which credentials."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def new_url(self) -> str:
        """Return the URL of a place in a new bucket."""
        import botocore.session

        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        client = botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )
        client.create_bucket(Bucket=bucket)
        client.close()
        return f"s3://{bucket}/some/prefix"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    return free_ports(1)[0]  # none that is given meanwhile to whoever connects


def script_of(name: str) -> str:
    """Return the path of a program that is installed beside this Python."""
    path = os.path.join(sysconfig.get_path("scripts"), name)
    assert os.path.exists(path), f"{name} is not installed: run make setup"
    return path


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """rclone serves a directory as S3; it checks signatures, and lets an object be written twice."""
    directory, port = tmp_path_factory.mktemp("rclone"), free_port()
    served = directory / "served"
    served.mkdir()
    keys = f"{S3Server.key},{S3Server.secret}"
    command = [script_of("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys]
    command += ["--config", str(directory / "none"), str(served)]
    server = S3Server(command, port, directory / "log")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """moto keeps objects in memory; it takes any key, and enforces conditional writes."""
    port = free_port()
    command = [script_of("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    server = S3Server(command, port, tmp_path_factory.mktemp("moto") / "log")
    yield server
    server.stop()


@pytest.fixture
def s3(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[S3Server, str]]:
    """Choose a server by name; the environment tells of it, and the URL is that of a new place in it."""

    def choose(name: str) -> tuple[S3Server, str]:
        server: S3Server = request.getfixturevalue(name)
        for variable, value in server.environment.items():
            monkeypatch.setenv(variable, value)
        return server, server.new_url()

    return choose


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """One etcd server on loopback, for as long as the tests run; `new_url()` is a registry in it."""
    with EtcdServers(tmp_path_factory.mktemp("etcd")) as servers:
        yield servers


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """Two nodes of Ray in a network namespace, for as long as the tests run."""
    why_not = None
    if importlib.util.find_spec("ray") is None:
        why_not = "Ray is not installed here: it is tried on one Python"
    elif os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "etcd"))):
        why_not = "a network namespace with a cluster needs uid 0, iproute2, unshare and etcd"
    if why_not is not None:
        (pytest.fail if os.environ.get("TESTS_NEED_RAY") == "1" else pytest.skip)(why_not)
    with contextlib.closing(RayCluster()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ray_driver(ray_cluster: RayCluster) -> Iterator[RayDriver]:
    """The executor "ray" of one program on that cluster."""
    with contextlib.closing(RayDriver(ray_cluster)) as driver:
        yield driver


@pytest.fixture
def public_directory():
    """A directory that uid 65534 can write."""
    path = tempfile.mkdtemp(prefix="lit-storage-test-")
    os.chmod(path, 0o777)
    yield path
    subprocess.run(["chmod", "-R", "u+rwX", path], check=True)
    shutil.rmtree(path)


@pytest.fixture
def as_nobody():
    """Run code in a process of uid 65534, after its imports; return what it prints."""

    def run(imports, code, *arguments):
        drop = "import os; os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)"
        script = f"import sys\n{textwrap.dedent(imports)}\n{drop}\n{textwrap.dedent(code)}"
        result = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run
