"""What Prometheus is told, and what is said where it cannot be."""

import contextlib
import socket
import sys
import threading
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lit_storage_proto.errors import AddressInUse, InvalidConfig
from lit_storage_server.daemon import metrics_http
from lit_storage_server.daemon.metrics import Metrics
from lit_storage_server.rpc.observation import Observers, Seen, observing


@pytest.fixture
def metrics():
    made = Metrics()
    yield made
    made.stop()


def value(metrics, name, **labels):
    for family in text_string_to_metric_families(metrics.text()):
        for sample in family.samples:
            if sample.name == f"lit_storage_{name}" and sample.labels == labels:
                return sample.value
    return None


def test_a_transfer_that_goes_on(metrics):
    """It is in flight until it ends."""
    with observing(metrics, "ipv4:127.0.0.1:1", "data"):
        assert value(metrics, "streams_in_flight") == 1
    assert value(metrics, "streams_in_flight") == 0


def test_how_transfers_end(metrics):
    """Each is counted by how it ended, with its bytes and its seconds, also those that failed."""
    with observing(metrics, "peer", "data") as seen:
        seen.bytes = 5
    with pytest.raises(OSError), observing(metrics, "peer", "data") as seen:
        seen.bytes = 7
        raise OSError
    with pytest.raises(GeneratorExit), observing(metrics, "peer", "data"):
        raise GeneratorExit
    counted = [value(metrics, "transfers_total", status=status) for status in ("ok", "failed", "cancelled")]
    assert counted == [1, 1, 1]
    assert value(metrics, "transferred_bytes_total") == 12
    assert value(metrics, "transfer_seconds_count") == 3


def test_errors_by_kind(metrics):
    """By the status code that the caller got."""
    metrics.refused("not_found")
    metrics.refused("not_found")
    metrics.refused("unauthenticated")
    assert value(metrics, "errors_total", kind="not_found") == 2
    assert value(metrics, "errors_total", kind="unauthenticated") == 1


def test_the_age_of_a_lease(metrics):
    """It is asked for whenever Prometheus asks, and there is none without a lease."""
    assert value(metrics, "lease_age_seconds") is None
    ages = iter((1.5, 2.5))
    metrics.watch_lease(lambda: next(ages))
    assert (value(metrics, "lease_age_seconds"), value(metrics, "lease_age_seconds")) == (1.5, 2.5)


def test_what_the_custodian_published(metrics):
    """By whether all of it was."""
    metrics.published(whole=True)
    metrics.published(whole=False)
    assert value(metrics, "custodian_publications_total", status="ok") == 1
    assert value(metrics, "custodian_publications_total", status="failed") == 1


def test_no_label_is_a_peers_choice(metrics):
    """Neither paths nor addresses are in it, however odd they are."""
    metrics.ended(Seen('peer"\n', 'path"\n{}'))
    assert "path" not in metrics.text()
    assert "peer" not in metrics.text()


def test_it_is_served(metrics):
    """At /metrics, as text that Prometheus reads."""
    address = metrics.serve("127.0.0.1", 0)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert b"lit_storage_build_info" in answer.read()
    metrics.stop()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=20)


def test_silent_connections(metrics, monkeypatch):
    """A few are kept waiting, each further one is ended at once."""
    monkeypatch.setattr(metrics_http, "CONNECTION_SECONDS", 60)  # longer than this takes
    monkeypatch.setattr(metrics_http._Handler, "timeout", 60)
    host, port = metrics.serve("127.0.0.1", 0).rsplit(":", 1)
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((host, int(port)), 20))
            for _ in range(metrics_http.MOST_CONNECTIONS + 20)
        ]
        for ended in silent[metrics_http.MOST_CONNECTIONS :]:
            assert ended.recv(1) == b""
        assert threading.active_count() <= before + metrics_http.MOST_CONNECTIONS


@pytest.mark.slow
def test_a_connection_that_is_too_slow(metrics, monkeypatch):
    """It is ended although it never stands still, and its place is free again."""
    monkeypatch.setattr(metrics_http, "MOST_CONNECTIONS", 1)
    monkeypatch.setattr(metrics_http, "CONNECTION_SECONDS", 0.3)
    host, port = address = metrics.serve("127.0.0.1", 0).rsplit(":", 1)
    with socket.create_connection((host, int(port)), 0.1) as slow:
        deadline = time.monotonic() + 30
        answer = None
        while answer is None and time.monotonic() < deadline:
            try:
                slow.sendall(b"G")
                answer = slow.recv(1)
            except TimeoutError:
                pass
            except ConnectionError:  # it had not read all when it ended
                answer = b""
        assert answer == b""
    monkeypatch.setattr(metrics_http, "CONNECTION_SECONDS", 5)
    text = b""
    while not text and time.monotonic() < deadline + 30:
        # Its place is free once its thread has seen that it ended.
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{':'.join(address)}/metrics", timeout=20) as answered,
        ):
            text = answered.read()
    assert b"lit_storage_build_info" in text


def test_an_address_that_is_taken(metrics):
    """It is named, with the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"'127.0.0.1:{port}' is taken.*another address for metrics"):
            metrics.serve("127.0.0.1", port)


def test_an_address_of_another_machine(metrics):
    """It is the system's error, with the address."""
    with pytest.raises(OSError, match=r"metrics cannot be served at '192\.0\.2\.1:0'"):
        metrics.serve("192.0.2.1", 0)


def test_without_the_library(monkeypatch):
    """What to install is said."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(
        InvalidConfig, match=r"pip install 'lit-storage\[metrics\]', or start without --metrics"
    ):
        Metrics()


def test_several_observers(metrics):
    """Each is told of all."""
    other = Metrics()
    with observing(Observers(metrics, other), "peer", "data"):
        pass
    Observers(metrics, other).refused("x")
    for each in (metrics, other):
        assert value(each, "transfers_total", status="ok") == 1
        assert value(each, "errors_total", kind="x") == 1
