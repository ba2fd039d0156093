"""What a daemon logs of transfers, whatever callers ask for."""

import json
import logging

import pytest

from lit_storage_proto.limits import KIB, MIB
from lit_storage_server.daemon.logs import JsonFormatter, PlainFormatter, TransferLog
from lit_storage_server.rpc.observation import observing


@pytest.mark.parametrize("formatter", [JsonFormatter(), PlainFormatter()])
def test_a_path_without_end(caplog, formatter):
    """What is logged of it is bounded, also where each character is escaped."""
    with caplog.at_level(logging.INFO), observing(TransferLog(), "peer", "\0" * (3 * MIB)):
        pass
    line = formatter.format(caplog.records[0])
    assert len(line) < 64 * KIB
    assert "\n" not in line


def test_a_path_of_common_length(caplog):
    """It is logged whole."""
    with caplog.at_level(logging.INFO), observing(TransferLog(), "peer", "a" * 4096):
        pass
    assert json.loads(JsonFormatter().format(caplog.records[0]))["path"] == "a" * 4096
