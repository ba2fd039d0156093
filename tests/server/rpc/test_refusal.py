"""Exceptions end as one sentence and a status, whatever was raised."""

import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lit_storage_proto.errors import PathNotFound
from lit_storage_server.rpc.refusal import MAX_SENTENCE_BYTES, refusing, sentence

Code = grpc.StatusCode


@pytest.fixture
def ask():
    """Call a handler that raises what it is given, over a real connection; return status and sentence."""
    server = grpc.server(ThreadPoolExecutor(1))
    raised = []

    def handle(request, context):
        with refusing(context):
            raise raised.pop()

    handlers = {"M": grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def call(error):
            raised.append(error)
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/s/M")(b"", timeout=20)
            return caught.value.code(), caught.value.details()

        yield call
    server.stop(None)


def test_typed_error(ask):
    """An error of this product has its own status and sentence."""
    assert ask(PathNotFound("'x' is not there")) == (Code.NOT_FOUND, "'x' is not there")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, Code.NOT_FOUND),
        (errno.EACCES, Code.PERMISSION_DENIED),
        (errno.EMFILE, Code.RESOURCE_EXHAUSTED),
        (errno.EIO, Code.DATA_LOSS),
        (errno.ESTALE, Code.DATA_LOSS),
    ],
)
def test_error_of_the_system(ask, number, code):
    """A failed read has the status of its errno, and names the file and the reason."""
    expected = f"'a/b' could not be read: {os.strerror(number)}"
    assert ask(OSError(number, os.strerror(number), "a/b")) == (code, expected)


def test_what_was_withheld_is_in_the_log(ask, caplog):
    """A cause that a peer is not told of is told to who reads the log."""
    error = OSError(errno.EIO, "Input/output error", "what 'train' left")
    error.__cause__ = OSError(errno.EIO, "Input/output error", "/root/.artifacts/x")
    assert "/root" not in ask(error)[1]
    assert "/root/.artifacts/x" in caplog.text


def test_unforeseen(ask, caplog):
    """What nobody foresaw is INTERNAL without its text, which goes to the log."""
    with caplog.at_level(logging.ERROR, "lit_storage.server"):
        code, details = ask(ZeroDivisionError("secret"))
    assert (code, "secret" in details, "secret" in caplog.text) == (Code.INTERNAL, False, True)


@pytest.mark.parametrize(
    "message", ["a\nb\x1b[0m", "\udcff", "\u202e", "ä" * 9000, "x" * 90_000, "\0" * 5000]
)
def test_sentence(message):
    """A sentence is printable, valid UTF-8 and short."""
    text = sentence(message)
    assert (text.isprintable(), len(text.encode()) <= MAX_SENTENCE_BYTES) == (True, True)


def test_sentence_keeps_both_ends():
    """A long sentence is cut in its middle."""
    text = sentence("begin" + "x" * 9000 + "end")
    assert (text.startswith("begin"), text.endswith("end")) == (True, True)
