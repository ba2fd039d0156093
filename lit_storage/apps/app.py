"""`App`: names the Works of a Flow, starts each in its own process, and ends them all.

Whatever happens (the Flow returns or raises, Ctrl-C, SIGTERM, a killed App), no process of a Work
outlives the App.
"""

from __future__ import annotations

import inspect
import os
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Literal

from lit_storage.apps.dispatch import adopting, is_awaitable_or_generator, is_generator_function
from lit_storage.apps.flow import Flow, attach_paths, name_works
from lit_storage.apps.internals import attributes_of, internals
from lit_storage.apps.pickling import refuse_unpicklable_class
from lit_storage.apps.supervisor import Supervisor
from lit_storage.apps.work import Work
from lit_storage.executors import Executor, Start, app_file, by_value
from lit_storage.executors.process import ProcessExecutor
from lit_storage.executors.ray.refusals import refuse_open_door, refuse_what_stays_here
from lit_storage.paths import home
from lit_storage.paths.home import Home
from lit_storage.sessions import environment
from lit_storage.sessions.inheritance import variable
from lit_storage.sessions.persistence import see_to_end, tell
from lit_storage.sessions.session import Session, connect_flow
from lit_storage.sessions.stray_directory import StrayDirectory
from lit_storage.sessions.termination import exit_at_sigterm
from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import InvalidApp
from lit_storage_proto.limits import Limits

_RUN_AGAIN = (
    "App.run() does nothing where the app's code is loaded again for its functions and classes, in a worker "
    'process or in a Work; write it under `if __name__ == "__main__":`'
)
_WITHOUT_WORK = (
    "a call of the run() of {} would not do its work, since it is asynchronous or has a yield; write it as a "
    "plain function"
)


class App:
    """Runs a Flow once, with each of its Works in a process of its own.

    Args:
        flow: the root of the tree of Works.
        executor: where the Works' processes come from: "process", this machine, or "ray", the nodes of a
            Ray cluster. None: what LIT_STORAGE_EXECUTOR says, else "process".
        on_flow_end: what happens to Works that still run when the Flow's `run` has returned.
        fresh: whether each Work finds an empty storage root at its first start in a run of this App. What it
            held before is moved to ``<root>/former/NAME``; of each Work one former storage root is kept. A
            Work that is started again after a failure keeps its files.
        root: as of `lit_storage.join`, as are `registry`, `artifacts`, `security` and `limits`.

    Raises:
        InvalidApp: `flow` is not a Flow, its `run` is asynchronous or has a yield, or the class of
            a Work cannot reach its process.
        InvalidURI: the attributes that lead to a Work make no name, or `artifacts` is no URL of a store.
        NameTaken: those of two Works make the same name.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        executor: Literal["process", "ray"] | None = None,
        on_flow_end: Literal["wait", "stop"] = "wait",
        fresh: bool = False,
        root: str | os.PathLike[str] | None = None,
        registry: str | None = None,
        artifacts: str | None = None,
        security: Security | None = None,
        limits: Limits | None = None,
    ) -> None:
        if not isinstance(flow, Flow):
            raise InvalidApp(
                f"App() takes a Flow, not a {type(flow).__name__}; give it an instance of your Flow"
            )
        if is_generator_function(flow.run) or inspect.iscoroutinefunction(flow.run):
            raise InvalidApp(_WITHOUT_WORK.format(type(flow).__name__))
        executor_name = environment.executor_name(executor)
        if executor_name not in ("process", "ray"):
            raise ValueError(f"executor={executor_name!r} is not known; use 'process' or 'ray'")
        if on_flow_end not in ("wait", "stop"):
            raise ValueError(f"on_flow_end={on_flow_end!r} is neither 'wait' nor 'stop'")
        if not isinstance(fresh, bool):
            raise TypeError(f"fresh={fresh!r} is no bool; use True or False")
        self.flow = flow
        self.fresh = fresh
        self._run_id = ""
        self._on_flow_end = on_flow_end
        self._executor_name = executor_name
        self._given_root = root
        self._root = environment.find_root(root)
        self._registry = registry
        self._artifacts = environment.artifacts_url(artifacts)
        self._bind = variable("LIT_STORAGE_BIND")  # on another machine it is not in the environment
        self._security = security
        self._limits = limits or Limits()
        self._supervisors: list[Supervisor] = []
        self._session: Session | None = None
        self._executor: Executor | None = None
        self._name_and_attach()

    @property
    def works(self) -> dict[str, Work]:
        """The Works by name."""
        return name_works(self.flow)

    def run(self) -> None:
        """Run the Flow once; return when it and all its Works have ended.

        Raises:
            InvalidApp: this program is no Python (frozen, embedding), and no other one is found to start for
                Works; or, with the executor "ray": Ray is not installed, or a root, registry or address of
                this machine would mean nothing on another one.
            AccessDenied: there Works would listen for other machines without protection.
            ExecutorUnavailable: there is no Ray cluster.
            BaseException: what the Flow raised; else what a parallel Work raised that nobody waited
                for. A Work's exception has the Work's traceback as its cause.
        """
        if app_file.is_loading():
            raise app_file.LoadedFarEnough
        if app_file.is_run_again():
            tell([_RUN_AGAIN])
            return
        if self._executor is not None:
            raise RuntimeError("this App is running already")
        if self._executor_name == "ray":
            refuse_what_stays_here(self._given_root, self._registry)
            refuse_open_door(environment.security_of(self._security, self._opened_root()))
        if environment.registry_url(self._registry, self._root).startswith("memory:"):
            raise InvalidApp(
                "a memory: registry is known to one process only; give the App another one, or none"
            )
        self._run_id = uuid.uuid4().hex
        stray = StrayDirectory()
        self._session = connect_flow(self._root, self._registry, self._security, self._limits)
        try:
            self._run_executor()
        finally:
            self._session.is_flow, self._session.gives_way = False, True
            tell(stray.sentences())

    def _opened_root(self) -> str:
        return environment.open_root(self._root, self._registry, timeout_seconds=self._limits.resolve_seconds)

    def _run_executor(self) -> None:
        self._executor = self._new_executor()
        take_back = exit_at_sigterm()
        try:
            with adopting(self._adopt):
                self._run_flow()
        finally:
            take_back()
            self._executor.close()
            self._executor = None
            self._supervisors.clear()

    def _new_executor(self) -> Executor:
        if self._executor_name == "ray":
            from lit_storage.executors.ray.executor import RayExecutor

            return RayExecutor()
        return ProcessExecutor(self._limits.stop_grace_seconds + self._limits.publish_seconds)

    def _run_flow(self) -> None:
        try:
            self._start_works()
            if is_awaitable_or_generator(self.flow.run()):
                raise InvalidApp(_WITHOUT_WORK.format(type(self.flow).__name__))
            if self._on_flow_end == "wait":
                self._wait_for_works()
        except BaseException:
            self._stop_works(patient=False)
            raise
        self._stop_works(patient=True)
        for supervisor in self._supervisors:
            if (error := supervisor.unraised()) is not None:
                raise error

    def _name_and_attach(self) -> None:
        here = Home(None, os.path.join(self._root, "flow"), "")
        works = name_works(self.flow, [each.name for each in self._supervisors if each.is_live])
        for name, member in works.items():
            if internals(member).supervisor is None:
                refuse_unpicklable_class(name, member)
        if app_file.is_loading() and (entered := home.current()) is not None and entered.name is not None:
            return  # in a Work's process, which loads the file for its classes alone
        if app_file.is_run_again():
            return
        home.expect(here)
        attach_paths(self.flow, here)

    def _adopt(self, late: Work) -> None:
        """Name and start Works that the Flow made while it runs."""
        self._name_and_attach()
        self._start_works()
        if internals(late).supervisor is None:
            raise RuntimeError(
                f"this {type(late).__name__} is no attribute of the Flow, so it has no name; "
                "assign it to the Flow before calling run()"
            )

    def _start_works(self) -> None:
        for name, member in self.works.items():
            own = internals(member)
            if own.supervisor is None or own.supervisor not in self._supervisors:
                own.supervisor = self._supervise(name, member)
                self._supervisors.append(own.supervisor)
                own.supervisor.start()

    def _supervise(self, name: str, member: Work) -> Supervisor:
        assert self._executor is not None
        return Supervisor(
            name,
            attributes_of(member),
            self._executor,
            lambda: self._start_of(name, member),
            parallel=internals(member).parallel,
            stop_grace_seconds=self._limits.stop_grace_seconds,
            publish_seconds=self._limits.publish_seconds,
            ended=lambda instance_id: self._see_to_end(name, instance_id),
        )

    def _see_to_end(self, name: str, instance_id: str | None) -> None:
        """Do what a Work did not do that was killed, did not stop in time, or did not rest."""
        assert self._session is not None
        if self._executor_name == "process":  # else it is done on the node that has the files
            see_to_end(self._session.root, self._session.registry, name, instance_id, self._limits)

    def _start_of(self, name: str, member: Work) -> Start:
        assert self._session is not None
        return Start(
            name,
            self._session.root,
            self._session.registry.url,
            self._session.security.with_absolute_paths(),
            self._limits,
            app_file.locate(type(member)),
            _pickled(name, member),
            self._artifacts,
            bind=self._bind,
            resources=internals(member).resources,
            symlinks=internals(member).symlinks,
            fresh_run_id=self._run_id if self.fresh else "",
            persist=internals(member).persist,
        )

    def _wait_for_works(self) -> None:
        for supervisor in self._supervisors:
            supervisor.join()

    def _stop_works(self, *, patient: bool) -> None:
        """Stop all Works together.

        Ctrl-C kills them. Where it is the first one, `patient`, it lets them go on unwinding.
        """
        with ThreadPoolExecutor(max(1, len(self._supervisors)), thread_name_prefix="lit-stop") as pool:
            stops = [pool.submit(supervisor.stop) for supervisor in self._supervisors]
            try:
                try:
                    wait(stops)
                except KeyboardInterrupt:
                    if patient:
                        wait(stops)
                    raise
            except BaseException:
                for supervisor in self._supervisors:
                    supervisor.kill()
                raise
        for stop in stops:
            stop.result()


def load_app(path: str | os.PathLike[str], arguments: list[str] | None = None) -> App:
    """Load the App that a file defines, as ``lit-storage run`` does.

    Args:
        path: a Python file that makes one `App` at its top level, or names one ``app``; or a directory or an
            archive whose ``__main__.py`` does.
        arguments: what the file finds in ``sys.argv`` after its own name.

    Raises:
        InvalidApp: there is no such file, or no App in it, or several.
    """
    file = os.path.abspath(path)
    if not os.path.isfile(file) and not os.path.isfile(os.path.join(file, "__main__.py")):
        raise InvalidApp(
            f"{os.fspath(path)!r} is not a file; give a Python file that defines the app, "
            "an archive of zipapp, or a directory with a __main__.py"
        )
    sys.argv = [os.fspath(path), *(arguments or [])]
    module = vars(app_file.load_program(file))
    named = module.get("app")
    apps = {id(value): value for value in module.values() if isinstance(value, App)}
    if isinstance(named, App):
        return named
    if not apps:
        raise InvalidApp(f"{os.fspath(path)!r} defines no App at its top level; add: app = App(YourFlow())")
    if len(apps) > 1:
        raise InvalidApp(f"{os.fspath(path)!r} defines {len(apps)} Apps; call the one to run 'app'")
    return next(iter(apps.values()))


def _pickled(name: str, member: Work) -> bytes:
    """Return `member` pickled for its process.

    Raises:
        TypeError: an attribute cannot travel; it is named.
        InvalidApp: the class is sent by value, and something that its methods use cannot be.
    """
    try:
        return by_value.dumps(member)
    except Exception as error:
        for attribute, value in attributes_of(member).items():
            try:
                by_value.dumps(value)
            except Exception:  # noqa: BLE001  pickling calls code of the user
                raise TypeError(
                    f"attribute {attribute!r} of {name!r} is a {type(value).__name__}, which cannot be sent "
                    f"to the Work's process ({error}); make it in run()"
                ) from error
        cls = type(member)
        if by_value.is_importable(cls):
            raise
        raise InvalidApp(
            f"{cls.__qualname__!r} has no file that the process of {name!r} could load, and what it uses "
            f"cannot be sent there ({error}); write the class into a file and import it"
        ) from error
