"""Certificates, authorities and tokens change while all runs; nobody is let in or put out by it."""

import contextlib
import dataclasses
import operator
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.direct import Ways
from lit_storage_client.peers.remote import Remote
from lit_storage_core.security import rotating
from lit_storage_core.security.credentials import Credentials
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import AccessDenied, OriginUnavailable
from lit_storage_proto.limits import Limits
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_proto.uri import Location
from tests.hostile.identity.conftest import Told, is_direct

HERE = Location("trainer", "small")
LARGE = Location("trainer", "large")


ASKING = {
    "exists": lambda remote: remote.exists(HERE),
    "stat": lambda remote: remote.stat(HERE),
    "list": lambda remote: list(remote.list(HERE)),
    "stream": lambda remote: list(remote.stream(HERE)),
}


def exists(remote):
    """Ask once, and return what came of it."""
    try:
        return remote.exists(HERE)
    except (AccessDenied, OriginUnavailable) as error:
        return type(error)


# Tokens.


@pytest.fixture
def rotated(serve, token_file):
    """A server with a file of tokens."""
    return serve("trainer", Security(token_file=token_file("old")))


def test_each_token_of_a_file_is_taken(serve, ask, token_file):
    """And none that is not in it, nor two of them in one."""
    record = serve("trainer", Security(token_file=token_file("old", "new")))
    asked = [exists(ask(record, Security(token))) for token in ("old", "new", "other", "oldnew", "old new")]
    assert asked == [True, True, AccessDenied, AccessDenied, AccessDenied]


def test_a_new_token_counts_from_the_next_call_on(rotated, ask, token_file):
    """And the one that is gone from the file does not, without a restart."""
    old, new = (ask(rotated, Security(token)) for token in ("old", "new"))
    assert (exists(old), exists(new)) == (True, AccessDenied)
    token_file("new")
    assert (exists(old), exists(new)) == (AccessDenied, True)


def test_the_first_token_of_a_file_is_sent(rotated, ask, token_file, tmp_path):
    """A client that runs takes up another first line at its next call."""
    sent = token_file("other", path=tmp_path / "sent")
    client = ask(rotated, Security(token_file=sent))
    assert exists(client) is AccessDenied
    token_file("old", "other", path=tmp_path / "sent")
    assert exists(client) is True


def test_no_call_fails_while_the_token_is_exchanged(rotated, ask, token_file, tmp_path, wait_until):
    """Old, old and new, new and old, new: with two renamed files a step, every call is answered."""
    sent = token_file("old", path=tmp_path / "sent")
    client, stop, failed = ask(rotated, Security(token_file=sent)), threading.Event(), []
    calls = [0] * 3

    def call(number):
        while not stop.is_set():
            failed.extend([said] if (said := exists(client)) is not True else [])
            calls[number] += 1

    def settle():
        """Wait until all calls have ended that began with what was before: so does who takes such a step.

        That is for whoever read before, then for one who reads now, beside whom others go on with what it
        held, and then for those others.
        """
        for _ in range(3):
            most = [count + 2 for count in calls]
            wait_until(lambda most=most: all(map(operator.ge, calls, most)), 60)

    threads = [threading.Thread(target=call, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    steps = [("old", "new"), ("new", "old"), ("new",), ("new", "third"), ("third", "new"), ("third",)]
    try:
        for tokens in steps:
            for path in (tmp_path / "tokens", tmp_path / "sent"):  # the servers first, if the last goes away
                token_file(*tokens, path=path)
                assert exists(client) is True
                settle()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []


@pytest.mark.parametrize("ask_for", ASKING.values(), ids=ASKING)
def test_a_call_whose_token_goes_while_it_is_on_its_way(
    rotated, ask, token_file, tmp_path, monkeypatch, ask_for
):
    """It is made again with the token of now; once, for one that is none stays none."""
    client = ask(rotated, Security(token_file=token_file("old", path=tmp_path / "sent")))
    dial, steps, made = client._channels.calls, iter(()), []

    def late(method):
        def call(request, *args, **options):
            made.append(method)
            taken, sent = next(steps, (None, None))
            if taken:
                token_file(taken)
                token_file(sent, path=tmp_path / "sent")
            return method(request, *args, **options)

        return call

    def calls(record):
        opened = dial(record)
        names = [field.name for field in dataclasses.fields(opened)]
        return dataclasses.replace(opened, **{name: late(getattr(opened, name)) for name in names})

    monkeypatch.setattr(client._channels, "calls", calls)
    steps = iter([("new", "new")])
    assert ask_for(client)
    assert len(made) == 2
    steps = iter([("another", "wrong"), ("another", "as wrong"), ("another", "another")])
    with pytest.raises(AccessDenied):
        ask_for(client)
    assert len(made) == 4


def test_who_was_refused_waits_for_who_reads(token_file, tmp_path):
    """Others go on with the token that they have; a call that was refused looks at what is there now."""
    path = token_file("old")
    credentials, reading, go_on = Credentials(Security(token_file=path)), threading.Event(), threading.Event()
    old = credentials.metadata()
    read = credentials._tokens._read

    def slowly():
        found = read()
        reading.set()
        assert go_on.wait(60)
        return found

    credentials._tokens._read = slowly
    token_file("new")
    with ThreadPoolExecutor(2) as pool:
        pool.submit(credentials.metadata)
        assert reading.wait(60)
        assert credentials.metadata() == old
        waiting = pool.submit(credentials.metadata, wait=True)
        go_on.set()
        assert waiting.result(60) == Security("new").metadata()


SPOILT = {
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "blank": lambda path: path.write_bytes(b"\n \n"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "a sentence": lambda path: path.write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----\n"),
    "too many lines": lambda path: path.write_bytes(b"x\n" * 1000),
    "huge": lambda path: path.write_bytes(b"x" * (1 << 20)),
    "readable by all": lambda path: path.chmod(0o644),
    "writable by all": lambda path: path.chmod(0o602),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path, 0o600)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("/none")),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_file_of_tokens_lets_nobody_else_in(rotated, ask, tmp_path, spoil):
    """The tokens that were good last go on being asked for: neither everybody nor nobody is let in."""
    right, wrong, none = ask(rotated, Security("old")), ask(rotated, Security("x")), ask(rotated)
    assert exists(right) is True
    spoil(tmp_path / "tokens")
    for _ in range(2):
        assert [exists(right), exists(wrong), exists(none)] == [True, AccessDenied, AccessDenied]


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_nobody_begins_with_a_spoilt_file_of_tokens(serve, token_file, tmp_path, monkeypatch, spoil):
    """A server does not start instead of serving everybody."""
    monkeypatch.setattr("lit_storage_core.security.rotating._HALF_WRITTEN_SECONDS", 0.0)
    path = token_file("old")
    spoil(tmp_path / "tokens")
    with pytest.raises(AccessDenied, match="token") as caught:
        serve("trainer", Security(token_file=path))
    assert "OPENSSH" not in str(caught.value)


def test_a_spoilt_file_is_told_of_once(rotated, ask, tmp_path, caplog):
    """Not at every call; the sentence names the file, and no token."""
    remote = ask(rotated, Security("old"))
    (tmp_path / "tokens").chmod(0o644)
    for _ in range(5):
        exists(remote)
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "tokens" in told
    assert "'old'" not in told


@pytest.mark.parametrize("round_", range(20))
def test_a_change_within_a_tick_of_the_clock_is_seen(rotated, ask, tmp_path, round_):
    """Also where time, size and inode of the file are as they were."""
    path = tmp_path / "tokens"
    status = os.stat(path)
    assert exists(ask(rotated, Security("old"))) is True
    path.write_text("new\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert exists(ask(rotated, Security("new"))) is True


# Certificates.


def test_a_file_that_is_written_anew_as_it_was_changes_nothing(authority, serve, ask, place):
    """No connection is made anew for it, nor while the clock of its file system has not gone on."""
    client = ask(serve("trainer", authority.issue("trainer")), place(authority.issue("consumer"), "client"))
    tls = client._channels.credentials.tls()
    for _ in range(3):
        place(client._channels.credentials.security, "client")
        assert client._channels.credentials.tls() is tls


@pytest.fixture
def place(tmp_path):
    """Copy what was issued over the files of a process, as an operator does: each by a rename."""

    def put(security, where, *kinds):
        where = tmp_path / where
        where.mkdir(exist_ok=True)
        for kind in kinds or ("key", "certificate", "ca"):
            shutil.copy(getattr(security, kind), where / "new")
            os.replace(where / "new", where / kind)
        return Security(None, *(str(where / kind) for kind in ("certificate", "key", "ca")))

    return put


@pytest.fixture
def two(authority, new_authority):
    """The authority there is, and the one that takes its place."""
    return authority, new_authority("next")


def test_a_renewed_certificate_is_shown_from_the_next_connection_on(authority, serve, ask, place, tmp_path):
    """A server whose certificate has expired meanwhile goes on as soon as there is another one."""
    good = authority.issue("trainer")
    record = serve("trainer", place(authority.forge(tmp_path / "f", "mallory"), "server"))
    assert exists(ask(record, authority.issue("consumer"))) is OriginUnavailable
    place(good, "server")
    assert exists(ask(record, authority.issue("consumer"))) is True


def test_a_client_shows_its_renewed_certificate(authority, serve, ask, place, tmp_path):
    """A session that runs takes it up at its next call, over gRPC and beside it."""
    record = serve("trainer", authority.issue("trainer"))
    stale = authority.forge(tmp_path / "f", "consumer", usage=[])
    client = ask(record, place(dataclasses.replace(stale, ca=authority.ca), "client"))
    place(authority.issue("consumer"), "client")
    assert exists(client) is True
    tls = client._channels.credentials.tls()
    place(authority.issue("consumer"), "client")
    assert exists(client) is True
    assert client._channels.credentials.tls() is not tls


def test_a_copy_that_runs_goes_on_when_certificates_change(authority, serve, ask, place):
    """On both sides, over gRPC: what has begun ends as it would have, and the next call is made anew."""
    record = serve("trainer", place(authority.issue("trainer"), "server"))
    client = ask(record, place(authority.issue("consumer"), "client"), ways=Ways.NONE)
    size = 0
    with client.stream(LARGE, TreeOptions(direct=False)) as frames:
        for frame in frames:
            if not size:
                place(authority.issue("trainer"), "server")
                place(authority.issue("consumer"), "client")
                assert exists(client) is True
            size += sum(chunk.size for chunk in frame.chunks)
    assert size == 8 << 20


def test_an_authority_gives_way_to_another_without_a_call_that_fails(two, serve, ask, place, tmp_path):
    """Both trusted, then certificates of the new one, then the new one alone."""
    old, new = two
    record = serve("trainer", place(old.issue("trainer"), "server"))
    client = ask(record, place(old.issue("consumer"), "client"))
    both = tmp_path / "both"
    both.write_bytes(b"".join(Path(each.ca).read_bytes() for each in two))
    bundle = dataclasses.replace(new.issue("trainer"), ca=str(both))
    said = [exists(client)]
    for where, names, kinds in [
        *((each, "trainer", ["ca"]) for each in ("server", "client")),
        ("client", "consumer", ["key", "certificate"]),
        ("server", "trainer", ["key", "certificate"]),
    ]:
        place(dataclasses.replace(new.issue(names), ca=bundle.ca), where, *kinds)
        said.append(exists(client))
    for where in ("client", "server"):
        place(new.issue("trainer"), where, "ca")
        said.append(exists(client))
    assert said == [True] * 7


def test_an_authority_that_is_taken_away_lets_nobody_in(two, serve, ask, place):
    """New connections with certificates of it are refused from then on."""
    old, new = two
    record = serve("trainer", place(old.issue("trainer"), "server"))
    assert exists(ask(record, old.issue("consumer"))) is True
    place(new.issue("trainer"), "server")
    assert exists(ask(record, dataclasses.replace(old.issue("consumer"), ca=new.ca))) is OriginUnavailable
    assert exists(ask(record, new.issue("consumer"))) is True


@pytest.mark.parametrize("kind", ["certificate", "key", "ca"])
@pytest.mark.parametrize("spoil", ["removed", "emptied", "binary", "a directory", "a FIFO", "a device"])
def test_spoilt_tls_files_change_nothing(authority, stranger, serve, ask, place, tmp_path, kind, spoil):
    """The last good ones go on: who was let in is, and who was not is not, with a certificate or without."""
    record = serve("trainer", place(authority.issue("trainer"), "server"))
    SPOILT[spoil](tmp_path / "server" / kind)
    strange = dataclasses.replace(stranger.issue("consumer"), ca=authority.ca)
    clients = [authority.issue("consumer"), strange, Security(ca=authority.ca), Security()]
    assert [exists(ask(record, each)) for each in clients] == [True, *[OriginUnavailable] * 3]


def test_a_pair_that_does_not_match_yet_is_waited_for(authority, serve, ask, place):
    """Between the renames of key and certificate the former pair is shown, and then the new one."""
    record = serve("trainer", place(authority.issue("trainer"), "server"))
    renewed = authority.issue("trainer")
    place(renewed, "server", "key")
    assert exists(ask(record, authority.issue("consumer"))) is True
    place(renewed, "server", "certificate")
    assert exists(ask(record, authority.issue("consumer"))) is True


def test_a_process_that_starts_between_two_renames_waits_for_the_second(
    authority, serve, ask, place, monkeypatch
):
    """A moment: then the pair is whole."""
    place(authority.issue("trainer"), "server")
    renewed = authority.issue("trainer")
    half = place(renewed, "server", "key")
    assert rotating._HALF_WRITTEN_SECONDS > 0.3
    monkeypatch.setattr(rotating, "_HALF_WRITTEN_SECONDS", 60.0)  # the second may be late on a busy machine
    later = threading.Timer(0.3, place, [renewed, "server", "certificate"])
    later.start()
    record = serve("trainer", half)
    later.join()
    assert exists(ask(record, authority.issue("consumer"))) is True


def test_the_port_beside_grpc_changes_too(two, serve, ask, place, wait_until):
    """After the authority has been exchanged, a copy goes the direct way with the new certificates."""
    old, new = two
    record = serve("trainer", place(old.issue("trainer"), "server"))
    place(new.issue("trainer"), "server")
    client = ask(record, new.issue("consumer"))
    wait_until(lambda: is_direct(client, LARGE))  # a copy may be over before its connection is made


def test_renewals_leave_no_connections_behind(authority, serve, place, wait_until):
    """A session that sees many certificates has as many connections as one that sees one."""
    record = serve("trainer", authority.issue("trainer"))
    limits = Limits(connect_seconds=20.0, unary_seconds=30.0)
    channels = Channels(place(authority.issue("consumer"), "client"), limits)
    with contextlib.closing(channels):
        remote = Remote(Told(record), channels, limits, Ways.NONE)
        port = int(record.endpoint.rpartition(":")[2])
        for _ in range(6):
            place(authority.issue("consumer"), "client")
            assert exists(remote) is True
        wait_until(lambda: connections_to(port) <= 2)


def connections_to(port):
    with open("/proc/self/net/tcp") as table:
        return sum(line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01" for line in table)
