"""Programs that a test starts, and the processes that those start."""

import contextlib
import glob


def kill_all(programs):
    """End programs, each with its `process`, whether or not they still run."""
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


def children_of(pid):
    """Return the ids of the processes that the threads of one started and that did not end."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError), open(path) as file:
            found += [int(child) for child in file.read().split()]
    return found
