"""Pickles of 0.1.0 from before its modules lay in packages still load: of Path, Transfer and each error."""

import pickle

import pytest

from lit_storage import Path, Transfer
from lit_storage_proto import errors

# Protocol 0, which is text. `lit_storage/path.py` is there for the first three.
PATHS = {
    "data/x": (
        "clit_storage.path\n_unpickle\np0\n(clit_storage.path\nPath\np1\n(dp2\nVuri\np3"
        "\nNsVpath\np4\nVdata/x\np5\nsVorigin\np6\nNsVconsumer\np7\nNsVmachine\np8\nNsV\np9"
        "\ng9\ntp10\nRp11\n."
    ),
    "lit://outputs/checkpoints": (
        "clit_storage.path\n_unpickle\np0\n(clit_storage.path\nPath\np1\n(dp2\nVuri\np3"
        "\nVlit://outputs/checkpoints\np4\nsVpath\np5\nVlit://outputs/checkpoints\np6"
        "\nsVorigin\np7\nNsVconsumer\np8\nNsVmachine\np9\nNsV\np10\ng10\ntp11\nRp12\n."
    ),
    "lit://@trainer/outputs/model.bin": (
        "clit_storage.path\n_unpickle\np0\n(clit_storage.path\nPath\np1\n(dp2\nVuri\np3"
        "\nVlit://@trainer/outputs/model.bin\np4\nsVpath\np5\nVlit://@trainer/output"
        "s/model.bin\np6\nsVorigin\np7\nVtrainer\np8\nsVconsumer\np9\nNsVmachine\np10\nNs"
        "V\np11\ng11\ntp12\nRp13\n."
    ),
}
TRANSFER = (
    "ccopy_reg\n_reconstructor\np0\n(clit_storage_client.fetch.transfer\nTransfer\np1\nc__b"
    "uiltin__\nobject\np2\nNtp3\nRp4\n(lp5\nI3\naI4096\naF0.5\naVstream\np6\na(Vdev\np7\ntp8\naI1\na"
    "I2\na(Vlog\np9\ntp10\naI1\nab."
)
ERROR = "clit_storage_proto.errors\n{name}\np0\n(V{name}: why, and the way out\np1\ntp2\nRp3\n."
ERRORS = [
    "AccessDenied",
    "AddressInUse",
    "ExecutorUnavailable",
    "IntegrityError",
    "InvalidApp",
    "InvalidConfig",
    "InvalidURI",
    "NameTaken",
    "NotAttached",
    "OriginUnavailable",
    "PathExists",
    "PathNotFound",
    "ProtocolViolation",
    "RegistryUnavailable",
    "SourceChanged",
    "StorageError",
    "TransferTimeout",
    "WorkError",
]


@pytest.mark.parametrize("text", PATHS)
def test_path(text):
    """A Path is the Path that it was."""
    path = pickle.loads(PATHS[text].encode("ascii"))
    assert type(path) is Path
    assert (path, str(path), path.origin_name) == (Path(text), text, Path(text).origin_name)


def test_transfer():
    """A Transfer has each of its values."""
    transfer = pickle.loads(TRANSFER.encode("ascii"))
    assert transfer == Transfer(3, 4096, 0.5, "stream", ("dev",), 1, 2, ("log",), 1)


def test_errors():
    """Each error that there was is of its class, and says what it said."""
    for name in ERRORS:
        error = pickle.loads(ERROR.format(name=name).encode("ascii"))
        assert type(error) is getattr(errors, name), name
        assert error.args[-1] == f"{name}: why, and the way out" == str(error), name
