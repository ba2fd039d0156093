"""The configuration of a daemon: a file, flags, and what is refused of either."""

import pytest

from lit_storage_proto.errors import InvalidConfig
from lit_storage_proto.limits import Limits
from lit_storage_server.daemon.config import Config, make_config, read_config


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "daemon.toml"
        path.write_text(text)
        return str(path)

    return write


WHOLE = """
name = "store-1"
bind = "127.0.0.1:7440"
advertise = "store-1.example:7440"
registry = "etcd://h1:2379/lit"
root = "/srv/lit"
token_file = "/run/token"
insecure = false
metrics = "9464"
custodian = true
drain_seconds = 12
log_format = "json"
[shares]
data = "/data"
[tls]
certificate = "/tls/cert.pem"
key = "/tls/key.pem"
ca = "/tls/ca.pem"
[limits]
server_streams = 64
progress_seconds = 30
"""


def test_every_setting_of_a_file(write):
    """Each key becomes the field of its name, numbers as what they count."""
    assert make_config(read_config(write(WHOLE)), {}) == Config(
        name="store-1",
        shares={"data": "/data"},
        bind="127.0.0.1:7440",
        advertise="store-1.example:7440",
        registry="etcd://h1:2379/lit",
        root="/srv/lit",
        token_file="/run/token",
        certificate="/tls/cert.pem",
        key="/tls/key.pem",
        ca="/tls/ca.pem",
        metrics="9464",
        custodian=True,
        drain_seconds=12.0,
        log_format="json",
        limits=Limits(server_streams=64, progress_seconds=30.0),
    )


def test_a_flag_beats_the_file(write):
    """One that was given replaces what the file says, and one that was not leaves it."""
    file = read_config(write(WHOLE))
    made = make_config(file, {"name": "other", "bind": None, "shares": {"x": "/x"}, "custodian": False})
    assert (made.name, made.bind, made.shares, made.custodian) == (
        "other",
        "127.0.0.1:7440",
        {"x": "/x"},
        False,
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("nmae = 'x'", r"there is no setting 'nmae'; did you mean 'name'\?"),
        ("token = 'secret'", r"no setting 'token'; did you mean 'token_file'\?"),
        ("[tls]\ncert = '/x'", r"no setting 'tls.cert'; did you mean 'tls.certificate'\?"),
        ("[limits]\nserver_stream = 1", r"no setting 'limits.server_stream'; did you mean 'limits.server_"),
        ("zzz = 1", r"no setting 'zzz'; known are .*advertise, bind"),
        ("name = 3", "name must be text, and is a whole number"),
        ("custodian = 'yes'", "custodian must be true or false, and is text"),
        ("drain_seconds = true", "drain_seconds must be a number, and is true or false"),
        ("shares = '/data'", "shares must be a table, and is text"),
        ("[shares]\ndata = 7", "shares.data must be text, and is a whole number"),
        ("[shares]\ndata = 'data'", "shares.data must be an absolute path, and is 'data'"),
        ("root = 'here'", "root must be an absolute path"),
        ("[tls]\nkey = 'key.pem'", "tls.key must be an absolute path"),
        ("[limits]\nserver_streams = 0", "limits.server_streams must be more than 0"),
        ("[limits]\nserver_streams = 1.5", "limits.server_streams must be a whole number, and is a number"),
        ("[limits]\nunary_seconds = nan", "limits.unary_seconds must be more than 0"),
        pytest.param(f"drain_seconds = {10**400}", "drain_seconds is larger than any", id="large"),
        pytest.param(
            f"[limits]\nunary_seconds = -{10**400}", "limits.unary_seconds is larger than", id="low"
        ),
        pytest.param(f"[limits]\nserver_streams = 0x{'f' * 5000}", "and is far from that", id="hexadecimal"),
        pytest.param(f"drain_seconds = {'9' * 5000}", "daemon.toml: .*digits", id="5000 digits"),
        ("name = ", "daemon.toml: "),
        ("name = 1979-05-27", "name must be text, and is date"),
    ],
)
def test_a_file_that_cannot_be_used(write, text, match):
    """What is wrong is named, with the file, and where a key is unknown with the nearest one."""
    with pytest.raises(InvalidConfig, match=match) as caught:
        read_config(write(text))
    assert "daemon.toml" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    """It is named, with the system's reason."""
    with pytest.raises(InvalidConfig, match=r"none\.toml' cannot be read: No such file"):
        read_config(str(tmp_path / "none.toml"))


def test_a_file_that_is_no_text(tmp_path):
    """Bytes that are not UTF-8 are no TOML."""
    path = tmp_path / "daemon.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(InvalidConfig, match=r"daemon\.toml"):
        read_config(str(path))


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({}, "needs a name.*--name"),
        ({"name": "a b"}, "name: 'a b' cannot be the name of a Work"),
        ({"name": "x", "bind": "nowhere"}, "bind: 'nowhere' is no address"),
        ({"name": "x", "metrics": "1:2:3"}, "metrics: '1:2:3' is no address"),
        ({"name": "x", "metrics": "99999"}, "metrics: .*99999' is no address"),
        ({"name": "x", "drain_seconds": -1.0}, "drain_seconds must be a number from 0"),
        ({"name": "x", "drain_seconds": float("inf")}, "drain_seconds must be a number from 0"),
        ({"name": "x", "log_format": "xml"}, "log_format is 'xml'; it can be 'plain' or 'json'"),
    ],
)
def test_values_that_cannot_be_used(flags, match):
    """They are refused before anything is opened."""
    with pytest.raises(InvalidConfig, match=match):
        make_config({}, flags)


def test_metrics_are_on_loopback_unless_a_host_is_named():
    """A port alone is one of 127.0.0.1."""
    addresses = [Config(metrics=given).metrics_address for given in (None, "9464", "0.0.0.0:9464", "[::1]:1")]
    assert addresses == [None, ("127.0.0.1", 9464), ("0.0.0.0", 9464), ("::1", 1)]
