"""Apps that are started beside a Ray cluster, as a user starts them."""

import contextlib
import subprocess
import sys
import textwrap

from tests.processes import kill_all

TOKEN = "a-token-that-is-nowhere-else"


class Started:
    """An App that runs; what it prints is read line by line."""

    def __init__(self, cluster, command, environment, cwd):
        self.process = cluster.start(
            *command,
            env=environment,
            cwd=cwd,
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        )
        self.log = []
        self._start = lambda *command: cluster.start(*command, env=environment, stdout=subprocess.PIPE)

    def command(self, *arguments):
        """Return what the command line prints, told the same as the App."""
        process = self._start(
            sys.executable, "-c", "from lit_storage.cli.main import main; main()", *arguments
        )
        return process.communicate(timeout=100)[0]

    def read_until(self, mark):
        """Return what follows `mark` in the next line that has it; Ray prints the Work's name before it."""
        for line in self.process.stdout:
            self.log.append(line)
            if mark in line:
                return line.partition(mark)[2].strip()
        raise AssertionError(f"ended without {mark!r}: {self.log} {self.process.communicate()[1]}")

    def end(self):
        """Wait for the end; return exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=200)
        return self.process.returncode, "".join(self.log) + out, err


@contextlib.contextmanager
def apps(cluster, etcd, directory):
    """Yield what starts App files in the namespace; what is left of them at the end is killed."""
    started = []

    def start(source, *command, **environment):
        file = directory / f"app{len(started)}.py"
        file.write_text(textwrap.dedent(source))
        environment = {
            "LIT_STORAGE_ROOT": str(directory / "root"),
            "LIT_STORAGE_REGISTRY": etcd.new_url(),
            "LIT_STORAGE_EXECUTOR": "ray",
            "LIT_STORAGE_INSECURE": "1",
            "LIT_STORAGE_TOKEN": TOKEN,
            **environment,
        }
        started.append(Started(cluster, [*(command or [sys.executable]), str(file)], environment, directory))
        return started[-1]

    yield start
    kill_all(started)
