"""The table between errors and status codes has no holes."""

import inspect

import grpc
import pytest

from lit_storage_proto import errors
from lit_storage_proto.status import CODE_OF, ERROR_OF, code_of, error_of

KINDS = [
    kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.StorageError) and not name.startswith("_")
]
# What a server refuses as malformed was malformed by a peer, so it comes back as ProtocolViolation.
ONE_WAY = {
    errors.NotAttached, errors.RegistryUnavailable, errors.InvalidURI, errors.NameTaken, errors.AddressInUse,
    errors.ExecutorUnavailable, errors.InvalidApp, errors.InvalidConfig, errors.WorkError,
    errors.StorageError,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code(kind):
    """Each error has a row of its own, and never travels as UNKNOWN or OK."""
    assert CODE_OF[kind] is code_of(kind("x"))
    assert code_of(kind("x")) not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK)


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_code_has_an_error(code):
    """Each status code has a row, and its error has the sentence that came with it."""
    error = error_of(code, "a sentence")
    assert (type(error), str(error)) == (ERROR_OF[code], "a sentence")


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ONE_WAY], ids=lambda kind: kind.__name__
)
def test_there_and_back(kind):
    """An error that a consumer can act on arrives as what it was."""
    assert type(error_of(code_of(kind("x")), "x")) is kind


def test_error_of_a_later_version():
    """An error that has no row travels as the nearest one above it."""

    class Narrower(errors.PathNotFound):
        pass

    assert code_of(Narrower("x")) is grpc.StatusCode.NOT_FOUND
