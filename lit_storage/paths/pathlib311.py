"""A PosixPath for Python 3.11 that derives as 3.12's does: every derived path comes from `with_segments`.

In 3.11 all deriving methods end in one of two private class methods, ``_from_parts`` and
``_from_parsed_parts`` (https://github.com/python/cpython/blob/3.11/Lib/pathlib.py). Methods of
instances take their place here, so that a derived path knows what it comes from. The three places
that call them on the class, or that go through a public method which a subclass may have given
another meaning (``parents``, ``glob``, ``is_mount``), are written anew. 3.11 only gets security fixes, so
the private names stay as they are.
"""

from __future__ import annotations

import errno
import os
import pathlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)


class _Parents(Sequence["PosixPath"]):
    """The ancestors of a path, nearest first."""

    def __init__(self, path: PosixPath) -> None:
        self._path = path

    def __len__(self) -> int:
        return len(self._path.parts) - bool(self._path.root)

    @overload
    def __getitem__(self, index: int) -> PosixPath: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PosixPath, ...]: ...
    def __getitem__(self, index: int | slice) -> PosixPath | tuple[PosixPath, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._path.with_segments(*self._path.parts[: len(self._path.parts) - 1 - index % len(self)])

    def __repr__(self) -> str:
        return f"<{type(self._path).__name__}.parents>"


class _Withheld(list[str]):
    """Parts in place of which others see those of the file system; slices and sums are plain lists."""

    def __init__(self, parts: list[str], fspath: Callable[[], str]) -> None:
        super().__init__(parts)
        self._fspath = fspath

    def __iter__(self) -> Iterator[str]:
        return iter(pathlib.PurePosixPath(self._fspath()).parts)


class PosixPath(pathlib.PosixPath):
    """``pathlib.PosixPath`` with the ``with_segments`` of later Pythons."""

    def __new__(cls, *_segments: Any, **_options: Any) -> Self:
        """Make an empty path; ``__init__`` fills it, as in later Pythons."""
        return object.__new__(cls)

    def __init__(self, *segments: Any, **_options: Any) -> None:
        self._drv, self._root, self._parts = self._parse_args(segments)

    if TYPE_CHECKING:
        _drv: str
        _root: str
        _parts: list[str]

        @classmethod
        def _format_parsed_parts(cls, drv: str, root: str, parts: list[str]) -> str: ...

    @classmethod
    def _parse_args(cls, args: Sequence[Any]) -> tuple[str, str, list[str]]:
        # A slice of withheld parts is a plain list: paths of this class may use each other's.
        known = [arg._parts[:] if isinstance(arg, PosixPath) else [arg] for arg in args]
        base: Any = super()
        parsed: tuple[str, str, list[str]] = base._parse_args([part for parts in known for part in parts])
        return parsed

    def _withhold_segments(self) -> None:
        """Let no other pathlib class be built from this path; its ``__fspath__`` says why."""
        self._pparts = self.parts
        self._cached_cparts = str(self).split("/")
        self._parts = _Withheld(self._parts, self.__fspath__)

    def with_segments(self, *segments: Any) -> Self:
        """Return a new path of this kind from path-like segments."""
        return type(self)(*segments)

    def _from_parts(self, args: Any) -> Self:
        return self.with_segments(*args)

    def _from_parsed_parts(self, drv: str, root: str, parts: list[str]) -> Self:
        return self.with_segments(self._format_parsed_parts(drv, root, parts))

    @property
    def parents(self) -> Sequence[Self]:
        """The ancestors of this path, nearest first."""
        return _Parents(self)  # type: ignore[return-value]  # its items are made by with_segments

    def glob(self, pattern: str) -> Generator[Self, None, None]:
        """Yield the files below this directory that match `pattern`."""
        yield from map(self.with_segments, pathlib.PosixPath(os.fspath(self)).glob(pattern))

    def rglob(self, pattern: str) -> Generator[Self, None, None]:
        """Yield the files below this directory, at any depth, that match `pattern`."""
        yield from map(self.with_segments, pathlib.PosixPath(os.fspath(self)).rglob(pattern))

    def is_mount(self) -> bool:
        """Say whether this path is a mount point."""
        return pathlib.PosixPath(os.fspath(self)).is_mount()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Say whether this path exists on this machine."""
        try:
            self.stat(follow_symlinks=follow_symlinks)
        except OSError as error:
            if error.errno not in _MISSING:
                raise
            return False
        except ValueError:  # a name that no file can have
            return False
        return True
