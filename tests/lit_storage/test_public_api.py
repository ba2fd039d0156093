"""What people import is a list, and each name on it says what it is."""

import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import lit_storage

PUBLIC = {
    *("App", "Flow", "Path", "Work", "LightningApp", "LightningFlow", "LightningWork"),
    *("Session", "join", "connect", "current", "Status", "Transfer", "Limits", "Security"),
    *("StorageError", "PathNotFound", "PathExists", "AccessDenied", "NotAttached", "OriginUnavailable"),
    *("RegistryUnavailable", "TransferTimeout", "SourceChanged", "IntegrityError", "ProtocolViolation"),
    *("InvalidURI", "NameTaken", "AddressInUse", "ExecutorUnavailable"),
    *("InvalidApp", "InvalidConfig", "WorkError"),
}


def test_the_list_of_public_names():
    """Nothing is exported by accident, and nothing went missing."""
    assert set(lit_storage.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_documented(name):
    """help() of it says something."""
    assert inspect.getdoc(getattr(lit_storage, name))


def test_the_names_of_old_are_the_same_classes():
    """An app written for Lightning finds its base classes."""
    assert lit_storage.LightningApp is lit_storage.App
    assert lit_storage.LightningFlow is lit_storage.Flow
    assert lit_storage.LightningWork is lit_storage.Work


def test_the_version_is_that_of_the_distribution():
    """`lit_storage.__version__` is there for whoever prints or compares it, also where no metadata is."""
    assert lit_storage.__version__ == importlib.metadata.version("lit-storage")


@pytest.mark.parametrize(
    "module", ["lit_storage_proto.errors", "lit_storage_proto.uri", "lit_storage_proto.limits"]
)
def test_the_vocabulary_does_not_load_grpc(module):
    """Names, errors and limits are quick to import."""
    code = f"import sys, {module}; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
