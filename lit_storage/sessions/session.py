"""What a process has once it joined or connected: its name, registry, channels, storage root.

One session a process. `join` makes the process a Work: it serves its files under a name.
`connect` only resolves and copies; called again it returns the session that is open. A forked child
has no session until it joins or connects, for the one in its memory belongs to its parent. An App holds a
session for the Flow's process; that one refuses file operations while the Flow runs, and gives way to
whatever comes after it.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

from lit_storage.paths import home
from lit_storage.paths.home import Home
from lit_storage.paths.origin import Origin
from lit_storage.paths.path import Path, with_origin
from lit_storage.sessions import environment
from lit_storage.sessions.advertise import advertised_endpoint
from lit_storage.sessions.departure import LEAVE_SECONDS, Departure
from lit_storage.sessions.inheritance import ForkingParent, Inheritance, Variables, variables_of
from lit_storage.sessions.known_names import hint_for_own, hint_for_remote
from lit_storage.sessions.launcher import launched_name, work_of_launched
from lit_storage.sessions.persistence import Persistence, tell
from lit_storage.sessions.sharing import differing
from lit_storage.sessions.siblings import SiblingOrigins
from lit_storage.sessions.start_lock import registering
from lit_storage.sessions.stray_directory import StrayDirectory
from lit_storage.sessions.termination import deferring_sigterm, exit_at_sigterm
from lit_storage_client.fetch import Discards, Transfer, fetch
from lit_storage_client.fetch.aside import discard_aside, move_aside
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.remote import Remote
from lit_storage_core.artifacts.own_root import OwnRoot
from lit_storage_core.artifacts.urls import in_place_url
from lit_storage_core.registries import open_registry, renewal_of
from lit_storage_core.registries.database import file_of
from lit_storage_core.security.settings import Security
from lit_storage_core.system.machine import machine_id
from lit_storage_core.system.names import shown
from lit_storage_core.system.process import ProcessIdentity
from lit_storage_core.system.root_identity import is_copy
from lit_storage_proto.errors import InvalidURI, NameTaken, NotAttached, PathNotFound
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import Lease, LiveRecord, Registry, WorkRecord, WorkState
from lit_storage_proto.uri import Location, check_name

if TYPE_CHECKING:
    from lit_storage_proto.entry import Entry
    from lit_storage_server.process.server_process import ServerProcess

_TRANSFERS = logging.getLogger("lit_storage.transfer")

_current: Session | None = None
_parent: ForkingParent | None = None
_opening = threading.RLock()  # a signal handler may close what its thread is opening
_making = threading.local()


def _begin_as_child() -> None:
    """Give a forked child a lock of its own, since another thread may have held it, and note its parent."""
    global _opening, _parent
    _opening = threading.RLock()
    if _current is not None and (_parent is None or _parent.session is not _current):
        _parent = ForkingParent(_current)


os.register_at_fork(after_in_child=_begin_as_child)


class Session:
    """A process's way to the files of others, and theirs to its own; made by `join` and `connect`."""

    def __init__(
        self,
        home_: Home,
        root: str,
        registry: Registry,
        security: Security,
        limits: Limits,
        work_above: str | None = None,
    ) -> None:
        """`work_above`: the Work within which a launcher started this process."""
        self.home = home_
        self.root = root
        self.registry = registry
        self.security = security
        self.limits = limits
        self._channels = Channels(security, limits)
        self._discards = Discards(limits.reader_seconds)
        self.remote = Remote(registry, self._channels, limits, environment.direct_ways())
        own_root = OwnRoot(root, home_.machine_id, registry.url)
        self.origins = SiblingOrigins(work_above, self.remote, registry, home_.machine_id, limits, own_root)
        self.instance_id = uuid.uuid4().hex
        self.is_flow = False
        """Whether a Flow runs here, which hands Paths around and moves no files itself."""
        self.gives_way = False
        """Whether the next session of this process may simply take its place."""
        self._server: ServerProcess | None = None
        self._persistence: Persistence | None = None
        self._record: LiveRecord | None = None
        self._taken: NameTaken | None = None
        self._stray = StrayDirectory()
        self._is_of_app = False
        self._inheritance: Inheritance | None = None
        self.registry_given = registry.url
        self._holders = 1  # calls of `connect` that returned this session and were not closed
        self._closed = False
        self._process = os.getpid()
        self._stop_exiting = exit_at_sigterm() if home_.name is not None else None

    @property
    def name(self) -> str | None:
        """The name under which this process serves; None if it only connected."""
        return self.home.name

    @property
    def storage_root(self) -> str:
        """The directory under which this process keeps its own files, and its copies of others'."""
        return self.home.storage_root

    @property
    def endpoint(self) -> str | None:
        """``host:port`` at which this process serves; None if it only connected."""
        return self._server.endpoint if self._server else None

    @property
    def _times_to_close(self) -> str:
        """How often `close` ends this session, as a clause; "" where once is enough."""
        return f" {self._holders} times, once for each connect()," if self._holders > 1 else ""

    @property
    def persisted(self) -> frozenset[str]:
        """The declared paths that stay readable when this process has stopped."""
        return frozenset(self._persistence.paths) if self._persistence is not None else frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        is_ending = exc_info[0] is not None
        failed = is_ending and exc_info[0] is not SystemExit
        self._close(WorkState.FAILED if failed else WorkState.STOPPED, is_ending=is_ending)

    def __repr__(self) -> str:
        return f"<Session of {self.name or 'a connected process'} at {self.storage_root!r}>"

    def declare(self, path: str | os.PathLike[str], *, persist: bool = True) -> Path:
        """Share a path of one's own, as an attribute of a Work does.

        Args:
            path: below the storage root, where all is shared anyway, or elsewhere.
            persist: publish it when this process stops, so that it stays readable: in the store that
                `join` was told of, by default where it is. A path within another one goes with that.
                False only shares it while this process runs, and lets links lead into it: what is
                published where links are followed holds what they mean there.

        Returns:
            The path, with this process as its origin.

        Raises:
            NotAttached: this process only connected, and so serves nothing.
            AccessDenied: the path is ``/`` or above the storage root.
            InvalidURI: it is another Work's, or under a reserved name.
            NameTaken: this process lost its name.
        """
        self.check_name()
        if self._server is None:
            raise NotAttached(
                "a process that only connected serves no files; join() under a name to declare some"
            )
        own = (
            path
            if isinstance(path, Path) and path.origin_name
            else with_origin(Path(path), Origin(self.name))
        )
        above, last = os.path.split(os.path.abspath(own))
        value = os.path.join(os.path.realpath(above), last)  # R is without links, and so is what is shared
        location = home.location_of(self.home, self.home.name or "", value)
        if location is None or own.origin_name != self.name:
            raise InvalidURI(
                f"{os.fspath(own)!r} is not this Work's own; declare only what {self.name!r} owns"
            )
        if location.path.startswith("/"):
            location = self._share_by_name(own, location)
        if self._persistence is not None:
            if persist:
                self._persistence.declare(location.path, seen=os.path.lexists(value))
            elif location.path.startswith("/"):
                self._persistence.share(location.path)
        return own

    def _share_by_name(self, own: Path, real: Location) -> Location:
        """Share what lies outside of the storage root; return the name by which others ask for it.

        Whoever is handed the Path asks for it as it is spelled, which may be by way of a link.
        """
        assert self._server is not None
        named = home.location_of(self.home, self.home.name or "", os.path.abspath(own)) or real
        for path in dict.fromkeys([real.path, named.path]):
            if path.startswith("/"):
                self._server.declare(path)
        if named != real and self._persistence is not None:
            self._persistence.share(real.path)  # so that a link to it is followed when it is published
        return named

    def publish(self) -> None:
        """Publish what this process declared, as it is now; `close` does so anyway.

        Consumers read it when nobody lives under this name any more, until something newer is published.
        It takes `Limits.publish_seconds` at the most; of what could not be published a warning is given.

        Raises:
            NotAttached: this process only connected, or was forked from the one that joined.
            RegistryUnavailable: the registry cannot be told of it.
            NameTaken: this process lost its name.
        """
        self.check_name()
        if self._persistence is None or os.getpid() != self._process:
            raise NotAttached("only the process that joined under a name publishes what it declared")
        if self._persistence.publish():
            self._update_work(WorkState.RUNNING)

    def leave_rest_to_app(self, app: ProcessIdentity) -> None:
        """Let the App that started this process publish what it does not publish itself before it ends."""
        self._is_of_app = True
        if self._persistence is not None:
            self._persistence.keeper = app

    def close(self, state: WorkState = WorkState.STOPPED) -> None:
        """Leave: give the name back, stop serving, release everything.

        Each call undoes one call of `connect`: a session that several of them returned ends with the last
        `close`, or with the program. The end of a ``with`` block is such a call. When the session has ended,
        further calls do nothing. In a forked child the session of its parent goes on, and the child lets go
        of it.

        What fails, as where the registry or the store is out of reach, is warned of and never raised: see
        `lit_storage.sessions.departure`. The registry may take 5 s, and publishing `Limits.publish_seconds`.

        Args:
            state: what the registry says of this Work from now on.
        """
        self._close(state)

    def _close_at_exit(self) -> None:
        self._close(WorkState.STOPPED, at_exit=True, is_ending=True)

    def _close(self, state: WorkState, *, at_exit: bool = False, is_ending: bool = False) -> None:
        """Leave.

        Args:
            state: see `close`.
            at_exit: whether the interpreter is ending.
            is_ending: whether the program ends anyway, by an exception or with an exit code of its own, which
                a SIGTERM that comes meanwhile does not replace.
        """
        with _opening:
            if not self._is_closing(at_exit=at_exit):
                return
            self._closed = True
            try:
                with deferring_sigterm() as received:
                    self._leave(state, at_exit=at_exit)
            finally:
                if self._stop_exiting is not None:
                    self._stop_exiting()
        if received and not is_ending:
            raise SystemExit(128 + received[0])

    def _is_closing(self, *, at_exit: bool) -> bool:
        """Say whether a `close` ends this session."""
        global _current
        if os.getpid() != self._process:  # a forked child must not end its parent's session
            if _current is self:
                _current = None
            return False
        if self._holders > 1 and not at_exit:
            self._holders -= 1
            return False
        return not self._closed

    def _leave(self, state: WorkState, *, at_exit: bool) -> None:
        global _current
        atexit.unregister(self._close_at_exit)
        departure = Departure(self.name)
        with contextlib.ExitStack() as leaving:  # each step is taken whatever befell the ones before
            if _current is self:
                _current = None
                leaving.callback(departure.step, home.leave)
                if self._inheritance is not None:
                    leaving.callback(departure.step, self._inheritance.take_back)
            for release in (self.registry, self._discards, self.origins, self._channels):
                leaving.callback(departure.step, release.close)
            if self._server is not None:
                leaving.callback(departure.step, self._server.stop, 1.0)
            if self._record is not None and self._taken is None:
                leaving.callback(departure.step, self._warn_of_unrecorded, departure)
                leaving.callback(departure.record, self._unregister)
                leaving.callback(departure.record, self._leave_registry, state)
            if self._server is not None:  # from here on it is no other instance
                leaving.callback(departure.step, self._server.release)
            leaving.callback(departure.step, self._hurry_registry)
            if not self._is_of_app:  # the App warns for all of its Works
                tell(self._stray.sentences())
            if self._taken is not None:
                tell([f"what {self.name!r} declared is not published any more: {self._taken}"])
            elif self._persistence is not None:
                self._persistence.publish_last(at_exit=at_exit)

    def _serve(self, bind: str, advertise: str | None, artifacts_url: str, symlinks: str) -> None:
        """Start the peer server and register its endpoint under this session's name."""
        from lit_storage_server.process.server_process import ServerProcess

        assert self.name is not None
        self._persistence = Persistence(
            self.root, self.home, self.instance_id, artifacts_url, self.limits, symlinks
        )
        served = os.stat(self.storage_root)
        server = ServerProcess(
            self.name,
            self.instance_id,
            self.storage_root,
            bind=bind,
            security=self.security,
            limits=self.limits,
            follow_links=symlinks == "follow",
        )
        self._server = server
        server.start()
        endpoint = advertised_endpoint(server.endpoint, advertise, self.registry)
        record = LiveRecord(
            self.name,
            self.instance_id,
            endpoint,
            self.home.machine_id,
            self.name if self.security.tls else "",
        )
        renewal = renewal_of(self.registry)
        if renewal is not None:
            server.expect_lease()
        with registering(self.root, self.storage_root, served, self.limits):
            lease = self.registry.register(record)
        self._record = record
        if lease is not None and renewal is not None:
            server.hold(lease, renewal, self._claim)

    def _claim(self, instance_id: str) -> Lease | None:
        """Register as another instance in place of this one, whose lease was lost.

        Raises:
            NameTaken: somebody else has the name by now; this session serves no more, and says so.
            RegistryUnavailable: the registry cannot be reached or written.
        """
        assert self._record is not None
        assert self._persistence is not None
        record = dataclasses.replace(self._record, instance_id=instance_id)
        # The former instance serves no more, and the registry may not have noticed yet.
        self.registry.unregister(record.name, self.instance_id)
        try:
            with self._persistence.becoming(instance_id):
                lease = self.registry.register(record)
        except NameTaken as error:
            self._taken = error
            raise
        self._record, self.instance_id = record, instance_id
        return lease

    @property
    def has_lost_name(self) -> bool:
        """Whether another process has this one's name by now, as may be where names have leases."""
        return self._taken is not None

    def check_name(self) -> None:
        """Raise NameTaken if another process has this one's name by now."""
        if self._taken is not None:
            raise NameTaken(f"this process has lost its name, since its lease ran out: {self._taken}")

    def _hurry_registry(self) -> None:
        self.registry.end_by(time.monotonic() + LEAVE_SECONDS)

    def _warn_of_unrecorded(self, departure: Departure) -> None:
        departure.warn(self._persistence.pending if self._persistence is not None else {})

    def _unregister(self) -> None:
        assert self.name is not None
        self.registry.unregister(self.name, self.instance_id)

    def _leave_registry(self, state: WorkState) -> None:
        self._update_work(state)
        if self._persistence is not None:
            self._persistence.finish()

    def _update_work(self, state: WorkState) -> None:
        assert self.name is not None
        former = self.registry.work(self.name)
        artifacts_url = former.artifacts_url if former is not None else ""
        if self._persistence is not None and self._persistence.has_published:
            artifacts_url = self._persistence.url
        record = WorkRecord(self.name, self.instance_id, state, self.home.machine_id, artifacts_url)
        if not self.registry.update_work(record) and self._persistence is not None:
            self._persistence.warn_unrecorded(self.registry.url)

    # What a Path asks of its session: `lit_storage.paths.home.Transport`.

    def refuse(self, action: str) -> None:
        """Raise NotAttached where no files may be moved: in a Flow, and while a Work is being made."""
        if self.is_flow:
            raise NotAttached(f"a Flow cannot {action}: pass the Path to the run() of a Work, which can")
        if getattr(_making, "depth", 0):
            raise NotAttached(f"a Work cannot {action} in its __init__: do it in run()")

    def exists(self, location: Location) -> bool:
        """See `Origins.exists`."""
        self.check_name()
        return self.origins.exists(location)

    def stat(self, location: Location) -> Entry:
        """See `Origins.stat`."""
        self.check_name()
        with self.hinting(location):
            return self.origins.stat(location)

    def get(self, location: Location, target: str, *, confined: bool, **options: Any) -> Transfer:
        """See `lit_storage_client.fetch.fetch`."""
        self.check_name()
        with self.hinting(location):
            storage_root = home.storage_root_of(target) if confined else None
            transfer = fetch(
                self.origins,
                location,
                root=storage_root,
                target=target,
                session_root=self.root,
                discards=self._discards,
                **options,
            )
        _TRANSFERS.info(
            "copied %s: %d %s, %d bytes in %.3f s (%s)",
            shown(str(location)),
            transfer.files,
            "file" if transfer.files == 1 else "files",
            transfer.bytes,
            transfer.seconds,
            transfer.how,
        )
        if storage_root is not None:
            discard_aside(storage_root, location, target)
        return transfer

    def move_aside(self, location: Location) -> str:
        """See `lit_storage_client.fetch.aside.move_aside`; the copy is the one in ``R/@origin``."""
        return move_aside(self.storage_root, location, home.value_of(self.home, location))

    def advise(self, location: Location) -> str:
        """Return what may have been meant by a path of one's own that is not there, or ""."""
        return hint_for_own(self.registry, location)

    @contextlib.contextmanager
    def hinting(self, location: Location) -> Iterator[None]:
        """Add to an error that nothing is there what may have been meant."""
        try:
            yield
        except PathNotFound as error:
            asked, unknown = self.origins.asked(location)
            hint = hint_for_remote(
                self.registry,
                asked,
                root=self.root,
                machine_id=self.home.machine_id,
                is_listed=lambda: next(iter(self.origins.list(location, recursive=False)), None) is not None,
            )
            if unknown or hint:
                error.args = ("; ".join(filter(None, (str(error), unknown, hint))),)
            raise


def join(
    name: str | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    registry: str | None = None,
    bind: str | None = None,
    advertise: str | None = None,
    artifacts: str | None = None,
    symlinks: Literal["keep", "follow"] = "keep",
    security: Security | None = None,
    limits: Limits | None = None,
) -> Session:
    """Make this process a Work: serve its files under `name` until the session is closed.

    Args:
        name: parts joined by dots, such as ``trainer-0`` or ``workers.0``; None takes it from the
            environment: LIT_STORAGE_NAME, else from what torchrun, Slurm or Kubernetes set, as
            `lit_storage.sessions.launcher` says.
        root: directory that all Works on this machine share; their storage roots lie in it.
        registry: URL of the registry.
        bind: ``host:port`` to listen on; port 0 takes a free one.
        advertise: ``host`` or ``host:port`` that consumers dial, where it is not what is bound.
        artifacts: URL of the store in which what this Work declares stays readable when it has
            stopped, such as ``file:///DIRECTORY`` or ``s3://BUCKET/PREFIX``; by default it is read
            where the Work wrote it.
        symlinks: what others get of symbolic links among this Work's files, unless they ask for something
            else, and what is published. "keep": links that stay in the tree. "follow": what a link
            means, if that lies in the storage root or below a path that this Work declared. Any other
            link is left out, and named in `Transfer.skipped`.
        security: token and TLS files.
        limits: every deadline and size.
            What is None comes from the environment; see `lit_storage.sessions.environment`.

    Raises:
        InvalidURI: `name` is outside the grammar, or none can be found, or `artifacts` is no URL of a store.
        NameTaken: another live process has the name.
        AddressInUse: the port is taken.
        AccessDenied: the root cannot be written, or `bind` would serve others without protection.
        RegistryUnavailable: the registry cannot be reached or written.
        RuntimeError: this process has a session already, under whatever name; a forked child has none yet.
        ValueError: `symlinks` is neither.
    """
    if symlinks not in ("keep", "follow"):
        raise ValueError(f"symlinks={symlinks!r} is neither 'keep' nor 'follow'")
    is_given = name is not None
    is_launched = not is_given and not os.environ.get("LIT_STORAGE_NAME")
    name = check_name(name) if name is not None else launched_name(os.environ)
    work_above = work_of_launched(os.environ) if is_launched else None
    artifacts = environment.artifacts_url(artifacts)
    with _opening:
        session = _open(name, f"works/{name}", root, registry, security, limits, work_above)
        try:
            session._serve(
                environment.bind_address(bind),
                environment.advertised_address(advertise),
                artifacts or in_place_url(session.root, session.home.machine_id),
                symlinks,
            )
        except BaseException as error:
            session.close(WorkState.FAILED)
            if isinstance(error, NameTaken) and not is_given:
                raise NameTaken(
                    f"{error} (the environment names this process {name!r}; set LIT_STORAGE_NAME to another)"
                ) from None
            raise
        return _enter(session, variables_of(session, artifacts_url=artifacts, bind=bind or ""))


def connect(
    *,
    root: str | os.PathLike[str] | None = None,
    registry: str | None = None,
    security: Security | None = None,
    limits: Limits | None = None,
) -> Session:
    """Let this process resolve names and copy files, without a name and without serving.

    Where this process has connected already, the same session is returned, and it ends with as many calls of
    `close`. In a process that has joined, as in the `run` of a Work, a view of that session is
    returned, and to close that ends nothing. An argument that is not given means what the session has.

    Args and what is raised: as of `join`.

    Raises:
        PathNotFound: no root is named, none is found from the working directory upwards, and the registry
            would lie in it. To ask makes no root, which a later app would find.
        RuntimeError: the session that is open has other settings.
    """
    with _opening:
        opened = _opened_here()
        if opened is not None and not opened.gives_way:
            return _shared(opened, root, registry, security, limits)
        if not registry:
            environment.refuse_no_root(root)
        work_above = work_of_launched(os.environ)
        session = _open(None, "connect", root, registry, security, limits, work_above)
        return _enter(session, variables_of(session))


def connect_flow(
    root: str, registry: str | None, security: Security | None, limits: Limits | None
) -> Session:
    """Open the session of a Flow's process, in which a Path of a Work can be held and handed on."""
    with _opening:
        session = _open(None, "flow", root, registry, security, limits)
        session.is_flow = session._is_of_app = True
        return _enter(session)


def current() -> Session | None:
    """Return the session of this process, if it has one.

    In a forked child that has not joined or connected itself it is the session of its parent, which it can
    look at and not use.
    """
    return _current


def _opened_here() -> Session | None:
    """Return the session that this very process opened, if it has one."""
    return _current if _current is not None and _current._process == os.getpid() else None


def _shared(
    opened: Session,
    root: str | os.PathLike[str] | None,
    registry: str | None,
    security: Security | None,
    limits: Limits | None,
) -> Session:
    """Return what `connect` does where a session is open.

    Raises:
        NotAttached: the process is that of a Flow.
        RuntimeError: the session has other settings.
    """
    if opened.is_flow:
        opened.refuse("connect()")
    if others := differing(opened, root, registry, security, limits):
        raise RuntimeError(
            f"this process has a session already, {opened!r}, with another {' and '.join(others)}; leave "
            f"that out to use it, or close() it{opened._times_to_close} before another one"
        )
    if opened.name is not None:
        return _View(opened)
    opened._holders += 1
    return opened


class _View(Session):
    """The session of a process that joined, as `connect` returns it: to close this ends nothing."""

    def __init__(self, of: Session) -> None:
        self.__dict__ = of.__dict__

    def _close(self, state: WorkState, *, at_exit: bool = False, is_ending: bool = False) -> None:
        """Do nothing: who joined closes the session."""


@contextlib.contextmanager
def constructing() -> Iterator[None]:
    """While the block runs, this thread makes a Work, and no files may be moved."""
    _making.depth = getattr(_making, "depth", 0) + 1
    try:
        yield
    finally:
        _making.depth -= 1


def _open(
    name: str | None,
    directory: str,
    root: str | os.PathLike[str] | None,
    registry: str | None,
    security: Security | None,
    limits: Limits | None,
    work_above: str | None = None,
) -> Session:
    environment.refuse_other_systems()
    opened_before = _opened_here()
    if opened_before is not None:
        if not opened_before.gives_way:
            raise RuntimeError(
                f"this process has a session already, {opened_before!r}; use lit_storage.current(), or "
                f"close() it{opened_before._times_to_close} before another one"
            )
        opened_before.close()
    limits = limits or Limits()
    root = environment.open_root(root, registry, timeout_seconds=limits.resolve_seconds)
    storage_root = environment.make_storage_root(root, directory)
    machine = machine_id(root)
    if security is None and _parent is not None:
        security = _parent.security_in(root)
    security = environment.security_of(security, root)
    opened = open_registry(environment.registry_url(registry, root), machine_id=machine, limits=limits)
    is_copy(root, file_of(opened.url))  # keeps the inode of the registry too, which may be new
    own_home = Home(name, os.path.realpath(storage_root), machine)
    session = Session(own_home, root, opened, security, limits, work_above)
    session.registry_given = environment.registry_url(registry, root)
    return session


def _enter(session: Session, variables: Variables | None = None) -> Session:
    """Make `session` the one of this process, and of the programs that it starts from now on.

    Args:
        session: that was opened.
        variables: what its children find in their environment.
    """
    global _current
    _current = session
    home.enter(session.home, session, session.advise, hand_on=not session.is_flow)
    if variables is not None:
        session._inheritance = Inheritance(variables)
    atexit.register(session._close_at_exit)
    return session
