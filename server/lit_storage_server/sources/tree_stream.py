"""Turns a tree into the frames of one StreamFiles call, and looks at it again when all is sent.

Invariant: the bytes of a file are sent under the status that was taken from the descriptor that is
read, before the first byte. That they still belong to it is made sure afterwards: where the call
asked to settle by looking at the whole tree again, and sending anew what differs; else by a second
look at each descriptor, and what differs ends the call with SourceChanged.

Small files are most of what a tree costs, so `_send_files` reads them in one loop without a call of
a Python function for each: what is added to it slows down every tree.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lit_storage_core.system.spans import Span, without
from lit_storage_core.system.version_token import version_of
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import AccessDenied, PathNotFound, SourceChanged
from lit_storage_proto.frames import Frame
from lit_storage_proto.limits import KIB, MAX_FRAME_BYTES
from lit_storage_proto.uri import is_reserved
from lit_storage_server.sources.assembly import Assembly
from lit_storage_server.sources.look import Seen
from lit_storage_server.sources.reader import Reader, ShortFileError
from lit_storage_server.sources.shares import OPEN_REGULAR, Opened, Shares, join
from lit_storage_server.sources.walk import Identity, Level, Walk, describe, entry_of, scan

PACKED_BYTES = 64 * KIB  # a file up to this size is packed
MAX_ROUNDS = 3
_MAX_UNSETTLED_NAMES = 100
_MAX_UNSETTLED_BYTES = MAX_FRAME_BYTES // 2
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """What a call asked for, as of StreamFilesRequest."""

    packs: bool = False
    holes: bool = False
    settle: bool = False
    accept_changes: bool = False
    follow_links: bool = False
    links_as_origin: bool = False
    """Whether links are followed where the Work has set that for its files."""
    held: Mapping[str, tuple[bytes, Sequence[Span]]] = field(default_factory=dict)
    """By path: the version of a file, and what the client has of it."""
    note_places: bool = False
    """Whether `TreeStream.places` is kept; no call asks for that."""


class TreeStream:
    """The frames of one tree.

    Args:
        shares: what may be read.
        path: of the tree, as it was asked for.
        options: what the frames may hold.
        chunk_bytes: largest run of bytes of one file in one frame.
    """

    def __init__(self, shares: Shares, path: str, options: TreeOptions, chunk_bytes: int) -> None:
        self._shares = shares
        self._path = path
        self._options = options
        self._assembly = Assembly(chunk_bytes)
        self._reader = Reader(self._assembly.capacity, holes=options.holes)
        self.follows_links = options.follow_links or (options.links_as_origin and shares.follow_links)
        """Whether links are sent as what they mean."""
        self.places: dict[str, str] = {}
        """By path where a file or directory lies, if it is not at its path below the tree.

        As of `Shares.place_of`; "." is the storage root.
        """
        self._top: str | None = None
        """Where the tree lies, as of `Shares.place_of`; None if a link led to it from another share."""
        self._notes_places = False
        self._seen: dict[str, Seen] = {}
        self._changed: dict[str, None] = {}
        self._euid = os.geteuid()
        self._storage_root: Identity | None = None
        """Once a link led to it: reserved names lie in it, wherever in the tree it then is."""
        self.descriptor = -1
        """That of the file for which a chunk of the frame just yielded has `descriptor_bytes`."""

    def pass_descriptors(self) -> None:
        """From now on, pass large files as descriptors."""
        self._reader.descriptors = True

    def frames(self) -> Generator[Frame, None, None]:
        """Yield all frames; the data of one stay as they are until the next is asked for.

        Raises:
            StorageError: as of `Shares.open`, `Shares.open_regular` and `Walk`.
            SourceChanged: files changed while they were read, and went on changing.
            OSError: the file system failed; its file name is the path.
        """
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(self._shares.open(self._path))
            self._find_top(opened)
            look = self._look_at_tree if opened.is_directory else self._look_at_file
            yield from look(opened, send=True)
            if self._options.settle:
                yield from self._settle(opened, stack)
            if opened.is_directory and not os.fstat(opened.fd).st_nlink:
                raise _removed(self._path)
        yield from self._assembly.finish(_first(self._changed), len(self._changed))

    def _settle(self, opened: Opened, stack: contextlib.ExitStack) -> Iterator[Frame]:
        look = self._look_at_tree if opened.is_directory else self._look_at_file
        if not self._seen:
            return  # it is neither, and has no bytes
        for number in range(1, MAX_ROUNDS + 2):
            yield from self._assembly.flush()
            self._assembly.round = min(number, MAX_ROUNDS)
            self._changed.clear()
            opened = self._at_path(opened, stack)
            yield from look(opened, send=number <= MAX_ROUNDS)
            if not self._changed and self._at_path(opened, stack) is opened:
                return
        if not self._options.accept_changes:
            names = ", ".join(repr(join(self._path, name)) for name in list(self._changed)[:_MAX_NAMED])
            raise SourceChanged(
                f"{names} went on changing while {self._path!r} was sent; get it again when it rests, or "
                "accept changes"
            )

    def _at_path(self, opened: Opened, stack: contextlib.ExitStack) -> Opened:
        """Return the directory that is at the path by now; it may have taken the place of the one at hand.

        One that was renamed away may rest half removed, so that two looks at it alone would agree.
        """
        if not opened.is_directory:
            return opened
        try:
            now = stack.enter_context(self._shares.open(self._path))
        except PathNotFound:
            now = None
        if now is None or not now.is_directory:
            raise _removed(self._path)
        if os.path.samestat(now.status, opened.status):
            return opened
        self._changed[""] = None
        self._find_top(now)
        return now

    def _find_top(self, opened: Opened) -> None:
        # Where no link is followed to the tree or in it, each file is at its path.
        self._notes_places = self._options.note_places and (self.follows_links or opened.has_crossed)
        at_path = self._notes_places and not opened.has_crossed
        self._top = self._shares.place_of(opened.fd) if at_path else None

    def _note_place(self, fd: int, path: str) -> None:
        place = self._shares.place_of(fd)
        self.places.pop(path, None)
        if self._top is None or place != join(self._top, path):
            self.places[path] = place or "."

    def _look_at_file(self, opened: Opened, *, send: bool) -> Iterator[Frame]:
        """Send what is no directory, or what of it changed."""
        before = self._seen.get("")
        if before is not None:
            status = os.fstat(opened.fd)
            now = Seen(status)
            now.add("", status)
            if not before.difference(now, accept_growth=self._options.accept_changes).names:
                return
            self._changed[""] = None
            if not send:
                return
        entry = entry_of("", opened.status)
        if entry.kind is not Kind.FILE:
            yield from self._assembly.put_entry(entry)
            return
        read = self._shares.open_regular(opened.fd, "", self._path)
        if read is None:
            raise PathNotFound(f"{self._path!r} vanished while it was read")
        fd, status = read
        try:
            self._seen[""] = seen = Seen(status)
            seen.add("", status)
            yield from self._send_large(fd, "", status)
        finally:
            os.close(fd)

    def _look_at_tree(self, opened: Opened, *, send: bool) -> Iterator[Frame]:
        """Send all that lies in a directory, or what of it changed."""
        is_first = not self._seen
        follow = self._follow if self.follows_links else None
        for level in Walk(opened, follow=follow, strict=not self._options.settle).directories():
            before = self._seen.get(level.path)
            if before is None:
                if not is_first:
                    self._changed[level.path] = None
                if send:
                    yield from self._send_directory(opened, level)
            else:
                yield from self._look_again(opened, level, before, send=send)

    def _send_directory(self, opened: Opened, level: Level) -> Iterator[Frame]:
        if self._notes_places:
            self._note_place(level.fd, level.path)
        yield from self._assembly.put_entry(entry_of(level.path, level.status))
        seen = Seen(level.status, self._assembly.last_entry)
        self._seen[level.path] = seen
        names, others = self._scan(opened, level)
        seen.subdirectories = list(level.pending)
        yield from self._send_files(level, seen, names)
        yield from self._send_others(opened, level, seen, others)

    def _scan(self, opened: Opened, level: Level) -> tuple[list[str], list[os.DirEntry[str]]]:
        """Return the names of the files of a directory, and all else but subdirectories, which pend."""
        names, others = [], []
        with scan(opened, level) as items:
            for item in items:
                if item.is_file(follow_symlinks=False):
                    names.append(item.name)
                elif item.is_dir(follow_symlinks=False):
                    level.pending.append(item.name)
                else:
                    others.append(item)
        if (opened.is_storage_root and not level.path) or level.identity == self._storage_root:
            level.pending[:] = [name for name in level.pending if not is_reserved(name)]
            names = [name for name in names if not is_reserved(name)]
            others = [item for item in others if not is_reserved(item.name)]
        return names, others

    def _send_files(self, level: Level, seen: Seen, names: Iterable[str]) -> Iterator[Frame]:
        """Send files of one directory; small ones in packs."""
        assembly, directory, settle, euid = self._assembly, level.fd, self._options.settle, self._euid
        buffer, capacity = assembly.buffer, assembly.pack_capacity
        packed = min(PACKED_BYTES, capacity) if self._options.packs else -1
        pack = assembly.open_pack(seen.number)
        for name in names:
            try:
                fd = os.open(name, OPEN_REGULAR, dir_fd=directory)
            except OSError as error:
                self._pass_over(error, level, name)
                continue
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or status.st_uid != euid:
                    try:
                        self._shares.check_regular(fd, status, self._shown(level, name))
                    except SourceChanged as error:
                        self._pass_over(error, level, name)
                        continue
                size = status.st_size
                if size > packed:
                    yield from assembly.close_pack(pack)
                    yield from self._send_large(fd, join(level.path, name), status)
                    pack = assembly.open_pack(seen.number)
                else:
                    position = assembly.position
                    if position + size > capacity or len(pack.names) >= assembly.most_packed:
                        yield from assembly.close_pack(pack)
                        yield from assembly.flush()
                        pack, position = assembly.open_pack(seen.number), 0
                    # One byte more than there should be, so that growth is noticed.
                    count = os.readv(fd, [buffer[position : position + size + 1]])
                    if count != size:
                        if not settle or version_of(os.fstat(fd)) == version_of(status):
                            raise _changed(self._shown(level, name))
                        size = min(count, size)  # it is sent anew, for its status is another by now
                    elif not settle:
                        self._check_unchanged(fd, status, level, name)
                    assembly.position = position + size
                    pack.names.append(name)
                    pack.sizes.append(size)
                    pack.modes.append(status.st_mode & 0o777)
                    pack.mtimes_ns.append(status.st_mtime_ns)
                    if status.st_nlink > 1:
                        pack.hard_linked += 1
                if settle:
                    seen.add(name, status)
            except OSError as error:
                error.filename = error.filename or self._shown(level, name)
                raise
            finally:
                os.close(fd)
        yield from assembly.close_pack(pack)

    def _send_large(self, fd: int, path: str, status: os.stat_result) -> Iterator[Frame]:
        """Send an open file as an entry and chunks."""
        entry = entry_of(path, status)
        if self._notes_places:
            self._note_place(fd, path)
        yield from self._assembly.put_entry(entry)
        number, shown = self._assembly.last_entry, join(self._path, path)
        version, held = self._options.held.get(path, (b"", ()))
        # In a round a file comes as a whole, for it takes the place of what was put together before.
        is_held = version == entry.version and not self._assembly.round
        spans = without(held, entry.size) if is_held else [(0, entry.size)]
        self.descriptor = fd
        try:
            for chunk in self._reader.chunks(fd, number, status, spans):
                yield from self._assembly.put_chunk(chunk)
        except ShortFileError:
            if not self._options.settle:
                raise _changed(shown) from None
        if not self._options.settle and version_of(os.fstat(fd)) != entry.version:
            raise _changed(shown)

    def _send_others(
        self, opened: Opened, level: Level, seen: Seen, items: Iterable[os.DirEntry[str]]
    ) -> Iterator[Frame]:
        """Send links, and name what is neither file nor directory."""
        for item in items:
            try:
                status = os.stat(item.name, dir_fd=level.fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if self.follows_links and stat.S_ISLNK(status.st_mode):
                yield from self._send_followed(level, seen, item.name, status)
                continue
            seen.add(item.name, status)
            try:
                entry = describe(opened, level, item)
            except SourceChanged as error:
                self._pass_over(error, level, item.name)
                continue
            if entry is not None:
                yield from self._assembly.put_entry(entry)

    def _send_followed(self, level: Level, seen: Seen, name: str, status: os.stat_result) -> Iterator[Frame]:
        """Send what a link means, where that is in the share and does not hold the link itself.

        It is noted as what it means: a file by the file's status, a directory as a subdirectory.
        """
        path = join(level.path, name)
        try:
            target = self._shares.open(join(self._path, path))
        except (PathNotFound, AccessDenied):
            target = None
        if target is not None:
            with target:
                identity = (target.status.st_dev, target.status.st_ino)
                if target.is_directory and identity not in level.above | {level.identity}:
                    level.pending.append(name)
                    seen.subdirectories.append(name)
                    return
                if stat.S_ISREG(target.status.st_mode):
                    read = self._shares.open_regular(target.fd, "", join(self._path, path))
                    if read is not None:
                        seen.add(name, read[1])
                        try:
                            yield from self._send_large(read[0], path, read[1])
                        finally:
                            os.close(read[0])
                        return
        seen.add(name, status)
        yield from self._assembly.put_entry(Entry(path, Kind.SKIPPED, 0, 0, status.st_mtime_ns))

    def _look_again(self, opened: Opened, level: Level, before: Seen, *, send: bool) -> Iterator[Frame]:
        """Send what differs in a directory from what was seen of it."""
        now = Seen(level.status, before.number)
        regular = self._scan_again(opened, level, now)
        difference = before.difference(now, accept_growth=self._options.accept_changes)
        self._changed.update((join(level.path, name), None) for name in difference.names)
        if not send or not difference:
            return
        for name in difference.removed:
            yield from self._assembly.put_entry(Entry(join(level.path, name), Kind.REMOVED))
            self._forget(join(level.path, name))
        if difference.metadata:
            yield from self._assembly.put_entry(entry_of(level.path, level.status))
            now.number = self._assembly.last_entry
        anew = Seen(level.status, now.number)
        anew.subdirectories = now.subdirectories
        anew.keep(now, without=difference.changed)
        self._seen[level.path] = anew
        yield from self._send_files(level, anew, [name for name in difference.changed if name in regular])
        others = [name for name in difference.changed if name not in regular]
        if others:
            with scan(opened, level) as items:
                found = [item for item in items if item.name in others]
            yield from self._send_others(opened, level, anew, found)
        # What was gone before it could be sent anew differs at the next look.
        anew.keep(before, without={*anew.names, *difference.removed})

    def _scan_again(self, opened: Opened, level: Level, now: Seen) -> set[str]:
        """Note what a directory holds in `now`; return the names of its files."""
        names, others = self._scan(opened, level)
        directory = level.fd
        for name in names:
            try:
                now.add(name, os.stat(name, dir_fd=directory, follow_symlinks=False))
            except FileNotFoundError:
                continue
        for item in others:
            try:
                status = os.stat(item.name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if self.follows_links and stat.S_ISLNK(status.st_mode):
                self._look_at_followed(level, now, item.name, status)
            else:
                now.add(item.name, status)
        now.subdirectories = list(level.pending)
        return set(names)

    def _look_at_followed(self, level: Level, now: Seen, name: str, status: os.stat_result) -> None:
        """Note a link as `_send_followed` does."""
        try:
            with self._shares.open(join(self._path, join(level.path, name))) as target:
                identity = (target.status.st_dev, target.status.st_ino)
                if target.is_directory and identity not in level.above | {level.identity}:
                    level.pending.append(name)
                    return
                if stat.S_ISREG(target.status.st_mode):
                    status = target.status
        except (PathNotFound, AccessDenied):
            pass
        now.add(name, status)

    def _forget(self, path: str) -> None:
        if path not in self._seen:
            return  # it was no directory
        for known in [known for known in self._seen if known == path or known.startswith(path + "/")]:
            del self._seen[known]

    def _follow(self, path: str) -> int:
        opened = self._shares.open(join(self._path, path))
        if opened.is_storage_root:
            self._storage_root = (opened.status.st_dev, opened.status.st_ino)
        return opened.fd

    def _pass_over(self, error: OSError | SourceChanged, level: Level, name: str) -> None:
        """Go on without a file that is gone, or that the next look will see as another one."""
        if isinstance(error, FileNotFoundError):
            return
        if not isinstance(error, SourceChanged):
            error = self._shares.unopened(error, self._shown(level, name))
        if not (isinstance(error, SourceChanged) and self._options.settle):
            raise error from None

    def _check_unchanged(self, fd: int, status: os.stat_result, level: Level, name: str) -> None:
        if version_of(os.fstat(fd)) != version_of(status):
            raise _changed(self._shown(level, name))

    def _shown(self, level: Level, name: str) -> str:
        return join(self._path, join(level.path, name))


def _first(paths: Iterable[str]) -> tuple[str, ...]:
    """Return as many paths as can be named in one frame."""
    names: list[str] = []
    left = _MAX_UNSETTLED_BYTES
    for path in paths:
        left -= len(os.fsencode(path)) + 2
        if left < 0 or len(names) == _MAX_UNSETTLED_NAMES:
            break
        names.append(path)
    return tuple(names)


def _removed(shown: str) -> SourceChanged:
    return SourceChanged(f"{shown!r} was removed while it was sent; see whether it is still there")


def _changed(shown: str) -> SourceChanged:
    return SourceChanged(f"{shown!r} changed while it was read; get it again when it rests")
