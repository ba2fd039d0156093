"""Finds a Python that can be started, also where this program itself is no Python.

``sys.executable`` is the program itself where it is frozen (PyInstaller, Nuitka, cx_Freeze) or embeds Python
(uWSGI, mod_wsgi, Blender). To start that would start the program again.

Invariant: what is returned is named as a Python is, and is not this program.
"""

from __future__ import annotations

import errno
import os
import re
import sys

_NAME = re.compile(r"(python|pypy)\d*(\.\d+)*[dtmu]*(-dbg)?")


def find_interpreter() -> str:
    """Return the path of a Python with the version and the packages of this one.

    It is ``sys.executable``, else what `multiprocessing.set_executable` was given, else the interpreter of
    the installation or virtual environment whose packages this process uses.

    Raises:
        OSError: there is none; its `strerror` says why.
    """
    if not is_frozen() and _is_python(sys.executable):
        return sys.executable
    named = _named_for_multiprocessing()
    if named is not None and named != sys.executable and _is_python(named):
        return named
    installed = os.path.join(sys.prefix, "bin", _installed_name())
    if not is_frozen() and _is_python(installed):
        return installed
    what = "is a frozen program and" if is_frozen() else "is"
    raise OSError(errno.ENOEXEC, f"{sys.executable!r} {what} not Python alone")


def is_frozen() -> bool:
    """Return whether the modules of this program are in its executable, so that no other Python has them."""
    compiled = "__compiled__" in vars(sys.modules["__main__"])  # by Nuitka
    return bool(getattr(sys, "frozen", False) or getattr(sys, "oxidized", False) or compiled)


def _is_python(path: str | None) -> bool:
    if not path or not _NAME.fullmatch(os.path.basename(path).lower()):
        return False
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _named_for_multiprocessing() -> str | None:
    spawn = sys.modules.get("multiprocessing.spawn")  # whoever named one has imported it
    named = spawn.get_executable() if spawn is not None else None
    return os.fsdecode(named) if named else None


def _installed_name() -> str:
    major, minor = sys.version_info[:2]
    return f"python{major}.{minor}{getattr(sys, 'abiflags', '')}"  # "t" for a build without the GIL
