"""What a daemon shares: directories by names, for reading, as its operator granted them.

Invariant: a path of a request begins with the name of a share, and is confined to that share as
`Shares` confines it. No two names lead to the same files, and none to what the daemon keeps secret:
`check_shares` refuses that before anything is served.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace

from lit_storage_core.system.beneath import open_without_links, reach_beneath
from lit_storage_core.system.mounts import below_path, places_of
from lit_storage_core.system.names import shown
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import AccessDenied, InvalidConfig, PathNotFound
from lit_storage_server.sources.shares import Opened, Shares, join
from lit_storage_server.sources.source import SharedSource, Tree
from lit_storage_server.sources.tree_stream import TreeOptions

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def check_shares(shares: Mapping[str, str], *, secret: Iterable[str] = ()) -> dict[str, str]:
    """Return the directories to share by their names, absolute and without links on the way.

    Args:
        shares: directories by names.
        secret: files and directories that no share may hold or lie in, as the daemon's own root.

    Raises:
        InvalidConfig: one cannot be shared; the sentence says which, why, and what to do.
    """
    checked = {name: _checked(name, directory) for name, directory in shares.items()}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mountinfo = file.read()
    seen: dict[str, list[tuple[str, str]]] = {}
    for name, directory in checked.items():
        places = places_of(mountinfo, directory)
        for other, others in seen.items():
            if _overlap(places, others):
                raise InvalidConfig(
                    f"the shares {other!r} ({checked[other]}) and {name!r} ({directory}) lead to the same "
                    "files, one within the other; keep one of the two"
                )
        for path in secret:
            real = os.path.realpath(path)
            if _overlap(places, places_of(mountinfo, real)):
                raise InvalidConfig(
                    f"the share {name!r} ({directory}) and {path}, which others must not read, lie one "
                    "within the other; share a directory beside it"
                )
        seen[name] = places
    return checked


class NamedShares(Shares):
    """Directories by names.

    Args:
        shares: as `check_shares` returned them.
        name: who shares them; errors name it.
    """

    def __init__(self, shares: Mapping[str, str], *, name: str) -> None:
        # There is no storage root, and so nothing that a Work's shares know of it.
        self.root = ""
        self.name = name
        self.writable_only = False
        self.directories = dict(shares)
        self._root_fd = -1
        self._above = frozenset()

    def declare(self, path: str) -> None:
        """Raise AccessDenied: what is shared is its operator's to say."""
        raise AccessDenied(f"{self.name!r} shares what it was started with; {path!r} cannot be added")

    def _open_relative(self, relative: str, path: str) -> Opened:
        share, _, below = relative.partition("/")
        directory = self.directories.get(share)
        if directory is None:
            raise AccessDenied(f"{self.name!r} has no share {shown(share)}; {self._known()}")
        # It was checked to have no link on its way, and one that is put there later is not followed. It is
        # opened anew each time, so that a disk that was mounted again is seen.
        # A link is followed within its own share alone: each name was granted by itself.
        fd = open_without_links(directory)
        try:
            reached = reach_beneath(fd, below, root_path=directory)
        finally:
            os.close(fd)
        return self._opened(reached, directory, path, join(directory, below))

    def _open_absolute(self, path: str) -> Opened:
        for share, directory in self.directories.items():
            below = below_path(path, directory)
            if below is not None:
                raise AccessDenied(
                    f"{self.name!r} shares by names: ask for {join(share, below) if below else share!r} "
                    f"instead of {shown(path)}"
                )
        raise AccessDenied(f"{self.name!r} does not share {shown(path)}; {self._known()}")

    def _known(self) -> str:
        return f"it shares {', '.join(map(repr, self.directories)) or 'nothing'}"


class NamedSource(SharedSource):
    """Reads shares by names; the path "" lists the names.

    Args:
        shares: what may be read.
        chunk_bytes: largest run of bytes of one file in one frame.
    """

    def __init__(self, shares: NamedShares, chunk_bytes: int) -> None:
        super().__init__(shares, chunk_bytes)
        self._named = shares

    def exists(self, path: str) -> bool:
        """See `Source.exists`."""
        return not path or super().exists(path)

    def stat(self, path: str) -> Entry:
        """See `Source.stat`."""
        return super().stat(path) if path else Entry("", Kind.DIRECTORY, 0, 0o555)

    def entries(self, path: str, *, recursive: bool) -> Generator[Entry, None, None]:
        """See `Source.entries`."""
        if path:
            yield from super().entries(path, recursive=recursive)
            return
        yield self.stat("")
        for share in self._named.directories:
            try:
                if recursive:
                    for entry in super().entries(share, recursive=True):
                        yield replace(entry, path=join(share, entry.path) if entry.path else share)
                else:
                    yield replace(super().stat(share), path=share)
            except PathNotFound:
                continue  # its disk is not mounted now

    def tree(self, path: str, options: TreeOptions) -> Tree:
        """See `Source.tree`."""
        if not path:
            raise AccessDenied(
                f"all that {self._named.name!r} shares is not copied at once; name a share, such as "
                f"{next(iter(self._named.directories), 'NAME')!r}"
            )
        return super().tree(path, options)


def _checked(name: str, directory: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidConfig(
            f"{shown(name)} cannot name a share: use letters, digits, '_', '-' and '.', at most 128"
        )
    if not directory.startswith("/"):
        raise InvalidConfig(f"the share {name!r} must be an absolute path, and {shown(directory)} is none")
    path = os.path.normpath(directory)
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            raise InvalidConfig(
                f"the share {name!r} is a symbolic link, {path}, that leads to {os.path.realpath(path)}; "
                "share that directory itself"
            )
        real = os.path.realpath(path, strict=True)
    except OSError as error:
        raise InvalidConfig(
            f"the share {name!r} cannot be used: {path}: {error.strerror}; make the directory, or mount its "
            "disk, before the daemon starts"
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidConfig(f"the share {name!r} is no directory: {path}; share the directory that holds it")
    if real == "/":
        raise InvalidConfig(f"the share {name!r} is '/', which holds all of this machine; share a part of it")
    if not os.access(real, os.R_OK | os.X_OK, effective_ids=True):
        raise InvalidConfig(
            f"the share {name!r} cannot be read by user {os.geteuid()}: {real}; change its mode, or the "
            "user that the daemon runs as"
        )
    return real


def _overlap(places: Iterable[tuple[str, str]], others: list[tuple[str, str]]) -> bool:
    return any(
        device == other_device
        and (below_path(path, other) is not None or below_path(other, path) is not None)
        for device, path in places
        for other_device, other in others
    )
