"""However an app's code is started, the processes of its Works find its classes and are as it is."""

import os
import py_compile
import subprocess
import sys
import textwrap
import zipapp

import pytest

WORKS = """
from lit_storage import Work
class Quiet(Work):
    def run(self):
        print("ran in", type(self).__module__)
"""
APP = """
from lit_storage import App, Flow
class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.quiet = Quiet()
    def run(self):
        self.quiet.run()
def main():
    App(Pipeline()).run()
if __name__ == "__main__":
    main()
"""
UNGUARDED = APP.replace('if __name__ == "__main__":\n    main()', "main()")
POOLED = """
import multiprocessing, sys
from lit_storage import Work
def double(number):
    return 2 * number
class Quiet(Work):
    def run(self):
        with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
            print("doubled", pool.map(double, [1, 2]))
"""


def a_work_that_runs(lines):
    return "from lit_storage import Work\nclass Quiet(Work):\n    def run(self):\n" + textwrap.indent(
        textwrap.dedent(lines), 8 * " "
    )


@pytest.fixture
def run(root, tmp_path):
    """Run Python in a directory with a package; return exit code and output."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "works.py").write_text(WORKS)
    (package / "imported.py").write_text("from .works import Quiet\n" + APP)
    (package / "whole.py").write_text(WORKS + APP)

    def run(*arguments, text=None, **files):
        for name, content in files.items():
            (package / f"{name}.py").write_text(content)
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "LIT_STORAGE_ROOT": str(root)},
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_script(run):
    """The script is loaded by its path, without its main block."""
    assert run("package/whole.py") == (0, "ran in __mp_main__\n")


@pytest.mark.slow
def test_a_module_run_with_m(run):
    """A module of a package may import its neighbours relatively."""
    assert run("-m", "package.imported") == (0, "ran in package.works\n")


@pytest.mark.slow
def test_an_app_built_by_a_function_elsewhere(run):
    """The App need not be at the top level of the main file."""
    assert run("-c", "from package import whole; whole.main()") == (0, "ran in package.whole\n")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["-c", "-"])
def test_a_program_without_a_file(run, how):
    """The classes of ``python -c`` and of standard input are sent by value."""
    program = WORKS + APP
    arguments = ("-c", program) if how == "-c" else ("-",)
    assert run(*arguments, text=program) == (0, "ran in __main__\n")


@pytest.mark.slow
def test_a_session_that_began_with_a_file(run):
    """What is typed after ``python -i`` counts, and the file is not run again."""
    typed = f"{WORKS}\nApp(Pipeline()).run()\n"
    file = "print('once')\nQuiet = None\n" + UNGUARDED.removesuffix("main()\n")
    code, output = run("-i", "package/typed.py", text=typed, typed=file)
    assert (code, output.count("once"), "ran in __main__" in output) == (0, 1, True), output


@pytest.mark.slow
@pytest.mark.parametrize("place", ["in __main__.py", "in a package"])
def test_an_archive(run, tmp_path, place):
    """An App in an archive of zipapp runs, with its classes in the main file or in a package."""
    work = WORKS if place == "in __main__.py" else "from package.works import Quiet\n"
    (tmp_path / "__main__.py").write_text(work + APP)
    zipapp.create_archive(tmp_path, tmp_path / "app.pyz", filter=lambda path: path.suffix == ".py")
    (tmp_path / "package" / "works.py").unlink()
    module = "__mp_main__" if place == "in __main__.py" else "package.works"
    assert run("app.pyz") == (0, f"ran in {module}\n")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["archive", "directory"])
def test_an_archive_or_a_directory_on_the_command_line(run, tmp_path, how):
    """``lit-storage run`` takes what python takes."""
    (tmp_path / "package" / "__main__.py").write_text(WORKS + APP + "\napp = App(Pipeline())\n")
    zipapp.create_archive(tmp_path / "package", tmp_path / "app.pyz")
    path = {"archive": "app.pyz", "directory": "package"}[how]
    command = ("-c", "from lit_storage.cli.main import main; main()", "run", path)
    assert run(*command) == (0, "ran in __mp_main__\n")


@pytest.mark.slow
def test_a_compiled_file(run, tmp_path):
    """A program without its source runs."""
    py_compile.compile(str(tmp_path / "package" / "whole.py"), str(tmp_path / "app.pyc"))
    assert run("app.pyc") == (0, "ran in __mp_main__\n")


@pytest.mark.slow
def test_an_imported_module_that_runs_its_app(run):
    """In the Work's process, which imports the module too, the App at its top level does nothing."""
    code, output = run("-c", "import package.bare", bare=WORKS + UNGUARDED)
    assert (code, output.count("ran in package.bare")) == (0, 1), output
    assert output.count("App.run() does nothing") == 1


@pytest.mark.slow
def test_files_of_the_working_directory(run, tmp_path):
    """A file there that is named as a module of Python is not imported, as it is not by the program."""
    (tmp_path / "random.py").write_text("raise SystemExit('imported')")
    assert run("package/whole.py") == (0, "ran in __mp_main__\n")


@pytest.mark.slow
def test_annotations_stay_what_they_are(run):
    """The `__future__` imports of the product are none of the app file."""
    work = a_work_that_runs("print(run_of.__annotations__)") + "\ndef run_of(a: int): ...\n"
    assert run("package/typed.py", typed=work + APP) == (0, "{'a': <class 'int'>}\n")


@pytest.mark.slow
def test_flags_of_the_interpreter(run):
    """``-O``, ``-W`` and ``-X`` hold in a Work as in its program."""
    work = a_work_that_runs(
        """
        import sys
        print(sys.flags.optimize, sys.flags.dev_mode, sys.flags.utf8_mode, sys.warnoptions)
        """
    )
    flags = ("-O", "-X", "dev", "-X", "utf8", "-W", "error")
    assert run(*flags, "package/flags.py", flags=work + APP) == (
        0,
        "1 True 1 ['default', 'error']\n",
    )


@pytest.mark.slow
def test_the_main_module_is_described_as_in_the_program(run):
    """Programs that start themselves again find out how they were started."""
    line = """
        import __main__, sys
        print(__main__.__spec__ and __main__.__spec__.name, __main__.__package__, sys.argv[1:])
        """
    work = a_work_that_runs(line)
    assert run("-m", "package.app", "x", app=work + APP) == (0, "package.app package ['x']\n")
    assert run("package/app.py", "x") == (0, "None None ['x']\n")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes_of_run(run, method):
    """multiprocessing's workers find the functions of the app file, also where it imports relatively."""
    program = "from . import works as _\n" + POOLED + APP
    assert run("-m", "package.pooled", method, pooled=program) == (0, "doubled [2, 4]\n")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes_start_no_other_app(run, method):
    """A bare app.run() does nothing in a worker, which says so once."""
    code, output = run("package/pooled.py", method, pooled=POOLED + UNGUARDED)
    assert (code, output.count("doubled [2, 4]")) == (0, 1), output
    assert "App.run() does nothing where the app's code is loaded again" in output


@pytest.mark.slow
def test_worker_processes_of_a_flow_start_no_other_app(run):
    """Workers of the App's own process start none either."""
    pool = "with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(double, [4]))"
    flow = UNGUARDED.replace("        self.quiet.run()", f"        {pool}\n        self.quiet.run()")
    code, output = run("package/pooled.py", "fork", pooled=POOLED + flow)
    assert (code, output.count("[8]"), output.count("doubled [2, 4]")) == (0, 1, 1), output


RECEIVER = "import pickle, sys; print(pickle.load(sys.stdin.buffer)(1))"
PICKLED = """
    import importlib, subprocess, sys
    cloudpickle = importlib.import_module(sys.argv[1])
    pickled = cloudpickle.dumps(double)
    print(subprocess.run([sys.executable, "-c", RECEIVER], input=pickled, capture_output=True))
    """
DOUBLE = """
def double(number):
    return 2 * number
"""


@pytest.mark.slow
@pytest.mark.parametrize("copy", ["cloudpickle", "ray.cloudpickle"])
@pytest.mark.parametrize("before", [True, False])
def test_cloudpickle_in_run(run, copy, before):
    """Each copy of cloudpickle sends functions of the app file by value, whenever it was imported."""
    pytest.importorskip(copy)
    work = a_work_that_runs(PICKLED) + f"\nRECEIVER = {RECEIVER!r}\n" + DOUBLE
    program = (f"import {copy}\n" if before else "") + work + APP
    code, output = run("package/sender.py", copy, sender=program)
    assert (code, "stdout=b'2\\n'" in output) == (0, True), output


@pytest.mark.slow
def test_joblib_in_run(run):
    """Workers of loky find the functions of the app file."""
    pytest.importorskip("joblib")
    work = a_work_that_runs(
        """
        from joblib import Parallel, delayed
        print(Parallel(n_jobs=2)(delayed(double)(number) for number in (1, 2)))
        """
    )
    program = work + DOUBLE + APP
    assert run("package/sender.py", sender=program) == (0, "[2, 4]\n")


@pytest.mark.slow
def test_joblib_in_a_flow_of_the_command_line(run):
    """In the App's own process, too, ``lit-storage run`` loads the file as no other process can."""
    pytest.importorskip("joblib")
    flow = APP.replace(
        "        self.quiet.run()",
        "        from joblib import Parallel, delayed\n"
        "        print(Parallel(n_jobs=2)(delayed(double)(number) for number in (1, 2)))",
    )
    program = WORKS + DOUBLE + flow + "app = App(Pipeline())\n"
    command = ("-c", "from lit_storage.cli.main import main; main()", "run", "package/sender.py")
    assert run(*command, sender=program) == (0, "[2, 4]\n")


@pytest.mark.slow
def test_a_work_of_a_module_gets_what_the_main_file_defines(run):
    """The main file is loaded in a Work whose class is elsewhere once something of it arrives there."""
    program = """
        import dataclasses
        from package.taking import Quiet
        print("loaded", __name__)
        @dataclasses.dataclass
        class Config:
            number: int
        """
    flow = APP.replace("self.quiet.run()", "print(self.quiet.run(Config(3)) == Config(3))")
    taking = a_work_that_runs("return config").replace("run(self)", "run(self, config)")
    code, output = run("-m", "package.app", taking=taking, app=textwrap.dedent(program) + flow)
    assert (code, output) == (0, "loaded __main__\nloaded __mp_main__\nTrue\n")
