"""The file that an app is written in: found, and loaded a second time in each Work's process.

The file is loaded under the names that ``multiprocessing`` uses, ``__main__`` and
``__mp_main__``, so that its classes are the same by name in every process of the app, and a block
under ``if __name__ == "__main__"`` runs only where the user started it. A bare ``app.run()`` at
the top level ends the loading instead of starting a second app.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import sys
import types
from dataclasses import dataclass, replace

from lit_storage_core.system.mounts import below_path
from lit_storage_proto.errors import InvalidApp

MAIN = "__mp_main__"

_loading = 0


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


def locate(cls: type) -> AppFile:
    """Return where the class and this program come from.

    Raises:
        InvalidApp: the class was typed into an interactive session, where no other process finds it.
    """
    main = sys.modules["__main__"]
    main_file = getattr(main, "__file__", None)
    if main_file is not None and not os.path.isfile(main_file):
        main_file = None  # read from standard input, or made up by a notebook
    spec = getattr(main, "__spec__", None)
    if cls.__module__ in ("__main__", MAIN) and main_file is None:
        raise InvalidApp(
            f"{cls.__qualname__!r} is defined in an interactive session, which the Work's process cannot "
            "load; write it into a file and import it"
        )
    return AppFile(
        os.path.abspath(main_file) if main_file else None,
        spec.parent if spec is not None else None,
        cls.__module__,
        getattr(sys.modules.get(cls.__module__), "__file__", None),
    )


def is_loading() -> bool:
    """Say whether an app's file is being loaded, so that an App in it must not run."""
    return _loading > 0


def place_of(path: str, directory: str) -> str:
    """Return where a file or directory of the App's machine is on this one.

    Args:
        path: absolute, as it is called there. If it is here too, it is taken.
        directory: the App's working directory, which Ray may have copied to where this process works.
    """
    own = os.path.abspath(os.path.relpath(path, directory))
    lies_within = below_path(path, directory) is not None
    return own if lies_within and not os.path.exists(path) and os.path.exists(own) else path


def moved(file: AppFile, directory: str) -> AppFile:
    """Return where this machine has the files; see `place_of`."""
    main, module = file.main, file.module_file
    return replace(
        file,
        main=main and place_of(main, directory),
        module_file=module and place_of(os.path.abspath(module), directory),
    )


def load(file: AppFile) -> None:
    """Load what the Work's class needs, in the Work's process.

    Raises:
        InvalidApp: the file is not on this machine.
    """
    if file.module in ("__main__", MAIN):
        assert file.main is not None
        _refuse_missing(file.main)
        load_main(file.main, file.package)
        return
    try:
        importlib.import_module(file.module)
    except ModuleNotFoundError as error:
        if error.name is None or not (file.module + ".").startswith(error.name + ".") or not file.module_file:
            raise
        _refuse_missing(file.module_file)
        _load_as(file.module, file.module_file, None)  # loaded by its path there too, as test runners do


def _refuse_missing(path: str) -> None:
    if not os.path.isfile(path):
        raise InvalidApp(
            f"{path!r} is not on {socket.gethostname()!r}, where its Work is to run; have the app's files "
            "there too, under the same path (a shared file system, the nodes' image), or as Ray's "
            'ray.init(runtime_env={"working_dir": "."})'
        )


def load_main(path: str, package: str | None = None) -> types.ModuleType:
    """Load the file at `path` as the main module, without its ``__main__`` block."""
    return _load_as(MAIN, path, package, "__main__")


def _load_as(name: str, path: str, package: str | None, *aliases: str) -> types.ModuleType:
    global _loading
    module = types.ModuleType(name)
    module.__file__ = path
    module.__package__ = package
    module.__dict__["__builtins__"] = __builtins__
    for key in (name, *aliases):
        sys.modules[key] = module
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    _loading += 1
    try:
        exec(code, module.__dict__)  # noqa: S102  the user's own app
    except LoadedFarEnough:
        pass
    finally:
        _loading -= 1
    return module
