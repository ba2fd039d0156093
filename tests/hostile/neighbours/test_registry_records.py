"""What a registry holds was written by anybody: a record that is none leads nowhere, and hides no other."""

import contextlib
import json
import os
import socket
import sqlite3
import time

import pytest

from lit_storage_client.peers.channels import Channels
from lit_storage_core.registries import open_registry
from lit_storage_core.security.settings import Security
from lit_storage_proto.endpoint import grpc_target
from lit_storage_proto.errors import InvalidURI, OriginUnavailable, RegistryUnavailable, StorageError
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
from tests.hostile.neighbours.conftest import HASTY, LIMITS, MACHINE, live, this_process, work

NOT_ENDPOINTS = [
    "",
    "host",
    ":80",
    "host:",
    "host:0",
    "host:-1",
    "host:+1",
    "host:65536",
    "host:80 ",
    " host:80",
    "ho st:80",
    "host:8 0",
    "host:80\n",
    "host\n:80",
    "host\0:80",
    "host:80\0",
    "host:" + "9" * 5000,
    "host:٣",
    "h" * 1_000 + ":80",
    "unix:/run/docker.sock",
    "unix:///run/docker.sock:80",
    "unix-abstract:name:80",
    "dns:evil.example:80",
    "dns:///evil.example:80",
    "dns://8.8.8.8/evil.example:80",
    "xds:///evil:80",
    "ipv4:10.0.0.1:80",
    "ipv6:[::1]:80",
    "vsock:1:80",
    "http://evil.example:80",
    "user:password@host:80",
    "user@host:80",
    "host/path:80",
    "host?x=1:80",
    "host#x:80",
    "host,other:80",
    "%2e%2e:80",
    "[fe80::1%eth0]:80",
    "[fe80::1%25eth0]:80",
    "[host]:80/",
    "[]:80",
    "[::1]80",
    "::1:80",
    "\x1b[2Jhost:80",
    "\u202ehost:80",
    "höst:80",
    "\udc80:80",
]
NOT_NAMES = [
    "",
    ".",
    "..",
    "../up",
    "a/b",
    "/etc",
    "a..b",
    "-rf",
    "a b",
    "a\n",
    "\x1b[31m",
    "é",
    "a" * 129,
    "@x",
    "a\0",
]
NOT_IDS = ["a/b", "../../token", "a\nb", "\x1b]0;title\x07", "\0", "\ud800", "i" * 129, "\u202e"]
NOT_JSON = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"1e999",
    b"NaN",
    b"[" * 16_000,
    b'{"a":' * 3_000,
    b'{"name": ' + b"9" * 5_000 + b"}",
    b"\xff\xfe{}",
    b"\xff" * 100,
    b"\0" * 100,
    "\ufeff{}".encode(),
    b"{" + b" " * 20_000 + b"}",
    b"x" * 100_000,
]
WRONG_FIELDS = [
    {"name": "other"},
    {"name": None},
    {"name": ["trainer"]},
    {"instance_id": 1},
    {"instance_id": None},
    {"endpoint": ["127.0.0.1", 80]},
    {"endpoint": 10**400},
    {"endpoint": {}},
    {"machine_id": True},
    {"machine_id": float("nan")},
    {"tls_name": None},
    {"tls_name": "other"},
    {"tls_name": "trainer.evil.example"},
    {"tls_name": "*"},
    {"custodian": 1},
    {"custodian": "yes"},
]


@pytest.mark.parametrize("endpoint", NOT_ENDPOINTS, ids=lambda endpoint: ascii(endpoint)[:30])
def test_an_endpoint_that_is_none_is_no_record(lying_etcd, registry, endpoint):
    """An endpoint that is more, less or other than a host and a port is refused, with a typed error."""
    lying_etcd.put("live", "trainer", live(endpoint=endpoint))
    with pytest.raises(RegistryUnavailable, match="'trainer' is no record"):
        registry.resolve("trainer")


@pytest.mark.parametrize(
    "endpoint", ["unix:80", "xds:80", "dns:80", "ipv4:80", "vsock:80", "unix-abstract:80"]
)
def test_a_host_is_never_a_scheme_of_grpc(endpoint):
    """A host whose name is one of gRPC's schemes is looked up as a host."""
    assert grpc_target(endpoint) == f"dns:///{endpoint}"


def test_a_lie_opens_no_socket_of_this_machine(
    lying_etcd, registry, open_origins, listen, tmp_path, monkeypatch
):
    """A record whose endpoint is "unix:80" opens no socket called "80" in the working directory."""
    monkeypatch.chdir(tmp_path)
    listener = listen(socket.AF_UNIX, "80")
    lying_etcd.put("live", "trainer", live(endpoint="unix:80"))
    with pytest.raises(StorageError):
        open_origins(registry).stat(Location("trainer", "a"))
    assert listener.heard == []


def test_a_dialed_target_is_checked_too(tmp_path, monkeypatch):
    """Whatever registry gave it, what is not HOST:PORT is not dialed."""
    channels = Channels(Security(token="x"), LIMITS)
    with contextlib.closing(channels), pytest.raises(OriginUnavailable, match="no address"):
        channels.calls(LiveRecord("trainer", "i1", "unix:/run/docker.sock", "m"))


@pytest.mark.parametrize("name", NOT_NAMES, ids=ascii)
def test_a_name_outside_the_grammar_is_not_listed(lying_etcd, registry, name):
    """A key whose name no Work can have is in no list, and the names beside it are."""
    for kind, value in (("live", live), ("work", work)):
        lying_etcd.put(kind, name, value(name))
        lying_etcd.put(kind, "good", value("good"))
    assert [record.name for record in registry.live()] == ["good"]
    assert [record.name for record in registry.works()] == ["good"]


@pytest.mark.parametrize("kind", ["live", "work"])
@pytest.mark.parametrize("field", ["instance_id", "machine_id"])
@pytest.mark.parametrize("text", NOT_IDS, ids=ascii)
def test_an_odd_id_is_no_record(lying_etcd, registry, kind, field, text):
    """An id that could be a path, or steer a terminal, is refused."""
    lying_etcd.put(kind, "trainer", {"live": live, "work": work}[kind](**{field: text}))
    with pytest.raises(RegistryUnavailable, match="is no record"):
        registry.resolve("trainer") if kind == "live" else registry.work("trainer")


@pytest.mark.parametrize("kind", ["live", "work"])
@pytest.mark.parametrize("value", NOT_JSON, ids=lambda value: ascii(value[:12]))
def test_bytes_that_are_no_record_hide_no_other(lying_etcd, registry, kind, value):
    """What is no JSON object of a record is a typed error to who asks for it, and passed over in lists."""
    lying_etcd.put("live", "good", live("good"))
    lying_etcd.put("work", "good", work("good"))
    lying_etcd.put(kind, "trainer", value)
    with pytest.raises(RegistryUnavailable, match="is no record"):
        registry.resolve("trainer") if kind == "live" else registry.work("trainer")
    assert (
        [record.name for record in registry.live()]
        == [record.name for record in registry.works()]
        == ["good"]
    )


@pytest.mark.parametrize("fields", WRONG_FIELDS, ids=ascii)
def test_a_field_of_another_type_is_no_record(lying_etcd, registry, fields):
    """A field of a wrong type, or a certificate's name that is not the Work's, is refused."""
    lying_etcd.put("live", "trainer", live(**fields))
    with pytest.raises(RegistryUnavailable, match="is no record"):
        registry.resolve("trainer")


@pytest.mark.parametrize("lacking", ["name", "instance_id", "endpoint", "machine_id"])
def test_a_lacking_field_is_no_record(lying_etcd, registry, lacking):
    """A record without a field that it needs is refused."""
    members = json.loads(live())
    del members[lacking]
    lying_etcd.put("live", "trainer", json.dumps(members).encode())
    with pytest.raises(RegistryUnavailable, match="is no record"):
        registry.resolve("trainer")


def test_what_is_unknown_is_passed_over(lying_etcd, registry):
    """A record with further members, of any kind, is still one; of a member twice the last one counts."""
    value = live(further={"deep": [1] * 100}, number=1.5)[:-1] + b', "endpoint": "127.0.0.1:2"}'
    lying_etcd.put("live", "trainer", value)
    assert registry.resolve("trainer").endpoint == "127.0.0.1:2"


@pytest.mark.parametrize(
    "holder",
    [
        "[" * 15_000,
        "{",
        "null",
        '{"pid": 1}',
        json.dumps({"pid": -1, "start_time": 1, "boot_id": "b", "pid_namespace": "p"}),
        json.dumps({"pid": 10**100, "start_time": 1, "boot_id": "b", "pid_namespace": "p"}),
        json.dumps({"pid": "../../etc", "start_time": 1, "boot_id": "b", "pid_namespace": "p"}),
        json.dumps({"pid": 1, "start_time": "x", "boot_id": [], "pid_namespace": {}}),
        17,
        None,
        ["x"],
    ],
    ids=lambda holder: ascii(holder)[:40],
)
def test_a_holder_that_is_none_changes_nothing(lying_etcd, registry, holder):
    """A lie about who holds a name of this machine leaves the record as it is."""
    lying_etcd.put("live", "trainer", live(machine_id=MACHINE, holder=holder))
    assert registry.resolve("trainer").instance_id == "i1"
    assert len(registry.live()) == 1


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 10**30, True])
def test_a_pid_of_a_record_is_sent_no_signal(lying_etcd, registry, pid, monkeypatch):
    """Whatever pid a record names, no process is sent a signal that it could notice."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    holder = json.loads(this_process()) | {"pid": pid}
    lying_etcd.put("live", "trainer", live(machine_id=MACHINE, holder=json.dumps(holder)))
    registry.resolve("trainer")
    assert all(number == 0 for _, number in sent)


SQL_LIES = [
    ("live", "name", b"trainer\xff"),
    ("live", "name", "../../x"),
    ("live", "instance_id", b"\0\1"),
    ("live", "instance_id", "a/b"),
    ("live", "endpoint", "unix:/run/x:80"),
    ("live", "endpoint", 80),
    ("live", "endpoint", "x" * 3_000_000),
    ("live", "machine_id", "\x1b[2J"),
    ("live", "tls_name", "other"),
    ("live", "holder", "[" * 100_000),
    ("live", "holder", b"{}"),
    ("live", "holder", "null"),
    ("live", "holder", 5),
    ("work", "name", "a\nb"),
    ("work", "name", b"\xff\xfe"),
    ("work", "state", "odd"),
    ("work", "state", b"running"),
    ("work", "state", 1),
    ("work", "machine_id", "a/../b"),
    ("work", "artifacts_url", b"file:///etc"),
    ("work", "artifacts_url", "x" * 100_000),
]


@pytest.mark.parametrize(("table", "column", "value"), SQL_LIES, ids=lambda value: ascii(value)[:20])
def test_a_row_that_is_no_record_hides_no_other(sqlite_file, table, column, value):
    """Of rows written by hand, one that is no record is passed over in lists, and the others are there."""
    row = {
        "name": "bad",
        "instance_id": "i",
        "endpoint": "127.0.0.1:1",
        "machine_id": MACHINE,
        "tls_name": "",
    }
    row |= {"holder": this_process(), "custodian": 0}
    if table == "work":
        row = {
            "name": "bad",
            "instance_id": "i",
            "state": "stopped",
            "machine_id": MACHINE,
            "artifacts_url": "",
        }
    row[column] = value
    with contextlib.closing(sqlite3.connect(sqlite_file)) as file, file:
        file.execute(
            f"INSERT INTO {table} ({','.join(row)}) VALUES ({','.join('?' * len(row))})", list(row.values())
        )
    registry = open_registry(f"sqlite://{sqlite_file}", machine_id=MACHINE, limits=LIMITS)
    with contextlib.closing(registry):
        assert [record.name for record in registry.live()] == ["good"]
        assert [record.name for record in registry.works()] == ["good"]


def test_a_text_that_is_no_utf8_fails_no_other(sqlite_file):
    """A text of bytes that are no UTF-8, as any program can write one, hides no other name."""
    with contextlib.closing(sqlite3.connect(sqlite_file)) as file, file:
        row = "CAST(x'ff80' AS TEXT), 'i', 'stopped', 'm', ''"
        file.execute(f"INSERT INTO work (name, instance_id, state, machine_id, artifacts_url) VALUES ({row})")
    registry = open_registry(f"sqlite://{sqlite_file}", machine_id=MACHINE, limits=LIMITS)
    with contextlib.closing(registry):
        assert [record.name for record in registry.works()] == ["good"]


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
HOSTILE_SCHEMAS = {
    "view": f"""
        DROP TABLE work; CREATE VIEW work AS {ENDLESS}
        SELECT 'a' || x AS name, 'i' AS instance_id, 'stopped' AS state, 'm' AS machine_id,
               '' AS artifacts_url FROM n""",
    "trigger": """
        CREATE TRIGGER evil AFTER INSERT ON live BEGIN UPDATE live SET endpoint = 'evil:1'; END""",
    "check": "DROP TABLE live; CREATE TABLE live (name TEXT CHECK (length(hex(randomblob(900000000))) > 0))",
    "generated": "DROP TABLE work; CREATE TABLE work (name TEXT AS (hex(zeroblob(900000000))), state TEXT)",
    "default": "DROP TABLE work; CREATE TABLE work (name TEXT DEFAULT (hex(randomblob(900000000))), x)",
    "index": "CREATE INDEX evil ON live (hex(zeroblob(length(name) * 9000)))",
    "virtual": "CREATE VIRTUAL TABLE evil USING fts4(x)",
    "no tables": "DROP TABLE meta; DROP TABLE live; DROP TABLE work",
    "no meta": "DELETE FROM meta",
    "odd meta": "UPDATE meta SET schema_version = 'x'",
    "negative version": "UPDATE meta SET schema_version = -5",
    "huge version": "UPDATE meta SET schema_version = 9223372036854775807",
}


@pytest.mark.parametrize("statements", HOSTILE_SCHEMAS.values(), ids=HOSTILE_SCHEMAS)
def test_a_file_with_code_in_it_is_none_of_ours(sqlite_file, statements):
    """A database whose tables run what another one wrote is refused, at once and with a typed error."""
    with contextlib.closing(sqlite3.connect(sqlite_file)) as file:
        file.executescript(statements)
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable):
        open_registry(f"sqlite://{sqlite_file}", machine_id=MACHINE, limits=LIMITS).works()
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_a_table_changed_under_a_registry_is_no_hang(sqlite_file):
    """Where a table becomes an endless view while a registry is open, a list ends with a typed error."""
    registry = open_registry(f"sqlite://{sqlite_file}", machine_id=MACHINE, limits=HASTY)
    with contextlib.closing(sqlite3.connect(sqlite_file)) as file:
        file.executescript(HOSTILE_SCHEMAS["view"].replace("UNION ALL", "UNION"))
    began = time.monotonic()
    with contextlib.closing(registry), pytest.raises(RegistryUnavailable):
        registry.works()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("kind", ["directory", "fifo", "text", "empty", "zeros"])
def test_a_file_that_is_no_database_is_a_typed_error(tmp_path, kind):
    """Whatever lies where the registry's file should be, nothing hangs and the error is typed."""
    path = tmp_path / "registry.db"
    make = {
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "text": lambda: path.write_text("[core]\n" * 1000),
        "empty": path.touch,
        "zeros": lambda: path.write_bytes(bytes(8192)),
    }
    make[kind]()
    with pytest.raises((RegistryUnavailable, StorageError)):
        open_registry(f"sqlite://{path}", machine_id=MACHINE, limits=LIMITS).works()


@pytest.mark.parametrize(
    "endpoint",
    [each for each in NOT_ENDPOINTS if "," not in each and each.strip() == each],
    ids=lambda each: ascii(each)[:30],
)
def test_a_static_list_holds_endpoints_alone(endpoint):
    """A list that a user was told to use names hosts and ports, and nothing else of gRPC's."""
    with pytest.raises(InvalidURI):
        open_registry(f"static:trainer={endpoint}", machine_id=MACHINE, limits=LIMITS)
