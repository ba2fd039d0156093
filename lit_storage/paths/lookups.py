"""What pathlib's questions mean for the files of another Work.

What was copied to this machine, or lies in a directory that was copied, gives pathlib's answer without a
call. Of what was never copied, `exists`, `is_dir` and `is_file` ask the origin, and all that needs the files
raises PathNotFound, which names ``get()``. A Flow looks at no files, so there each of them raises
NotAttached. A child process cannot ask and gives pathlib's answer.

``open(path)`` and the functions of ``os.path`` go to the file system directly, and see only what was copied.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from lit_storage.paths import home as homes
from lit_storage.paths import unattached
from lit_storage.paths.copies import copies
from lit_storage.paths.origin_path import OriginPath, in_session
from lit_storage_proto.errors import PathNotFound
from lit_storage_proto.uri import Location

if TYPE_CHECKING:
    from lit_storage_proto.entry import Kind


class LookupPath(OriginPath):
    """A path that pathlib's questions are put to."""

    @in_session
    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Say whether the path is on this machine, or else at its origin.

        Raises:
            NotAttached: a Flow looks at no files.
            OriginUnavailable, TransferTimeout, RegistryUnavailable: nobody can say.
        """
        if self._is_answered_here("exists()"):
            return super().exists(follow_symlinks=follow_symlinks)
        location = self._location()
        return location is not None and homes.transport("exists()").exists(location)

    @in_session
    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Say whether the path is a directory, here or else at its origin. Raises as `exists`."""
        from lit_storage_proto.entry import Kind

        if not self._is_answered_here("is_dir()"):
            return self._remote_kind("is_dir()") is Kind.DIRECTORY
        return super().is_dir() and (follow_symlinks or not self.is_symlink())

    @in_session
    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Say whether the path is a regular file, here or else at its origin. Raises as `exists`."""
        from lit_storage_proto.entry import Kind

        if not self._is_answered_here("is_file()"):
            return self._remote_kind("is_file()") is Kind.FILE
        return super().is_file() and (follow_symlinks or not self.is_symlink())

    @in_session
    def is_symlink(self) -> bool:
        """Say whether the path is a symbolic link on this machine."""
        self._refuse_in_flow("is_symlink()")
        return super().is_symlink()

    @in_session
    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the status of the path on this machine; `stat_remote` asks its origin.

        Raises:
            PathNotFound: it was not copied.
            NotAttached: a Flow looks at no files.
        """
        self._refuse_in_flow("stat()")
        try:
            return super().stat(follow_symlinks=follow_symlinks)
        except (FileNotFoundError, NotADirectoryError):
            self._check_copied("stat()")
            raise

    def lstat(self) -> os.stat_result:
        """As `stat`, but of a link itself."""
        return self.stat(follow_symlinks=False)

    def iterdir(self) -> Generator[Self, None, None]:
        """Yield the paths in this directory on this machine. Raises as `stat`."""
        here = self._here()
        if here is not self:
            return (self.with_segments(self, child.name) for child in here.iterdir())
        self._check_listing("iterdir()")
        return super().iterdir()

    if not TYPE_CHECKING:  # their signatures are pathlib's

        @in_session
        def open(self, *args: Any, **options: Any) -> Any:
            """Open the file on this machine. Raises as `stat`."""
            self._refuse_in_flow("open()")
            try:
                return super().open(*args, **options)
            except (FileNotFoundError, NotADirectoryError):
                self._check_copied("open()")
                raise

        def glob(self, *args: Any, **options: Any) -> Any:
            """Yield what matches a pattern in this directory on this machine. Raises as `stat`."""
            here = self._here()
            if here is not self:
                return map(partial(self._found, here), here.glob(*args, **options))
            self._check_listing("glob()")
            return super().glob(*args, **options)

        def rglob(self, *args: Any, **options: Any) -> Any:
            """Yield what matches a pattern below this directory on this machine. Raises as `stat`."""
            here = self._here()
            if here is not self:
                return map(partial(self._found, here), here.rglob(*args, **options))
            self._check_listing("rglob()")
            return super().rglob(*args, **options)

        if sys.version_info >= (3, 12):

            def walk(self, *args: Any, **options: Any) -> Any:
                """Yield the directories below this one on this machine. Raises as `stat`."""
                here = self._here()
                if here is not self:
                    found = here.walk(*args, **options)
                    return ((self._found(here, above), *names) for above, *names in found)
                self._check_listing("walk()")
                return super().walk(*args, **options)

        if sys.version_info >= (3, 14):

            @property
            def info(self) -> Any:
                """What is known of the kind of the file on this machine; missing files included."""
                here = self._here()
                if here is not self:
                    return here.info
                self._refuse_in_flow("info")
                return super().info

            @in_session
            def copy(self, target: Any, **options: Any) -> Any:
                """Copy this file or tree."""
                return super().copy(_placed(target), **options)

            @in_session
            def copy_into(self, target: Any, **options: Any) -> Any:
                """Copy this file or tree into a directory."""
                return super().copy_into(_placed(target), **options)

            @in_session
            def move(self, target: Any, **options: Any) -> Any:
                """Move this file or tree."""
                return super().move(_placed(target), **options)

            @in_session
            def move_into(self, target: Any, **options: Any) -> Any:
                """Move this file or tree into a directory."""
                return super().move_into(_placed(target), **options)

    def _found(self, here: Self, found: Self) -> Self:
        """Return what was found below `here` as a path below this one, of which `here` is the place."""
        return self.with_segments(self, os.path.relpath(found, here))

    # --- Where the answer comes from ------------------------------------------------------------

    def _location(self) -> Location | None:
        """Return the path as its origin names it, None where the origin has no name for it."""
        name = self.origin_name
        if self._unattached:
            return unattached.location_of_value(self._value(), name)
        home = homes.current()
        if name is None or home is None:
            return None
        # A relative path of one's own means what it means to `open` in this process.
        value = os.path.abspath(self) if name == home.name else self._value()
        return homes.location_of(homes.home_of(name, value) or home, name, value)

    def _is_foreign(self) -> bool:
        """Say whether the files are another Work's."""
        if self._origin is None or self._unattached or self._origin.name is None:
            return False
        home = homes.current()
        return home is not None and home.name != self._origin.name

    def _refuse_in_flow(self, action: str) -> None:
        if self._is_foreign():
            _refuse_nameless(action)

    def _is_answered_here(self, action: str) -> bool:
        """Say whether pathlib's answer is the right one.

        Raises:
            NotAttached: a Flow asks, or there is no session that could ask the origin.
        """
        if not self._is_foreign():
            return True
        _refuse_nameless(action)
        if os.path.lexists(self) or self._location() is None or homes.is_child():
            return True
        homes.transport(action)
        return copies.hold(os.path.abspath(self))

    def _remote_kind(self, action: str) -> Kind | None:
        """Return what the origin has at this path, None where it has nothing."""
        location = self._location()
        assert location is not None
        try:
            return homes.transport(action).stat(location).kind
        except PathNotFound:
            return None

    def _check_copied(self, action: str) -> None:
        """Raise PathNotFound if the path is missing here because it was never copied."""
        if not self._is_answered_here(action):
            raise PathNotFound(
                f"{os.fspath(self)!r} was not copied from {self.origin_name!r}; "
                "call get() first, or pass the Path to the run() of this Work"
            )

    def _check_listing(self, action: str) -> None:
        self._refuse_in_flow(action)
        if self._is_foreign() and not os.path.lexists(self):
            self._check_copied(action)


def _placed(target: Any) -> Any:
    """Return a target as the session has it: pathlib takes the text of one for a path."""
    return target._here() if isinstance(target, OriginPath) else target


def _refuse_nameless(action: str) -> None:
    """Raise NotAttached in a Flow, whose process has no name; in a Work ask nobody whether it is one."""
    home = homes.current()
    if home is not None and home.name is None:
        homes.refuse(action)
