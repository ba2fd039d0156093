"""Limits outside of what can be meant are refused with a sentence, before anything is served with them."""

import dataclasses
import json
import re
import subprocess

import pytest

from lit_storage import Path, connect
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import InvalidConfig
from lit_storage_proto.limits import Limits
from lit_storage_server.daemon.config import read_config
from tests.conftest import script_of
from tests.hostile.server.attacked import TOKEN

FIELDS = {field.name: field.type for field in dataclasses.fields(Limits)}
NUMBERS = [name for name, kind in FIELDS.items() if kind == "int"]
MOST = {name: 4096 if kind == "int" else 2e6 for name, kind in FIELDS.items()}
MOST |= {"chunk_bytes": 64 << 20, "peer_share": 1.0}
SECONDS = [name for name in FIELDS if name.endswith("_seconds")]


def refusal(name, value):
    """Return the sentence that refuses such a limit, or what says that nothing does."""
    try:
        Limits(**{name: value})
    except InvalidConfig as error:
        return str(error)
    return f"{name} may be {value!r}"


@pytest.mark.parametrize("name", NUMBERS)
def test_sizes_and_counts(name):
    """A size or a count is a whole number above zero, and none that no machine has room for."""
    sentence = f"^the limit {name} must be a whole number from 1 to .*, and is "
    for value in (0, -1, 2**31, 2**63, True, 1.5, "16", None, float("inf"), float("nan")):
        assert re.search(sentence, refusal(name, value)), repr(value)


@pytest.mark.parametrize("name", SECONDS)
def test_seconds(name):
    """A time is a number that is finite, not negative, and none that overflows a clock."""
    sentence = f"^the limit {name} must be a number from 0 to .*, and is "
    for value in (2_000_001, -1, -0.1, float("nan"), float("inf"), -float("inf"), 1e300, "5", None, True):
        assert re.search(sentence, refusal(name, value)), repr(value)


@pytest.mark.parametrize("value", [0, -0.5, 1.01, float("nan"), True], ids=repr)
def test_share(value):
    """The share of one peer is a part: above nothing, at most all."""
    with pytest.raises(InvalidConfig, match="^the limit peer_share must be a number from "):
        Limits(peer_share=value)


def test_sentence_is_short():
    """What is no limit at all is not written out at length."""
    with pytest.raises(InvalidConfig) as caught:
        Limits(chunk_bytes="x" * 10**6)
    assert len(str(caught.value)) < 200


def test_changed_limits_are_checked():
    """A limit that is changed in a copy is checked too."""
    with pytest.raises(InvalidConfig):
        dataclasses.replace(Limits(), server_streams=0)


@pytest.mark.slow
def test_largest_values_can_be_used(attack, monkeypatch, tmp_path):
    """Server and consumer work with the largest value of every limit, and none of their threads ends."""
    server = attack(**MOST)
    (server.data / "file").write_bytes(b"content" * 100_000)
    assert server.answers()
    registry, security = f"static:store={server.endpoint}", Security(token=TOKEN)
    with connect(root=tmp_path, registry=registry, security=security, limits=Limits(**MOST)):
        for number, copies in enumerate("01"):
            monkeypatch.setenv("LIT_STORAGE_LOCAL_COPY", copies)
            Path(f"lit://@store/{server.path('file')}").get(to=tmp_path / f"copy{number}")
            assert (tmp_path / f"copy{number}").read_bytes() == b"content" * 100_000
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    "line",
    [
        "chunk_bytes = 0",
        "chunk_bytes = -1",
        "chunk_bytes = 2147483648",
        "chunk_bytes = 9223372036854775808",
        "server_streams = 0",
        "server_streams = 1000000",
        "progress_seconds = nan",
        "progress_seconds = inf",
        "progress_seconds = -1",
        "progress_seconds = 0",
        "peer_share = 2.0",
        "peer_share = 0.0",
        "unary_seconds = 1e300",
        "server_streams = 1e3",
    ],
)
def test_file_of_a_daemon(tmp_path, line):
    """A daemon's file that holds such a limit is refused with a sentence that names limit and file."""
    config = tmp_path / "config.toml"
    config.write_text(f"[limits]\n{line}\n")
    with pytest.raises(InvalidConfig, match=f"^{config}: .*{line.split()[0]} must be "):
        read_config(str(config))


@pytest.mark.slow
def test_daemon_does_not_start(tmp_path):
    """A daemon with a limit that cannot be meant ends with one sentence, and no traceback."""
    (tmp_path / "config.toml").write_text("[limits]\nchunk_bytes = 2147483648\n")
    command = [script_of("lit-storage"), "serve", "--name", "store", "--root", str(tmp_path)]
    command += ["--config", str(tmp_path / "config.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert "chunk_bytes must be a whole number from 1 to" in " ".join(ended.stderr.split())


def test_limits_survive_their_passage():
    """What a Work hands to its server's process is checked again there, and is the same."""
    limits = Limits(peer_share=0.5, chunk_bytes=1)
    assert Limits(**json.loads(json.dumps(dataclasses.asdict(limits)))) == limits
