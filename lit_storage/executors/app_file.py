"""The file that an app is written in: found, and loaded a second time in each Work's process.

The file is loaded under the names that ``multiprocessing`` uses, ``__main__`` and
``__mp_main__``, so that its classes are the same by name in every process of the app, and a block
under ``if __name__ == "__main__"`` runs only where the user started it. A bare ``app.run()`` at
the top level ends the loading instead of starting a second app.

An interactive session has no such file. What it defines is sent by `lit_storage.executors.by_value`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import pkgutil
import socket
import sys
import types
import zipimport
from dataclasses import dataclass, replace
from typing import Any

from lit_storage.executors.cloudpickles import pickle_by_value
from lit_storage_core.system.mounts import below_path
from lit_storage_proto.errors import InvalidApp

MAIN = "__mp_main__"
MAIN_NAMES = ("__main__", MAIN)

_loading = 0
_importing = 0


class LoadedFarEnough(BaseException):
    """Raised by ``App.run`` in a file that is only being loaded."""


@dataclass(frozen=True, slots=True)
class AppFile:
    """Where another process finds the modules that a Work's class needs."""

    main: str | None
    """The file of ``__main__``; None in an interactive session."""
    package: str | None
    """The package of ``__main__``, where it was run with ``python -m``."""
    module: str
    """The module of the Work's class."""
    module_file: str | None
    name: str | None = None
    """The name under which ``__main__`` was found, by ``python -m`` or in a directory or an archive."""


def locate(cls: type) -> AppFile:
    """Return where the class and this program come from."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return AppFile(
        main_file(),
        spec.parent if spec is not None else None,
        cls.__module__,
        getattr(sys.modules.get(cls.__module__), "__file__", None),
        spec.name if spec is not None else None,
    )


def main_file() -> str | None:
    """Return the file of ``__main__``, which may be in an archive; None where there is none to be run again.

    That is the case in notebooks and interactive sessions, also those that began with a file, and for a
    program from ``-c`` or from standard input.
    """
    path = getattr(sys.modules["__main__"], "__file__", None)
    if not isinstance(path, str) or hasattr(sys, "ps1") or not _is_there(path):
        return None
    return os.path.abspath(path)


def is_loading() -> bool:
    """Say whether an app's file is being loaded, so that an App in it must not run."""
    return _loading > 0


def is_run_again() -> bool:
    """Return whether the file is run for its functions and classes alone, where nobody can end that.

    A worker process of ``multiprocessing`` or joblib does so, and a Work's process that imports a module with
    an App at its top level.
    """
    if _importing:
        return True
    frame = None if is_loading() else sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == MAIN:
            return True
        frame = frame.f_back
    return False


def place_of(path: str, directory: str) -> str:
    """Return where a file or directory of the App's machine is on this one.

    Args:
        path: absolute, as it is called there. If it is here too, it is taken.
        directory: the App's working directory, which Ray may have copied to where this process works.
    """
    own = os.path.abspath(os.path.relpath(path, directory))
    lies_within = below_path(path, directory) is not None
    return own if lies_within and not _exists(path) and _exists(own) else path


def moved(file: AppFile, directory: str) -> AppFile:
    """Return where this machine has the files; see `place_of`."""
    main, module = file.main, file.module_file
    return replace(
        file,
        main=main and place_of(main, directory),
        module_file=module and place_of(os.path.abspath(module), directory),
        name=_name_of(file),
    )


def load(file: AppFile) -> None:
    """Load what the Work's class needs, in the Work's process.

    Raises:
        InvalidApp: the file is not on this machine.
    """
    if file.module in MAIN_NAMES:
        if file.main is None:
            sys.modules["__main__"] = types.ModuleType("__main__")  # what comes by value is put there
            return
        _load_main_of(file)
        return
    if file.main is not None:
        _load_main_when_needed(file)
    _import(file)


def _import(file: AppFile) -> None:
    global _importing
    _importing += 1
    try:
        importlib.import_module(file.module)
    except ModuleNotFoundError as error:
        if error.name is None or not (file.module + ".").startswith(error.name + ".") or not file.module_file:
            raise
        _refuse_missing(file.module_file)
        _load_path(file.module, file.module_file)  # loaded by its path there too, as test runners do
    finally:
        _importing -= 1


def _load_main_of(file: AppFile) -> types.ModuleType:
    assert file.main is not None
    _refuse_missing(file.main)
    return load_main(file.main, file.package, _name_of(file))


def _load_main_when_needed(file: AppFile) -> None:
    """Load the main file once a pickle from the App names something in it, and not before.

    The Work's class is elsewhere, so most Works never need it, and it may do much at its top level.
    """

    def look_up(name: str) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")  # pickle has no frame
        if caller.partition(".")[0] != __name__.partition(".")[0]:
            raise AttributeError(f"module '__main__' has no attribute {name!r}")
        return getattr(_load_main_of(file), name)

    vars(sys.modules["__main__"])["__getattr__"] = look_up


def load_program(path: str) -> types.ModuleType:
    """Load what ``python PATH`` would run: a file, or the ``__main__.py`` of a directory or an archive.

    Args:
        path: absolute.
    """
    if os.path.isdir(path) or isinstance(pkgutil.get_importer(path), zipimport.zipimporter):
        sys.path.insert(0, path)
        return load_main(os.path.join(path, "__main__.py"), "", "__main__")
    sys.path.insert(0, os.path.dirname(path))
    return load_main(path)


def load_main(path: str, package: str | None = None, name: str | None = None) -> types.ModuleType:
    """Load the file at `path` as the main module, without its ``__main__`` block.

    Args:
        path: of a Python file, which may be in an archive.
        package: to which relative imports of the file refer.
        name: under which ``python -m``, or Python for a directory or an archive, found the file.
    """
    spec = _spec_of(name, path) if name is not None else None
    if spec is None:
        module, code = _module_at(MAIN, path), _compiled(path)
        module.__package__ = package
    else:
        module, code = importlib.util.module_from_spec(spec), _code_of(spec)
        module.__name__ = MAIN
    for key in MAIN_NAMES:
        sys.modules[key] = module
    pickle_by_value(module)
    _execute(code, module)
    return module


def _load_path(name: str, path: str) -> None:
    module = sys.modules[name] = _module_at(name, path)
    _execute(_compiled(path), module)


def _module_at(name: str, path: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__file__ = path
    module.__loader__ = importlib.machinery.SourceFileLoader(name, path)
    module.__dict__["__builtins__"] = __builtins__
    return module


def _compiled(path: str) -> types.CodeType:
    with open(path, "rb") as file:
        source = file.read()
    if source.startswith(importlib.util.MAGIC_NUMBER):
        loader = importlib.machinery.SourcelessFileLoader(MAIN, path)
        return _code_of(importlib.machinery.ModuleSpec(MAIN, loader, origin=path))
    return compile(source, path, "exec", dont_inherit=True)  # the __future__ imports of this file are its own


def _spec_of(name: str, path: str) -> importlib.machinery.ModuleSpec | None:
    """Return how Python found the file, else one that names the file."""
    spec = None
    try:
        if name == "__main__":
            finder: Any = pkgutil.get_importer(os.path.dirname(path))
            spec = finder.find_spec(name) if finder is not None else None
        else:
            spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # it was found by another way there
        pass
    if spec is None or spec.origin is None or os.path.abspath(spec.origin) != path:
        spec = importlib.util.spec_from_file_location(name, path)
    return spec


def _code_of(spec: Any) -> types.CodeType:
    code: types.CodeType | None = spec.loader.get_code(spec.name)
    if code is None:
        raise InvalidApp(f"{spec.origin!r} has no code of Python, so no Work can load it")
    return code


def _execute(code: types.CodeType, module: types.ModuleType) -> None:
    global _loading
    _loading += 1
    try:
        exec(code, module.__dict__)  # noqa: S102  the user's own app
    except LoadedFarEnough:
        pass
    finally:
        _loading -= 1


def _name_of(file: AppFile) -> str | None:
    return getattr(file, "name", None)  # an App of before, as with a Ray node, does not set it


def _refuse_missing(path: str) -> None:
    if not _is_there(path):
        raise InvalidApp(
            f"{path!r} is not on {socket.gethostname()!r}, where its Work is to run; have the app's files "
            "there too, under the same path (a shared file system, the nodes' image), or as Ray's "
            'ray.init(runtime_env={"working_dir": "."})'
        )


def _exists(path: str) -> bool:
    return os.path.exists(path) or _is_there(path)


def _is_there(path: str) -> bool:
    """Return whether a Python file is at `path`, in a directory or in an archive."""
    if os.path.isfile(path):
        return True
    importer = pkgutil.get_importer(os.path.dirname(path))
    name = os.path.splitext(os.path.basename(path))[0]
    return isinstance(importer, zipimport.zipimporter) and importer.find_spec(name) is not None
