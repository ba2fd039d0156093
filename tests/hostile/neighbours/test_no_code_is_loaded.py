"""Bytes of others are never run: no pickle, no marshal, no eval, no module by a name that others chose."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = ("proto", "core", "client", "server", "lit_storage")
TOP = Path(__file__).parents[3]

# What runs or loads code, and why it may stand where it stands. Anything else fails the test below.
ALLOWED = {
    # An App and the processes of its own Works speak through a socket or an actor that the App made.
    ("lit_storage/executors/process.py", "subprocess.Popen"): "this interpreter, for a Work of this App",
    ("lit_storage/executors/ray/executor.py", "importlib.import_module"): 'the constant "ray"',
    ("lit_storage/executors/ray/executor.py", "pickle.loads"): "from the actor that this App started",
    ("lit_storage/executors/ray/actor.py", "importlib.import_module"): 'the constant "ray"',
    ("lit_storage/executors/ray/actor.py", "subprocess.Popen"): "this interpreter, for a Work of this App",
    ("lit_storage/executors/guard.py", "subprocess.Popen"): "this interpreter and a file of ours",
    ("lit_storage/apps/arguments.py", "pickle.Unpickler"): "from the App that started this process",
    ("lit_storage/apps/arguments.py", "pickle.loads"): "from the App that started this process",
    ("lit_storage/apps/flow_state.py", "pickle.loads"): "from the App's own process of a Work",
    ("lit_storage/apps/supervisor.py", "pickle.loads"): "from the App's own process of a Work",
    ("lit_storage/executors/work_state.py", "importlib.import_module"): "the other process of one App",
    ("lit_storage/executors/by_value.py", "pickle.loads"): "from the App that started this process",
    ("lit_storage/executors/by_value.py", "importlib.import_module"): 'the constant "cloudpickle"',
    ("lit_storage/apps/work_host.py", "pickle.loads"): "from the App that started this process",
    # The user's own program, which the user named.
    ("lit_storage/executors/app_file.py", "exec"): "the user's own app file",
    ("lit_storage/executors/app_file.py", "compile"): "the user's own app file",
    ("lit_storage/executors/app_file.py", "importlib.import_module"): "the user's own app file, as a module",
    # What is installed here, chosen among names that are constants or known to fsspec.
    ("lit_storage/paths/bar.py", "importlib.import_module"): 'the constant "IPython.display"',
    ("core/lit_storage_core/artifacts/fsspec_objects.py", "importlib.import_module"): "constants",
    (
        "server/lit_storage_server/process/server_process.py",
        "subprocess.Popen",
    ): "this interpreter, for the peer server",
    ("lit_storage/sessions/persistence.py", "subprocess.run"): "this interpreter, which publishes",
}

MODULES = {
    "pickle": {"load", "loads", "Unpickler"},
    "cPickle": {"load", "loads"},
    "dill": {"load", "loads"},
    "cloudpickle": {"load", "loads"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "yaml": {"load", "unsafe_load", "full_load"},
    "joblib": {"load"},
    "numpy": {"load"},
    "torch": {"load"},
    "runpy": {"run_path", "run_module"},
    "importlib": {"import_module", "__import__", "reload"},
    "subprocess": {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "os": {"system", "popen", "execv", "execve", "execvp", "execvpe", "execl", "spawnv", "posix_spawn"},
    "code": {"InteractiveConsole", "interact"},
    "ctypes": {"cast", "string_at", "memmove"},
    "xml.etree.ElementTree": {"parse", "fromstring"},
}
BUILTINS = {"eval", "exec", "compile", "__import__"}


def sources():
    for room in ROOMS:
        for path in sorted((TOP / room).rglob("*.py")):
            if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
                yield path


@functools.cache
def nodes_of(path):
    return list(ast.walk(ast.parse(path.read_text())))


def found_in(path):
    """Yield each way to run code that a file has, as the name under which it is known."""
    for node in nodes_of(path):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                yield name
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in MODULES.get(module, ()):
                yield f"{module}.{name}"
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{each.name}" for each in names if each.name in MODULES.get(module, ()))


@pytest.mark.slow
def test_code_is_loaded_in_the_places_of_the_list_alone():
    """All places that could run what they are given are these, each with the reason why it may."""
    found = {(str(path.relative_to(TOP)), what) for path in sources() for what in found_in(path)}
    assert found == set(ALLOWED)


def test_no_process_is_started_through_a_shell():
    """No call of the source has shell=True, or an argument of that name at all."""
    calls = [node for path in sources() for node in nodes_of(path) if isinstance(node, ast.Call)]
    assert [call for call in calls for keyword in call.keywords if keyword.arg == "shell"] == []


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "lit_storage"])
def test_the_lower_floors_know_no_pickle(room):
    """Whatever speaks to peers, registries, stores and files imports neither pickle nor marshal."""
    for path in (TOP / room).rglob("*.py"):
        for node in nodes_of(path):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "marshal", "shelve", "dill", "cloudpickle"} & set(names), path


def test_signals_go_to_processes_of_our_own_alone():
    """What sends a signal other than 0 is what started the process, or ends itself."""
    senders = {"kill", "killpg", "pidfd_send_signal", "tgkill", "pthread_kill"}
    found = {
        str(path.relative_to(TOP))
        for path in sources()
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute)
        and node.attr in senders
        and isinstance(node.value, ast.Name)
        and node.value.id in ("os", "signal")
    }
    works = ("apps/async_run", "apps/process_child", "executors/guard", "executors/process")
    assert found == {"core/lit_storage_core/system/process.py", *(f"lit_storage/{name}.py" for name in works)}


CONSUMER = """
import os, sys
import lit_storage, pickle, marshal
from lit_storage import Path
from lit_storage_client.fetch.contents import contents
from lit_storage_proto.uri import Location

seen, on = [], [False]
WATCHED = ("pickle.find_class", "marshal.loads", "marshal.load", "exec", "compile", "os.system", "os.exec",
           "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.fork", "ctypes.dlopen", "code.__new__")

def hook(event, arguments):
    if not on[0] or event not in WATCHED:
        return
    code = arguments[0] if arguments else None
    where = getattr(code, "co_filename", "") or str(arguments[1] if event == "compile" else arguments[0])
    # Modules of what is installed are loaded as they are needed, from where they are installed.
    frame, installing = sys._getframe(), False
    while frame is not None:
        installing |= frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    if not installing or any(where.startswith(each) for each in sys.argv[1:]):
        seen.append((event, where))

sys.addaudithook(hook)
root = sys.argv[1]
on[0] = True
pickle.loads(pickle.dumps(os.getcwd))
assert [event for event, _ in seen] == ["pickle.find_class"], seen  # the hook hears
seen.clear()
with lit_storage.connect(root=root) as session:
    live = Path("lit://@live/x.pkl").get(to=sys.argv[2] + "/live")
    left = Path("lit://@left/tree").get(to=sys.argv[2] + "/left")
    read = b"".join(bytes(run) for run in contents(session.origins, Location("left", "tree/x.pkl")))
    listed = [entry.path for entry in session.origins.list(Location("left", "tree"))]
    names = [work.name for work in session.registry.works()]
    for name in names:
        session.origins.store(name)
on[0] = False
print(seen or "nothing ran", len(read), sorted(names))
"""

WORK = """
import os, sys
import lit_storage
name, root, store = sys.argv[1:]
with lit_storage.join(name, root=root, artifacts=store) as session:
    os.makedirs(session.storage_root + "/tree", exist_ok=True)
    for path in ("x.pkl", "tree/x.pkl", "tree/sitecustomize.py", "tree/x.pyc", "tree/x.pth"):
        with open(f"{session.storage_root}/{path}", "wb") as file:
            file.write(b"cos\\nsystem\\n(S'touch /tmp/never'\\ntR.")
    session.declare(session.storage_root + "/tree")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_nothing_runs_in_a_consumer(tmp_path):
    """In whole gets of a live Work and of a store, in a root full of planted programs, nothing runs."""
    root, copies = tmp_path / ".lit", tmp_path / "copies"
    copies.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    works = {}
    for name in ("left", "live"):
        command = [sys.executable, "-c", WORK, name, str(root), f"file://{tmp_path}/store"]
        works[name] = subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True)
        assert works[name].stdout.readline() == "ready\n"
    try:
        works["left"].communicate(timeout=60)
        for planted in ("sitecustomize.py", "usercustomize.py", "x.pkl", "works/pickle.py", "lit_storage.py"):
            (root / planted).write_text("raise SystemExit('it ran')")
        command = [sys.executable, "-c", CONSUMER, str(root), str(copies)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=90
        )
    finally:
        works["live"].communicate(timeout=60)
    assert done.stdout.split("\n")[0] == "nothing ran 35 ['left', 'live']", done.stdout + done.stderr
