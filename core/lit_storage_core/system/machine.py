"""The id of this machine, by which a process knows another one to be beside it.

Invariant: all processes that use one root on one machine read the same id, whichever came first.
It is written once, and once more in a root that was copied, before any process uses the copy.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat

from lit_storage_core.system.directories import make_directory
from lit_storage_core.system.names import is_id
from lit_storage_core.system.replace_file import replace_file
from lit_storage_core.system.write_once import write_once
from lit_storage_proto.errors import AccessDenied, StorageError

MACHINE_ID_VARIABLE = "LIT_STORAGE_MACHINE_ID"
MACHINE_ID_FILE = "machine-id"

_MOST_BYTES = 1024

# What a root answers that cannot be made or written, or whose file system has no hard links.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EOPNOTSUPP)


def machine_id(root: str) -> str:
    """Return the machine's id: LIT_STORAGE_MACHINE_ID, else a random value kept below `root`.

    Args:
        root: directory that holds what processes on this machine share; made if it is missing.

    Raises:
        AccessDenied: no id is kept yet, and `root` cannot be made or written.
        StorageError: the variable, or the file, holds no id.
        OSError: the disk is full, or the like.
    """
    if given := given_machine_id():
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
        write_once(path, new_machine_id() + "\n", mode=0o644)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise _denied(root, error) from None
    return _read(path)


def given_machine_id() -> str:
    """Return the id that LIT_STORAGE_MACHINE_ID names, "" if it names none.

    Raises:
        StorageError: it is no id.
    """
    given = os.environ.get(MACHINE_ID_VARIABLE, "").strip()
    if not is_id(given):
        raise StorageError(
            f"{MACHINE_ID_VARIABLE} is no id of a machine: it has 128 characters at most, all of them "
            "printable and none a slash"
        )
    return given


def kept_machine_id(root: str) -> str:
    """Return the id that is kept below `root`, "" if none is.

    Raises:
        StorageError: the file holds no id.
        OSError: it cannot be read.
    """
    try:
        return _read(os.path.join(root, MACHINE_ID_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return ""


def renew_machine_id(root: str, new_id: str) -> None:
    """Keep another id below `root`, which is a copy; a root that keeps none stays without.

    Raises:
        OSError: the disk is full, and the like.
    """
    path = os.path.join(root, MACHINE_ID_FILE)
    if os.path.lexists(path):
        replace_file(path, lambda _inode: new_id + "\n", mode=0o644)


def new_machine_id() -> str:
    """Return a random id."""
    return secrets.token_hex(16)


def _denied(root: str, error: OSError) -> AccessDenied:
    return AccessDenied(
        f"no machine id can be kept in {root} ({os.strerror(error.errno or errno.EACCES)}); "
        f"name a root that this process may write, or set {MACHINE_ID_VARIABLE}"
    )


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would keep us waiting
    try:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        kept = os.read(fd, _MOST_BYTES).decode(errors="replace").strip() if is_file else ""
    finally:
        os.close(fd)
    if not kept or not is_id(kept):
        raise StorageError(f"{path} holds no machine id; remove it, and the next process writes a new one")
    return kept
