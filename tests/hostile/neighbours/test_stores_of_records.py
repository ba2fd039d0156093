"""What a registry says of where a Work left its files opens nothing that the user did not allow."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import traceback

import pytest

from lit_storage_core.artifacts import fsspec_objects, urls
from lit_storage_core.artifacts.urls import check_told, open_store
from lit_storage_core.registries import open_registry
from lit_storage_proto.errors import AccessDenied, InvalidURI, OriginUnavailable, PathNotFound, StorageError
from lit_storage_proto.registry import WorkState
from lit_storage_proto.uri import Location
from tests.conftest import script_of
from tests.hostile.neighbours.conftest import LIMITS, MACHINE, work

KINDS = [
    "http", "https", "ftp", "sftp", "ssh", "scp", "smb", "hdfs", "webhdfs", "arrow_hdfs", "github", "gist",
    "git", "hg", "jupyter", "jlab", "dask", "dbfs", "local", "memory", "dir", "zip", "tar", "libarchive",
    "root", "reference", "simplecache", "filecache", "blockcache", "cached", "generic", "hf", "oci",
    "ocilake", "data", "pyscript", "lakefs", "asynclocal", "box", "gdrive", "dropbox", "wandb", "tos",
    "ssh+git", "x",
]  # fmt: skip

NOT_URLS = [
    "file:///",
    "file://",
    "file://host/directory",
    "file://../../etc",
    "file:/etc",
    "in-place://",
    "in-place://machine",
    "in-place:///",
    "/etc",
    "etc",
    "::",
    "simplecache::file:///etc",
    "simplecache::http://127.0.0.1/x",
    "reference::s3://bucket/x",
    "s3://",
    "s3://bucket\n/x",
    "s3://bucket/\0",
    "s3://key:secret@bucket/prefix",
    "s3://secret@bucket/prefix",
    "s3://bucket/prefix?secret=secret",
    "gs://bucket?token=secret",
    "abfs://container:secret@account/x",
    "https://user:secret@127.0.0.1/x",
    "S3://bucket",
    "python:os.system('secret')",
    "javascript://secret",
    "\x1b]0;secret\x07://x",
    "x" * 10_000,
]


@pytest.fixture
def left_at(lying_etcd, registry, open_origins):
    """Let a registry say where "trainer" left its files, and return what asks for them."""

    def say(url, **fields):
        lying_etcd.put("work", "trainer", work(artifacts_url=url, **fields))
        return open_origins(registry)

    return say


@pytest.fixture(autouse=True)
def none_of_our_own(monkeypatch):
    """Nobody in this process publishes in a store."""
    monkeypatch.setattr(urls, "_own_kinds", set())
    monkeypatch.delenv("LIT_STORAGE_ARTIFACTS", raising=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_nobody_named_is_not_loaded(left_at, kind, monkeypatch):
    """A store of a kind that this user never named is refused, before anything of it is loaded."""
    loaded = []
    monkeypatch.setattr(fsspec_objects, "_file_system", lambda *arguments: loaded.append(arguments))
    with pytest.raises((AccessDenied, InvalidURI)):
        left_at(f"{kind}://127.0.0.1/etc").exists(Location("trainer", "a"))
    assert loaded == []


@pytest.mark.parametrize("kind", ["sftp", "http", "memory"])
def test_a_kind_that_the_user_named_is_opened(kind, monkeypatch):
    """Where this user's own store is of a kind, another one of it is opened."""
    monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", f"{kind}://127.0.0.1/mine")
    assert check_told(f"{kind}://127.0.0.1/theirs", "trainer") == f"{kind}://127.0.0.1/theirs"


@pytest.mark.parametrize(
    "url", ["s3://b/p", "gs://b/p", "abfs://c/p", "file:///store", "in-place://m/r/artifacts"]
)
def test_directories_and_the_large_providers_are_read(url):
    """These need no word of the user: what is read is at a place that this process would ask anyway."""
    assert check_told(url, "trainer") == url


@pytest.mark.parametrize("url", NOT_URLS, ids=lambda url: ascii(url)[:40])
def test_a_url_that_is_none_is_a_typed_error(left_at, url):
    """What is no URL of a store, or holds a password, is refused, and none of it is shown."""
    origins = left_at(url)
    for ask in (origins.exists, origins.stat, origins.stream):
        with pytest.raises(StorageError) as raised:
            ask(Location("trainer", "a"))
        assert "secret" not in "".join(traceback.format_exception(raised.value))


def test_nothing_connects_for_a_record_alone(left_at, listen):
    """A record that names an HTTP server of this machine makes nobody connect to it."""
    listener = listen()
    with pytest.raises(AccessDenied):
        left_at(f"http://127.0.0.1:{listener.address[1]}/latest/meta-data").exists(Location("trainer", "a"))
    assert listener.heard == []


@pytest.mark.parametrize("directory", ["/etc", "/proc/self", "/dev", "/proc/self/root/etc", "/sys/kernel"])
def test_a_directory_that_is_no_store_is_only_looked_at(left_at, directory):
    """A record that says file:///etc finds nothing there: only manifests are read, and none is there."""
    with pytest.raises((OriginUnavailable, AccessDenied, PathNotFound)):
        left_at(f"file://{directory}", machine_id=MACHINE).stat(Location("trainer", "passwd"))


@pytest.mark.parametrize("path", ["passwd", "shadow", "/etc/passwd", "@/etc/passwd", "../etc/passwd"])
def test_in_place_on_this_machine_needs_a_manifest(left_at, tmp_path, path):
    """A lie that a Work of this machine left its files in place hands out no file that no manifest names."""
    origins = left_at(f"in-place://{MACHINE}/etc/artifacts", machine_id=MACHINE)
    with pytest.raises((PathNotFound, OriginUnavailable)):
        origins.stat(Location("trainer", path))


@pytest.mark.parametrize("name", ["..", "../up", "a/b", "/etc", "", ".", "a\0", "a b", "\x1b[2J"], ids=ascii)
def test_the_name_of_a_work_is_no_path(tmp_path, name):
    """A store is opened for what can be the name of a Work, and not for one that leads out of it."""
    with pytest.raises(InvalidURI):
        open_store(f"file://{tmp_path}/store", name, limits=LIMITS)


@pytest.mark.parametrize("machine", ["other", "%1b%5b2J", "%0a%0aerror", "..%2f..", "%00", "%ff", "x" * 300])
def test_a_machine_of_a_url_is_shown_as_text(left_at, machine):
    """Of files in place on a machine without a custodian the error shows the machine's id, escaped."""
    with pytest.raises(OriginUnavailable) as raised:
        left_at(f"in-place://{machine}/root/artifacts").exists(Location("trainer", "a"))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/x", "s3://key:secret@b/x", "file:///etc", "local:///etc", "x"]
)
def test_one_bad_store_breaks_no_other(lying_etcd, registry, left_at, tmp_path, url):
    """What is wrong with the store of one Work is not wrong with another one's, nor with lists."""
    lying_etcd.put("work", "good", work("good", artifacts_url=f"file://{tmp_path}", machine_id=MACHINE))
    (tmp_path / "good").mkdir()
    origins = left_at(url)
    with contextlib.suppress(StorageError):
        origins.exists(Location("trainer", "a"))
    assert origins.exists(Location("good", "a")) is False
    assert [record.name for record in registry.works()] == ["good", "trainer"]


@pytest.mark.parametrize("state", [state.value for state in WorkState])
def test_a_state_opens_nothing(left_at, state):
    """Whatever state a record claims, a store of a kind that nobody named stays closed."""
    with pytest.raises(AccessDenied):
        left_at("http://127.0.0.1/x", state=state).exists(Location("trainer", "a"))


@pytest.mark.slow
def test_a_store_says_where_no_secret_of_ours_goes(left_at, listen, monkeypatch):
    """A bucket that a record names is asked for at the endpoint of this user, and not at its own."""
    listener = listen()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.address[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    origins = left_at("s3://evil.example/x")
    while not listener.heard:  # it takes seconds until a busy machine has sent the first request
        with pytest.raises(StorageError):
            origins.exists(Location("trainer", "a"))
    assert not any(b"very-secret" in heard for heard in listener.heard)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["works"], ["works", "--json"], ["artifacts", "ls"], ["artifacts", "ls", "--json"]]
)
def test_no_list_steers_a_terminal(tmp_path, command):
    """Whatever rows a registry holds, what the command line prints of them has no control characters."""
    root = tmp_path / ".lit"
    root.mkdir()
    (root / "machine-id").write_text(MACHINE)
    open_registry(f"sqlite://{root}/registry.db", machine_id=MACHINE, limits=LIMITS).close()
    rows = [
        ("evil\x1b[2J", "i", "stopped", MACHINE, ""),
        ("a", "i\x1b]0;x\x07", "stopped", MACHINE, "file:///x"),
        ("b", "i", "stopped", MACHINE, "file:///\u202e\x9b31m"),
        ("c", "i", "stopped", MACHINE, "s3://key:secret@b/x"),
        ("good", "i", "stopped", MACHINE, ""),
    ]
    with contextlib.closing(sqlite3.connect(root / "registry.db")) as file, file:
        file.executemany("INSERT INTO work VALUES (?, ?, ?, ?, ?)", rows)
    environment = os.environ | {"LIT_STORAGE_ROOT": str(root), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [script_of("lit-storage"), *command], env=environment, capture_output=True, text=True, timeout=60
    )
    printed = done.stdout + done.stderr
    assert all(line.isprintable() for line in printed.splitlines())
    assert not any(word in printed for word in ("secret", "Traceback"))
    assert command[0] == "artifacts" or "good" in done.stdout
