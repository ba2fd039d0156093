"""Ends a call with the status that an exception stands for.

Invariant: no exception of a handler reaches gRPC as it is, where it would become UNKNOWN with the
text of whatever went wrong. A peer reads one sentence, and what is unforeseen goes to the log.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import grpc

from lit_storage_proto.errors import StorageError
from lit_storage_proto.status import code_of

# The message of a status travels in metadata, of which 8 KiB are customary; percent-encoding may
# triple it.
MAX_SENTENCE_BYTES = 1024
_HALF = (MAX_SENTENCE_BYTES - len("…".encode())) // 2

_LOG = logging.getLogger("lit_storage.server")

_CODE_OF_ERRNO: Final = {
    errno.ENOENT: grpc.StatusCode.NOT_FOUND,
    errno.ENOTDIR: grpc.StatusCode.NOT_FOUND,
    errno.EACCES: grpc.StatusCode.PERMISSION_DENIED,
    errno.EPERM: grpc.StatusCode.PERMISSION_DENIED,
    # Descriptors or memory are short: as with too many streams, a later try may succeed.
    errno.EMFILE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENFILE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENOMEM: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@contextlib.contextmanager
def refusing(context: grpc.ServicerContext) -> Iterator[None]:
    """Abort the call of `context` with the status of any exception raised in the block.

    The block itself must not abort: what gRPC raises there would be taken for unforeseen.
    """
    try:
        yield
    except StorageError as error:
        abort(context, code_of(error), str(error))
    except OSError as error:
        # What a peer is not told of, such as a place on this machine, is in the cause.
        _LOG.warning("a read failed: %s", error.__cause__ or error)
        code = _CODE_OF_ERRNO.get(error.errno or 0, grpc.StatusCode.DATA_LOSS)
        abort(context, code, f"{_named(error)} could not be read: {error.strerror or 'unknown reason'}")
    except Exception:  # noqa: BLE001  # the one place where the unforeseen ends, in the log
        _LOG.exception("a call failed for an unforeseen reason")
        abort(context, grpc.StatusCode.INTERNAL, "internal error; the log of the origin tells more")


def _named(error: OSError) -> str:
    """Return what could not be read, which is a number where a descriptor was."""
    return repr(error.filename) if isinstance(error.filename, str | bytes) else "what was asked for"


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    """End the call with `code` and one printable sentence of at most `MAX_SENTENCE_BYTES`."""
    context.abort(code, sentence(message))
    raise AssertionError("abort returned")  # it always raises; its stubs do not say so everywhere


def sentence(message: str) -> str:
    """Return `message` on one line, printable, and cut in its middle if it is too long."""
    if len(message) > MAX_SENTENCE_BYTES:  # first of all, so that a huge one costs nothing
        message = message[:_HALF] + "…" + message[-_HALF:]
    text = "".join(c if c.isprintable() else _escaped(c) for c in message)
    encoded = text.encode()
    if len(encoded) <= MAX_SENTENCE_BYTES:
        return text
    return encoded[:_HALF].decode(errors="ignore") + "…" + encoded[-_HALF:].decode(errors="ignore")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def terminator(code: grpc.StatusCode, message: str) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler that ends each call at once, without waiting for its request."""

    def end(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        del requests
        abort(context, code, message)

    return grpc.stream_stream_rpc_method_handler(end)
