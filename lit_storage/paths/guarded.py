"""The pathlib class that Path extends: ``__fspath__`` is asked before pathlib takes a path's ``str``.

``str`` of a Path may be a URI for people; only ``__fspath__`` says, or refuses to say, what the file
system is to be asked. From 3.13 on, pathlib lists and matches by ``str``. The part for 3.14
follows its documentation and is untried.

A path whose segments are withheld still has parts, a name and an order, but pathlib cannot build
a path of its own from it, which would go to the file system without asking.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Self

if sys.version_info >= (3, 12):
    from pathlib import PosixPath as _PosixPath
else:
    from lit_storage.paths.pathlib311 import PosixPath as _PosixPath


class GuardedPosixPath(_PosixPath):
    """A ``pathlib.PosixPath`` that goes to the file system by ``os.fspath`` only."""

    def absolute(self) -> Self:
        """Return this path made absolute, without resolving links."""
        os.fspath(self)
        return super().absolute()

    if sys.version_info >= (3, 12):

        def _withhold_segments(self) -> None:
            """Let no other pathlib class be built from this path; its ``__fspath__`` says why."""
            self.parts  # noqa: B018  # parses, after which pathlib needs the raw segments only to give them away
            delattr(self, "_raw_paths")

        if not TYPE_CHECKING:

            def __getattr__(self, name: str) -> Any:
                if name == "_raw_paths":
                    return [os.fspath(self)]
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    if sys.version_info >= (3, 13):

        def iterdir(self) -> Generator[Self, None, None]:
            """Yield the paths in this directory."""
            os.fspath(self)
            return super().iterdir()

        def glob(self, pattern: Any, **options: Any) -> Iterator[Self]:
            """Yield the files below this directory that match `pattern`."""
            os.fspath(self)
            return super().glob(pattern, **options)

        def walk(self, *args: Any, **options: Any) -> Iterator[tuple[Self, list[str], list[str]]]:
            """Yield (directory, names of directories, names of files) below this directory."""
            os.fspath(self)
            return super().walk(*args, **options)

    if sys.version_info >= (3, 14):

        def __vfspath__(self) -> str:
            return os.fspath(self)

        @property
        def info(self) -> Any:
            """What is known of the file's kind."""
            os.fspath(self)
            return super().info

        def copy(self, target: Any, **options: Any) -> Any:
            """Copy this file or tree to `target`."""
            _check_places(self, target)
            return super().copy(target, **options)

        def copy_into(self, target_dir: Any, **options: Any) -> Any:
            """Copy this file or tree into the directory `target_dir`."""
            _check_places(self, target_dir)
            return super().copy_into(target_dir, **options)

        def move(self, target: Any) -> Any:
            """Move this file or tree to `target`."""
            _check_places(self, target)
            return super().move(target)

        def move_into(self, target_dir: Any) -> Any:
            """Move this file or tree into the directory `target_dir`."""
            _check_places(self, target_dir)
            return super().move_into(target_dir)


def _check_places(*paths: Any) -> None:
    for path in paths:
        if isinstance(path, os.PathLike):
            os.fspath(path)
