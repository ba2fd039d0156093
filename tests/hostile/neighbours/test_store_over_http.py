"""A server of S3 that lies: a typed error within the deadline, and no more in memory than was asked for."""

import contextlib
import http.server
import socket
import threading
import time

import pytest

from lit_storage_core.artifacts import s3_requests
from lit_storage_core.artifacts.fsspec_objects import FsspecObjects
from lit_storage_proto.errors import (
    AccessDenied,
    IntegrityError,
    OriginUnavailable,
    StorageError,
    TransferTimeout,
)

SECONDS = 2.0
ENDED = (OSError, StorageError)
RANGE = {"Content-Range": "bytes 0-99/100"}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append(self.path)
        with contextlib.suppress(OSError):
            self.server.script(self)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *arguments):
        pass

    def say(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not False:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


class Liar:
    """A server of HTTP on loopback that answers each request by a function of the test."""

    def __init__(self, script):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        self.server.script = script
        self.server.requests = self.requests = []
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def liar(monkeypatch):
    """Serve by a script; return the objects of one Work there."""
    with contextlib.ExitStack() as stack:

        def serve(script):
            server = Liar(script)
            stack.callback(server.close)
            for name, value in {
                "ENDPOINT_URL": server.url,
                "ACCESS_KEY_ID": "id",
                "SECRET_ACCESS_KEY": "very-secret",
                "DEFAULT_REGION": "us-east-1",
                "EC2_METADATA_DISABLED": "true",
            }.items():
                monkeypatch.setenv(f"AWS_{name}", value)
            objects = FsspecObjects("s3://bucket/prefix/train", seconds=SECONDS, requests=1)
            stack.callback(objects.close)
            objects.server = server
            return objects

        yield serve


def endless(handler):
    """Send a body that does not end."""
    handler.say(206, length=10**15, **{"Content-Range": "bytes 0-999999999999999/1000000000000000"})
    while True:
        handler.wfile.write(bytes(1 << 20))


def one_byte_a_second(handler):
    handler.say(206, length=100, **RANGE)
    for _ in range(100):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(1)


def silent(handler):
    time.sleep(60)


def cut_short(handler):
    handler.say(206, b"x" * 50, length=100, **RANGE)
    handler.connection.shutdown(socket.SHUT_RDWR)


def garbage(handler):
    handler.wfile.write(b"\x00\xff" * 1000 + b"\r\n\r\n")
    handler.connection.shutdown(socket.SHUT_RDWR)


READS = {
    "the whole object for a part of it": lambda h: h.say(200, b"x" * 10_000),
    "more than was asked for": lambda h: h.say(206, b"x" * 101, **RANGE),
    "less than was asked for": lambda h: h.say(206, b"x" * 99, **RANGE),
    "nothing": lambda h: h.say(206, b"", **RANGE),
    "a body without end": endless,
    "one byte a second": one_byte_a_second,
    "no answer": silent,
    "a body cut short": cut_short,
    "bytes that are no HTTP": garbage,
    "a status that is none": lambda h: h.say(999, b"x" * 100),
    "an error page": lambda h: h.say(500, b"<html>" + b"x" * 10_000),
    "an error of XML that is none": lambda h: h.say(400, b"<Error><Code>" * 1000),
    "a refusal": lambda h: h.say(
        403, b"<Error><Code>AccessDenied</Code><Message>\x1b[2Jno</Message></Error>"
    ),
    "a redirect to itself": lambda h: h.say(307, Location=h.path),
    "a redirect to files": lambda h: h.say(301, Location="file:///etc/passwd"),
    "gone": lambda h: h.say(404, b"<Error><Code>NoSuchKey</Code></Error>"),
    "entities": lambda h: h.say(
        400,
        b'<!DOCTYPE x [<!ENTITY a "'
        + b"x" * 100
        + b'"><!ENTITY b "&a;&a;&a;&a;">]><Error><Code>&b;</Code></Error>',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", READS.values(), ids=READS)
def test_a_part_is_what_was_asked_for_or_an_error(liar, script):
    """Whatever a server answers to a request for 100 bytes, it is a typed error in time, and no byte more."""
    objects = liar(script)
    began = time.monotonic()
    with pytest.raises(ENDED) as raised:
        objects.read("data/x", 0, 100)
    assert time.monotonic() - began < 10 * SECONDS
    assert str(raised.value).isprintable()
    assert "very-secret" not in str(raised.value)


@pytest.mark.slow
def test_what_is_given_up_is_not_read_on(liar):
    """A body that is given up is read no further: the server's connection ends."""
    ended = threading.Event()

    def slow(handler):
        try:
            handler.say(206, length=1 << 40, **RANGE)
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            ended.set()

    objects = liar(slow)
    while not objects.server.requests:  # it takes seconds until a busy machine has sent the first one
        with pytest.raises(TransferTimeout):
            objects.read("data/x", 0, 1 << 20)
    assert ended.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "http://localhost:{port}/x"])
def test_a_redirect_shows_no_key_elsewhere(liar, listen, target):
    """A server that redirects a request elsewhere does not make the secret key be sent there."""
    listener = listen()
    objects = liar(lambda h: h.say(307, Location=target.format(port=listener.address[1])))
    with pytest.raises(ENDED):
        objects.read("data/x", 0, 100)
    assert not any(b"very-secret" in heard for heard in listener.heard)


def page(keys, more):
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    token = "<NextContinuationToken>t</NextContinuationToken>" if more else ""
    return (
        f"<ListBucketResult><Name>bucket</Name><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        f"<KeyCount>{len(keys)}</KeyCount>{contents}</ListBucketResult>"
    ).encode()


@pytest.mark.slow
def test_a_listing_without_end_ends(liar, monkeypatch):
    """A store that lists more than any Work leaves is given up, whatever it says is still to come."""
    monkeypatch.setattr(s3_requests, "MOST_LISTED", 1_000)
    numbers = iter(range(10**9))
    keys = lambda: [f"prefix/train/manifests/{next(numbers)}" for _ in range(200)]  # noqa: E731
    objects = liar(lambda h: h.say(200, page(keys(), more=True)))
    objects._seconds = 30  # it ends by what it lists, and not because a busy machine is slow
    with pytest.raises(OriginUnavailable, match="more than 1000"):
        objects.list("manifests")
    assert len(objects.server.requests) < 10


@pytest.mark.slow
def test_a_listing_of_one_page_for_ever_ends(liar):
    """A store that lists the same page again and again is given up in time."""
    objects = liar(lambda h: (time.sleep(0.1), h.say(200, page(["prefix/train/manifests/a"], more=True))))
    with pytest.raises(ENDED):
        objects.list("manifests")
    told = len(objects.server.requests)
    time.sleep(1)
    assert len(objects.server.requests) <= told + 1


BROKEN_LISTS = {
    "no XML": b"not xml",
    "XML cut short": page(["prefix/train/manifests/a"], more=False)[:-30],
    "sizes that are none": page(["prefix/train/manifests/a"], more=False).replace(b"<Size>1<", b"<Size>-x<"),
    "nothing": b"",
    "deep": b"<a>" * 50_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("body", BROKEN_LISTS.values(), ids=BROKEN_LISTS)
def test_a_listing_that_is_none_is_an_error(liar, body):
    """What cannot be read as a list is never taken for an empty one."""
    objects = liar(lambda h: h.say(200, body))
    with pytest.raises(ENDED):
        objects.list("manifests")


def test_a_listing_that_lies_names_nothing_of_others(liar):
    """Keys that were not asked for are none of this Work's, whatever they look like."""
    keys = ["prefix/other/manifests/a", "../../etc/passwd", "/etc/passwd"]
    objects = liar(lambda h: h.say(200, page(keys, more=False)))
    objects._seconds = 30  # it goes well, if a busy machine is given the time
    assert all(not each.key.startswith(("manifests/", "data/")) for each in objects.list("manifests"))


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 405, 409, 500, 503])
def test_a_refused_removal_is_told(liar, status):
    """A store that does not remove what it is asked to makes an error, and no pretence."""
    objects = liar(lambda h: h.say(status, b"<Error><Code>No</Code><Message>no</Message></Error>"))
    with pytest.raises((AccessDenied, OriginUnavailable, IntegrityError, OSError)):
        objects.remove(["data/x"])
