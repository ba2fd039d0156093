"""The id of this machine, by which a process knows another one to be beside it.

Invariant: all processes that use one root on one machine read the same id, whichever came first;
it is never written twice.
"""

from __future__ import annotations

import errno
import os
import secrets

from lit_storage_client.directories import make_directory
from lit_storage_client.write_once import write_once
from lit_storage_proto.errors import AccessDenied, StorageError

MACHINE_ID_VARIABLE = "LIT_STORAGE_MACHINE_ID"
MACHINE_ID_FILE = "machine-id"

# What a root answers that cannot be made or written, or whose file system has no hard links.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EOPNOTSUPP)


def machine_id(root: str) -> str:
    """Return the machine's id: LIT_STORAGE_MACHINE_ID, else a random value kept below `root`.

    Args:
        root: directory that holds what processes on this machine share; made if it is missing.

    Raises:
        AccessDenied: no id is kept yet, and `root` cannot be made or written.
        StorageError: the file of the id is empty.
        OSError: the disk is full, or the like.
    """
    given = os.environ.get(MACHINE_ID_VARIABLE, "").strip()
    if given:
        return given
    path = os.path.join(root, MACHINE_ID_FILE)
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except (PermissionError, NotADirectoryError) as error:
        raise _denied(root, error) from None
    try:
        make_directory(root)
        write_once(path, secrets.token_hex(16) + "\n", mode=0o644)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise _denied(root, error) from None
    return _read(path)


def _denied(root: str, error: OSError) -> AccessDenied:
    return AccessDenied(
        f"no machine id can be kept in {root} ({os.strerror(error.errno or errno.EACCES)}); "
        f"name a root that this process may write, or set {MACHINE_ID_VARIABLE}"
    )


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        kept = file.read().strip()
    if not kept:
        raise StorageError(f"{path} holds no machine id; remove it, and the next process writes a new one")
    return kept
