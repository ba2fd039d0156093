"""Notes of what Works declare, for whoever publishes in place of a Work that was killed.

Invariant: a line of a note counts as soon as it is whole, and no line is changed, but in a root that was
copied, before any process uses the copy. What is no note of this version is none, whatever it holds.

A note is about the root in which it lies. The storage root and the in-place URL that it names are where
they were when it was written; what is read from it names where they are now.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import stat
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_storage_core.artifacts.urls import in_place_url, is_in_place, machine_of
from lit_storage_core.system.file_lock import lock
from lit_storage_core.system.mounts import file_system_of, spans_machines
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_core.system.replace_file import replace_file
from lit_storage_core.system.write_whole import write_whole
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.uri import check_name

KEEP, FOLLOW = "keep", "follow"
"""What becomes of symbolic links: they stay links, or what they mean takes their place."""

_NOTES = "declared"
_TEXTS = (
    *("name", "instance_id", "machine_id", "storage_root", "artifacts_url", "holder", "keeper"),
    "symlinks",
)
_NOTE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Declaration:
    """What one instance of a Work declared, and where it is published."""

    name: str
    instance_id: str
    machine_id: str
    storage_root: str
    artifacts_url: str
    has_left: bool = False
    """Whether it ended as it should, and this is what is left to look at."""
    holder: str = ""
    """The process of the Work, as `ProcessIdentity.to_text` writes it; empty if that is not known."""
    keeper: str = ""
    """That of the App which publishes in its place, as long as the App lives; empty if there is none."""
    is_held: bool = False
    """Whether the Work holds a lock of its note for as long as it lives."""
    tried_at: float = 0.0
    """When somebody else first failed to publish for it, in seconds since 1970; 0 if nobody did."""
    symlinks: str = KEEP
    """KEEP, or FOLLOW: what is published of symbolic links."""
    shared: tuple[str, ...] = ()
    """Absolute paths that are shared and not published, where links may lead."""
    paths: Mapping[str, bool] = field(default_factory=dict[str, bool])
    """Whether each was there once, as far as is known."""


class Note:
    """The file in which one instance of a Work notes what it declares.

    It holds lines of JSON: the first one of the Declaration, the others of a path each. One that was cut
    short by a kill is passed over. An older reader takes the line of a path that is only shared for that of
    one that is published already. Where links are followed it reads no note at all, and leaves the
    publication to somebody who follows them.

    Args:
        root: the root that the Works of a machine share.
        instance_id: of the Work.
    """

    def __init__(self, root: str, instance_id: str) -> None:
        self._root = root
        self._path = os.path.join(root, _NOTES, instance_id)

    def begin(self, declaration: Declaration, *, beside: str = "", hold: bool = False) -> None:
        """Make the file, for this instance and none of its former ones.

        Args:
            declaration: the paths so far.
            beside: the instance id of a former one whose note stays for now.
            hold: whether this process is the Work, and shows by a lock of the note that it lives.

        Raises:
            OSError: the disk is full, and the like.
        """
        directory, own = os.path.split(self._path)
        os.makedirs(directory, 0o775, exist_ok=True)
        for other in set(os.listdir(directory)) - {beside}:
            note = Note(os.path.dirname(directory), other)
            with contextlib.suppress(OSError):  # as in `noted`
                # The storage root of former instances is this one's by now.
                if other == own or ((left := note.read()) is not None and left.name == declaration.name):
                    note.remove()
        # What is empty is no note yet, so nobody sees one that is about to be held.
        for line in _lines(dataclasses.replace(declaration, is_held=hold and self._hold())):
            self._add(line)

    def add(self, path: str, *, seen: bool) -> None:
        """Note a path, or that it was there once."""
        self._add(_path_line(path, seen=seen))

    def share(self, path: str) -> None:
        """Note an absolute path that is shared, and is not published."""
        self._add(_shared_line(path))

    def keep(self, declaration: Declaration, failed: Container[str]) -> None:
        """Let only the paths stay that could not be published, for the next one who tries.

        Args:
            declaration: what was tried.
            failed: those of its paths that are still to be published.

        Raises:
            OSError: the disk is full, and the like; then all paths stay.
        """
        if not declaration.tried_at:
            self._add({"tried_at": time.time()})
        for path in declaration.paths:
            if path not in failed:
                self._add({"path": path, "done": True})

    def read(self) -> Declaration | None:
        """Return what is noted, None if nothing is, as of an instance that published for the last time."""
        try:
            with open(self._path, encoding="ascii", opener=_open_trusted) as file:
                about, *lines = _parsed(file)
            tried = [line["tried_at"] for line in lines if "tried_at" in line]
            shared = tuple(line["path"] for line in lines if _is_shared(line))
            paths = _paths_in(line for line in lines if not _is_shared(line))
            declaration = Declaration(
                **{**about, "tried_at": (*tried, 0.0)[0], "shared": shared, "paths": paths}
            )
        except (FileNotFoundError, PermissionError, ValueError, TypeError):
            return None
        is_whole = all(isinstance(getattr(declaration, name), str) for name in _TEXTS)
        is_whole &= isinstance(declaration.has_left, bool) and isinstance(declaration.is_held, bool)
        is_whole &= declaration.symlinks in (KEEP, FOLLOW)
        return self._here(declaration) if is_whole else None

    def end(self, declaration: Declaration, machine_id: str) -> None:
        """Let it be the note of a Work that was killed on this machine; in a copied root no process holds it.

        Absolute paths were not copied with the root. They stay the original's to publish, which also keeps a
        root that somebody else made from having files of this user published.

        Args:
            declaration: what it holds.
            machine_id: of this machine.

        Raises:
            OSError: the disk is full, and the like.
        """
        ended = dataclasses.replace(
            declaration,
            machine_id=machine_id,
            artifacts_url=_in_place_here(declaration.artifacts_url, self._root, machine_id),
            holder="",
            keeper="",
            is_held=False,
            shared=(),
            paths={path: seen for path, seen in declaration.paths.items() if not path.startswith("/")},
        )
        lines = _lines(dataclasses.replace(ended, tried_at=0.0))
        if declaration.tried_at:
            lines.append({"tried_at": declaration.tried_at})
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        replace_file(self._path, lambda _inode: text, mode=0o600, temporary_directory=self._root)

    def _here(self, declaration: Declaration) -> Declaration | None:
        """Return a declaration with the places that it has now; None if no Work can have its name."""
        try:
            check_name(declaration.name)
        except InvalidURI:
            return None
        url = declaration.artifacts_url
        return dataclasses.replace(
            declaration,
            storage_root=self._storage_root_here(declaration),
            artifacts_url=_in_place_here(url, self._root, machine_of(url)),
        )

    def _storage_root_here(self, declaration: Declaration) -> str:
        """Return the storage root of a Work by the path that it has now.

        A link that was made since the Work began is not resolved, so whoever opens it refuses it.
        """
        here = os.path.join(os.path.realpath(self._root), "works", declaration.name)
        leads_elsewhere = here != declaration.storage_root == os.path.realpath(here)
        return declaration.storage_root if leads_elsewhere else here

    def remove(self) -> None:
        """Remove it: there is nothing left to do for this instance."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._let_go()

    def age(self) -> float:
        """Return for how many seconds nothing has been noted; 0 if there is no note."""
        try:
            return time.time() - os.lstat(self._path).st_mtime
        except FileNotFoundError:
            return 0.0

    def has_ended(self, declaration: Declaration) -> bool:
        """Say whether the Work of this note has certainly ended.

        Its process may not be visible from here, in a container or on another machine that has this root
        too; the lock of its note tells then.
        """
        try:
            holder = ProcessIdentity.from_text(declaration.holder)
            # A machine that was started anew holds nothing, and neither knows the processes of before.
            is_local = not declaration.is_held and not spans_machines(
                file_system_of(os.path.dirname(self._path))
            )
            lives = holder.is_alive(same_machine=is_local)
        except (ValueError, OSError):
            lives = None if declaration.holder else False
        return not lives if lives is not None else declaration.is_held and not self._is_locked()

    def _hold(self) -> bool:
        """Lock the note until this process ends; say whether that can be had here."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            lock(fd)
        except OSError:
            os.close(fd)
            return False
        self._let_go()  # of a file that somebody else removed
        _held[self._path] = fd
        return True

    def _let_go(self) -> None:
        if (fd := _held.pop(self._path, -1)) >= 0:
            os.close(fd)

    def _is_locked(self) -> bool:
        """Say whether the Work may hold the note."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return True  # by now it is another's, or there is none
        try:
            lock(fd, shared=True)  # shared with others that look
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def _add(self, line: dict[str, Any]) -> None:
        fd = os.open(self._path, _NOTE, 0o600)
        try:
            # It begins with the end of a line before it that was cut short.
            write_whole(fd, b"\n" + json.dumps(line).encode("ascii") + b"\n")
        finally:
            os.close(fd)


def end_all(root: str, machine_id: str) -> None:
    """Let all notes of a root that was copied be those of Works that were killed on this machine.

    Their processes belong to the original root. So do the stores that are not in place: such a note is
    removed, because the original publishes there.

    Raises:
        OSError: the disk is full, and the like.
    """
    declarations = noted(root)
    for declaration in declarations:
        note = Note(root, declaration.instance_id)
        if is_in_place(declaration.artifacts_url):
            note.end(declaration, machine_id)
        else:
            note.remove()
    if declarations:
        fd = os.open(os.path.join(root, _NOTES), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)  # a power cut must not bring the processes of the original back
        finally:
            os.close(fd)


def remove_all(root: str) -> list[str]:
    """Remove all notes of a root; return the names of their Works.

    Raises:
        OSError: one cannot be removed.
    """
    names: set[str] = set()
    for declaration in noted(root):
        names.add(declaration.name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(root, _NOTES, declaration.instance_id))
    return sorted(names)


def _in_place_here(url: str, root: str, machine_id: str) -> str:
    """Return the URL of a store; that of a store in place is in `root`."""
    return in_place_url(os.path.realpath(root), machine_id) if is_in_place(url) else url


_held: dict[str, int] = {}  # of this process: the descriptor through which a note is locked


def _let_go_after_fork() -> None:
    """Close what is the parent's: else its locks would last as long as the child."""
    while _held:
        os.close(_held.popitem()[1])


os.register_at_fork(after_in_child=_let_go_after_fork)


def _open_trusted(path: str, flags: int) -> int:
    """Open a note; raise PermissionError if neither this user nor root wrote it.

    Others, be the root theirs, do not say what is read with this user's rights, nor where that is copied to.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or a socket
            raise PermissionError(errno.EACCES, "it is no file", path) from None
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
            raise PermissionError(errno.EACCES, "it is no file of this user or of root", path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a note that are whole."""
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(parsed := json.loads(line), dict):
                yield parsed


def _is_shared(line: Mapping[str, Any]) -> bool:
    """Say whether a line is of a path that is shared, and not published."""
    return line.get("shared") is True and isinstance(line.get("path"), str)


def _paths_in(lines: Iterable[dict[str, Any]]) -> dict[str, bool]:
    """Return the paths that lines of a note name; raise ValueError if one is of another version."""
    paths: dict[str, bool] = {}
    for line in lines:
        match line:
            case {"path": str(path), "seen": bool(seen)}:
                paths[path] = paths.get(path, False) or seen
            case {"path": str(path), "done": True}:
                paths.pop(path, None)
            case {"tried_at": float()}:
                pass
            case _:
                raise ValueError("a line of a note that is not of this version")
    return paths


def noted(root: str) -> list[Declaration]:
    """Return what is noted below a root, of all instances of all Works."""
    try:
        instances = os.listdir(os.path.join(root, _NOTES))
    except FileNotFoundError:
        return []
    found: list[Declaration] = []
    for instance in instances:
        with contextlib.suppress(OSError):  # what cannot be read as a file is no note
            left = Note(root, instance).read()
            if left is not None and left.instance_id == instance:  # else the text would name another file
                found.append(left)
    return found


def _lines(declaration: Declaration) -> list[dict[str, Any]]:
    """Return a declaration as the lines of its note."""
    about = dataclasses.asdict(declaration)
    paths, shared = about.pop("paths"), about.pop("shared")
    if about["symlinks"] == KEEP:
        del about["symlinks"]
    lines = [_shared_line(path) for path in shared]
    return [about, *lines, *(_path_line(path, seen=seen) for path, seen in paths.items())]


def _path_line(path: str, *, seen: bool) -> dict[str, Any]:
    return {"path": path, "seen": seen}


def _shared_line(path: str) -> dict[str, Any]:
    return {"path": path, "done": True, "shared": True}
