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
import sys
import types
from dataclasses import dataclass

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


def load(file: AppFile) -> None:
    """Load what the Work's class needs, in the Work's process."""
    if file.module in ("__main__", MAIN):
        assert file.main is not None
        load_main(file.main, file.package)
        return
    try:
        importlib.import_module(file.module)
    except ModuleNotFoundError as error:
        if error.name is None or not (file.module + ".").startswith(error.name + ".") or not file.module_file:
            raise
        _load_as(file.module, file.module_file, None)  # loaded by its path there too, as test runners do


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
