"""Every error is also the built-in that callers catch, travels, and explains itself."""

import inspect
import pickle
import subprocess
import sys
import traceback

import pytest

from lit_storage_proto import errors
from lit_storage_proto.errors import StorageError

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, StorageError)]
PUBLIC = [kind for kind in ALL if not kind.__name__.startswith("_") and kind is not StorageError]

BUILTINS = {
    "PathNotFound": FileNotFoundError,
    "PathExists": FileExistsError,
    "AccessDenied": PermissionError,
    "NotAttached": RuntimeError,
    "OriginUnavailable": ConnectionError,
    "RegistryUnavailable": ConnectionError,
    "TransferTimeout": TimeoutError,
    "SourceChanged": RuntimeError,
    "IntegrityError": OSError,
    "ProtocolViolation": ConnectionError,
    "InvalidURI": ValueError,
    "NameTaken": RuntimeError,
    "AddressInUse": OSError,
    "ExecutorUnavailable": ConnectionError,
    "InvalidApp": ValueError,
    "InvalidConfig": ValueError,
    "WorkError": RuntimeError,
}


def test_table_is_complete():
    """Each error has its built-in in the table of this test."""
    assert {kind.__name__ for kind in PUBLIC} == set(BUILTINS)


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_built_in(kind):
    """Each error is caught as its built-in."""
    with pytest.raises(BUILTINS[kind.__name__]):
        raise kind("x")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_own_sentence(kind):
    """Without arguments an error's text is the first line of its docstring; with one it is that one."""
    assert str(kind()) == kind.__doc__.splitlines()[0]
    assert str(kind("'a' is not there")) == "'a' is not there"


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_pickle(kind):
    """An error crosses to another process as itself."""
    error = pickle.loads(pickle.dumps(kind("a sentence")))
    assert (type(error), str(error)) == (kind, "a sentence")


@pytest.mark.parametrize(
    "kind", [kind for kind in PUBLIC if issubclass(kind, OSError)], ids=lambda k: k.__name__
)
def test_errno(kind):
    """An error of the system's kind has an errno, which is that of its built-in."""
    builtin = BUILTINS[kind.__name__]
    number = kind("x").errno
    assert number
    assert builtin in (OSError, ConnectionError) or type(OSError(number, "")) is builtin


def test_no_grpc():
    """Errors, names, limits and the registry port are imported without gRPC and protobuf."""
    code = (
        "import sys; import lit_storage_proto.errors, lit_storage_proto.uri, lit_storage_proto.limits, "
        "lit_storage_proto.registry; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    )
    prefix = f"import sys; sys.path[:0] = {sys.path!r}; "
    assert subprocess.run([sys.executable, "-c", prefix + code], timeout=20).returncode == 0


@pytest.mark.parametrize("kind", [*PUBLIC, StorageError], ids=lambda kind: kind.__name__)
def test_public_name(kind):
    """A traceback names an error as users import it."""
    import lit_storage

    name = traceback.format_exception_only(kind("x"))[0].partition(":")[0]
    assert name == f"lit_storage.{kind.__name__}"
    assert getattr(lit_storage, kind.__name__) is kind


def test_public_name_of_what_etcd_refuses():
    """The error that a module keeps for itself appears, also in another process, as what users can catch."""
    from lit_storage_core.registries.etcd.connection import Refused

    assert traceback.format_exception_only(Refused("x")) == ["lit_storage.RegistryUnavailable: x\n"]
    error = pickle.loads(pickle.dumps(Refused("x")))
    assert (type(error), str(error)) == (errors.RegistryUnavailable, "x")
