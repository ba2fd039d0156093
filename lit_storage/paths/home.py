"""Who this process is, and where its files and its copies of others' files lie.

The model, for a storage root R: one's own files lie in R (or anywhere, once declared), those of
the Work "trainer" in R/@trainer, and what "trainer" calls /data/x in R/@trainer/@/data/x. The
functions of the model are pure: they look at text only, never at a disk.

At most one home a process. Children of a process with a session know it through the environment, and a
forked one through its memory: they compute the same values as their parent, but have no transport. One that
joins or connects has a home of its own, and still knows where the Paths of its parent lie.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from lit_storage.paths import unattached
from lit_storage_core.system.mounts import below_path
from lit_storage_proto.errors import NotAttached
from lit_storage_proto.uri import Location, is_reserved

if TYPE_CHECKING:
    from lit_storage_client.fetch import Transfer
    from lit_storage_proto.entry import Entry

WORK_NAME: Final = "LIT_STORAGE_WORK_NAME"
WORK_ROOT: Final = "LIT_STORAGE_WORK_ROOT"
WORK_PID: Final = "LIT_STORAGE_WORK_PID"
WORK_MACHINE: Final = "LIT_STORAGE_WORK_MACHINE"
_VARIABLES: Final = (WORK_NAME, WORK_ROOT, WORK_PID, WORK_MACHINE)


@dataclass(frozen=True, slots=True)
class Home:
    """Who this process is."""

    name: str | None
    """The name of this Work; None where the process only resolves and copies."""
    storage_root: str
    """R: absolute, with links resolved."""
    machine_id: str


class Transport(Protocol):
    """What a session does for its Paths. Every location it is given names its origin."""

    def refuse(self, action: str) -> None:
        """Raise where this process may not do `action`.

        Raises:
            NotAttached: the code that runs is a Flow's, or a Work's ``__init__``.
        """
        ...

    def exists(self, location: Location) -> bool:
        """Say whether the origin has the path, or left it."""
        ...

    def stat(self, location: Location) -> Entry:
        """Return the entry of a path at the origin, or as it left it."""
        ...

    def get(
        self,
        location: Location,
        target: str,
        *,
        confined: bool,
        overwrite: bool,
        timeout: float | None,
        durable: bool,
        on_change: str,
        symlinks: str | None,
        progress: Any,
    ) -> Transfer:
        """Copy the path to `target`; where `confined`, `target` lies in R/@origin and stays there."""
        ...


def base_of(home: Home, origin_name: str) -> str:
    """Return the directory that the relative paths of an origin are values below."""
    if origin_name == home.name:
        return home.storage_root
    return posixpath.join(home.storage_root, "@" + origin_name)


def value_of(home: Home, location: Location) -> str:
    """Return the path on this machine that stands for `location`.

    Raises:
        NotAttached: `location` is one's own, and this process has no name.
    """
    name = location.origin if location.origin is not None else home.name
    if name is None:
        raise NotAttached(
            f"'{location}' names no Work, and this process has no files of its own: write lit://@NAME/PATH"
        )
    path = location.path
    if name == home.name and path.startswith("/"):
        return path
    if path.startswith("/"):
        path = "@" + path
    return posixpath.join(base_of(home, name), path).rstrip("/")


def location_of(home: Home, origin_name: str, value: str) -> Location | None:
    """Return what `value`, an absolute path on this machine, is called at its origin.

    ".." is taken lexically. None: `value` is relative, leaves the base of its origin, or lies
    under a name that is reserved there.
    """
    if not value.startswith("/"):
        return None
    base = base_of(home, origin_name)
    if origin_name == home.name:
        value = "/" + posixpath.normpath(value).lstrip("/")
        path = value[len(base) + 1 :] if (value + "/").startswith(base + "/") else value
        return None if is_reserved(path) else Location(origin_name, path)
    if not (value + "/").startswith(base + "/"):
        return None
    return unattached.location_of_parts(value[len(base) :].split("/"), origin_name)


@dataclass(frozen=True, slots=True)
class _Entered:
    home: Home
    transport: Transport
    pid: int
    environment: dict[str, str | None]
    """The variables that `enter` replaced."""
    advise: Callable[[Location], str] | None
    parent: Home | None
    """The home of the process that started this one, if that had a session; else of an App of this one."""
    former: _Entered | None
    """What this process inherited by fork, and has again after `leave`."""


_entered: _Entered | None = None
_expected: Home | None = None


def enter(
    home: Home,
    transport: Transport,
    advise: Callable[[Location], str] | None = None,
    *,
    hand_on: bool = True,
) -> None:
    """Make `home` the one of this process and of its children.

    Args:
        home: who this process is.
        transport: reaches other Works.
        advise: returns what may have been meant by a path of this process that is not there, or "".
        hand_on: whether programs that this process starts have this home too.

    Raises:
        RuntimeError: this process has a home already.
    """
    global _entered
    if _entered is not None and _entered.pid == os.getpid():
        raise RuntimeError("this process has a session already; close it before it joins or connects again")
    before = {variable: os.environ.get(variable) for variable in _VARIABLES}
    parent = current() if is_child() else _expected
    _entered = _Entered(home, transport, os.getpid(), before, advise, parent, former=_entered)
    if hand_on:
        values = (home.name, home.storage_root, str(os.getpid()), home.machine_id)
        _set_environment(dict(zip(_VARIABLES, values, strict=True)))


def leave() -> None:
    """Take back `enter`. A process that did not enter, such as a forked child, is left alone."""
    global _entered
    if _entered is None or _entered.pid != os.getpid():
        return
    _set_environment(_entered.environment)
    _entered = _entered.former


def expect(home: Home | None) -> None:
    """Say which home this process will have, as an App does when it is built.

    Paths have values and URIs from then on; nothing can be transferred before `enter`.
    """
    global _expected
    _expected = home


def _set_environment(values: Mapping[str, str | None]) -> None:
    for variable, value in values.items():
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value


def current() -> Home | None:
    """Return the home of this process: entered, inherited from the process that started it, or expected.

    An App that is built in a child of a process without a name expects a home of its own.
    """
    if _entered is not None:
        return _entered.home
    name, root = os.environ.get(WORK_NAME) or None, os.environ.get(WORK_ROOT)
    if not root or (name is None and _expected is not None):
        return _expected
    return Home(name, root, os.environ.get(WORK_MACHINE, ""))


def home_of(origin_name: str, value: str) -> Home | None:
    """Return the home in which `value` stands for files of an origin: of this process, or of its parent.

    A Path that the parent of this process made keeps its value here, so its files are where the parent has
    them.
    """
    home = current()
    parent = _entered.parent if _entered is not None else None
    if home is None or parent is None or location_of(home, origin_name, value) is not None:
        return home
    own = home.storage_root
    is_near = below_path(value, own) is not None or below_path(own, value) is not None
    return home if is_near or location_of(parent, origin_name, value) is None else parent


def storage_root_of(target: str) -> str:
    """Return the storage root in which `target` lies: of this process, or of its parent.

    Raises:
        NotAttached: this process has no session.
    """
    if _entered is None:
        raise NotAttached("a storage root needs a session: call lit_storage.join() or connect() first")
    parent, own = _entered.parent, _entered.home.storage_root
    if parent is None or below_path(target, own) is not None:
        return own
    return own if below_path(target, parent.storage_root) is None else parent.storage_root


def refuse(action: str) -> None:
    """Raise where the session of this process forbids `action`; without a session do nothing.

    Raises:
        NotAttached: the code that runs is a Flow's, or a Work's ``__init__``.
    """
    if _entered is not None and _entered.pid == os.getpid():
        _entered.transport.refuse(action)


def advice(location: Location) -> str:
    """Return what may have been meant by a path of this process that is not there, as a clause, or ""."""
    if _entered is None or _entered.pid != os.getpid() or _entered.advise is None:
        return ""
    text = _entered.advise(location)
    return f"; {text}" if text else ""


def is_child() -> bool:
    """Say whether this process is a child of one with a session, and has none itself."""
    home = current()
    is_entered = _entered is not None and _entered.pid == os.getpid()
    return home is not None and not is_entered and home is not _expected


def transport(action: str) -> Transport:
    """Return what reaches other Works from this process.

    Raises:
        NotAttached: this process has no session, or is a child of a Work.
    """
    if _entered is not None and _entered.pid == os.getpid():
        return _entered.transport
    home = current()
    if home is None or not is_child():
        raise NotAttached(
            f"{action} needs a session: run the App, or call lit_storage.join() or connect() first"
        )
    parent = f"the Work {home.name!r}" if home.name else "a session"
    raise NotAttached(
        f"{action} needs a session of its own in a child process of {parent}: call lit_storage.connect() "
        "here, or get the files there before starting it"
    )
