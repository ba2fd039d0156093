import dataclasses
import os
import subprocess
import sys

import pytest

from lit_storage_client.peers.channels import Channels
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import NotAttached
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord

RECORD = LiveRecord("trainer", "i1", "127.0.0.1:1", "m")


@pytest.fixture
def channels():
    opened = Channels(Security(), Limits())
    yield opened
    opened.close()


def test_same_instance_same_channel(channels):
    """A second call of the same instance goes over the channel of the first."""
    assert channels.calls(RECORD) is channels.calls(RECORD)


def test_new_instance_new_channel(channels):
    """A restarted Work does not get its predecessor's channel, even at the same address."""
    assert channels.calls(RECORD) is not channels.calls(dataclasses.replace(RECORD, instance_id="i2"))


def test_closed_channels_refuse(channels):
    """After close there is a typed error, and a second close does nothing."""
    channels.close()
    channels.close()
    with pytest.raises(NotAttached, match="closed"):
        channels.calls(RECORD)


def test_forked_child_is_told(tmp_path):
    """A forked child is told that it cannot use its parent's connections, and does not hang."""
    code = """
import os
from lit_storage_client.peers.channels import Channels
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
channels = Channels(Security(), Limits())
record = LiveRecord("trainer", "i1", "127.0.0.1:1", "m")
channels.calls(record)
if os.fork() == 0:
    try:
        channels.calls(record)
    except RuntimeError as error:
        print(type(error).__name__, error, flush=True)
    channels.close()
    os._exit(0)
os.wait()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30
    )
    assert result.stdout.startswith("NotAttached process ")
    assert "spawn" in result.stdout
