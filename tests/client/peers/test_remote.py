import dataclasses
import signal
import socket
import time

import grpc
import pytest

from lit_storage_proto.errors import (
    AccessDenied,
    OriginUnavailable,
    PathNotFound,
    ProtocolViolation,
    RegistryUnavailable,
    TransferTimeout,
)
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location
from lit_storage_proto.v1 import path_storage_pb2 as pb

HERE = Location("trainer", "a")


@pytest.fixture(scope="module", autouse=True)
def tree(trainer):
    with open(f"{trainer.root}/a", "wb") as file:
        file.write(b"content")


@pytest.fixture
def dead_record():
    """A live record of a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return LiveRecord("trainer", "i1", f"127.0.0.1:{free.getsockname()[1]}", "m")


@pytest.fixture
def silent_record():
    """A live record of a port where connections stand and nobody speaks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield LiveRecord("trainer", "i1", f"127.0.0.1:{server.getsockname()[1]}", "m")


@pytest.fixture
def within():
    """Time the block, and fail if it took longer than it may."""

    class Within:
        def __call__(self, seconds):
            self.seconds = seconds
            return self

        def __enter__(self):
            self.started = time.monotonic()

        def __exit__(self, *_):
            assert time.monotonic() - self.started < self.seconds

    return Within()


@pytest.mark.slow
def test_exists_where_it_is(trainer, remote_of):
    """A live Work that has the path says yes."""
    assert remote_of(trainer.record).exists(HERE) is True


def test_exists_where_it_is_not(trainer, remote_of):
    """A live Work that lacks the path says no."""
    assert remote_of(trainer.record).exists(Location("trainer", "b")) is False


def test_exists_warm_is_quick(trainer, remote_of):
    """Over a channel that stands, the answer takes less than 2 ms."""
    remote, least, deadline = remote_of(trainer.record), 1.0, time.monotonic() + 30
    while least >= 0.002 and time.monotonic() < deadline:  # others may use the machine for a while
        started = time.perf_counter()
        remote.exists(HERE)
        least = min(least, time.perf_counter() - started)
    assert least < 0.002


def test_stat(trainer, remote_of):
    """Stat tells size and kind, under an empty path."""
    entry = remote_of(trainer.record).stat(HERE)
    assert (entry.path, entry.size, entry.kind.name) == ("", 7, "FILE")


def test_stat_of_nothing(trainer, remote_of):
    """Stat of a path that is not there names the Work and the path."""
    with pytest.raises(PathNotFound, match="lit://@trainer/b"):
        remote_of(trainer.record).stat(Location("trainer", "b"))


def test_list(trainer, remote_of):
    """A list has the root and what is below it."""
    paths = [entry.path for entry in remote_of(trainer.record).list(Location("trainer", ""))]
    assert paths[0] == ""
    assert "a" in paths


def test_list_of_nothing_raises_at_once(trainer, remote_of):
    """A list of a path that is not there is refused by the call, not by the first `next`."""
    with pytest.raises(PathNotFound):
        remote_of(trainer.record).list(Location("trainer", "b"))


def test_stream_first_frame_names_its_origin(trainer, remote_of):
    """The first frame of a stream is the one that was waited for, and is not lost."""
    with remote_of(trainer.record).stream(HERE) as frames:
        assert next(frames).origin == ("trainer", "i1")


def test_nobody_of_that_name(remote_of, within):
    """Where the registry knows nobody, the path is absent, at once."""
    remote = remote_of(None)
    with within(10):
        assert remote.exists(HERE) is False
    with pytest.raises(PathNotFound, match="no Work 'trainer' is known to"):
        remote.stat(HERE)


def test_registry_that_fails(remote_of):
    """A registry that does not answer is an error, and never a no."""
    remote = remote_of(RegistryUnavailable("the registry is away"))
    with pytest.raises(RegistryUnavailable):
        remote.exists(HERE)


def test_dead_port_is_unknown(dead_record, remote_of, within):
    """Live by the registry, and nobody at the port: an error, at once."""
    with within(10), pytest.raises(OriginUnavailable, match="trainer"):
        remote_of(dead_record).exists(HERE)


def test_dead_port_whose_record_vanishes_is_absent(dead_record, remote_of):
    """A Work that died, and whose record is gone when it is resolved again, is absent."""
    assert remote_of(dead_record, None).exists(HERE) is False


def test_silent_port_is_given_up(silent_record, remote_of, within):
    """A connection on which nobody speaks is given up within `connect_seconds`."""
    with within(15), pytest.raises((OriginUnavailable, TransferTimeout)):
        remote_of(silent_record, connect_seconds=0.5).exists(HERE)


def test_unreachable_host_is_given_up(remote_of, within):
    """A host that swallows packets is given up within `connect_seconds`."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)  # one waiting connection fills the queue, and further ones get no answer
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        record = LiveRecord("trainer", "i1", f"127.0.0.1:{server.getsockname()[1]}", "m")
        with within(15), pytest.raises((OriginUnavailable, TransferTimeout)):
            remote_of(record, connect_seconds=0.5).exists(HERE)


@pytest.mark.slow
@pytest.mark.parametrize("warm", [True, False])
def test_stopped_peer_is_given_up(start_work, remote_of, within, warm):
    """A peer stopped by SIGSTOP is an error within `unary_seconds`, also on a connection that stood."""
    work = start_work()
    remote = remote_of(work.record, connect_seconds=20.0 if warm else 0.5)
    if warm:
        remote.exists(HERE)
    remote.limits = dataclasses.replace(remote.limits, unary_seconds=0.7)
    work.signal(signal.SIGSTOP)
    with within(15), pytest.raises((TransferTimeout, OriginUnavailable)):
        remote.exists(HERE)


@pytest.mark.slow
def test_stream_of_a_stopped_peer(start_work, remote_of, within):
    """A stream that does not begin is given up within `unary_seconds`."""
    work = start_work()
    remote = remote_of(work.record)
    remote.exists(HERE)
    remote.limits = dataclasses.replace(remote.limits, unary_seconds=0.7)
    work.signal(signal.SIGSTOP)
    with within(15), pytest.raises(TransferTimeout, match="silent"):
        remote.stream(HERE)


def test_address_of_another_instance(trainer, remote_of):
    """An address that another instance took over is an error where the record still says otherwise."""
    record = dataclasses.replace(trainer.record, instance_id="earlier")
    with pytest.raises(OriginUnavailable, match="trainer"):
        remote_of(record).exists(HERE)


def test_any_instance(trainer, remote_of):
    """A record without an instance id, as a static registry gives, takes whichever answers."""
    assert remote_of(dataclasses.replace(trainer.record, instance_id="")).exists(HERE)


def test_restarted_elsewhere(trainer, dead_record, remote_of):
    """A Work that was restarted on another port is found there by the same call."""
    earlier = dataclasses.replace(dead_record, instance_id="i0")
    assert remote_of(earlier, trainer.record).exists(HERE)


@pytest.mark.slow
def test_restarted_in_the_same_place(start_work, remote_of, tmp_path):
    """A Work that is restarted on its port is reached at once, not after a back-off."""
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "a").touch()
    first = start_work()
    later = dataclasses.replace(first.record, instance_id="i2")
    remote = remote_of(first.record, first.record, first.record, later)
    assert remote.exists(HERE)
    first.stop()
    with pytest.raises(OriginUnavailable):
        remote.exists(HERE)
    start_work(instance="i2", bind=first.endpoint)
    assert remote.exists(HERE)


def test_answer_of_another_name(script, remote_of):
    """An answer that another Work gives is not taken, whatever it says."""
    script.origin = ("other", "i1")
    with pytest.raises(OriginUnavailable, match="other"):
        remote_of(script.record).exists(HERE)


def test_wrong_token(trainer, remote_of):
    """A token that the Work does not know is AccessDenied, and does not stand in the sentence."""
    with pytest.raises(AccessDenied) as caught:
        remote_of(trainer.record, token="guess").exists(HERE)
    assert "guess" not in str(caught.value)


def test_busy_peer_is_asked_again(script, remote_of):
    """A peer that is busy is asked again, until it has time."""
    script.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")] * 2
    assert remote_of(script.record).exists(HERE)
    assert script.requests == 3


def test_peer_that_stays_busy(script, remote_of, within):
    """A peer that stays busy is given up within `connect_seconds`."""
    script.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")] * 1000
    with within(15), pytest.raises(OriginUnavailable, match="busy"):
        remote_of(script.record, connect_seconds=0.5).exists(HERE)


def test_list_that_ends_early(script, remote_of):
    """A list without its last page is not taken for whole."""
    script.pages = [pb.ListFilesResponse(origin=pb.Origin(name="trainer", instance_id="i1"))]
    with pytest.raises(ProtocolViolation, match="complete"):
        list(remote_of(script.record).list(HERE))


def test_list_of_names_that_lead_out(script, remote_of):
    """A name that leads out of its tree is refused, and not handed on."""
    entry = pb.Entry(path="../x", kind=pb.ENTRY_KIND_FILE)
    origin = pb.Origin(name="trainer", instance_id="i1")
    script.pages = [pb.ListFilesResponse(origin=origin, entries=[entry], complete=True)]
    with pytest.raises(ProtocolViolation, match=r"\.\./x"):
        list(remote_of(script.record).list(HERE))


def test_stream_without_a_message(script, remote_of):
    """A stream that ends before it began is a breach of the protocol."""
    with pytest.raises(ProtocolViolation):
        remote_of(script.record).stream(HERE)


def test_details_of_a_peer_cannot_write_to_the_terminal(script, remote_of):
    """What a peer says stands in errors without control characters."""
    script.refusals = [(grpc.StatusCode.NOT_FOUND, "gone\x1b[2J")]
    with pytest.raises(PathNotFound) as caught:
        remote_of(script.record).stream(HERE)
    assert str(caught.value).isprintable()
